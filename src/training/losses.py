"""Loss functions: the mean over a batch, of a model's output and the targets."""
from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from src import own
from src.choices import LOSSES, task_of

Loss = Callable[[Tensor, Tensor], Tensor]


def make_loss(name: str) -> Loss:
    """The loss of that name. Of classes: output [n, classes], targets [n] int64, or shares [n, classes] where labels
    are mixed or smoothed; of numbers: output [n, 1], targets [n] float32. One's own is given both as they are.
    ConfigError if that cannot be had."""
    if ":" in name:
        found: Loss = own.load(name, "loss")
        return found
    if name.startswith("torch/"):
        loss = getattr(nn, name.removeprefix("torch/"))()
        return loss if task_of(name) == "classification" else lambda output, y: loss(output.squeeze(-1), y)
    return F.cross_entropy if LOSSES[name] == "log" else squared_error


def squared_error(output: Tensor, target: Tensor) -> Tensor:
    """The mean of squares, without a half in front."""
    return F.mse_loss(output.squeeze(-1), target)
