"""Mixing: mixup and cutmix of a batch with itself, and labels that become smoothed shares of the classes."""
from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from src.config import Config
from src.datasets.data import Batch, Data
from src.errors import ConfigError


@dataclass(frozen=True)
class Mixing:
    """What becomes of a training batch: x mixed with itself in reverse order, y as shares [n, outputs] float32.

    mixup, cutmix: their alphas, a batch's lam being drawn from Beta(alpha, alpha); 0: without. Where both are given,
    each batch takes one of them at even odds. smoothing: the part of a label that goes to all outputs alike.
    timm.data.Mixup does the same, drawn from NumPy's global state, which a resumed run could not have back.
    """

    mixup: float
    cutmix: float
    smoothing: float
    outputs: int

    def __call__(self, batch: Batch, seed: int) -> Batch:
        """The batch mixed as the seed says; x and y are left as they are."""
        x, y = batch
        shares, random = smooth_labels(y, self.outputs, self.smoothing), Random(seed)
        if not self.mixup and not self.cutmix:
            return x, shares
        cuts = random.random() < 0.5 if self.mixup and self.cutmix else bool(self.cutmix)
        alpha = self.cutmix if cuts else self.mixup
        lam = random.betavariate(alpha, alpha)
        if cuts:
            x, lam = cutmix(x, lam, random)
        else:
            x = torch.lerp(x.flip(0), x, lam)
        return x, torch.lerp(shares.flip(0), shares, lam)


def smooth_labels(y: Tensor, outputs: int, smoothing: float) -> Tensor:
    """[n, outputs] float32: 1 - smoothing for the class y [n], and smoothing / outputs for each output (Szegedy et al.,
    Rethinking the Inception architecture, 2016)."""
    everywhere = smoothing / outputs
    shares = torch.full((y.shape[0], outputs), everywhere, device=y.device)
    return shares.scatter_(1, y[:, None], 1 - smoothing + everywhere)


def cutmix(x: Tensor, lam: float, random: Random) -> tuple[Tensor, float]:
    """x [n, c, h, w] with one box, of the share 1 - lam, from the batch in reverse order; the share that is left of x,
    which is larger where the box reaches over the edge (Yun et al., CutMix, 2019)."""
    height, width = x.shape[-2:]
    box_height, box_width = (int(side * math.sqrt(1 - lam)) for side in (height, width))
    top, left = random.randrange(height) - box_height // 2, random.randrange(width) - box_width // 2
    rows = slice(max(0, top), min(height, top + box_height))
    columns = slice(max(0, left), min(width, left + box_width))
    x = x.clone()
    x[..., rows, columns] = x[..., rows, columns].flip(0)
    return x, 1 - (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width)


def make_mixing(config: Config, data: Data, outputs: int) -> Mixing | None:
    """The mixing that the config asks for; None if none. ConfigError if these samples cannot be mixed so."""
    if not (config.mixup or config.cutmix or config.label_smoothing):
        return None
    if (config.mixup or config.cutmix) and not data.input_shape:
        raise ConfigError(f"samples of {config.dataset} are no numbers that could be mixed",
                          where="mixup" if config.mixup else "cutmix", hint="label_smoothing works with them")
    if config.cutmix and len(data.input_shape) != 3:
        raise ConfigError(f"samples of the shape {list(data.input_shape)} are no images to cut from", where="cutmix",
                          hint="mixup works with them")
    return Mixing(config.mixup, config.cutmix, config.label_smoothing, outputs)
