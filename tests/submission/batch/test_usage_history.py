from __future__ import annotations

import json
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


def test_kind_is_that_of_all_that_determines_time_and_memory() -> None:
    spec = {"model": "linear", "base_lr": 0.1, "train_length": 5, "SBATCH": {"mem": "4G"}}
    assert kind_of(spec) == kind_of({"model": "linear", "batch_size": 100})  # the default
    for change in ({"batch_size": 8}, {"optim_alg": "adam"}, {"train_length": 0}, {"precision": "bf16"}):
        assert kind_of(spec) != kind_of({**spec, **change})
    program = {"COMMAND": ["python", "mine.py"], "depth": 3, "seed": 1}
    assert kind_of(program) == kind_of({**program, "seed": 2}) != kind_of({**program, "depth": 4})
