"""Metrics of classification that TorchMetrics computes in another way: AUROC of logits, and calibration error."""
from __future__ import annotations

import math

import torch
from torch import Tensor

from src.training.setup.facts import accumulation_dtype

_BINS = 15


class Auroc:
    """The area under the ROC curve of each class against the rest, from outputs [n, k] and targets [n].

    Samples are ranked by the log-odds of a class, which grow with its probability but do not saturate: in float32, a
    softmax rounds large ones to 1, and ranks them equal. Ties count half (Mann and Whitney, 1947). The outputs of the
    whole split stay on the device.
    """

    def __init__(self) -> None:
        self._outputs: list[Tensor] = []
        self._targets: list[Tensor] = []

    def update(self, output: Tensor, target: Tensor) -> None:
        """Add a batch."""
        self._outputs.append(output)
        self._targets.append(target)

    def compute(self) -> Tensor:
        """Return [k] float64; NaN for a class of no sample or of all, and if an output is not finite."""
        output, target = torch.cat(self._outputs), torch.cat(self._targets)
        if output.device.type == "mps":  # which has no float64
            output, target = output.cpu(), target.cpu()
        areas = torch.full((output.shape[1],), math.nan, dtype=torch.float64)
        counts = target.bincount(minlength=output.shape[1]).tolist()
        if not output.isfinite().all():
            return areas
        odds = LogOdds(output)
        for index, count in enumerate(counts):
            if 0 < count < len(target):
                areas[index] = area_under_roc(odds.of_class(index), target == index)
        return areas


class LogOdds:
    """The log-odds of classes, log(p / (1 - p)) of their softmax probability p, from outputs [n, k], in float64."""

    def __init__(self, output: Tensor) -> None:
        self._output = output
        self._largest, self._top = output.max(1)
        others = output.scatter(1, self._top[:, None], -math.inf)
        # log of the sum of exp over all outputs but the largest; and that sum in units of exp(largest)
        self._others = torch.cat([part.double().logsumexp(1) for part in others.split(4096)])
        self._largest = self._largest.double()
        self._share = (self._others - self._largest).exp()

    def of_class(self, index: int) -> Tensor:
        """Return the log-odds of a class [n]: its output minus the log of the sum of exp over all others."""
        own = self._output[:, index].double()
        # of samples whose largest output is another one: exp(largest) and the others without this class
        rest = self._largest + (self._share - (own - self._largest).exp()).clamp(min=0).log1p()
        return own - torch.where(self._top == index, self._others, rest)


def area_under_roc(scores: Tensor, is_positive: Tensor) -> Tensor:
    """Return the share of pairs of a positive and a negative sample in which the positive one has the larger score."""
    _, inverse, counts = scores.unique(return_inverse=True, return_counts=True)
    ranks = counts.cumsum(0) - (counts - 1).double() / 2  # of equal scores the mean rank
    positives = is_positive.sum()
    smallest_sum = positives * (positives + 1) / 2
    return (ranks[inverse[is_positive]].sum() - smallest_sum) / (positives * (len(scores) - positives))


class CalibrationError:
    """The expected calibration error of the most probable class, in 15 bins of equal width (Naeini et al., 2015).

    It is the sum over bins of |sum of (confidence - is correct)|, per sample. A confidence of 1 is in the last bin.
    """

    def __init__(self, device: torch.device) -> None:
        self._dtype = accumulation_dtype(device)
        self._gaps = torch.zeros(_BINS, dtype=self._dtype, device=device)
        self._samples = 0

    def update(self, output: Tensor, target: Tensor) -> None:
        """Add a batch."""
        confidence = output.softmax(1).max(1).values.to(self._dtype)
        gap = confidence - (output.argmax(1) == target).to(self._dtype)
        bins = (confidence * _BINS).long().clamp(max=_BINS - 1)
        is_member = bins[:, None] == torch.arange(_BINS, device=bins.device)
        self._gaps += (gap[:, None] * is_member).sum(0)
        self._samples += len(target)

    def compute(self) -> Tensor:
        """Return the error, in [0, 1]."""
        return self._gaps.abs().sum() / self._samples
