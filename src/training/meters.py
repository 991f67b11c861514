"""Meters: mean loss and metrics over many batches, summed on the device and read once."""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from src.datasets.data import IGNORED
from src.errors import ConfigError

METRICS = {"classification": ("loss", "accuracy"), "regression": ("loss", "mae", "r2"),
           "next_token": ("loss", "accuracy", "perplexity")}
# Batches are kept, and reduced some at a time: a reduction for each would cost a small model half of its step.
_KEPT_BATCHES = 256
_KEPT_NUMBERS = 65_536


class Meter:
    """Means over the samples that were added. Nothing is read from the device before `means`.

    Classification: loss, accuracy, by the largest share where targets are shares of classes. Regression: loss, mae,
    r2 = 1 - (mean squared error) / (variance of the targets).
    """

    def __init__(self, task: str, device: torch.device) -> None:
        self._task = task
        self._dtype = torch.float32 if device.type == "mps" else torch.float64  # mps has no float64
        self._sums = torch.zeros(2 if task == "classification" else 5, dtype=self._dtype, device=device)
        self._origin: Tensor | None = None  # a target, from which targets are counted: exact where all are equal
        self.samples = 0
        self._size = 0  # of each kept batch: all have the same
        self._room = 0  # for so many more
        self._losses: list[Tensor] = []
        self._outputs: list[Tensor] = []
        self._targets: list[Tensor] = []

    def add(self, loss: Tensor, output: Tensor, target: Tensor) -> None:
        """Take in a batch: its mean loss [], output [n, k] and targets [n], or shares [n, k]."""
        size = target.shape[0]
        if not self._room or size != self._size:
            self._reduce()
            self._size, self._room = size, max(1, min(_KEPT_BATCHES, _KEPT_NUMBERS // output.numel()))
        self._losses.append(loss.detach())
        self._outputs.append(output.detach())
        self._targets.append(target)
        self.samples += size
        self._room -= 1

    def means(self) -> dict[str, float]:
        """The means so far, by name; NaN before any sample. Waits for the device."""
        self._reduce()
        if not self.samples:
            return dict.fromkeys(METRICS[self._task], math.nan)
        loss, *sums = (self._sums / self.samples).tolist()
        if self._task == "classification":
            return {"loss": loss, "accuracy": sums[0]}
        absolute, squared, shifted, shifted_squared = sums
        variance = shifted_squared - shifted**2
        return {"loss": loss, "mae": absolute, "r2": 1 - squared / variance if variance > 0 else math.nan}

    def state(self) -> dict[str, Any]:
        """All that was added. Batches that are kept stay apart: another order of summing gives another last digit."""
        return {"sums": self._sums, "origin": self._origin, "samples": self.samples, "size": self._size,
                "room": self._room, "kept": [self._losses, self._outputs, self._targets]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on as from when `state` was called."""
        device = self._sums.device
        self._sums = state["sums"].to(device)
        self._origin = None if state["origin"] is None else state["origin"].to(device)
        self.samples, self._size, self._room = state["samples"], state["size"], state["room"]
        self._losses, self._outputs, self._targets = ([tensor.to(device) for tensor in kept] for kept in state["kept"])

    def _reduce(self) -> None:
        if not self._losses:
            return
        loss = torch.stack(self._losses).to(self._dtype).sum() * self._size
        output, target = _joined(self._outputs), _joined(self._targets)
        if self._task == "classification":
            target = target.max(1).indices if target.dim() == 2 else target
            self._sums += torch.stack([loss, (output.max(1).indices == target).sum().to(self._dtype)])
        else:
            target = target.to(self._dtype)
            error = output.squeeze(-1).to(self._dtype) - target
            self._origin = target[0] if self._origin is None else self._origin
            shifted = target - self._origin
            self._sums += torch.stack([loss, error.abs().sum(), error.square().sum(), shifted.sum(),
                                       shifted.square().sum()])
        self._losses, self._outputs, self._targets, self._room = [], [], [], 0


class TokenMeter(Meter):
    """Means over tokens: loss, accuracy, and perplexity, which is exp of the loss."""

    def __init__(self, device: torch.device) -> None:
        super().__init__("next_token", device)
        self._sums = torch.zeros(3, dtype=self._dtype, device=device)

    def add(self, loss: Tensor, output: Tensor, target: Tensor) -> None:
        """Take in a batch: its mean loss [] over the tokens that are not IGNORED, output [n, t, vocabulary] and targets
        [n, t]. Of outputs that large none is kept."""
        right = (output.detach().argmax(-1) == target).sum()
        tokens = (target != IGNORED).sum().to(self._dtype)
        self._sums += torch.stack([loss.detach().to(self._dtype) * tokens, right.to(self._dtype), tokens])
        self.samples += target.shape[0]

    def means(self) -> dict[str, float]:
        loss, right, tokens = self._sums.tolist()
        if not tokens:
            return dict.fromkeys(METRICS["next_token"], math.nan)
        mean = loss / tokens
        return {"loss": mean, "accuracy": right / tokens, "perplexity": math.exp(mean) if mean < 700 else math.inf}


class MeanMeter:
    """The means over samples of what a task of one's own returns for each batch. Waits for the device in `means`."""

    def __init__(self, names: Sequence[str], device: torch.device) -> None:
        self._names, self._device = tuple(names), device
        self._dtype = torch.float32 if device.type == "mps" else torch.float64
        self._sums = torch.zeros(len(self._names), dtype=self._dtype, device=device)
        self.samples = 0

    def add(self, values: Mapping[str, Tensor | float], samples: int) -> None:
        """Take in the means over a batch. ConfigError if they are not those that were announced."""
        if values.keys() != set(self._names):
            raise ConfigError(f"a step returned {', '.join(values) or 'nothing'}", where="task", allowed=self._names,
                              hint="return a value for each name in metrics, and no other")
        row = [torch.as_tensor(values[name], dtype=self._dtype, device=self._device).detach() for name in self._names]
        self._sums += torch.stack(row) * samples
        self.samples += samples

    def state(self) -> dict[str, Any]:
        """All that was added."""
        return {"sums": self._sums, "samples": self.samples}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on as from when `state` was called."""
        self._sums, self.samples = state["sums"].to(self._device), state["samples"]

    def means(self) -> dict[str, float]:
        """The means so far, by name; NaN before any sample."""
        values = (self._sums / self.samples).tolist() if self.samples else [math.nan] * len(self._names)
        return dict(zip(self._names, values, strict=True))


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
