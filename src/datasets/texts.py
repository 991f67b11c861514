"""Texts as tokens: one table for a data set, and splits of it, padded in each batch to its longest text."""
from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from src.datasets.data import IGNORED, Batch

_TOKENIZER_BATCH = 1000  # texts per call of the tokenizer


@dataclass(frozen=True, eq=False)
class Table:
    """All texts of a data set.

    inputs: for each input of the model, the tokens of all texts, concatenated, int32
    starts: [n + 1], the position where each text begins
    padding: for each input of the model, the value that pads a text
    y: [n], or None if the target is the next token
    """

    inputs: Mapping[str, Tensor]
    starts: Tensor
    padding: Mapping[str, int]
    y: Tensor | None

    def batch(self, index: Tensor, device: torch.device) -> Batch:
        """Return the texts at `index` [b] as inputs [b, t] int64 with attention_mask, t being the longest, and y.

        Without y: the token after each token [b, t], IGNORED after the last.
        """
        starts = self.starts[index]
        lengths = self.starts[index + 1] - starts
        positions = torch.arange(max(1, int(lengths.max())))
        mask = positions < lengths[:, None]
        grid = torch.where(mask, starts[:, None] + positions, 0)
        x = {name: torch.where(mask, tokens[grid].long(), self.padding[name]) for name, tokens in self.inputs.items()}
        if self.y is None:
            y = torch.full_like(grid, IGNORED)
            y[:, :-1] = torch.where(mask[:, 1:], x["input_ids"][:, 1:], IGNORED)
        else:
            y = self.y[index]
        return {name: tensor.to(device) for name, tensor in {**x, "attention_mask": mask.long()}.items()}, y.to(device)


@dataclass(frozen=True, eq=False)
class Texts:
    """The texts at `rows` [n] int64 of a table. grouped: texts of similar lengths share a training batch."""

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
        """[n], the number of tokens, if batches are grouped by it."""
        return self.table.starts.diff()[self.rows] if self.grouped else None

    def longest(self, size: int) -> Batch:
        """Return the longest `size` texts: the largest batch that can occur."""
        lengths = self.table.starts.diff()[self.rows]
        return self.table.batch(self.rows[lengths.argsort(descending=True)[:size]], self.device)

    def batches(self, batch_size: int, order: Tensor | None, seed: int) -> Iterator[Batch]:
        """Yield the batches of a pass, as in Lazy, without augmentation."""
        rows = self.rows if order is None else self.rows[order]
        for index in rows.split(batch_size):
            yield self.table.batch(index, self.device)

    def some(self, batch_size: int, rows: Tensor) -> Iterator[Batch]:
        """Yield batches of the texts at `rows` [n] of this split."""
        return self.batches(batch_size, rows, 0)


def tokenized(tokenizer: Any, columns: Sequence[Sequence[str]], max_length: int, ended: bool
              ) -> Iterator[dict[str, np.ndarray]]:
    """Yield the model's inputs, each [t] int32, of each text, or of each pair of texts if there are two columns.

    max_length: maximum number of tokens. ended: append the tokenizer's end-of-text token, if it has one, to texts that
    are not truncated.
    """
    for start in range(0, len(columns[0]), _TOKENIZER_BATCH):
        part = tokenizer(*[list(column[start:start + _TOKENIZER_BATCH]) for column in columns], truncation=True,
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
    """Return the table of `texts`, which all have the same inputs."""
    counts = torch.tensor([0, *(len(text["input_ids"]) for text in texts)])
    inputs = {name: torch.from_numpy(np.concatenate([text[name] for text in texts])) for name in texts[0]}
    return Table(inputs, counts.cumsum(0), {name: padding.get(name, 0) for name in inputs}, y)
