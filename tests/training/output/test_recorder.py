from __future__ import annotations

import math
import os
from pathlib import Path

import pandas as pd
import pytest

from src import run_folder
from src.checks.registered_names import TRAINING_METRICS
from src.config import Config
from src.training.output.recorder import Recorder, stats_columns
from src.training.output.table import StatsTable
from tests.training.toys import make_toy

COLUMNS = stats_columns(("loss", "accuracy"), ("test",), ("last",))


def _nothing() -> None:
    pass


def _row(epoch: int, **cells: float | None) -> dict[str, float | None]:
    return {**dict.fromkeys(COLUMNS, 1 / 3), "epoch": epoch, "step": 10 * epoch, **cells}


def test_stats_columns() -> None:
    assert ",".join(stats_columns(("loss", "accuracy"), ("val", "test"), ("last", "av"))) == (
        "epoch,step,timestamp,train/loss,train/accuracy,train/time,train/data_time,train/examples_per_second,train/seen_examples,"
        "train/learning_rate,train/trainable_parameters,val/last/loss,val/last/accuracy,val/last/time,val/last/data_time,val/av/loss,"
        "val/av/accuracy,val/av/time,val/av/data_time,test/last/loss,test/last/accuracy,test/last/time,"
        "test/last/data_time,test/av/loss,test/av/accuracy,test/av/time,test/av/data_time")
    assert stats_columns(TRAINING_METRICS["regression"], ("test",), ("last",))[3:6] == [
        "train/loss", "train/mae", "train/r2"]


def test_rows_read_back_equal(tmp_path: Path) -> None:
    rows = [_row(1), _row(2, **{"train/loss": math.nan, "test/last/loss": None}), _row(3, **{"train/loss": math.inf})]
    table = StatsTable(COLUMNS)
    with Recorder(str(tmp_path), COLUMNS, _nothing) as recorder:
        for row in rows:
            recorder.write_row(row)
            frame = table.add(row)
            read = pd.read_csv(tmp_path / run_folder.STATS)  # at any time: each line is flushed
            pd.testing.assert_frame_equal(read, frame, check_dtype=False, check_exact=True)
    assert read["epoch"].dtype == "int64"
    assert ",nan," in (tmp_path / run_folder.STATS).read_text()  # not a number, unlike not evaluated


def test_new_attempt_starts_with_empty_files(tmp_path: Path) -> None:
    (tmp_path / run_folder.STATS).write_text("epoch,step\n1,2\n3,")
    with Recorder(str(tmp_path), COLUMNS, _nothing) as recorder:
        assert (tmp_path / run_folder.STATS).read_text() == ",".join(COLUMNS) + "\n"
        recorder.write_row(_row(1))
    assert len(pd.read_csv(tmp_path / run_folder.STATS)) == 1


class _Fenced(Exception):
    pass


def test_earlier_attempt_finds_the_later_one_before_it_replaces_the_rows(tmp_path: Path) -> None:
    """As on NFS: the folder is listed anew only after a change by this host."""
    listing = [run_folder.attempt_name(1, 0)]

    def check() -> None:
        if any(name.endswith(".tmp") for name in os.listdir(tmp_path)):
            listing[:] = os.listdir(tmp_path)
        if run_folder.attempt_name(2, 0) in listing:
            raise _Fenced

    (tmp_path / run_folder.attempt_name(2, 0)).touch()
    (tmp_path / run_folder.STATS).write_text("rows of the later attempt\n")
    with pytest.raises(_Fenced), Recorder(str(tmp_path), COLUMNS, check):
        pass
    assert (tmp_path / run_folder.STATS).read_text() == "rows of the later attempt\n"
    assert len(list(tmp_path.iterdir())) == 2, "a temporary file is left"


def test_rows_of_a_superseded_attempt_go_to_the_replaced_file(tmp_path: Path) -> None:
    """An earlier attempt that does not see the later one yet writes on; the rows are those of the later one."""
    with Recorder(str(tmp_path), COLUMNS, _nothing) as earlier:
        earlier.write_row(_row(1))
        with Recorder(str(tmp_path), COLUMNS, _nothing) as later:
            for epoch in (1, 2, 3):
                later.write_row(_row(epoch, **{"train/loss": 0.5}))
                earlier.write_row(_row(epoch + 1))
    frame = pd.read_csv(tmp_path / run_folder.STATS)
    assert (list(frame["epoch"]), set(frame["train/loss"])) == ([1, 2, 3], {0.5})


def test_nothing_is_written_after_a_later_attempt_took_over(tmp_path: Path) -> None:
    fenced = False

    def check() -> None:
        if fenced:
            raise _Fenced

    made = make_toy()
    with Recorder(str(tmp_path), COLUMNS, check) as recorder:
        recorder.write_row(_row(1))
        fenced = True
        with pytest.raises(_Fenced):
            recorder.write_row(_row(2))
        with pytest.raises(_Fenced):
            recorder.write_checkpoint("best_checkpoint.pt", made.config, _row(2), made.model, None, {})
    with pytest.raises(_Fenced), Recorder(str(tmp_path), COLUMNS, check):
        pass
    assert len(pd.read_csv(tmp_path / run_folder.STATS)) == 1
    assert [path.name for path in tmp_path.iterdir()] == [run_folder.STATS]


def test_without_a_folder_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = make_toy()
    with Recorder(None, COLUMNS, _nothing) as recorder:
        recorder.write_config(made.config, {})
        recorder.write_row(_row(1))
        recorder.write_checkpoint("x.pt", made.config, _row(1), made.model, None, {})
    assert not list(tmp_path.iterdir())


def test_config_yaml_repeats_the_run(tmp_path: Path) -> None:
    config = Config(seed_model=3, averaging="poly", data_splits_map={"train": "train[:90%]", "val": "train[90%:]"})
    Recorder(str(tmp_path), COLUMNS, _nothing).write_config(config, {"classes": 2, "host": None})
    spec = run_folder.read_spec(tmp_path / run_folder.CONFIG)
    assert list(spec)[-1] == "facts"
    assert spec["facts"] == {"classes": 2, "host": None}
    assert Config.from_dict(spec).to_dict() == {**config.to_dict(), "output_dir": str(tmp_path)}


@pytest.mark.parametrize(("spec", "tags"), [
    ('TAGS: ["a", "b c"]\n', ["a", "b c"]), ("base_lr: 1\n", None), (None, None)])
def test_the_config_has_the_tags_of_the_spec(tmp_path: Path, spec: str | None, tags: list[str] | None) -> None:
    if spec:
        (tmp_path / run_folder.SPEC).write_text(spec)
    Recorder(str(tmp_path), COLUMNS, _nothing).write_config(Config(base_lr=0.5), {"classes": 2})
    written = run_folder.read_spec(tmp_path / run_folder.CONFIG)
    assert (written.get("TAGS"), list(written)[-1]) == (tags, "facts")
    assert Config.from_dict(written).base_lr == 0.5
