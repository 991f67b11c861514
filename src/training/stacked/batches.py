"""The training batches of a stack: one shared by all members if their seeds are equal, else one gathered for each."""
from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from src.config import Config
from src.datasets.data import Data, Split, batches_per_block
from src.training.setup.facts import output_dim
from src.training.steps.batches import bytes_per_row, pass_order, shuffled_batches
from src.training.steps.mixing import make_mixing


class StackedBatch(NamedTuple):
    """The batches of all members at one step. The first dimension is 1 for what all members share.

    x: [1 or members, n, …].
    y: classes or targets [1 or members, n], or probabilities of classes [1 or members, n, outputs].
    encoded: y in the form that the kernel takes.
    """

    x: Tensor
    y: Tensor
    encoded: Tensor


@dataclass(frozen=True)
class BatchSource:
    """Yields the batches that the members' single runs would train on.

    split: dense samples on the device. configs: of the members, with seeds.
    encode_samples, encode_targets: those of the kernel.
    is_shared: whether x is the same for all members.
    """

    split: Split
    configs: Sequence[Config]
    data: Data
    encode_samples: Callable[[Tensor], Tensor]
    encode_targets: Callable[[Tensor], Tensor]

    @property
    def is_shared(self) -> bool:
        return len({config.seed_training for config in self.configs}) == 1

    def from_step(self, step: int) -> Iterator[StackedBatch]:
        """Yield batches without end, starting with that of optimizer step `step`."""
        if self.configs[0].mixup or self.configs[0].cutmix:
            return self._mixed(step)
        return self._gathered(step)

    def _mixed(self, start: int) -> Iterator[StackedBatch]:
        """Mix each member's batch as its single run does: the random numbers depend on its seed."""
        outputs = output_dim(self.configs[0], self.data)
        iterators = []
        for config in self.configs:
            assert config.seed_training is not None
            mixing = make_mixing(config, self.data, outputs)
            iterators.append(shuffled_batches(self.split, config.batch_size, config.seed_training,
                                              self.split.y.device, mixing, start))
        for batches in zip(*iterators, strict=True):
            xs, ys = zip(*batches, strict=True)
            x = torch.stack(xs[:1 if self.is_shared else None])
            x = self.encode_samples(x.flatten(0, 1)).unflatten(0, x.shape[:2])
            y = torch.stack(ys)
            yield StackedBatch(x, y, self.encode_targets(y[None])[0])

    def _gathered(self, start: int) -> Iterator[StackedBatch]:
        """Yield pass after pass. The last batch of a pass may be smaller."""
        size, samples, x = self.configs[0].batch_size, len(self.split), self.encode_samples(self.split.x)
        first_pass, done = divmod(start, -(-samples // size))
        seeds = [config.seed_training for config in self.configs[:1 if self.is_shared else None]]
        for number in itertools.count(first_pass):
            orders = torch.stack([pass_order(samples, int(seed or 0), number) for seed in seeds])[:, done * size:]
            done = 0
            full = orders.shape[1] - orders.shape[1] % size
            yield from self._blocks(x, orders[:, :full].unflatten(1, (-1, size)))
            if full < orders.shape[1]:
                yield from self._blocks(x, orders[:, None, full:])

    def _blocks(self, x: Tensor, orders: Tensor) -> Iterator[StackedBatch]:
        """Yield the batches of samples x at `orders` [members, steps, n], or [1, steps, n] if they are shared."""
        members, _, size = orders.shape
        steps = batches_per_block(members * size * bytes_per_row(x))
        for block in orders.split(steps, 1):
            rows = block.transpose(0, 1).flatten().to(self.split.y.device)
            shape = block.shape[1], members, size
            y = self._smoothed(self.split.y[rows].unflatten(0, shape))
            yield from map(StackedBatch, x.index_select(0, rows).unflatten(0, shape), y, self.encode_targets(y))

    def _smoothed(self, y: Tensor) -> Tensor:
        """Smooth labels [steps, 1 or members, n], if a member does, as smooth_labels in steps/mixing.py."""
        smoothings = [config.label_smoothing for config in self.configs]
        if not any(smoothings):
            return y
        outputs = output_dim(self.configs[0], self.data)
        background = torch.tensor(smoothings, device=y.device, dtype=torch.get_default_dtype())[:, None, None] / outputs
        is_label = y[..., None] == torch.arange(outputs, device=y.device)
        return torch.where(is_label, 1 - outputs * background + background, background)
