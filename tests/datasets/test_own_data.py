from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from src.config import Config
from src.datasets.factory import fetch, make_data, warm_up
from src.errors import ConfigError, DataError
from tests.conftest import trust_modules

MODULE = """
import numpy as np
import torch
from torch.utils.data import Dataset
from src.datasets.data import Data, Source, Split

class Pairs(Dataset):
    def __len__(self):
        return 10
    def __getitem__(self, index):
        return torch.full((3,), float(index)), index % 2

def make(config):
    made.append(config.dataset)
    return {"train": (np.arange(30).reshape(10, 3), [0, 1] * 5), "pairs": Pairs(),
            "source": Source(torch.ones(4, 3), torch.ones(4).double()), "column": (torch.ones(4, 3), torch.ones(4, 1))}

def finished(config):
    split = Split(torch.ones(4, 3), torch.zeros(4, dtype=torch.int64))
    return Data({"all": split}, "classification", ("no", "yes"), (3,), {"told": 1})

made = []
def number(config): return 3
def strings(config): return {"train": (["a"], ["b"])}
def uneven(config): return {"train": (np.ones((4, 3)), np.ones(3))}
def images(config): return {"train": np.ones((4, 3))}
def broken(config): return 1 / 0
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    (tmp_path / "of_mine.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    trust_modules(monkeypatch, tmp_path, "of_mine")
    yield
    sys.modules.pop("of_mine", None)


def config(name: str = "make", splits: dict[str, str] | None = None, **options: Any) -> Config:
    return Config.from_dict({"dataset": f"of_mine:{name}", "data_splits_map": splits or {"train": "train"}, **options})


def test_arrays_and_datasets_are_cut_like_any_source() -> None:
    data = make_data(config(splits={"train": "train[:80%]", "val": "train[80%:]", "test": "pairs"}))
    assert [len(split) for split in data.splits.values()] == [8, 2, 10]
    assert (data.classes, data.input_shape, data.splits["train"].x.dtype) == ((0, 1), (3,), torch.float32)
    assert data.splits["test"].x[7].tolist() == [7, 7, 7] and data.splits["test"].y.tolist() == [0, 1] * 5
    rows = torch.cat([data.splits["train"].x, data.splits["val"].x])
    assert sorted(rows[:, 0].tolist()) == list(range(0, 30, 3))
    assert make_data(config(splits={"train": "train", "test": "source+column"})).splits["test"].y.tolist() == [1] * 8


def test_finished_data_are_used_unchanged() -> None:
    data = make_data(config("finished", {"train": "all", "test": "all"}))
    assert data.classes == ("no", "yes") and data.about == {"told": 1} and data.splits["train"] is data.splits["test"]
    with pytest.raises(DataError, match=r"no split 'all\[:1\]'; allowed: all; the splits of a Data cannot be sl"):
        make_data(config("finished", {"train": "all[:1]"}))
    with pytest.raises(DataError, match="is for classification, and loss mse for regression"):
        make_data(config("finished", {"train": "all"}, loss="mse"))


@pytest.mark.parametrize(("name", "message"), [
    ("number", "returned a int; allowed: a mapping of split names"),
    ("strings", "split 'train' of of_mine:strings cannot be converted to tensors"),
    ("uneven", r"x of shape \[4, 3\] and y of shape \[3\]; allowed: x \[n, ...\] and y \[n\]"),
    ("images", "is a ndarray; allowed"),
])
def test_invalid_results_of_user_code_are_refused(name: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        make_data(config(name))


def test_missing_names_and_splits_are_refused() -> None:
    with pytest.raises(DataError, match="data_splits_map: of_mine:make has no split 'test'; allowed: train, pairs"):
        make_data(config(splits={"train": "train", "test": "test"}))
    with pytest.raises(ConfigError, match=r"^dataset: of_mine has no 'mak' .*did you mean 'of_mine:make'"):
        make_data(config("mak"))
    with pytest.raises(ConfigError, match="dataset: module 'of_mien' not found"):
        Config.from_dict({"dataset": "of_mien:make"})


def test_exception_of_user_code_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        make_data(config("broken"))


def test_a_worker_leaves_the_function_to_its_runs_and_prefetch_calls_it() -> None:
    warm_up([config()])
    assert "of_mine" not in sys.modules
    assert fetch(config()) == "of_mine:make: made"
    assert sys.modules["of_mine"].made == ["of_mine:make"]
