from __future__ import annotations

import importlib.util
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from src.config import Config
from src.datasets import scikit
from src.datasets.factory import fetch, make_data
from src.errors import DataError

REAL = {  # samples, shape of a sample, classes (None: targets), samples of each class as published
    "digits": (1797, (1, 8, 8), 10, [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]),
    "breast_cancer": (569, (30,), 2, [212, 357]),
    "wine": (178, (13,), 3, [59, 71, 48]),
    "iris": (150, (4,), 3, [50, 50, 50]),
    "diabetes": (442, (10,), None, None),
}


def config(name: str, **other: object) -> Config:
    return Config(dataset=f"sklearn/{name}", **{"data_splits_map": {"train": "train"}, **other})


@pytest.mark.parametrize("name", REAL)
def test_files_are_read_as_scikit_learn_loads_them(name: str) -> None:
    ours, theirs = scikit._packaged(name), scikit._imported(name)
    assert np.array_equal(ours[0], theirs[0])
    assert np.array_equal(ours[1], theirs[1])


@pytest.mark.parametrize("name", REAL)
def test_files_that_moved_are_loaded_by_scikit_learn_itself(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loss = "mse" if name == "diabetes" else "log"
    before = make_data(config(name, loss=loss)).splits["train"]
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: SimpleNamespace(submodule_search_locations=["/none"]))
    after = make_data(config(name, loss=loss)).splits["train"]
    assert torch.equal(before.x, after.x)
    assert torch.equal(before.y, after.y)


@pytest.mark.parametrize("name", REAL)
def test_sizes_and_classes(name: str) -> None:
    n, shape, n_classes, counts = REAL[name]
    data = make_data(config(name, loss="log" if n_classes else "mse"))
    assert (len(data.splits["train"]), data.input_shape, data.n_classes) == (n, shape, n_classes)
    assert data.splits["train"].x.dtype == torch.float32
    if counts:
        assert data.classes == tuple(range(len(counts)))
        assert data.splits["train"].y.bincount().tolist() == counts


def test_digits_are_images_from_0_to_1() -> None:
    x = make_data(config("digits")).splits["train"].x
    assert (x.min(), x.max()) == (0, 1)
    assert x[0, 0, 0].tolist() == [0, 0, 5 / 16, 13 / 16, 9 / 16, 1 / 16, 0, 0]


@pytest.mark.parametrize("name", ["breast_cancer", "wine", "iris", "diabetes"])
def test_features_are_standardized_by_train_alone(name: str) -> None:
    splits = make_data(config(name, loss="mse", data_splits_map={
        "val": "train[80%:]", "train": "train[:80%]", "all": "train"})).splits
    train = splits["train"].x
    assert torch.allclose(train.mean(0), torch.zeros(train.shape[1]), atol=1e-5)
    assert torch.allclose(train.std(0, correction=0), torch.ones(train.shape[1]), atol=1e-5)
    assert splits["val"].x.mean(0).abs().max() > 1e-3
    raw = torch.from_numpy(scikit._imported(name)[0]).float()
    scaled = splits["all"].x
    slope = (scaled[1:] - scaled[:1]).abs().sum(0) / (raw[1:] - raw[:1]).abs().sum(0)
    assert torch.allclose(scaled - scaled[0], (raw - raw[0]) * slope, atol=1e-3)  # one affine map for all splits


def test_synthetic_is_the_same_every_time_for_either_task() -> None:
    classes, again = make_data(config("synthetic")), make_data(config("synthetic"))
    assert (len(classes.splits["train"]), classes.input_shape, classes.n_classes) == (10_000, (20,), 10)
    assert torch.equal(classes.splits["train"].x, again.splits["train"].x)
    targets = make_data(config("synthetic", loss="square"))
    train = targets.splits["train"]
    x = torch.cat([train.x, torch.ones(10_000, 1)], dim=1).double()
    residual = train.y - x @ torch.linalg.lstsq(x, train.y[:, None].double()).solution[:, 0]
    assert targets.n_classes is None
    assert train.y.var().item() == pytest.approx(1, abs=0.02)
    assert residual.var().item() == pytest.approx(0.01, rel=0.1)


def test_regression_targets_are_refused_for_classification() -> None:
    with pytest.raises(DataError, match=r"diabetes has measured targets.*loss: mse"):
        make_data(config("diabetes"))


def test_another_split_shows_how_to_cut() -> None:
    with pytest.raises(DataError, match=r"no split 'test'.*train: 'train\[:80%\]', test: 'train\[80%:\]'"):
        make_data(Config(dataset="sklearn/digits"))


@pytest.mark.parametrize("name", ["digits", "synthetic"])
def test_scikit_learn_is_not_installed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match="pip install scikit-learn"):
        make_data(config(name))


def test_fetch_says_where_the_data_is() -> None:
    assert fetch(config("digits")) == "sklearn/digits: present already, in the scikit-learn package"
    assert fetch(config("synthetic")) == "sklearn/synthetic: generated"


def test_digits_import_no_heavy_library() -> None:
    """A run of seconds must not wait for libraries that it does not use."""
    script = ("import sys, torch; from src.config import Config; from src.datasets.factory import make_data\n"
              "from src.models.factory import make_model\n"
              "config = Config(dataset='sklearn/digits', model='tiny/lenet', data_splits_map={'train': 'train'})\n"
              "make_model(config, make_data(config).input_shape, 10)\n"
              "print(*{name.partition('.')[0] for name in sys.modules} & set(sys.argv[1:]))")
    heavy = ["sklearn", "scipy", "pandas", "timm", "torchvision", "libsvmdata", "tensorflow", "pyarrow"]
    done = subprocess.run([sys.executable, "-c", script, *heavy], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
