"""Hours by time limits, with the options as people write them, and by earlier runs."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from src.io import yaml_io
from src.submission.slurm import directives
from src.submission.usage import costs


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


START = 5.0  # seconds, from the start of an attempt to its first step, and from its last row to its end


def earlier_run(folder: Path, seconds_per_epoch: float, end: str | None = "completed", way: str = "one each",
                job: str | None = "7", stack: str | None = None, **spec: Any) -> None:
    """A run that trained for its train_length, with ten steps in an epoch."""
    folder.mkdir(parents=True)
    (folder.parent / "job.yaml").touch()
    (folder.parent / "submissions").mkdir(exist_ok=True)
    plan = {"kind": "plan", "time": 1, "mode": "slurm", "who": {}, "tickets": {}, "way": way, "bounds": [],
            **({"stack": stack} if stack else {})}
    (folder.parent / "submissions" / "t.jsonl").write_text(json.dumps(plan) + "\n")
    (folder / "spec.yaml").write_text(yaml_io.dump_flat(spec))
    epochs = spec.get("train_length", 1)
    rows = [f"{epoch},{10 * epoch},{100 + START + seconds_per_epoch * epoch}" for epoch in range(1, epochs + 1)]
    (folder / "stats.csv").write_text("\n".join(["epoch,step,timestamp", *rows]) + "\n")
    (folder / "attempt-1-0.json").write_text(json.dumps({
        "start": 100, "end": 100 + 2 * START + seconds_per_epoch * epochs, "how": end, "slurm_job": job}))
    if end:
        (folder / "done").write_text(end)


def test_estimate_scales_the_steps_but_not_the_start(tmp_path: Path) -> None:
    for number, (seconds, epochs) in enumerate(((2, 10), (4, 5))):
        earlier_run(tmp_path / "26-01-01-a" / f"00{number}_a", seconds, train_length=epochs, model="linear", base_lr=1)
    specs = [{"model": "linear", "train_length": 100, "base_lr": number} for number in range(36)]
    # 36 × (200 or 400 seconds, and 10 to start and end)
    assert costs.estimate(specs, str(tmp_path), 2, 1) == (
        "probably 2.1 to 4.1 GPU-hours, 4.2 to 8.2 CPU-hours (2 similar runs)")
    assert costs.estimate([{"model": "linear", "train_length": 1}], str(tmp_path), 2, 0) == (
        "probably 0.007 to 0.008 CPU-hours (2 similar runs)")  # two CPUs × 12 or 14 seconds


def test_range_is_that_of_the_middle_half_of_many_similar_runs(tmp_path: Path) -> None:
    for number, seconds in enumerate((1, 2, 3, 4, 100)):
        earlier_run(tmp_path / "26-01-01-a" / f"00{number}_a", seconds, train_length=10)
    assert costs.estimate([{"train_length": 700}] * 36, str(tmp_path), 1, 0) == (
        "probably 14 to 28 CPU-hours (5 similar runs)")


@pytest.mark.parametrize("spec", [
    {"model": "tiny/lenet"}, {"batch_size": 8}, {"dataset": "sklearn/digits"}, {"train_length_unit": "step"},
    {"precision": "bf16"}, {"train_length": 0}, {"COMMAND": ["python", "mine.py"]}])
def test_unsimilar_runs_give_no_estimate(spec: dict[str, Any], tmp_path: Path) -> None:
    earlier_run(tmp_path / "26-01-01-a" / "000_a", 2, train_length=10, model="linear")
    specs = [{"model": "linear", "train_length": 10}]
    assert costs.estimate(specs, str(tmp_path), 2, 0) is not None
    assert costs.estimate([{**specs[0], **spec}], str(tmp_path), 2, 0) is None
    assert costs.estimate([*specs, {**specs[0], **spec}], str(tmp_path), 2, 0) is None
    assert costs.estimate(specs, str(tmp_path / "nowhere"), 2, 0) is None


@pytest.mark.parametrize("options", [
    {"way": "workers"}, {"way": "workers", "stack": "auto"}, {"job": None}, {"end": "early_stopped"}, {"end": None},
    {"train_length": 1}])
def test_runs_that_were_started_or_ended_in_another_way_do_not_count(options: dict[str, Any], tmp_path: Path) -> None:
    """A worker's run does not load the libraries, and one that ran on this machine is no measure for a cluster."""
    earlier_run(tmp_path / "26-01-01-a" / "000_a", 2, **{"train_length": 10, **options})
    assert costs.estimate([{"train_length": 10}], str(tmp_path), 2, 0) is None
    found = costs.estimate([{"train_length": 10}], str(tmp_path), 2, 0, by_workers=True)
    assert (found is None) == (options.get("way") != "workers" or "stack" in options)


def test_external_program_is_estimated_from_runs_with_equal_parameters(tmp_path: Path) -> None:
    command = ["python", "mine.py", "{args}"]
    earlier_run(tmp_path / "26-01-01-a" / "000_a", 0, COMMAND=command, depth=3, seed=1)
    spec = {"COMMAND": command, "depth": 3, "seed": 2, "SBATCH": {"mem": "1G"}}
    assert costs.estimate([spec] * 360, str(tmp_path), 2, 0) == "probably 2.0 CPU-hours (1 similar run)"
    assert costs.estimate([{**spec, "depth": 4}], str(tmp_path), 2, 0) is None
