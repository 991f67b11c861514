"""The parts of all processes are the batch of one, whatever the samples come from, in training and in evaluation."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from src.datasets.data import Batch, Lazy, Split
from src.datasets.image_splits import IndexedSplit, StreamedSplit
from src.datasets.on_device import OnDevice, Recipe
from src.datasets.texts import Texts, make_table
from src.training.parallel.data_shards import DataShard
from src.training.setup.seeds import derive_seed
from src.training.steps.batches import ordered_batches, shuffled_batches
from src.training.steps.mixing import Mixing
from src.training.steps.overfit_subset import overfit_subset
from tests.training.parallel.test_distributed import OfTeam
from tests.training.toys import CPU, toy_classes

N, BATCH, PROCESSES = 23, 8, 3


def pixels(index: int) -> Image.Image:
    return Image.fromarray(np.full((6, 6, 3), 11 * index % 256, dtype=np.uint8) + np.arange(6, dtype=np.uint8)[:, None])


class Flips:
    """Transforms that draw, as those of timm."""

    mode, mean, std, erasing = "RGB", (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), None

    def train(self, image: Image.Image) -> Tensor:
        seen = self.evaluation(image)
        return seen.flip(1) if torch.rand(()) < 0.5 else seen

    def evaluation(self, image: Image.Image) -> Tensor:
        return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)


class Unwilling:
    """A split of one's own that reads what it is told, and whole batches in evaluation."""

    def __len__(self) -> int:
        return N

    def batches(self, batch_size: int, order: Tensor | None, seed: int) -> Iterator[Batch]:
        for rows in (torch.arange(N) if order is None else order).split(batch_size):
            yield rows[:, None] + seed % 7, rows


def make(kind: str) -> Any:
    labels = np.arange(N)
    if kind == "indexed":
        return IndexedSplit([("x", pixels, str, labels, labels)], Flips(), 0)  # type: ignore[arg-type]
    if kind == "streamed":
        return StreamedSplit("x", N, lambda: ((pixels(index), index) for index in labels), N, Flips())  # type: ignore[arg-type]
    if kind == "on the device":
        images = torch.randint(256, (N, 3, 6, 6), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        return OnDevice(images, torch.arange(N), Recipe((6, 6), (0.5,) * 3, (0.2,) * 3, padding=1, hflip=0.5))
    if kind == "texts":
        words = [{"input_ids": np.arange(1, 2 + index % 5, dtype=np.int32)} for index in range(N)]
        return Texts(make_table(words, {}, torch.arange(N)), torch.arange(N), grouped=True)
    return Unwilling() if kind == "one's own" else toy_classes(N)


def of_all(batches: Callable[[DataShard | None], Iterator[Batch]], count: int) -> Iterator[tuple[Batch, Batch]]:
    """Each batch of one process beside what the parts of all are together."""
    shards = [DataShard(OfTeam(rank, PROCESSES), BATCH, BATCH) for rank in range(PROCESSES)]
    streams = [batches(shard) for shard in shards]
    for whole, _ in zip(batches(None), range(count), strict=False):
        found = [(next(stream), shard.rows[0]) for stream, shard in zip(streams, shards, strict=True)]
        x = [part[0] if isinstance(part[0], Tensor) else part[0]["input_ids"].sum(1, keepdim=True) for part, _ in found]
        x = torch.cat([some[:rows] for some, (_, rows) in zip(x, found, strict=True)])
        expected = whole[0] if isinstance(whole[0], Tensor) else whole[0]["input_ids"].sum(1, keepdim=True)
        yield (expected, whole[1]), (x, torch.cat([part[1][:rows] for part, rows in found]))


@pytest.mark.parametrize("kind", ["in memory", "indexed", "streamed", "on the device", "texts", "one's own"])
def test_shards_add_up_to_the_batch(kind: str) -> None:
    for batches, count in ((lambda shard: shuffled_batches(make(kind), BATCH, 5, CPU, shard=shard), 7),
                           (lambda shard: ordered_batches(make(kind), BATCH, shard), 3)):
        pairs = [*of_all(batches, count)]
        assert len(pairs) == count
        for (x, y), (found_x, found_y) in pairs:
            torch.testing.assert_close(found_x, x)
            assert found_y.tolist() == y.tolist()


@pytest.mark.parametrize("mixing", [Mixing(0.4, 0.0, 0.1, 3), Mixing(0.4, 1.0, 0.0, 3)])
def test_mixing_partners_come_from_the_whole_batch(mixing: Mixing) -> None:
    x = torch.randn(N, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    split = Split(x, torch.arange(N) % 3)
    for (x, y), (found_x, found_y) in of_all(lambda shard: shuffled_batches(split, BATCH, 5, CPU, mixing, shard=shard),
                                             7):
        torch.testing.assert_close(found_x, x)
        torch.testing.assert_close(found_y, y)


@pytest.mark.parametrize("done", [1, 2, 3, 5])
def test_pass_resumes_at_its_batch(done: int) -> None:
    def shard() -> DataShard:
        return DataShard(OfTeam(1, PROCESSES), BATCH, BATCH)
    calm = shuffled_batches(make("on the device"), BATCH, 5, CPU, shard=shard())
    for _ in range(done):
        next(calm)
    again = shuffled_batches(make("on the device"), BATCH, 5, CPU, start=done, shard=shard())
    for _ in range(4):
        (x, y), noise = next(calm), torch.rand(())
        torch.testing.assert_close(next(again), (x, y), rtol=0, atol=0)
        assert torch.rand(()) == noise, "layers draw the same"


def test_layers_draw_other_random_numbers_in_each_process() -> None:
    drawn = []
    for rank in range(PROCESSES):
        next(shuffled_batches(toy_classes(N), BATCH, 5, CPU, shard=DataShard(OfTeam(rank, PROCESSES), BATCH, BATCH)))
        drawn.append(float(torch.rand(())))
    assert len(set(drawn)) == PROCESSES


def test_subset_of_a_stream_is_streamed() -> None:
    some: Any = overfit_subset(make("streamed"), 5, 0)
    assert some.streamed
    assert not overfit_subset(make("on the device"), 5, 0).streamed  # type: ignore[union-attr]


def test_seed_of_a_pass_equals_that_of_a_single_process() -> None:
    lazy: Lazy = make("one's own")
    x, y = next(shuffled_batches(lazy, BATCH, 5, CPU, shard=DataShard(OfTeam(0, PROCESSES), BATCH, BATCH)))
    assert (x[:, 0] - y).tolist() == [derive_seed("sample", 5, 0) % 7] * len(y)


def test_gathered_rows_have_the_order_of_the_batch(tmp_path: Path) -> None:
    """The measurements of all processes are put together in the order of the batch."""
    from tests.processes import run_processes

    def gathered(group: Any) -> list[Tensor]:
        shard = DataShard(group, BATCH, BATCH)
        return [shard.gather(y[:, None]) for _, y in ordered_batches(Unwilling(), BATCH, shard)]  # type: ignore[arg-type]
    for found in run_processes(PROCESSES, tmp_path, gathered):
        assert torch.cat(found)[:, 0].tolist() == list(range(N))
