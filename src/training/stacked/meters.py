"""The meters of a stack: the metrics of all members are summed together, and written back to the members' meters."""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from src.training.stacked.kernels import Kernel
from src.training.steps.meters import Meter, max_kept


class StackedMeter:
    """Means of each member, as Meter. meters: of the members, which `write_back` updates.

    kernel: what computes the outputs and losses.
    """

    def __init__(self, meters: Sequence[Meter], task: str, kernel: Kernel) -> None:
        self._meters, self._task, self._kernel, self._dim = meters, task, kernel, kernel.output_dim
        states = [meter.state() for meter in meters]
        self._sums = torch.stack([state["sums"] for state in states])  # [members, sums]
        self._origins = None if states[0]["origin"] is None else torch.stack([state["origin"] for state in states])
        self._count, self._size, self._room = (states[0][name] for name in ("samples", "size", "room"))
        kept = [state["kept"] for state in states]
        self._outputs = [kernel.encode_outputs(torch.stack(outputs)) for outputs in zip(
            *(outputs for _, outputs, _ in kept), strict=True)]
        self._targets = [torch.stack(targets) for targets in zip(*(targets for _, _, targets in kept), strict=True)]

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        """Add the batches of a step: outputs [members, n, k] or [members, k, n], targets [1 or members, n, …]."""
        size = targets.shape[1]
        if not self._room or size != self._size:
            self._reduce()
            self._size, self._room = size, max_kept(outputs[0].numel())
        self._outputs.append(outputs)
        self._targets.append(targets)
        self._count += size
        self._room -= 1

    def losses(self) -> list[float]:
        """Return the mean loss of each member so far. Waits for the device."""
        self._reduce()
        return (self._sums[:, 0] / self._count).tolist()

    def write_back(self) -> None:
        """Bring the members' meters up to date, as after the same batches."""
        losses = [self._kernel.loss(output[None], target[None])[0] for output, target in zip(
            self._outputs, self._targets, strict=True)]
        for index, meter in enumerate(self._meters):
            outputs = [output[index].mT if self._dim == -2 else output[index] for output in self._outputs]
            targets = [target[index if len(target) > 1 else 0] for target in self._targets]
            meter.restore({"sums": self._sums[index].clone(), "samples": self._count, "size": self._size,
                           "room": self._room, "kept": [[loss[index] for loss in losses], outputs, targets],
                           "origin": None if self._origins is None else self._origins[index]})

    def _reduce(self) -> None:
        if not self._outputs:
            return
        outputs, targets = _stack(self._outputs), _stack(self._targets)  # [b, members, …]
        loss = self._kernel.loss(outputs, targets).to(self._sums.dtype).sum(0) * self._size
        if self._task == "classification":
            labels = targets.max(-1).indices if targets.dim() == 4 else targets
            rows = [loss, (outputs.max(self._dim).indices == labels).sum((0, 2)).to(self._sums.dtype)]
        else:
            rows = [loss, *self._regression(outputs, targets)]
        self._sums += torch.stack(rows, 1)
        self._outputs, self._targets, self._room = [], [], 0

    def _regression(self, outputs: Tensor, targets: Tensor) -> list[Tensor]:
        """Return the sums [members] of absolute and squared errors, and of shifted targets and their squares."""
        members = outputs.shape[1]
        targets = targets.to(self._sums.dtype).expand(-1, members, -1)
        if self._origins is None:
            self._origins = targets[0, :, 0].clone()
        error, shifted = outputs.squeeze(self._dim).to(self._sums.dtype) - targets, targets - self._origins[:, None]
        return [values.sum((0, 2)) for values in (error.abs(), error.square(), shifted, shifted.square())]


def _stack(parts: list[Tensor]) -> Tensor:
    return parts[0][None] if len(parts) == 1 else torch.stack(parts)
