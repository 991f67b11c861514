"""Metrics that a config asks for beside loss and accuracy: those of TorchMetrics, by name, and one's own."""
from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from src.checks import user_code
from src.errors import ConfigError
from src.training.steps.meters import Meter

CURVE_POINTS = 101  # thresholds of pr_curve, evenly spaced from 0 to 1
_SIDE_ONLY = ("confusion_matrix", "pr_curve")  # no number sums them up
Arrays = dict[str, np.ndarray]


class Metric(Protocol):
    """What TorchMetrics' metrics offer, and one's own."""

    def update(self, output: Tensor, target: Tensor, /) -> Any:
        """Take in a batch."""

    def compute(self) -> Any:
        """A number, or an array, of all batches."""


class MeanOfFunction:
    """One's own function of output and targets: the mean of what it gives for each sample, or for each batch."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        self._function, self._sum, self._samples = function, 0.0, 0

    def update(self, output: Tensor, target: Tensor) -> None:
        self._sum += self._function(output, target).double().mean() * len(target)
        self._samples += len(target)

    def compute(self) -> float:
        return float(self._sum) / self._samples


class ConfiguredMetrics:
    """The config's metrics of one evaluation. n_outputs: what the model gives for a sample."""

    def __init__(self, names: Sequence[str], n_outputs: int, device: torch.device) -> None:
        self._names = names
        self._own: dict[str, Metric] = {metric_column(name): _make_own(name, n_outputs, device)
                                        for name in names if ":" in name}
        known = [name for name in names if ":" not in name]
        self._known = _collection(known, n_outputs, device) if known else None

    def update(self, output: Tensor, target: Tensor) -> None:
        """Take in a batch: output [n, k], targets [n]. TorchMetrics' see probabilities, one's own the output."""
        if self._known is not None:
            self._known.update(output.softmax(1), target)
        for metric in self._own.values():
            metric.update(output, target)

    def compute(self) -> tuple[dict[str, float], Arrays]:
        """The numbers for stats.csv, one for each of `columns`, and the arrays for the side file, by name."""
        found = {**(self._known.compute() if self._known is not None else {}),
                 **{name: metric.compute() for name, metric in self._own.items()}}
        numbers, arrays = {}, {}
        for name, value in found.items():
            ready = name not in self._own  # one's own may have the name of a ready one
            if ready and name == "pr_curve":
                for part, values in zip(("precision", "recall", "thresholds"), value, strict=True):
                    arrays[f"pr_curve/{part}"] = _array(values)
            elif ready and (name.endswith("/each") or name in _SIDE_ONLY):
                arrays[name.removesuffix("/each")] = _array(value)
            elif np.ndim(array := _array(value)):
                numbers[name], arrays[name] = float(array.mean()), array
            else:
                numbers[name] = float(array)
        return {name: numbers[name] for name in metric_columns(self._names)}, arrays


class MetricsMeter(Meter):
    """A meter that takes the config's metrics as well. arrays: those of the side file, once `means` was asked."""

    needs_whole_batches = True  # not all metrics could be put together from those of parts

    def __init__(self, task: str, device: torch.device, measures: ConfiguredMetrics) -> None:
        super().__init__(task, device)
        self._measures = measures
        self.arrays: Arrays = {}

    def add(self, loss: Tensor, output: Tensor, target: Tensor) -> None:
        super().add(loss, output, target)
        self._measures.update(output.detach(), target)

    def means(self) -> dict[str, float]:
        means = super().means()
        numbers, self.arrays = self._measures.compute()
        return {**means, **numbers}


def warm_up(names: Iterable[str]) -> None:
    """Import once, before a worker forks its runs, what such metrics take seconds to import. Leaves errors to the runs.
    """
    if not all(user_code.is_user_code(name) for name in names):
        with contextlib.suppress(ImportError):
            import torchmetrics.classification  # noqa: F401


def metric_columns(names: Sequence[str]) -> list[str]:
    """Those of the config's metrics that are a number, and so a column of stats.csv for each split and model."""
    return [metric_column(name) for name in names if name not in _SIDE_ONLY]


def metric_column(name: str) -> str:
    """my_module:my_metric is called my_metric in the results."""
    return name.rpartition(":")[2]


def _array(value: Any) -> np.ndarray:
    return value.cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)


def _make_own(name: str, n_outputs: int, device: torch.device) -> Metric:
    """A class is made with the number of outputs; a function is averaged over the samples."""
    found = user_code.load(name, "metrics")
    if not isinstance(found, type):
        return MeanOfFunction(found)
    metric: Any = found(n_outputs)
    if hasattr(metric, "sync_on_compute"):
        metric.sync_on_compute = False  # each process is given whole batches
    return metric.to(device) if hasattr(metric, "to") else metric  # TorchMetrics' live on a device


def _collection(names: Sequence[str], n_classes: int, device: torch.device) -> Any:
    """TorchMetrics' for classes, those with equal states sharing them. NAME/each: a value for each class."""
    try:
        from torchmetrics import MetricCollection
        from torchmetrics import classification as tm
    except ImportError:
        raise ConfigError(f"{', '.join(names)} are measured by TorchMetrics, which is not installed", where="metrics",
                          hint="pip install torchmetrics") from None
    averaged = {"precision": tm.MulticlassPrecision, "recall": tm.MulticlassRecall, "f1": tm.MulticlassF1Score,
                "auroc": tm.MulticlassAUROC}
    made: dict[str, Any] = {}
    options: dict[str, Any] = {"validate_args": False, "sync_on_compute": False}  # each process is given whole batches
    for name in names:
        if name in averaged:
            for key, average in ((name, "macro"), (f"{name}/each", "none")):
                made[key] = averaged[name](n_classes, average=average, **options)
        elif name == "calibration_error":
            made[name] = tm.MulticlassCalibrationError(n_classes, n_bins=15, **options)
        elif name == "confusion_matrix":
            made[name] = tm.MulticlassConfusionMatrix(n_classes, **options)
        elif name == "pr_curve":
            made[name] = tm.MulticlassPrecisionRecallCurve(n_classes, thresholds=CURVE_POINTS, **options)
        else:
            k = int(name.removeprefix("top"))
            if k > n_classes:
                raise ConfigError(f"{name} of {n_classes} outputs", where="metrics", allowed=f"top1 to top{n_classes}")
            made[name] = tm.MulticlassAccuracy(n_classes, top_k=k, average="micro", **options)
    return MetricCollection(made).to(device)
