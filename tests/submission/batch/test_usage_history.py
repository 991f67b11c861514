from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from src.submission.batch import usage_history
from src.submission.batch.usage_history import kind_of
from tests.submission.usage.test_costs import earlier_run


def uses(root: Path, spec: dict[str, Any], **options: Any) -> list[usage_history.RunUse]:
    kind = kind_of(spec)
    return usage_history.similar_runs([kind], str(root), **options).get(kind, [])


def record_use(run: Path, **used: Any) -> None:
    path = run / "attempt-1-0.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "used": used}))


def test_use_of_similar_runs_is_read_and_kept_in_an_index(tmp_path: Path) -> None:
    run = tmp_path / "26-01-01-a" / "000_a"
    earlier_run(run, 2, train_length=10, model="linear", base_lr=1)
    record_use(run, memory=3e9, cpu=1.5, cpus=4, gpus=1, gpu=40.0, gpu_memory=None)
    spec = {"model": "linear", "train_length": 20}
    use, = uses(tmp_path, spec, may_write=False)
    assert (use.memory, use.cpu, use.gpu, use.seconds, use.slurm_job) == (3e9, 1.5, 40.0, 30.0, "7")
    assert use.seconds_for(20) == 50
    index = run.parent / ".usage.json"
    assert not index.exists()
    assert uses(tmp_path, spec) == [use]
    assert index.exists()
    (run / "spec.yaml").unlink()  # the index has it
    assert uses(tmp_path, spec, budget=0) == [use]


def test_index_is_completed_when_more_runs_have_ended(tmp_path: Path) -> None:
    batch = tmp_path / "26-01-01-a"
    earlier_run(batch / "000_a", 2, train_length=10)
    earlier_run(batch / "001_a", 2, train_length=10)
    (batch / "001_a" / "done").rename(batch / "done")
    assert len(uses(tmp_path, {"train_length": 10})) == 1
    (batch / "done").rename(batch / "001_a" / "done")
    assert len(uses(tmp_path, {"train_length": 10})) == 2
    assert json.loads((batch / ".usage.json").read_text())["complete"] is True


def test_of_a_large_batch_a_sample_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage_history, "_SAMPLE", 4)
    for number in range(10):
        earlier_run(tmp_path / "26-01-01-a" / f"{number:03}_a", 2, train_length=10)
    assert len(uses(tmp_path, {"train_length": 10}, budget=60)) == 4


def test_newest_batches_come_first_and_no_more_are_read_than_needed(tmp_path: Path,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage_history, "_ENOUGH", 1)
    for day, seconds in ((1, 2), (2, 4)):
        earlier_run(tmp_path / f"26-01-0{day}-a" / "000_a", seconds, train_length=10)
    assert [use.per_length for use in uses(tmp_path, {"train_length": 10})] == [4]


@pytest.mark.parametrize("content", ["", "[]", "{", '{"form": 1, "runs": []}', '{"form": 2, "runs": {}}',
                                     '{"form": 1, "complete": true, "runs": {"a": 5, "b": {"kind": 1}, '
                                     '"c": {"kind": "k", "length": 1e99, "seconds": 1, "memory": "x"}}}'])
def test_damaged_index_holds_no_runs(content: str, tmp_path: Path) -> None:
    earlier_run(tmp_path / "26-01-01-a" / "000_a", 2, train_length=10)
    (tmp_path / "26-01-01-a" / ".usage.json").write_text(content)
    assert all(use.memory is None for use in uses(tmp_path, {"train_length": 10}))


def test_run_of_one_epoch_is_divided_by_the_times_of_its_row(tmp_path: Path) -> None:
    run = tmp_path / "26-01-01-a" / "000_a"
    earlier_run(run, 2, train_length=1)
    (run / "stats.csv").write_text("epoch,step,timestamp,train/time,val/last/time\n1,10,107,1.5,0.5\n")
    use, = uses(tmp_path, {"train_length": 1})
    assert (use.per_length, use.rest) == (2, 10)


def add_attempt(run: Path, number: int, start: float, end: float | None, modified: float | None = None,
                **record: Any) -> None:
    path = run / f"attempt-1-{number}.json"
    path.write_text(json.dumps({"start": start, "end": end, "how": end and "requeued", "slurm_job": "7", **record}))
    if modified is not None:
        os.utime(path, (modified, modified))


def interrupted_run(root: Path, **spec: Any) -> Path:
    """A run of 5 epochs of 20 s: 60 s in job 7, until the middle of the third, and 100 s in job 8, 14 minutes later."""
    run = root / "26-01-01-a" / "000_a"
    earlier_run(run, 0, **{"train_length": 5, **spec})
    rows = [f"{epoch},{10 * epoch},{time}" for epoch, time in enumerate((120, 140, 1030, 1050, 1070), 1)]
    (run / "stats.csv").write_text("\n".join(["epoch,step,timestamp", *rows]) + "\n")
    add_attempt(run, 0, 100, 160, used={"memory": 3e9, "cpu": 1.0, "gpu": 20.0, "gpu_memory": 1e9, "gpus": 1})
    add_attempt(run, 1, 1000, 1100, slurm_job="8", used={"memory": 2e9, "cpu": 2.0, "gpu": 60.0, "gpus": 2, "cpus": 4})
    return run


def test_time_of_a_resumed_run_is_the_sum_of_its_attempts(tmp_path: Path) -> None:
    interrupted_run(tmp_path)
    use, = uses(tmp_path, {"train_length": 10})
    assert (use.seconds, use.per_length, use.rest) == (160, 20, 60)  # 60 + 100; 50 steps × 60 s / 30 steps
    assert use.seconds_for(10) == 260
    assert (use.memory, use.gpu_memory, use.gpus, use.cpus, use.slurm_job) == (3e9, 1e9, 2, 4, "8")
    # (60 × 1 + 100 × 2) / 160 and (60 × 20 + 100 × 60) / 160
    assert (use.cpu, use.gpu) == (pytest.approx(1.625), pytest.approx(45))


def test_attempt_that_was_killed_ended_at_its_last_heartbeat(tmp_path: Path) -> None:
    """The record of an attempt is renewed while it runs, and nobody writes the end of one that was killed."""
    run = interrupted_run(tmp_path)
    # the file of a copy may have a later time, that of another clock an earlier one
    for modified, seconds in ((150, 50), (5000, 900), (90, 0)):
        add_attempt(run, 0, 100, None, modified)
        (tmp_path / "26-01-01-a" / ".usage.json").unlink(missing_ok=True)
        use, = uses(tmp_path, {"train_length": 10})
        assert (use.seconds, use.memory, use.cpu) == (100 + seconds, 2e9, 2.0)


@pytest.mark.parametrize("change", [
    {"slurm_job": None}, {"start": None}, {"used": {"stacked": 4}}])
def test_run_does_not_count_if_one_of_its_attempts_does_not(change: dict[str, Any], tmp_path: Path) -> None:
    run = interrupted_run(tmp_path)
    assert uses(tmp_path, {"train_length": 10}, may_write=False)
    add_attempt(run, 0, **{"start": 100, "end": 160, **change})
    assert not uses(tmp_path, {"train_length": 10})


def test_run_that_was_started_afresh_does_not_count(tmp_path: Path) -> None:
    """The first attempt did not contribute to its result."""
    (interrupted_run(tmp_path) / "before-1").mkdir()
    assert not uses(tmp_path, {"train_length": 10})


def test_resumed_run_counts_for_its_own_length_if_no_attempt_has_two_epochs(tmp_path: Path) -> None:
    run = interrupted_run(tmp_path, train_length=2)
    (run / "stats.csv").write_text("epoch,step,timestamp,train/time\n1,10,140,30\n2,20,1090,40\n")
    use, = uses(tmp_path, {"train_length": 2})
    assert (use.seconds_for(2), use.seconds_for(4)) == (160, None)
    (run / "stats.csv").write_text("epoch,step,timestamp,train/time\n1,10,1090,40\n")
    (tmp_path / "26-01-01-a" / ".usage.json").unlink()
    assert uses(tmp_path, {"train_length": 2})[0].per_length is None


def test_resumed_program_counts_with_the_sum_of_its_attempts(tmp_path: Path) -> None:
    command = {"COMMAND": ["python", "mine.py"]}
    interrupted_run(tmp_path, **command)
    use, = uses(tmp_path, {**command, "train_length": 5})
    assert use.seconds_for(0) == 160


def test_kind_is_that_of_all_that_determines_time_and_memory() -> None:
    spec = {"model": "linear", "base_lr": 0.1, "train_length": 5, "SBATCH": {"mem": "4G"}}
    assert kind_of(spec) == kind_of({"model": "linear", "batch_size": 100})  # the default
    for change in ({"batch_size": 8}, {"optim_alg": "adam"}, {"train_length": 0}, {"precision": "bf16"}):
        assert kind_of(spec) != kind_of({**spec, **change})
    program = {"COMMAND": ["python", "mine.py"], "depth": 3, "seed": 1}
    assert kind_of(program) == kind_of({**program, "seed": 2}) != kind_of({**program, "depth": 4})
