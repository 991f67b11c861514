from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from src import run_folder
from src.config import Config
from src.datasets.factory import fetch, make_data
from src.errors import ConfigError, DataError
from train import experiment_generator, train


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    """Classes 3, 5 and 9, told by which feature is 1; other: class 7 looks like 9, class 4 like 3."""
    hot = {3: 1, 5: 2, 9: 3, 7: 3, 4: 1}
    for name, labels in (("toy", [3, 5, 9] * 10), ("toy.t", [5, 9] * 4), ("other.t", [7, 4, 4, 7, 4])):
        (tmp_path / name).write_text("".join(f"{label} {hot[label]}:1 4:1\n" for label in labels))
    return {"dataset": "libsvm/toy", "data_dir": str(tmp_path), "data_splits_map": {"train": "train"},
            "eval_datasets": {"held": "libsvm/toy", "other": "libsvm/other@test"},
            "eval_class_maps": {"other": "0, 2"}, "seed_model": 0, "seed_training": 0, "train_length": 5,
            "batch_size": 10, "data_download": False}


def config(options: dict[str, Any], **changes: Any) -> Config:
    return Config.from_dict({**options, **changes})


def test_labels_of_evaluation_sets_are_those_of_training_or_of_the_class_map(options: dict[str, Any],
                                                                             tmp_path: Path) -> None:
    data = make_data(config(options))
    assert list(data.splits) == ["train", "held", "other"] and data.classes == (3, 5, 9)
    assert data.splits["held"].y.tolist() == [1, 2] * 4
    assert data.splits["other"].y.tolist() == [1, 0, 0, 1, 0]  # 4 and 7, in order
    assert data.columns == {"other": (0, 2)}
    (tmp_path / "map.txt").write_text("0\n2\n")
    assert make_data(config(options, eval_class_maps={"other": str(tmp_path / "map.txt")})).columns == data.columns


def test_loss_and_accuracy_are_among_the_mapped_classes_alone(options: dict[str, Any], tmp_path: Path) -> None:
    *_, (stats, model) = experiment_generator(config(options, averaging="poly"))
    data = make_data(config(options))
    output = model(data.splits["other"].x)[:, [0, 2]]
    last = stats.iloc[-1]
    assert last["other/last/loss"] == pytest.approx(
        torch.nn.functional.cross_entropy(output, data.splits["other"].y).item(), rel=1e-6)
    assert (last["other/last/accuracy"], last["other/av/accuracy"], last["held/last/accuracy"]) == (1, 1, 1)
    swapped = config(options, eval_class_maps={"other": "2, 0"})
    assert list(experiment_generator(swapped))[-1][0]["other/last/accuracy"].iloc[-1] == 0


def test_missing_columns_of_an_evaluation_set_are_zero(options: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "narrow.t").write_text("5 2:1\n3 1:1\n")
    data = make_data(config(options, eval_datasets={"narrow": "libsvm/narrow"}, eval_class_maps=None))
    assert data.splits["narrow"].x.tolist() == [[0, 1, 0, 0], [1, 0, 0, 0]]


def test_evaluation_sets_do_not_change_the_training(options: dict[str, Any], tmp_path: Path) -> None:
    def stats(name: str, **changes: Any) -> pd.DataFrame:
        (tmp_path / name).mkdir()
        train({**options, **changes}, str(tmp_path / name), lambda: None)
        return pd.read_csv(tmp_path / name / run_folder.STATS)

    with_sets, without = stats("a"), stats("b", eval_datasets=None, eval_class_maps=None)
    assert with_sets["train/loss"].tolist() == without["train/loss"].tolist()
    assert "held/last/loss" in with_sets and "held/last/loss" not in without
    late = stats("c", eval_at_end=["other"])["other/last/loss"]
    assert late.isna().tolist() == [True] * 4 + [False]


def test_features_are_scaled_as_in_training() -> None:
    digest = Config(dataset="sklearn/wine", data_splits_map={"train": "train[:50%]"},
                    eval_datasets={"rest": "sklearn/wine@train[50%:]"})
    reference = make_data(Config(dataset="sklearn/wine",
                                 data_splits_map={"train": "train[:50%]", "rest": "train[50%:]"}))
    torch.testing.assert_close(make_data(digest).splits["rest"].x, reference.splits["rest"].x, rtol=0, atol=0)


@pytest.mark.parametrize(("changes", "message"), [
    ({"eval_class_maps": None}, "'test' of libsvm/other has labels that train does not have: 4, 7; allowed: 3, 5, 9"),
    ({"eval_class_maps": {"other": "0"}}, "class map of 'other' has 1 entries; allowed: 2, one for each"),
    ({"eval_class_maps": {"other": "0, 3"}}, "from 0 to 2"),
    ({"eval_class_maps": {"other": "1, 1"}}, "different classes"),
    ({"eval_class_maps": {"other": "/nowhere.txt"}}, "class map of 'other' cannot be read"),
    ({"eval_datasets": {"other": "sklearn/digits@train"}, "eval_class_maps": None}, "labels|shape"),
])
def test_evaluation_sets_that_do_not_fit_are_refused(options: dict[str, Any], changes: dict[str, Any],
                                                     message: str) -> None:
    with pytest.raises(DataError, match=message):
        make_data(config(options, **changes))


@pytest.mark.parametrize(("changes", "message"), [
    ({"eval_datasets": {"train": "libsvm/toy"}}, "eval_datasets: 'train' is a split already; .*choose another name"),
    ({"eval_datasets": {"a/b": "libsvm/toy"}}, "invalid name 'a/b'"),
    ({"eval_datasets": {"a": "libsmv/toy"}}, "eval_datasets, a: unknown family .*did you mean 'libsvm/toy'"),
    ({"eval_datasets": {"a": "libsvm/toy@test[:"}}, "is not a split"),
    ({"eval_class_maps": {"othr": "0"}}, "unknown data set 'othr'; allowed: held, other; did you mean 'other'"),
    ({"metrics": ["f1"]}, "class maps need classification"),
    ({"loss": "mse"}, "class maps need classification"),
])
def test_invalid_sets_are_rejected_early(options: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(options, **changes)


def test_prefetch_downloads_evaluation_sets(options: dict[str, Any]) -> None:
    assert fetch(config(options)).splitlines() == [
        "libsvm/toy: train present already", "libsvm/toy: test present already", "libsvm/other: test present already"]
