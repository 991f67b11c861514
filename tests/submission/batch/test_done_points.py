"""Points that other batches have completed: the hash of a config, and the search for it."""
from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.config import OUTPUT_FIELDS, Config
from src.errors import ConfigError
from src.submission.batch import batch_folder
from src.submission.batch.done_points import canonical_hash, done_points, missing_points
from src.submission.spec import reader

POINT: dict[str, Any] = {"batch_size": 8, "base_lr": 1, "dataset": "libsvm/toy", "data_splits_map": {
    "train": "train", "val": "test"}, "averaging": None}


@pytest.mark.parametrize("change", [
    {"base_lr": 1.0}, {"batch_size": 8.0}, {"weight_decay": 0}, {"weight_decay": -0.0}, {"momentum": 0.9},
    {"log_interval": 3}, {"profile": True}, {"wandb": True, "wandb_tags": ["a"]}, {"output_dir": "x"}, {"TAGS": ["a"]},
    {"SBATCH": {"mem": "8G"}, "SCRIPT": "x.sh"}, {"data_splits_map": {"val": "test", "train": "train"}}])
def test_hash_ignores_logging_output_and_number_types(change: dict[str, Any]) -> None:
    assert canonical_hash({**POINT, **change}) == canonical_hash(POINT)


@pytest.mark.parametrize("change", [
    {"base_lr": 1.5}, {"batch_size": 9}, {"momentum": "0.9"}, {"averaging": "poly_8"}, {"seed_training": 1},
    {"limit_eval_batches": 1}, {"fast_dev_run": True}, {"precision": "bf16"},
    {"best_checkpoint_metric": "val/.*/loss"}, {"data_splits_map": {"train": "train", "test": "test"}},
    {"COMMAND": ["true"]}])
def test_hash_changes_with_the_result(change: dict[str, Any]) -> None:
    assert canonical_hash({**POINT, **change}) != canonical_hash(POINT)


@given(st.randoms())
def test_hash_ignores_the_order_of_keys(random_: random.Random) -> None:
    items = list(Config().to_dict().items())
    random_.shuffle(items)
    assert canonical_hash(dict(items)) == canonical_hash({})


def test_keys_not_hashed_exist() -> None:
    assert not OUTPUT_FIELDS - Config().to_dict().keys()


def test_hash_of_an_external_program() -> None:
    with pytest.raises(ConfigError):
        canonical_hash({"anything": 1})
    assert canonical_hash({"anything": 1, "COMMAND": ["a"]}) != canonical_hash({"anything": 1, "COMMAND": ["b"]})
    assert canonical_hash({"b": 1, "a": 2, "COMMAND": ["a"], "TAGS": ["x"]}) == canonical_hash(
        {"a": 2, "b": 1, "COMMAND": ["a"]})


def write(path: Path, specs: dict[str, str], done: dict[str, str]) -> None:
    batch_folder.create(str(path), "job_details: {name: a}\n", list(specs), list(specs.values()))
    for name, how in done.items():
        (path / name / "done").write_text(how)


def test_done_points_of_all_batches_except_excluded_ones(tmp_path: Path) -> None:
    write(tmp_path / "26-01-01-a", {"000_a": "batch_size: 1\n", "001_a": "batch_size: 2\n", "002_a": "gone: 1\n"},
          {"000_a": "completed", "002_a": "completed"})
    write(tmp_path / "26-01-02-b", {"000_b": "batch_size: 3\n"}, {"000_b": "diverged"})
    assert done_points(str(tmp_path)) == {canonical_hash({"batch_size": 1}): f"{tmp_path}/26-01-01-a/000_a",
                                          canonical_hash({"batch_size": 3}): f"{tmp_path}/26-01-02-b/000_b"}
    others = done_points(str(tmp_path), excluding=[f"{tmp_path}/26-01-01-a/"])
    assert others.keys() == {canonical_hash({"batch_size": 3})}
    assert done_points(str(tmp_path / "nowhere")) == {}


def test_missing_points_by_name(tmp_path: Path) -> None:
    write(tmp_path / "26-01-01-a", {"000_a": "batch_size: 2\nlog_interval: 1\n"}, {"000_a": "early_stopped"})
    spec = reader.parse_job_spec("job_details: {name: b}\nparameters: {batch_size: [1, 2], base_lr: 1}", "x.yaml")
    assert missing_points(spec, {}, str(tmp_path)) == ["000_b+bat_siz=1"]
    assert missing_points(spec, {"batch_size": 2}, str(tmp_path)) == []
    external = reader.parse_job_spec("job_details: {name: b, command: tool}\nparameters: {x: [1, 2]}", "x.yaml")
    write(tmp_path / "26-01-02-b", {"000_b+x=1": 'x: 1\nCOMMAND: ["tool"]\n'}, {"000_b+x=1": "completed"})
    assert missing_points(external, {}, str(tmp_path)) == ["001_b+x=2"]


def test_missing_random_points(tmp_path: Path) -> None:
    text = "job_details: {name: b, samples: 2}\nparameters: {batch_size: !int_uniform [1, 999], base_lr: 1}"
    spec = reader.parse_job_spec(text, "x.yaml")
    names = missing_points(spec, {}, str(tmp_path))
    assert len(names) == 2 and missing_points(spec, {}, str(tmp_path), 5)[:2] == names
    assert names != missing_points(spec, {}, str(tmp_path), 2, 1)
    size = names[0].rpartition("=")[2]
    write(tmp_path / "26-01-01-a", {"000_a": f"batch_size: {size}\nbase_lr: 1\n"}, {"000_a": "completed"})
    assert missing_points(spec, {}, str(tmp_path)) == names[1:]


def test_missing_points_of_a_sweep_respect_run_cap(tmp_path: Path) -> None:
    text = "{method: grid, run_cap: 2, parameters: {batch_size: [1, 2, 3]}}"
    assert missing_points(reader.parse_job_spec(text, "s.yaml"), {}, str(tmp_path)) == ["000_s+bat_siz=1",
                                                                                        "001_s+bat_siz=2"]
