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
from src.training.parallel.data_shards import Share
from src.training.setup.seeds import mixed
from src.training.steps.batches import in_order, shuffled
from src.training.steps.mixing import Mixing
from src.training.steps.overfit_subset import few
from tests.training.parallel.test_distributed import OfTeam
from tests.training.toys import CPU, classes

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
    return Unwilling() if kind == "one's own" else classes(N)


def of_all(batches: Callable[[Share | None], Iterator[Batch]], count: int) -> Iterator[tuple[Batch, Batch]]:
    """Each batch of one process beside what the parts of all are together."""
    shares = [Share(OfTeam(rank, PROCESSES), BATCH, BATCH) for rank in range(PROCESSES)]
    streams = [batches(share) for share in shares]
    for whole, _ in zip(batches(None), range(count), strict=False):
        found = [(next(stream), share.rows[0]) for stream, share in zip(streams, shares, strict=True)]
        x = [part[0] if isinstance(part[0], Tensor) else part[0]["input_ids"].sum(1, keepdim=True) for part, _ in found]
        x = torch.cat([some[:rows] for some, (_, rows) in zip(x, found, strict=True)])
        expected = whole[0] if isinstance(whole[0], Tensor) else whole[0]["input_ids"].sum(1, keepdim=True)
        yield (expected, whole[1]), (x, torch.cat([part[1][:rows] for part, rows in found]))


@pytest.mark.parametrize("kind", ["in memory", "indexed", "streamed", "on the device", "texts", "one's own"])
def test_parts_are_the_batch(kind: str) -> None:
    for batches, count in ((lambda share: shuffled(make(kind), BATCH, 5, CPU, share=share), 7),
                           (lambda share: in_order(make(kind), BATCH, share), 3)):
        pairs = [*of_all(batches, count)]
        assert len(pairs) == count
        for (x, y), (found_x, found_y) in pairs:
            torch.testing.assert_close(found_x, x)
            assert found_y.tolist() == y.tolist()


@pytest.mark.parametrize("mixing", [Mixing(0.4, 0.0, 0.1, 3), Mixing(0.4, 1.0, 0.0, 3)])
def test_partners_come_from_the_whole_batch(mixing: Mixing) -> None:
    x = torch.randn(N, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    split = Split(x, torch.arange(N) % 3)
    for (x, y), (found_x, found_y) in of_all(lambda share: shuffled(split, BATCH, 5, CPU, mixing, share=share), 7):
        torch.testing.assert_close(found_x, x)
        torch.testing.assert_close(found_y, y)


@pytest.mark.parametrize("done", [1, 2, 3, 5])
def test_a_pass_goes_on_where_it_was_left(done: int) -> None:
    def share() -> Share:
        return Share(OfTeam(1, PROCESSES), BATCH, BATCH)
    calm = shuffled(make("on the device"), BATCH, 5, CPU, share=share())
    for _ in range(done):
        next(calm)
    again = shuffled(make("on the device"), BATCH, 5, CPU, start=done, share=share())
    for _ in range(4):
        (x, y), noise = next(calm), torch.rand(())
        torch.testing.assert_close(next(again), (x, y), rtol=0, atol=0)
        assert torch.rand(()) == noise, "layers draw the same"


def test_layers_of_each_process_draw_their_own() -> None:
    drawn = []
    for rank in range(PROCESSES):
        next(shuffled(classes(N), BATCH, 5, CPU, share=Share(OfTeam(rank, PROCESSES), BATCH, BATCH)))
        drawn.append(float(torch.rand(())))
    assert len(set(drawn)) == PROCESSES


def test_a_few_of_a_stream_are_known_as_such() -> None:
    some: Any = few(make("streamed"), 5, 0)
    assert some.streamed
    assert not few(make("on the device"), 5, 0).streamed  # type: ignore[union-attr]


def test_the_seed_of_a_pass_is_that_of_one_process() -> None:
    lazy: Lazy = make("one's own")
    x, y = next(shuffled(lazy, BATCH, 5, CPU, share=Share(OfTeam(0, PROCESSES), BATCH, BATCH)))
    assert (x[:, 0] - y).tolist() == [mixed("sample", 5, 0) % 7] * len(y)


def test_batches_put_together(tmp_path: Path) -> None:
    """What each process measured of its part comes in the order of the batch."""
    from tests.processes import run_processes

    def gathered(team: Any) -> list[Tensor]:
        share = Share(team, BATCH, BATCH)
        return [share.together(y[:, None]) for _, y in in_order(Unwilling(), BATCH, share)]  # type: ignore[arg-type]
    for found in run_processes(PROCESSES, tmp_path, gathered):
        assert torch.cat(found)[:, 0].tolist() == list(range(N))
