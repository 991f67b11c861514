"""Mixup and cutmix of a batch with itself, and label smoothing: targets become probabilities of the classes."""
from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from src.checks import known_data
from src.config import Config
from src.datasets.data import Batch, Data
from src.errors import ConfigError


@dataclass(frozen=True)
class Mixing:
    """Transforms a training batch: x is mixed with itself in reverse order, y becomes probabilities [n, outputs].

    mixup, cutmix: alpha; the weight of a batch is drawn from Beta(alpha, alpha). 0 disables. With both, each batch uses
    one of them with probability 1/2.
    smoothing: the part of a label that is spread over all outputs.

    timm.data.Mixup does the same, but draws from NumPy's global state, which a resumed run could not restore.
    """

    mixup: float
    cutmix: float
    smoothing: float
    outputs: int

    def __call__(self, batch: Batch, seed: int) -> Batch:
        """Return the batch mixed by a random generator with this seed; x and y are not changed."""
        x, y = batch
        targets, random = smooth_labels(y, self.outputs, self.smoothing), Random(seed)
        if not self.mixup and not self.cutmix:
            return x, targets
        uses_cutmix = random.random() < 0.5 if self.mixup and self.cutmix else bool(self.cutmix)
        alpha = self.cutmix if uses_cutmix else self.mixup
        lam = random.betavariate(alpha, alpha)
        if uses_cutmix:
            x, lam = cutmix(x, lam, random)
        else:
            x = torch.lerp(x.flip(0), x, lam)
        return x, torch.lerp(targets.flip(0), targets, lam)


def smooth_labels(y: Tensor, outputs: int, smoothing: float) -> Tensor:
    """Return [n, outputs] float32: smoothing / outputs, plus 1 - smoothing for the class y [n].

    Szegedy et al., Rethinking the Inception architecture, 2016.
    """
    background = smoothing / outputs
    targets = torch.full((y.shape[0], outputs), background, device=y.device)
    return targets.scatter_(1, y[:, None], 1 - smoothing + background)


def cutmix(x: Tensor, lam: float, random: Random) -> tuple[Tensor, float]:
    """Replace a box of x [n, c, h, w], with the fraction 1 - lam of its area, by that of the batch in reverse order.

    Return the result, and the fraction of x that is left, which is larger than lam if the box extends over the edge
    (Yun et al., CutMix, 2019).
    """
    height, width = x.shape[-2:]
    box_height, box_width = (int(side * math.sqrt(1 - lam)) for side in (height, width))
    top, left = random.randrange(height) - box_height // 2, random.randrange(width) - box_width // 2
    rows = slice(max(0, top), min(height, top + box_height))
    columns = slice(max(0, left), min(width, left + box_width))
    x = x.clone()
    x[..., rows, columns] = x[..., rows, columns].flip(0)
    return x, 1 - (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width)


def make_mixing(config: Config, data: Data, outputs: int) -> Mixing | None:
    """Return the mixing of the config, or None. ConfigError if these samples cannot be mixed."""
    if not (config.mixup or config.cutmix or config.label_smoothing):
        return None
    if (config.mixup or config.cutmix) and not data.input_shape:
        raise ConfigError(f"samples of {config.dataset} are not numbers and cannot be mixed",
                          where="mixup" if config.mixup else "cutmix", hint="label_smoothing works with them")
    if config.cutmix:
        known_data.check_cutmix(data.input_shape)
    return Mixing(config.mixup, config.cutmix, config.label_smoothing, outputs)
