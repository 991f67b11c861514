"""The report: the page of batches as one self-contained file, with failures and their reasons."""
from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from src import run_folder
from src.analysis import report
from src.analysis.page import failures
from src.analysis.reading.results import read_results
from src.analysis.report import build_report, write_report
from src.errors import ResultsError
from src.submission.status import efficiency, retry_policy, states
from src.submission.usage.job_usage import JobUsage
from tests.analysis.make_batch import DIGITS, curves, grid, make_batch, make_empty_batch, make_run
from tests.analysis.page.test_document import strings
from tests.analysis.page.test_write import read_document

EVIL = '"><script>alert(1)</script>'
TWO = grid({"base_lr": [0.1, 1.0]}, **DIGITS)


def read(path: str) -> dict[str, Any]:
    """The document of a report."""
    return read_document(Path(path).read_text(encoding="utf-8"))


def text_of(path: str) -> str:
    return "\n".join(strings(read(path)))


def test_report_on_a_grid_has_all_parts(tmp_path: Path) -> None:
    batch = make_batch(tmp_path)
    path = write_report(batch)
    assert path == f"{batch}/report.html"
    document = read(path)
    [part] = document["batches"]
    assert document["title"] == "26-11-20-digits" and document["runs"]["count"] == 12
    assert {*document["runs"]["parameters"]} == {"model", "base_lr", "averaging"}
    assert set(document["runs"]["state"]) == {"done"}
    best = [dict(zip(part["best_runs"]["columns"], row, strict=True)) for row in part["best_runs"]["rows"]]
    assert best[0]["repeat it"] == f"python experiments.py reproduce {batch}/{best[0]['run']} --run"
    assert {"val accuracy", "weights", "epoch", "base_lr"} <= set(best[0]) and len(best) == 10
    assert "averaged weights where a run has them, else the last" in part["metric"]["note"]
    assert part["failures"] == [] and part["skipped"] is None
    assert len(document["details"]) == 12 and document["details_note"] is None


def test_all_texts_stay_text(tmp_path: Path) -> None:
    batch = make_empty_batch(tmp_path, f"26-11-20-{EVIL.replace('/', '')}{{{{script}}}}")
    for index, spec in enumerate(TWO):
        make_run(batch, index, {**spec, "wandb_project_name": f"{EVIL}{index}"}, stats=curves(spec, 3, index))
    make_run(batch, 2, {}, end=None, error=f"Traceback\nValueError: {EVIL}")
    make_run(batch, 3, {}, config=f"a: [{EVIL}\n")
    for status in ([{"run": EVIL, "batch": batch, "state": EVIL, "why": EVIL}], None):
        path = write_report(batch, status=status)
        assert EVIL not in Path(path).read_text(encoding="utf-8") and EVIL in text_of(path)
    assert f"ValueError: {EVIL}" in text_of(path)


def test_failed_and_skipped_runs_are_listed(tmp_path: Path) -> None:
    batch = make_batch(tmp_path, TWO)
    make_run(batch, 20, {}, stats="epoch,train/loss\n1,2.0\n", end=None, error="Traceback …\nRuntimeError: no memory")
    make_run(batch, 21, {}, config="# nothing\n", end=None)
    make_run(batch, 22, {}, end=run_folder.DIVERGED)
    [part] = read(write_report(batch))["batches"]
    assert [(failure["count"], failure["error"]) for failure in part["failures"]] == [(1, "RuntimeError: no memory")]
    assert part["skipped"]["title"] == "Left out (1)" and "config.yaml is empty" in part["skipped"]["rows"][0][1]


def test_failures_are_grouped_with_the_end_of_a_log(tmp_path: Path) -> None:
    batch = make_batch(tmp_path, TWO)
    folders = [make_run(batch, index, {}, end=None, error=f"RuntimeError: no memory for {index} MiB")
               for index in range(20, 60)]
    Path(folders[3], run_folder.LOCAL_LOG).write_text("  0%|\r 10%|   \nTraceback (most recent …):\n<b>RuntimeError")
    other = make_run(batch, 60, {}, end=None, error="ValueError: no")
    first, second = read(write_report(batch))["batches"][0]["failures"]
    assert (first["count"], first["error"]) == (40, "RuntimeError: no memory for 20 MiB") and len(first["names"]) == 10
    assert first["log"].endswith("10%|\nTraceback (most recent …):\n<b>RuntimeError")
    assert (second["count"], second["error"], second["log"]) == (1, "ValueError: no", None)
    status = [{"run": os.path.basename(one), "batch": batch, "state": state, "why": why} for one, state, why in (
        (folders[3], "failed", "no"), (other, "timeout", "no"), (f"{batch}/070_x", "running", ""))]
    [part] = read(write_report(batch, status=status))["batches"]
    assert [failure["state"] for failure in part["failures"]] == ["failed", "timeout"]
    assert part["active"]["title"] == "Not ended (1)"


def test_details_are_those_of_failures_and_of_the_best_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = make_batch(tmp_path)
    make_run(batch, 20, {}, end=None, error="RuntimeError: no memory")
    monkeypatch.setattr(report, "_MAX_DETAILS", 3)
    document = read(write_report(batch))
    best = [document["batches"][0]["best_runs"]["rows"][rank][0] for rank in (0, 1)]
    assert [key.partition(":")[2] for key in document["details"]] == [document["runs"]["name"][12], *best]
    assert document["details_note"].startswith("This file has the logs, configs and system metrics of 3 of 13 runs")
    monkeypatch.setattr(report, "_MAX_DETAILS_SIZE", 10)
    assert read(write_report(batch))["details"] == {}


def test_states_cover_those_of_status() -> None:
    assert {*failures.ACTIVE, *failures.ENDED} - {run_folder.COMPLETED} == set(states.ALL) - retry_policy.UNSUCCESSFUL


def test_used_and_requested_resources_are_shown(tmp_path: Path) -> None:
    batch = make_batch(tmp_path, TWO)
    assert read(write_report(batch, resources={batch: []}))["batches"][0]["resources"] is None
    used = efficiency.Usage([JobUsage(memory=1 << 20, seconds=600, cpu_used=600, cpu_allocated=1200,
                                      requested_memory="8G", requested_time="60")])
    text = text_of(write_report(batch, resources={batch: used.resources()}))
    for part in ("Resources used and requested", "1,024 MB", "8,192 MB", "12 %", "--sbatch mem=", "50 %"):
        assert part in text


def test_report_of_several_batches_at_a_path(tmp_path: Path) -> None:
    batches = [make_batch(tmp_path, TWO, name=name) for name in ("26-01-01-a", "26-01-02-b")]
    path = write_report(batches, tmp_path / "both.html")
    assert path == str(tmp_path / "both.html")
    document = read(path)
    assert document["title"] == "26-01-01-a, 26-01-02-b" and document["runs"]["batch"] == [0, 0, 1, 1]


def test_report_says_that_a_test_split_chose(tmp_path: Path) -> None:
    batch = make_empty_batch(tmp_path)
    for index, value in enumerate((0.5, 0.75)):
        make_run(batch, index, {"base_lr": value}, stats=f"epoch,test/last/accuracy\n1,{value}\n")
    assert "chosen by a test split: the best values are optimistic estimates" in text_of(write_report(batch))


@pytest.mark.parametrize("runs", [0, 1])
def test_report_without_runs(tmp_path: Path, runs: int) -> None:
    batch = make_empty_batch(tmp_path)
    for index in range(runs):
        make_run(batch, index, {}, config=None, end=None)
    path = write_report(batch)
    assert path == f"{batch}/report.html"
    assert read(path)["title"] == "26-11-20-digits" and "no run has been evaluated yet" in text_of(path)


def test_report_on_several_batches_has_a_file_of_its_own(tmp_path: Path) -> None:
    first, second, third = (make_batch(tmp_path, [{"base_lr": 0.1}], f"26-11-2{number}-x") for number in range(3))
    assert write_report(first) == f"{first}/report.html"
    assert write_report([first, second]) == f"{first}/report-with-26-11-21-x.html"
    assert write_report([first, second, third]) == f"{first}/report-with-26-11-21-x-and-1-more.html"
    assert "26-11-21-x" not in text_of(f"{first}/report.html")


def test_report_names_a_metric_that_no_run_has(tmp_path: Path) -> None:
    batch = make_empty_batch(tmp_path)
    make_run(batch, 0, {}, stats="")
    Path(batch, "job.yaml").write_text("job_details: {name: x, metric: val_loss}\n")
    assert "no run has val_loss, the metric that the job spec names: a program" in text_of(write_report(batch))


def test_report_of_no_batch_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ResultsError):
        write_report(tmp_path / "nowhere")


def test_idle_gpus_are_reported(tmp_path: Path) -> None:
    spec = {"base_lr": 0.1, "num_workers": 2}
    batch = make_empty_batch(tmp_path)
    header = "epoch,step,train/time,train/data_time,val/last/loss"
    make_run(batch, 0, spec, stats=f"{header},system/gpu\n1,5,9.0,8.0,0.5,23\n2,10,9.0,8.0,0.4,\n")
    make_run(batch, 1, spec, stats=f"{header}\n1,5,9.0,8.0,0.5\n")
    messages = [{"title": "GPUs", "lines": ["GPU 23 % busy: try num_workers 8"]}]
    assert read_document(build_report(read_results(batch)))["batches"][0]["messages"] == messages
    make_run(batch, 2, spec, stats=f"{header},system/gpu\n1,5,9.0,8.0,0.5,99\n")
    assert read_document(build_report(read_results(batch)))["batches"][0]["messages"] == messages
