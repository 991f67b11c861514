"""limit_eval_batches evaluates a random sample of each split: seeded, recorded, the same in each epoch and process."""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from src.config import Config
from src.datasets.data import Batch, Data, Split
from src.datasets.factory import make_data
from src.io import yaml_io
from src.training.parallel.data_shards import DataShard
from src.training.steps.batches import ordered_batches
from src.training.steps.evaluation_subset import FirstSamples, with_evaluation_subsets
from tests.training.parallel.test_distributed import OfTeam
from tests.training.toys import make_toy, toy_classes, train_toy


def limited(split: Any, **options: Any) -> Any:
    """The part of a split that is evaluated."""
    config = Config(**{"eval_batch_size": 20, "limit_eval_batches": 1, **options})
    data = Data({"val": split}, "classification", (0, 1, 2), (5,))
    return with_evaluation_subsets(config, data, ["val"]).splits["val"]


def samples(split: Any, batch_size: int = 20) -> Tensor:
    return torch.cat([y for _, y in ordered_batches(split, batch_size)])


def numbered(count: int, sparse: bool = False) -> Split:
    """A split whose targets are the numbers of its samples."""
    x = torch.eye(count)
    return Split(x.to_sparse_csr() if sparse else x, torch.arange(count))


class Read:
    """A split that is read from files. some: it can be indexed."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def batches(self, batch_size: int, order: Tensor | None, seed: int) -> Iterator[Batch]:
        assert order is None
        for part in torch.arange(self.count).split(batch_size):
            yield part[:, None], part


class Indexed(Read):
    def some(self, batch_size: int, rows: Tensor) -> Iterator[Batch]:
        for part in rows.split(batch_size):
            yield part[:, None], part


def test_first_samples_of_a_sorted_file_are_not_the_sample() -> None:
    """The first 20 samples of iris are of one class."""
    config = Config.from_dict({"dataset": "sklearn/iris", "data_splits_map": {"val": "train"}, "train_length": 0,
                               "eval_batch_size": 20, "limit_eval_batches": 1})
    data = make_data(config)
    assert samples(data.splits["val"])[:20].unique().tolist() == [0]
    assert len(samples(with_evaluation_subsets(config, data, ["val"]).splits["val"]).unique()) == 3


@pytest.mark.parametrize("split", [numbered(150), numbered(150, sparse=True), Indexed(150)], ids=[
    "dense", "sparse", "files"])
def test_sample_is_drawn_with_seed_split(split: Any) -> None:
    chosen = samples(limited(split))
    assert len(chosen) == len(chosen.unique()) == 20
    assert chosen.tolist() == sorted(chosen.tolist()) != list(range(20))
    assert torch.equal(samples(limited(split, seed_training=3, seed_model=4)), chosen)
    assert not torch.equal(samples(limited(split, seed_split=1)), chosen)
    for batch in ordered_batches(limited(split), 7):
        assert batch[0].shape[0] == batch[1].shape[0]
    assert torch.equal(samples(limited(split), 7), chosen)


def test_each_sample_is_drawn_equally_often() -> None:
    counts = torch.zeros(40)
    for seed in range(400):
        counts += samples(limited(numbered(40), seed_split=seed)).bincount(minlength=40)
    assert counts.min() > 140 and counts.max() < 260  # 200 ± 6 standard deviations


def test_processes_share_the_sample() -> None:
    subset = limited(numbered(150))
    parts = [samples_of(DataShard(OfTeam(rank, 3), 20, 20), subset) for rank in range(3)]
    assert torch.equal(torch.cat(parts).sort().values, samples(subset))


def samples_of(shard: DataShard, split: Any) -> Tensor:
    return torch.cat([y for _, y in ordered_batches(split, 20, shard)])


def test_stream_has_its_first_samples() -> None:
    subset = limited(Read(150), limit_eval_batches=2)
    assert isinstance(subset, FirstSamples)
    assert samples(subset).tolist() == list(range(40))
    assert limited(Read(30), limit_eval_batches=2).count == 30


def test_no_limit_changes_nothing() -> None:
    split = numbered(30)
    assert limited(split, limit_eval_batches=None) is split
    assert limited(split, limit_eval_batches=1.0) is split
    assert len(limited(split, limit_eval_batches=0.5)) == 20  # one of two batches


def test_number_of_samples_is_recorded(tmp_path: Path) -> None:
    splits = {"train": toy_classes(), "test": toy_classes(40, seed=1)}
    made = make_toy(splits, nn.Linear(5, 3), eval_batch_size=8, limit_eval_batches=2, metrics=["confusion_matrix"])
    train_toy(made, str(tmp_path))
    facts = yaml_io.load_flat((tmp_path / "config.yaml").read_text(), "config.yaml")["facts"]
    assert facts["evaluated"] == {"test": {"samples": 16, "of": 40, "chosen": "at random"}}
    assert facts["examples"] == {"train": 60, "test": 40}
    from src.analysis.reading.arrays import read_array

    assert read_array(tmp_path, "test/last/confusion_matrix").sum() == 16
