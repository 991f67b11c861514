"""Loss functions: mean over a batch, as a function of a model's output and the targets."""
from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from src.checks import user_code
from src.checks.registered_names import LOSSES, task_of
from src.datasets.data import IGNORED

Loss = Callable[[Tensor, Tensor], Tensor]


def make_loss(name: str, targets: str | None = None) -> Loss:
    """Return the loss of that name. ConfigError if it is not available.

    Classification: output [n, classes], targets [n] int64, or [n, classes] if labels are mixed or smoothed. Regression:
    output [n, 1], targets [n] float32. A user-defined loss receives both as they are.
    targets: next_token selects the loss for tokens.
    """
    if ":" in name:
        loss: Loss = user_code.load(name, "loss")
        return loss
    if name.startswith("torch/"):
        torch_loss = getattr(nn, name.removeprefix("torch/"))()
        return torch_loss if task_of(name) == "classification" else lambda output, y: torch_loss(output.squeeze(-1), y)
    if targets == "next_token":
        return next_token_loss
    return F.cross_entropy if LOSSES[name] == "log" else squared_error


def next_token_loss(output: Tensor, target: Tensor) -> Tensor:
    """Return the mean cross-entropy of the tokens that are not IGNORED, 0 if all are.

    output: [n, t, vocabulary], target: [n, t] int64.
    """
    total = F.cross_entropy(output.flatten(0, 1), target.flatten(), ignore_index=IGNORED, reduction="sum")
    return total / count_tokens(target).clamp(min=1)


def count_tokens(target: Tensor) -> Tensor:
    """Return how many of the targets [n, t] are tokens, as a tensor []."""
    return (target != IGNORED).sum()


def loss_weight(part: Tensor, whole: Tensor) -> Tensor | float:
    """Return the weight of a micro-batch's mean loss in that of its batch, by tokens or by samples, given targets."""
    if part.dim() == 2 and not part.is_floating_point():
        return count_tokens(part) / count_tokens(whole).clamp(min=1)
    return part.shape[0] / whole.shape[0]


def squared_error(output: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared error, without a factor of 1/2."""
    return F.mse_loss(output.squeeze(-1), target)
