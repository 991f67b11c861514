"""Texts as tokens: all of a data set in one table, and splits of it, padded for each batch to its longest text."""
from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from src.datasets.data import IGNORED, Batch

_AT_ONCE = 1000  # texts that the tokenizer is given at a time


@dataclass(frozen=True, eq=False)
class Table:
    """inputs: by the model's names, the tokens of all texts one after another, int32. starts: [n + 1], where each
    begins. padding: by the same names, what stands behind a text's end. y: [n], or None if the next token is asked."""

    inputs: Mapping[str, Tensor]
    starts: Tensor
    padding: Mapping[str, int]
    y: Tensor | None

    def batch(self, index: Tensor, device: torch.device) -> Batch:
        """The texts at `index` [b]: inputs [b, t] int64 and attention_mask, where t is the longest; and their y.

        Without y: the token behind each token [b, t], IGNORED behind the last.
        """
        starts = self.starts[index]
        lengths = self.starts[index + 1] - starts
        places = torch.arange(max(1, int(lengths.max())))
        mask = places < lengths[:, None]
        grid = torch.where(mask, starts[:, None] + places, 0)
        x = {name: torch.where(mask, tokens[grid].long(), self.padding[name]) for name, tokens in self.inputs.items()}
        if self.y is None:
            y = torch.full_like(grid, IGNORED)
            y[:, :-1] = torch.where(mask[:, 1:], x["input_ids"][:, 1:], IGNORED)
        else:
            y = self.y[index]
        return {name: tensor.to(device) for name, tensor in {**x, "attention_mask": mask.long()}.items()}, y.to(device)


@dataclass(frozen=True, eq=False)
class Texts:
    """The texts at `rows` [n] int64 of a table. grouped: texts of like lengths are to share a batch in training."""

    table: Table
    rows: Tensor
    grouped: bool = False
    device: torch.device = dataclasses.field(default_factory=lambda: torch.device("cpu"))

    def __len__(self) -> int:
        return len(self.rows)

    def to(self, device: torch.device) -> Texts:
        return dataclasses.replace(self, device=device)

    @property
    def lengths(self) -> Tensor | None:
        """[n] tokens, where batches are to be grouped by them."""
        return self.table.starts.diff()[self.rows] if self.grouped else None

    def longest(self, size: int) -> Batch:
        """The longest `size` texts: what a batch may come to at worst."""
        lengths = self.table.starts.diff()[self.rows]
        return self.table.batch(self.rows[lengths.argsort(descending=True)[:size]], self.device)

    def batches(self, batch_size: int, order: Tensor | None, seed: int) -> Iterator[Batch]:
        """A pass, as in Lazy; there is no noise."""
        rows = self.rows if order is None else self.rows[order]
        for index in rows.split(batch_size):
            yield self.table.batch(index, self.device)

    def some(self, batch_size: int, rows: Tensor) -> Iterator[Batch]:
        """The texts at `rows` [n] of these."""
        return self.batches(batch_size, rows, 0)


def tokenized(tokenizer: Any, columns: Sequence[Sequence[str]], max_length: int, ended: bool
              ) -> Iterator[dict[str, np.ndarray]]:
    """The model's inputs of each text, or of each pair of texts if there are two columns, of max_length tokens at most.
    Each [t] int32.

    ended: with the tokenizer's token for the end of a text behind it, if it has one and the text was not cut.
    """
    for start in range(0, len(columns[0]), _AT_ONCE):
        part = tokenizer(*[list(column[start:start + _AT_ONCE]) for column in columns], truncation=True,
                         max_length=max_length, return_attention_mask=False)
        for values in zip(*part.values(), strict=True):
            text = dict(zip(part.keys(), values, strict=True))
            ids = text["input_ids"]
            if ended and tokenizer.eos_token_id is not None and len(ids) < max_length and (
                    ids[-1:] != [tokenizer.eos_token_id]):
                text = {name: [*numbers, tokenizer.eos_token_id if name == "input_ids" else 0]
                        for name, numbers in text.items()}
            yield {name: np.array(numbers, np.int32) for name, numbers in text.items()}


def make_table(texts: Sequence[Mapping[str, np.ndarray]], padding: Mapping[str, int], y: Tensor | None) -> Table:
    """The table of `texts`; each has the same inputs."""
    counts = torch.tensor([0, *(len(text["input_ids"]) for text in texts)])
    inputs = {name: torch.from_numpy(np.concatenate([text[name] for text in texts])) for name in texts[0]}
    return Table(inputs, counts.cumsum(0), {name: padding.get(name, 0) for name in inputs}, y)
