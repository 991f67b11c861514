"""jobs/tune-digits.yaml from the command line to the report, in a short form; searches with programs of their own."""
from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from src.analysis import report
from src.analysis.plotting import search_figures
from src.analysis.reading.results import read_experiments
from src.errors import ResultsError
from src.search import decide, definition, summary
from src.submission.spec.naming import name_run
from tests.analysis.test_report import read
from tests.conftest import ROOT

ENVIRONMENT = {**{key: value for key, value in os.environ.items() if not key.startswith("SLURM")},
               "OMP_NUM_THREADS": "1"}


def submit(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "submit_multiple.py", *map(str, arguments)], cwd=ROOT, env=ENVIRONMENT,
                          capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The search of jobs/tune-digits.yaml with 12 short trials."""
    folder = tmp_path_factory.mktemp("results")
    done = submit("jobs/tune-digits.yaml", "--local", "--workers", "2", "-y", "--output-dir", folder,
                  "--max-runs", "12", "--set", "train_length=4")
    assert done.returncode == 0, done.stdout + done.stderr
    path, = folder.iterdir()
    return path


def test_tune_digits_is_searched(batch: Path) -> None:
    search = definition.read(batch)
    assert search is not None
    assert summary.is_over(batch, search)
    count, differences = decide.replay(str(batch), search, name_run(search))
    assert (count >= 12 + 4, differences) == (True, [])
    kinds = [json.loads(path.read_text())["sampler"] for path in sorted((batch / "search").glob("decision-*.json"))]
    assert {"random", "tpe"} <= {kind.lower() for kind in kinds if kind}


def test_only_workers_import_samplers(batch: Path) -> None:
    options = ["jobs/tune-digits.yaml", "-d", "--local", "--output-dir", str(batch.parent), "--set", "train_length=4"]
    program = (f"import sys, submit_multiple, experiments; submit_multiple.main({options}); "
               f"experiments.main(['status', {str(batch)!r}]); experiments.main(['search', {str(batch)!r}]); "
               "print(*{'optuna', 'cmaes', 'torch'} & set(sys.modules), file=sys.stderr)")
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True,
                          check=True)
    assert "search     27 trials by tpe" in done.stdout
    assert "12 of 12 trials started" in done.stdout
    assert done.stderr.split() == []


def test_big_df_knows_paused_trials(batch: Path) -> None:
    df = read_experiments(batch)
    assert set(df["end"]) == {"paused", "completed"}


def test_report_has_the_search(batch: Path, tmp_path: Path) -> None:
    [part] = read(report.write_report(str(batch), tmp_path / "report.html"))["batches"]
    search = part["search"]
    assert search["headline"].startswith("search     12 of 12 trials started")
    assert (len(search["trials"]["run"]), search["over"]) == (12, True)
    assert len(search["rungs"]["rows"]) == len(search["levels"]) > 1
    assert search["results"]["epochs"][-1] > search["results"]["trials"][-1] == 12


def test_figures_need_a_search(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="this batch is not a search"):
        search_figures.best_so_far(tmp_path)


PROGRAM = '''\
import argparse, os, signal, sys, time
parser = argparse.ArgumentParser()
parser.add_argument("--rate", type=float)
rate = parser.parse_args().rate
path, stop = os.path.join(os.environ["GRIDIRON_RUN_FOLDER"], "stats.csv"), []
if RESUMES:
    signal.signal(signal.SIGUSR1, lambda *_: stop.append(1))
rows = open(path).read().splitlines() if os.path.exists(path) else ["epoch,score"]
for epoch in range(len(rows), 10):
    rows.append(f"{epoch},{1 - rate / epoch}")
    with open(path, "w") as file:
        file.write("\\\\n".join(rows) + "\\\\n")
    time.sleep(0.35)
    if stop:
        sys.exit(75)
'''
JOB = """\
job_details:
  name: own
  output_dir: {folder}/results
  command: [python, "{folder}/program.py", "--rate", "{{rate}}"]
  metric: {{name: score, goal: maximize}}
  search: {{method: random, trials: 4, parallel: 2, early_stop: {{min: 5, eta: 2, max: 9, resume: {resume}}}}}
parameters:
  rate: !uniform [0, 1]
"""


@pytest.mark.parametrize("resumes", [True, False])
def test_own_program_is_paused_by_a_signal_or_stopped(resumes: bool, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM.replace("RESUMES", str(resumes)).replace("\\\\n", "\\n"))
    spec = tmp_path / "own.yaml"
    spec.write_text(JOB.format(folder=tmp_path, resume=str(resumes).lower()).replace("[python,", f"[{sys.executable},"))
    done = submit(spec, "--local", "--workers", "2", "-y")
    assert done.returncode == 0, done.stdout + done.stderr
    batch, = (tmp_path / "results").iterdir()
    search = definition.read(batch)
    assert search is not None
    assert summary.is_over(batch, search)
    records = [json.loads(path.read_text()) for path in sorted((batch / "search").glob("decision-*.json"))]
    assert sum(record["kind"] == "new" for record in records) == 4
    ends = {run.name: (run / "done").exists() for run in batch.glob("[0-9]*")}
    assert any(ends.values())
    hows = {json.loads(path.read_text())["how"] for path in batch.glob("[0-9]*/attempt-*.json")}
    assert hows <= {"paused", "completed"}
    assert "paused" in hows
    count, differences = decide.replay(str(batch), search, name_run(search))
    assert (count, differences) == (len(records), [])
