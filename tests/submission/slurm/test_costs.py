"""Hours by time limits, with the options as people write them, and by earlier runs."""
from __future__ import annotations

import json
from pathlib import Path

import pytest

from src.submission.slurm import costs, directives


@pytest.mark.parametrize(("limit", "hours"), [
    ("90", 1.5), ("30:36", 0.51), ("12:00:00", 12), ("2-0", 48), ("1-12:30", 36.5), ("1-00:00:36", 24.01),
    ("UNLIMITED", None), ("", None), ("1:2:3:4", None)])
def test_time_limits_are_parsed_as_slurm_does(limit: str, hours: float | None) -> None:
    assert costs.parse_hours(limit) == pytest.approx(hours)


@pytest.mark.parametrize(("words", "cpus", "gpus"), [
    ([], 1, 0), (["--cpus-per-task=4"], 4, 0), (["--nodes=2", "--ntasks-per-node=4", "--cpus-per-task=3"], 24, 0),
    (["--gres=gpu:1"], 1, 1), (["--gres=tape:4,gpu:a100:2", "--nodes=2"], 2, 4), (["--gpus=a100:3"], 1, 3),
    (["--gpus-per-node=2", "--nodes=3"], 3, 6), (["--gpus-per-task=1", "--ntasks=4"], 4, 4), (["--gres=gpu"], 1, 1)])
def test_cpus_and_gpus_of_a_job(words: list[str], cpus: int, gpus: int) -> None:
    assert costs.cpus_and_gpus(directives.effective("", words)) == (cpus, gpus)


def test_upper_bound_is_the_sum_of_time_limits() -> None:
    small, large = {"time": "60", "cpus-per-task": "2"}, {"time": "2:00:00", "gres": "gpu:1"}
    assert costs.upper_bound([(10, small), (4, large)]) == "at most 8.0 GPU-hours, 28 CPU-hours (time limits)"
    assert costs.upper_bound([(10, small), (1, {})]) is None


def earlier_run(folder: Path, model: str, minutes: float, how: str | None = "completed") -> None:
    folder.mkdir(parents=True)
    (folder.parent / "job.yaml").touch()
    (folder / "spec.yaml").write_text(f"model: {model}\ndataset: d\n")
    (folder / "attempt-1-0.json").write_text(json.dumps({"start": 100, "end": 100 + 60 * minutes, "how": how}))
    if how:
        (folder / "done").write_text(how)


def test_estimate_uses_earlier_runs_of_the_same_model_and_data(tmp_path: Path) -> None:
    for number, minutes in enumerate((10, 20, 60)):
        earlier_run(tmp_path / "26-01-01-a" / f"00{number}_a", "m", minutes)
    earlier_run(tmp_path / "26-01-01-a" / "003_a", "m", 1000, None)
    earlier_run(tmp_path / "26-01-02-b" / "000_b", "other", 1000)
    specs = [{"model": "m", "dataset": "d"}] * 12
    assert costs.estimate(specs, str(tmp_path), 2, 0.5) == (
        "probably 2.0 GPU-hours, 8.0 CPU-hours (3 earlier runs of the same model and data)")
    assert costs.estimate([*specs, {"model": "n", "dataset": "d"}], str(tmp_path), 2, 0) is None
    assert costs.estimate(specs, str(tmp_path / "nowhere"), 2, 0) is None
