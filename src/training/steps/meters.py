"""Meters: the mean loss and metrics over many batches, summed on the device and read once."""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from src.checks.registered_names import TRAINING_METRICS
from src.datasets.data import IGNORED
from src.errors import ConfigError
from src.training.parallel.distributed import SINGLE_PROCESS, SingleProcess
from src.training.setup.facts import accumulation_dtype

# the mean loss of a batch, its weight in a mean over batches (samples or tokens), and its samples
StepLosses = list[tuple[Tensor, int | Tensor, int]]
_KEPT_BATCHES = 256
_KEPT_NUMBERS = 65_536


def max_kept(numbers: int) -> int:
    """Return how many batches with this number of outputs are kept, to be reduced together.

    One reduction per batch would take half of a small model's step.
    """
    return max(1, min(_KEPT_BATCHES, _KEPT_NUMBERS // numbers))


class Meter:
    """Means over the samples that were added in all processes of the group. Only `means` waits for the device.

    Classification: loss, and accuracy, for which targets that are probabilities count as the most probable class.
    Regression: loss, mae, r2 = 1 - (mean squared error) / (variance of the targets).
    samples: their number in all processes, as of the last call of `means`.
    needs_whole_batches: whether `add` needs the batches of all processes together.
    step_losses: a list to which the loss of each batch is appended; None without one.
    """

    needs_whole_batches = False
    step_losses: StepLosses | None = None

    def __init__(self, task: str, device: torch.device, group: SingleProcess = SINGLE_PROCESS) -> None:
        self._task, self._group = task, group
        self._dtype = accumulation_dtype(device)
        self._sums = torch.zeros(2 if task == "classification" else 5, dtype=self._dtype, device=device)
        self._origin: Tensor | None = None  # one target, subtracted from all, so that r2 is exact if all are equal
        self._count = 0
        self.samples = 0
        self._size = 0  # of the kept batches, which is the same for all
        self._room = 0  # number of batches that may still be kept
        self._losses: list[Tensor] = []
        self._outputs: list[Tensor] = []
        self._targets: list[Tensor] = []

    def add(self, loss: Tensor, output: Tensor, target: Tensor) -> None:
        """Add a batch: its mean loss [], output [n, k], and targets [n] or probabilities [n, k]."""
        size = target.shape[0]
        if not self._room or size != self._size:
            self._reduce()
            self._size, self._room = size, max_kept(output.numel())
        loss = loss.detach()
        if self.step_losses is not None:
            self.step_losses.append((loss, size, size))
        self._losses.append(loss)
        self._outputs.append(output.detach())
        self._targets.append(target)
        self._count += size
        self._room -= 1

    def means(self) -> dict[str, float]:
        """Return the means so far, by name; NaN without any sample. Waits for the device."""
        self._reduce()
        total, self.samples = self._total() if self._group.size > 1 else (self._sums, self._count)
        if not self.samples:
            return dict.fromkeys(TRAINING_METRICS[self._task], math.nan)
        loss, *sums = (total / self.samples).tolist()
        if self._task == "classification":
            return {"loss": loss, "accuracy": sums[0]}
        absolute, squared, shifted, shifted_squared = sums
        variance = shifted_squared - shifted**2
        return {"loss": loss, "mae": absolute, "r2": 1 - squared / variance if variance > 0 else math.nan}

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs. Kept batches are not reduced: another order of sums changes the last digit."""
        return {"sums": self._sums, "origin": self._origin, "samples": self._count, "size": self._size,
                "room": self._room, "kept": [self._losses, self._outputs, self._targets]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue as after the batch at which `state` was called."""
        device = self._sums.device
        self._sums = state["sums"].to(device)
        self._origin = None if state["origin"] is None else state["origin"].to(device)
        self._count, self._size, self._room = state["samples"], state["size"], state["room"]
        self._losses, self._outputs, self._targets = ([tensor.to(device) for tensor in kept] for kept in state["kept"])

    def _total(self) -> tuple[Tensor, int]:
        """Return the sums and the number of samples of all processes, with the origin of the first."""
        origin = self._sums.new_zeros(()) if self._origin is None else self._origin.to(self._dtype)
        local = torch.cat([self._sums, torch.stack([origin, self._sums.new_tensor(self._count)])])
        rows = torch.stack(self._group.gather_tensors(local))
        sums, origins, counts = rows[:, :-2], rows[:, -2], rows[:, -1]
        if self._task == "regression":
            shift, shifted = origins - origins[0], sums[:, 3].clone()
            sums[:, 3] += counts * shift
            sums[:, 4] += 2 * shift * shifted + counts * shift**2
        return sums.sum(0), int(counts.sum())

    def _reduce(self) -> None:
        if not self._losses:
            return
        loss = torch.stack(self._losses).to(self._dtype).sum() * self._size
        output, target = _concatenate(self._outputs), _concatenate(self._targets)
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
    """Means over tokens: loss, accuracy, and perplexity, which is exp(loss)."""

    def __init__(self, device: torch.device, group: SingleProcess = SINGLE_PROCESS) -> None:
        super().__init__("next_token", device, group)
        self._sums = torch.zeros(3, dtype=self._dtype, device=device)

    def add(self, loss: Tensor, output: Tensor, target: Tensor) -> None:
        """Add a batch: its mean loss [] over tokens that are not IGNORED, output [n, t, vocabulary], targets [n, t].

        Outputs of this size are reduced at once.
        """
        correct = (output.detach().argmax(-1) == target).sum()
        tokens = (target != IGNORED).sum().to(self._dtype)
        if self.step_losses is not None:
            self.step_losses.append((loss.detach(), tokens, target.shape[0]))
        self._sums += torch.stack([loss.detach().to(self._dtype) * tokens, correct.to(self._dtype), tokens])
        self._count += target.shape[0]

    def means(self) -> dict[str, float]:
        total, self.samples = self._total() if self._group.size > 1 else (self._sums, self._count)
        loss, correct, tokens = total.tolist()
        if not tokens:
            return dict.fromkeys(TRAINING_METRICS["next_token"], math.nan)
        mean = loss / tokens
        return {"loss": mean, "accuracy": correct / tokens, "perplexity": math.exp(mean) if mean < 700 else math.inf}


class MeanMeter:
    """Means over the samples of all processes of what a user-defined task returns for each batch.

    step_losses: as in Meter.
    """

    step_losses: StepLosses | None = None

    def __init__(self, names: Sequence[str], device: torch.device, group: SingleProcess = SINGLE_PROCESS) -> None:
        self._names, self._device, self._group = tuple(names), device, group
        self._dtype = accumulation_dtype(device)
        self._sums = torch.zeros(len(self._names), dtype=self._dtype, device=device)
        self._count = 0
        self.samples = 0

    def add(self, values: Mapping[str, Tensor | float], samples: int) -> None:
        """Add the means over a batch. ConfigError if they are not those that the task declares."""
        if values.keys() != set(self._names):
            raise ConfigError(f"a step returned {', '.join(values) or 'nothing'}", where="task", allowed=self._names,
                              hint="return a value for each name in metrics, and nothing else")
        row = [torch.as_tensor(values[name], dtype=self._dtype, device=self._device).detach() for name in self._names]
        if self.step_losses is not None:
            self.step_losses.append((row[self._names.index("loss")], samples, samples))
        self._sums += torch.stack(row) * samples
        self._count += samples

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs."""
        return {"sums": self._sums, "samples": self._count}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue as after the batch at which `state` was called."""
        self._sums, self._count = state["sums"].to(self._device), state["samples"]

    def means(self) -> dict[str, float]:
        """Return the means so far, by name; NaN without any sample. Waits for the device."""
        total, self.samples = self._sums, self._count
        if self._group.size > 1:
            *sums, count = self._group.sum(torch.cat([self._sums, self._sums.new_tensor([self._count])]))
            total, self.samples = torch.stack(sums), int(count)
        values = (total / self.samples).tolist() if self.samples else [math.nan] * len(self._names)
        return dict(zip(self._names, values, strict=True))


def _concatenate(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
