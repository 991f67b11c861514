"""Loss functions: the mean over a batch, of a model's output and the targets."""
from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from src.checks import user_code
from src.checks.registered_names import LOSSES, task_of
from src.datasets.data import IGNORED

Loss = Callable[[Tensor, Tensor], Tensor]


def make_loss(name: str, targets: str | None = None) -> Loss:
    """The loss of that name. Of classes: output [n, classes], targets [n] int64, or shares [n, classes] where labels
    are mixed or smoothed; of numbers: output [n, 1], targets [n] float32. One's own is given both as they are.
    targets: next_token has a loss for tokens. ConfigError if that cannot be had."""
    if ":" in name:
        found: Loss = user_code.load(name, "loss")
        return found
    if name.startswith("torch/"):
        loss = getattr(nn, name.removeprefix("torch/"))()
        return loss if task_of(name) == "classification" else lambda output, y: loss(output.squeeze(-1), y)
    if targets == "next_token":
        return next_token_loss
    return F.cross_entropy if LOSSES[name] == "log" else squared_error


def next_token_loss(output: Tensor, target: Tensor) -> Tensor:
    """The mean cross-entropy of the tokens that are not IGNORED, 0 if all are.

    output: [n, t, vocabulary], target: [n, t] int64.
    """
    total = F.cross_entropy(output.flatten(0, 1), target.flatten(), ignore_index=IGNORED, reduction="sum")
    return total / count_tokens(target).clamp(min=1)


def count_tokens(target: Tensor) -> Tensor:
    """How many of the targets [n, t] are tokens, as a tensor []."""
    return (target != IGNORED).sum()


def loss_weight(part: Tensor, whole: Tensor) -> Tensor | float:
    """What the mean loss of a micro-batch counts in that of its batch, by their targets: by tokens, or by samples."""
    if part.dim() == 2 and not part.is_floating_point():
        return count_tokens(part) / count_tokens(whole).clamp(min=1)
    return part.shape[0] / whole.shape[0]


def squared_error(output: Tensor, target: Tensor) -> Tensor:
    """The mean of squares, without a half in front."""
    return F.mse_loss(output.squeeze(-1), target)
