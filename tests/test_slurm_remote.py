"""A laptop that submits to a cluster: a real sshd on loopback before a real Slurm, connections that are cut, results.

`make chaos` cuts the connection 20 times during submissions of 60 runs; GRIDIRON_CHAOS_SEED repeats its instants.
"""
from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from src.analysis.reading.results import read_experiments
from src.search import summary
from src.submission.status import status
from src.submission.status.observe import observe
from tests import searching
from tests.conftest import ROOT, Slurm
from tests.sshd.fixture import Sshd, sshd
from tests.sshd.laptop import Laptop, wait_until
from tests.test_chaos import CHAOS, SCRIPT, SEED, instants

__all__ = ["sshd"]  # the fixture

CUTS, RUNS = (20, 60) if CHAOS else (3, 12)


@pytest.fixture
def laptop(slurm: Slurm, sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Laptop:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("GRIDIRON_TEST_ROOT", raising=False)
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    laptop = Laptop(tmp_path / "my $laptop" / "pro 'ject'", tmp_path / "the cluster" / "pro ject", sshd,
                    (f"export SLURM_CONF='{slurm.folder}/slurm.conf'",))
    (laptop.folder / "s.sh").write_text(SCRIPT)
    return laptop


def counts(laptop: Laptop, name: str) -> dict[str, int]:
    return status.counts(observe([str(laptop.batch(name))])[0])


def test_connections_cut_at_any_time_lose_nothing(laptop: Laptop, slurm: Slurm) -> None:
    """At a random instant of a submission the connection is cut, and is made again. Two times in three the laptop's
    command is killed as well, and once of those the one on the cluster too; then the same command is given again."""
    chance = random.Random(SEED)
    print(f"GRIDIRON_CHAOS_SEED={SEED}")
    names = ["calm", *(f"cut-{number}" for number in range(CUTS))]
    words = {name: [laptop.write_spec(name, f"batch_size: 1, seed_model: range({RUNS})"), "-s", "s.sh", "-y"]
             for name in names}
    start = time.monotonic()
    laptop.submit(*words["calm"])
    duration = time.monotonic() - start
    cut = 0
    for name, part in zip(names[1:], instants(chance, CUTS), strict=True):
        wait_until(lambda: len(slurm.run("squeue", "--noheader").splitlines()) < 400, 300)
        process = laptop.start(*words[name])
        time.sleep(part * duration)
        cut += laptop.sshd.drop_connections() > 0
        if killed := chance.randrange(3):
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            if killed == 2:
                kill_there(laptop)
            go_on(laptop, words[name])
        else:
            said, _ = process.communicate(timeout=300)
            assert process.returncode == 0, f"seed {SEED}: {said}"
    assert cut >= CUTS / 3, "hardly any connection was there to be cut"
    for name in names:
        wait_until(lambda name=name: counts(laptop, name) == {"done": RUNS}, 600)  # type: ignore[misc]
        assert laptop.executed(name) == [1] * RUNS, f"seed {SEED}: {name}"


def kill_there(laptop: Laptop) -> None:
    """Kill the commands that the cluster has begun for the laptop, with their sbatch, as its login node's end would."""
    for folder in (laptop.remote_dir / ".gridiron" / "errands").iterdir():
        who = folder / "who.json"
        if who.exists() and not (folder / "status").exists():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(json.loads(who.read_text())["pid"], signal.SIGKILL)


def go_on(laptop: Laptop, words: list[str]) -> None:
    """The same command again until all is submitted."""
    for _ in range(3):
        process = laptop.start(*words)
        said, _ = process.communicate(timeout=300)
        if process.returncode == 0 or "no run can be submitted now" in said:
            return
        time.sleep(1)
    pytest.fail(f"seed {SEED}: {said}")


COMPOSITE = """\
job_details: {name: composite, tags: all}
parameters:
  dataset: sklearn/digits
  data_splits_map: {train: "train[:80%]", val: "train[80%:]"}
  model: linear
  train_length: 2
  base_lr: 0.5
  batch_size: 32
  SUBTESTS:
    "rates,first": {base_lr: [0.1, 0.5], WORKERS: 1}
    batches: {batch_size: [32, 64]}
    "seeds,last": {seed_training: range(3), batch_size: 64, base_lr: 0.2}
"""


def test_composite_by_workers_and_its_results_are_downloaded(laptop: Laptop, slurm: Slurm,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    """Real training, of three grids in one batch; what is fetched makes the whole data frame."""
    for name in ("train.py", "submit_cpu.sh"):
        shutil.copy(ROOT / name, laptop.folder)
    (laptop.folder / "jobs" / "composite.yaml").write_text(COMPOSITE)
    commit = laptop.commit()
    said = laptop.submit("jobs/composite.yaml", "-s", "s.sh", "--workers", "2", "-y")
    assert "submitted 6 runs" in said
    wait_until(lambda: counts(laptop, "composite") == {"done": 6}, 240)
    os.unlink(laptop.folder / "results")
    done = subprocess.run([sys.executable, "experiments.py", "sync", "cluster"], cwd=laptop.folder, capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr
    assert "1 batch, 6 runs, 6 ended" in done.stdout
    monkeypatch.chdir(laptop.folder)
    big_df = read_experiments(f"results/{laptop.batch('composite').name}", only_done=True)
    rates, both, batches, seeds = (["all", "rates", "first"], ["all", "rates", "first", "batches"], ["all", "batches"],
                                   ["all", "seeds", "last"])
    assert list(big_df["TAGS"]) == [rates, both, batches, seeds, seeds, seeds]
    assert list(big_df["base_lr"]) == [0.1, 0.5, 0.5, 0.2, 0.2, 0.2]
    assert [len(stats) for stats in big_df["train/loss"]] == [2] * 6
    assert set(big_df["facts/commit"]) == {commit}
    workers = {ticket for path in laptop.batch("composite").glob("submissions/*.jsonl")
               for ticket in re.findall(r'"slurm_job": "(\d+)"', path.read_text())}
    assert len(workers) == 3


def test_search_on_a_host_is_one_there_and_its_copy_too(laptop: Laptop, slurm: Slurm,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials are chosen and paused by workers of Slurm there; the laptop watches, and reads the decisions."""
    monkeypatch.chdir(laptop.folder)
    shutil.copy(ROOT / "tests" / "submission" / "search_entry.py", laptop.folder / "train.py")
    (laptop.folder / "jobs" / "tune.yaml").write_text(searching.JOB.format(search=searching.ASHA, batch_size=8).replace(
        "name: tiny\n  output_dir: re sults", "name: tune"))
    laptop.commit()
    assert "submitted 3 runs" in laptop.submit("jobs/tune.yaml", "-s", "s.sh", "-y")
    laptop.submit("wait", "tune", program="experiments.py")
    for command, expected in [("status", "18 of 18 trials started"), ("search --replay", "all are the same")]:
        assert expected in laptop.submit(*command.split(), "tune", program="experiments.py")
    searching.assert_sound(laptop.batch("tune"), 18)
    os.unlink(laptop.folder / "results")
    subprocess.run([sys.executable, "experiments.py", "sync", "cluster"], cwd=laptop.folder, check=True)
    copy = laptop.folder / "results" / laptop.batch("tune").name
    summarized = summary.summarize(copy)
    assert summarized is not None
    assert (summarized.trials, summarized.is_over) == (18, True)
    assert set(read_experiments(str(copy))["end"]) == {"paused", "completed"}
