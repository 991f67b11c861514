"""What every data set becomes: named splits of tensors, dense or sparse, and what is known about them."""
from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

# x: [n, ...], or a mapping of the model's arguments to such tensors. y: [n] int64 class indices, [n] float32 targets,
# or [n, classes] float32 shares of classes that were mixed, or [n, t] int64, the token behind each of t tokens, or
# IGNORED. Both on the training device.
Batch = tuple[Any, torch.Tensor]
IGNORED = -100  # stands for no token


@dataclass(frozen=True, eq=False)
class Split:
    """x: [n, *input_shape] float32, dense, or [n, d] sparse CSR. y: [n] int64 class indices, or [n] float32 targets."""

    x: torch.Tensor
    y: torch.Tensor

    def __len__(self) -> int:
        return len(self.y)


class Lazy(Protocol):
    """A split that is read while it is used: images from files, tokens of texts.

    One that has a method `close` is told by it that the training is over.
    One that has an attribute `lengths`, [n] or None, gets samples of like lengths in the same training batch.
    Among several processes, each asks for the samples of its own part of each batch: in training by `order`, in
    evaluation by a method `some(batch_size, rows [n] int64)`. Of one without it, each evaluates its part of every batch
    that it reads; with an attribute `streamed`, which is true, each trains on its part likewise.
    """

    def __len__(self) -> int:
        """Samples in a pass."""

    def to(self, device: torch.device) -> Lazy:
        """The same split, whose batches are on `device`."""

    def batches(self, batch_size: int, order: torch.Tensor | None, seed: int) -> Iterator[Batch]:
        """A pass. Training: the samples in `order` [n] int64, their noise drawn from `seed` and each one's index.

        Evaluation: order is None, and the samples come in the split's own order, without noise. A source that cannot
        be indexed takes its order from the seed.
        """


@dataclass(frozen=True, eq=False)
class Data:
    """The splits of a run, in the order of data_splits_map. Splits with equal expressions are one object.

    task: classification, regression or next_token. classes: the original labels in the order of their indices; () for
    the others.
    input_shape: of a sample; () where x is a mapping. about: facts for config.yaml, as the resolved transforms.
    columns: of splits with classes of their own, the model's output for each of these.
    """

    splits: Mapping[str, Split | Lazy]
    task: str
    classes: tuple[float | int | str, ...]
    input_shape: tuple[int, ...]
    about: Mapping[str, Any] = field(default_factory=dict)
    columns: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def n_classes(self) -> int | None:
        """How many classes there are; None where there are none."""
        return len(self.classes) if self.task == "classification" else None


@dataclass(frozen=True, eq=False)
class Source:
    """What a reader hands over: all samples of one split as its source has them, before it is cut.

    x: as in Split. y: [n] float64, labels or targets. targets: y are measurements, never classes.
    standardise: features come in units of their own and want zero mean and unit variance.
    """

    x: torch.Tensor
    y: torch.Tensor
    targets: bool = False
    standardise: bool = False


def take(x: torch.Tensor, indices: torch.Tensor | slice) -> torch.Tensor:
    """The rows of `x` at `indices` ([b] int64, on x's device) as a dense batch [b, …]; a slice of dense x is a view.

    Of a CSR tensor the rows are gathered by torch operations alone; on a GPU this waits for the device once, because
    the number of values in the batch must be known.
    """
    if x.layout != torch.sparse_csr:
        # index_select takes a quarter of the time of x[indices]
        return x[indices] if isinstance(indices, slice) else x.index_select(0, indices)
    if isinstance(indices, slice):
        indices = torch.arange(*indices.indices(x.shape[0]), device=x.device)
    crow, col, value = gather_rows(x, indices)
    batch = value.new_zeros(len(indices), x.shape[1])
    row = torch.arange(len(indices), device=x.device).repeat_interleave(crow.diff(), output_size=len(value))
    batch[row, col.long()] = value
    return batch


def gather_rows(x: torch.Tensor, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """crow [b + 1], col and value of the rows of a CSR tensor at `indices` [b]."""
    start = x.crow_indices()[indices]
    count = x.crow_indices()[indices + 1] - start
    crow = torch.cat([count.new_zeros(1), count.cumsum(0)])
    total = int(crow[-1])
    # a value's place in x: its place in the batch, shifted by how far its row has moved
    place = torch.arange(total, device=x.device) + (start - crow[:-1]).repeat_interleave(count, output_size=total)
    return crow, x.col_indices()[place], x.values()[place]
