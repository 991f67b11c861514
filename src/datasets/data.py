"""The data structures of data sets: named splits of tensors, dense or sparse, and facts about them."""
from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

# (x, y), both on the training device.
# x: [n, ...], or a mapping of the model's arguments to such tensors.
# y: [n] int64 class indices; [n] float32 targets; [n, classes] float32 class probabilities of mixed samples; or
# [n, t] int64, the token after each of t tokens, or IGNORED.
Batch = tuple[Any, torch.Tensor]
IGNORED = -100  # marks a position without a next token
BLOCK_BYTES = 1 << 20  # small batches are gathered together, in blocks of about this size


@dataclass(frozen=True, eq=False)
class Split:
    """The samples of a split in memory.

    x: [n, *input_shape] float32, dense, or [n, d] sparse CSR.
    y: [n] int64 class indices, or [n] float32 targets.
    """

    x: torch.Tensor
    y: torch.Tensor

    def __len__(self) -> int:
        return len(self.y)


class Lazy(Protocol):
    """A split that is read during training: images from files, tokens of texts.

    Optional members:
    close(): called after the training.
    lengths: [n] or None; samples of similar lengths share a training batch.
    some(batch_size, rows [n] int64): batches of these samples in evaluation. With several processes, each process then
    reads only its own part of each batch; without it, each reads every batch and evaluates its part. limit_eval_batches
    needs it for a random sample; without it, the first samples are evaluated.
    streamed: true if samples cannot be indexed; with several processes, each reads every training batch and trains on
    its part.
    """

    def __len__(self) -> int:
        """Return the number of samples in a pass."""

    def to(self, device: torch.device) -> Lazy:
        """Return the same split with its batches on `device`."""

    def batches(self, batch_size: int, order: torch.Tensor | None, seed: int) -> Iterator[Batch]:
        """Yield the batches of a pass.

        Training: the samples in `order` [n] int64, augmented by random numbers that depend on `seed` and a sample's
        index. Evaluation: order is None; the samples come in the split's own order, without augmentation. A source
        that cannot be indexed derives its order from the seed.
        """


@dataclass(frozen=True, eq=False)
class Data:
    """The splits of a run, in the order of data_splits_map. Splits with equal expressions are the same object.

    task: classification, regression or next_token.
    classes: the original labels in the order of their indices; () for other tasks.
    input_shape: the shape of a sample; () if x is a mapping.
    about: facts for config.yaml, such as the resolved transforms.
    columns: for splits with classes of their own, the model output of each of these classes.
    """

    splits: Mapping[str, Split | Lazy]
    task: str
    classes: tuple[float | int | str, ...]
    input_shape: tuple[int, ...]
    about: Mapping[str, Any] = field(default_factory=dict)
    columns: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def n_classes(self) -> int | None:
        """The number of classes; None for other tasks."""
        return len(self.classes) if self.task == "classification" else None


@dataclass(frozen=True, eq=False)
class Source:
    """All samples of one split as a reader returns them, before slices are taken.

    x: as in Split.
    y: [n] float64, labels or targets.
    targets: y are measurements, never classes.
    standardize: features have different units and are standardized to zero mean and unit variance.
    column_base: the number of the first column in a LIBSVM file, 0 or 1; None for other data sets.
    """

    x: torch.Tensor
    y: torch.Tensor
    targets: bool = False
    standardize: bool = False
    column_base: int | None = None


def batches_per_block(bytes_per_batch: int) -> int:
    """Return how many batches to gather at once. They are views of one block, which stays in cache."""
    return max(1, BLOCK_BYTES // bytes_per_batch)


def select(x: Any, rows: torch.Tensor | slice) -> Any:
    """Return some rows of a batch's x, a dense tensor or a mapping of such tensors. With a slice they are views."""
    return {name: values[rows] for name, values in x.items()} if isinstance(x, Mapping) else x[rows]


def take(x: torch.Tensor, indices: torch.Tensor | slice) -> torch.Tensor:
    """Return the rows of `x` at `indices` ([b] int64, on x's device) as a dense batch [b, …].

    A slice of a dense x is a view. Rows of a CSR tensor are gathered on its device; on a GPU this synchronizes once,
    because the number of values in the batch must be known.
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
    """Return crow [b + 1], col and value of the rows of a CSR tensor at `indices` [b]."""
    start = x.crow_indices()[indices]
    count = x.crow_indices()[indices + 1] - start
    crow = torch.cat([count.new_zeros(1), count.cumsum(0)])
    total = int(crow[-1])
    # the position of each value in x: its position in the batch, plus the offset of its row
    position = torch.arange(total, device=x.device) + (start - crow[:-1]).repeat_interleave(count, output_size=total)
    return crow, x.col_indices()[position], x.values()[position]
