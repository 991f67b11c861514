from __future__ import annotations

from pathlib import Path

import pytest

from src.config import Config
from src.datasets.factory import data_folder, make_data, warm_up
from src.errors import ConfigError, DataError


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """100 samples of classes 3, 5 and 9, where 9 is rare; the feature is the sample's number."""
    labels = [3, 5] * 49 + [9, 9]
    (tmp_path / "toy").write_text("".join(f"{label} 1:{i + 1}\n" for i, label in enumerate(labels)))
    return Config(dataset="libsvm/toy", data_dir=str(tmp_path), data_splits_map={"train": "train"})


def with_splits(config: Config, **splits: str) -> Config:
    return config._replace(data_splits_map=splits)


def numbers(config: Config, name: str) -> list[float]:
    return make_data(config).splits[name].x.flatten().tolist()


def test_slices_partition_the_split_and_keep_x_with_y(config: Config) -> None:
    data = make_data(with_splits(config, train="train[:80%]", val="train[80%:]"))
    train, val = data.splits.values()
    assert (len(train), len(val)) == (80, 20)
    assert sorted(train.x.flatten().tolist() + val.x.flatten().tolist()) == list(range(1, 101))
    for split in (train, val):
        for x, y in zip(split.x.flatten().tolist(), split.y.tolist(), strict=True):
            assert data.classes[y] == (9 if x > 98 else 5 if x % 2 == 0 else 3)


def test_splits_depend_on_seed_split_and_on_no_other_seed(config: Config) -> None:
    config = with_splits(config, train="train[:50%]")
    first = numbers(config, "train")
    assert numbers(config._replace(seed_model=1, seed_training=2), "train") == first
    assert numbers(config._replace(seed_split=1), "train") != first


def test_a_small_train_split_changes_no_class_index(config: Config) -> None:
    data = make_data(with_splits(config, train="train[:5]", rest="train[5:]"))
    assert data.classes == (3, 5, 9)


def test_the_order_is_that_of_the_map_and_equal_expressions_share_memory(config: Config) -> None:
    data = make_data(with_splits(config, traineval="train", train="train", some="train[:10]"))
    assert list(data.splits) == ["traineval", "train", "some"]
    assert data.splits["train"] is data.splits["traineval"]


def test_unions_concatenate_their_parts(config: Config, tmp_path: Path) -> None:
    (tmp_path / "toy.t").write_text("3 1:0.5\n")
    config = with_splits(config, train="test+train[:3]")
    assert numbers(config, "train")[0] == 0.5
    assert numbers(config, "train")[1:] == numbers(with_splits(config, train="train[:3]"), "train")


def test_label_that_train_does_not_have_is_refused(config: Config, tmp_path: Path) -> None:
    (tmp_path / "toy.t").write_text("3 1:1\n4 1:1\n10 1:1\n")
    with pytest.raises(DataError, match=r"of libsvm/toy has labels that train does not have: 4, 10; allowed: 3, 5, 9"):
        make_data(with_splits(config, train="train", test="test"))
    assert make_data(with_splits(config, test="test")).classes == (3, 4, 10)  # evaluation alone
    regression = with_splits(config, train="train", test="test")._replace(loss="mse")
    assert make_data(regression).splits["test"].y.tolist() == [3, 4, 10]


@pytest.mark.parametrize(("text", "message"), [
    ("train[:101]", r"'train\[:101\]' is out of range; allowed: split 'train' has 100 samples"),
    ("train[:0%]", "is empty"),
    ("train[80%", "invalid split"),
])
def test_invalid_splits_are_refused(config: Config, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        make_data(with_splits(config, train=text))


def test_variables_in_data_dir_are_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("SCRATCH", "/scratch/me")
    monkeypatch.delenv("NOWHERE", raising=False)
    assert data_folder(Config(data_dir="~/data")) == Path("/home/me/data")
    assert data_folder(Config(data_dir="${SCRATCH}/data")) == Path("/scratch/me/data")
    with pytest.raises(ConfigError, match=r"\$NOWHERE in .* is not set"):
        data_folder(Config(data_dir="$NOWHERE/data"))


def test_warm_up_parses_once_and_leaves_errors_to_the_runs(config: Config, tmp_path: Path) -> None:
    missing = config._replace(dataset="libsvm/nowhere")
    warm_up([missing, config._replace(base_lr=0.1), config, Config(dataset="timm/tfds/mnist")])
    assert [path.name.split("-")[0] for path in (tmp_path / ".parsed").iterdir()] == ["toy"]
    assert not (tmp_path / "libsvm").exists()  # nothing was downloaded
