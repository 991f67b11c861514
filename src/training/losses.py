"""Loss functions: the mean over a batch, of a model's output and the targets."""
from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from src.choices import LOSSES

Loss = Callable[[Tensor, Tensor], Tensor]


def make_loss(name: str) -> Loss:
    """The loss of that name. log: output [n, classes], targets [n] int64. mse: output [n, 1], targets [n] float32."""
    return F.cross_entropy if LOSSES[name] == "log" else squared_error


def squared_error(output: Tensor, target: Tensor) -> Tensor:
    """The mean of squares, without a half in front."""
    return F.mse_loss(output.squeeze(-1), target)
