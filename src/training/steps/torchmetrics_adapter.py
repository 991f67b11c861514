"""The `metrics` of a config: those of TorchMetrics, by name, and user-defined ones."""
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
_ARRAYS_ONLY = ("confusion_matrix", "pr_curve")  # without a column in stats.csv
Arrays = dict[str, np.ndarray]


class MetricLike(Protocol):
    """The interface of metrics, that of TorchMetrics."""

    def update(self, output: Tensor, target: Tensor, /) -> Any:
        """Add a batch."""

    def compute(self) -> Any:
        """Return a number or an array for all batches."""


class MeanOfFunction:
    """The mean of a user-defined function of output and targets, which returns a value per sample or per batch."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        self._function, self._sum, self._samples = function, 0.0, 0

    def update(self, output: Tensor, target: Tensor) -> None:
        self._sum += self._function(output, target).double().mean() * len(target)
        self._samples += len(target)

    def compute(self) -> float:
        return float(self._sum) / self._samples


class ConfiguredMetrics:
    """The config's metrics in one evaluation. n_outputs: number of model outputs per sample."""

    def __init__(self, names: Sequence[str], n_outputs: int, device: torch.device) -> None:
        self._names = names
        self._user_metrics: dict[str, MetricLike] = {metric_column(name): _make_user_metric(name, n_outputs, device)
                                                 for name in names if ":" in name}
        torch_names = [name for name in names if ":" not in name]
        self._torch_metrics = _make_collection(torch_names, n_outputs, device) if torch_names else None

    def update(self, output: Tensor, target: Tensor) -> None:
        """Add a batch: output [n, k], targets [n]. TorchMetrics receive probabilities, user-defined ones outputs."""
        if self._torch_metrics is not None:
            self._torch_metrics.update(output.softmax(1), target)
        for metric in self._user_metrics.values():
            metric.update(output, target)

    def compute(self) -> tuple[dict[str, float], Arrays]:
        """Return the numbers for stats.csv, one per metric column, and the arrays for the file of arrays, by name."""
        results = {**(self._torch_metrics.compute() if self._torch_metrics is not None else {}),
                   **{name: metric.compute() for name, metric in self._user_metrics.items()}}
        numbers, arrays = {}, {}
        for name, value in results.items():
            is_of_torchmetrics = name not in self._user_metrics  # a user-defined one may have the same name
            if is_of_torchmetrics and name == "pr_curve":
                for part, values in zip(("precision", "recall", "thresholds"), value, strict=True):
                    arrays[f"pr_curve/{part}"] = _array(values)
            elif is_of_torchmetrics and (name.endswith("/each") or name in _ARRAYS_ONLY):
                arrays[name.removesuffix("/each")] = _array(value)
            elif np.ndim(array := _array(value)):
                numbers[name], arrays[name] = float(array.mean()), array
            else:
                numbers[name] = float(array)
        return {name: numbers[name] for name in metric_columns(self._names)}, arrays


class MetricsMeter(Meter):
    """A meter that measures the config's metrics as well. arrays: the metrics that are not numbers, set by `means`."""

    needs_whole_batches = True  # some metrics cannot be computed from those of parts

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
    """Import TorchMetrics, before a worker forks its runs, if a metric needs it. Errors are left to the runs."""
    if not all(user_code.is_user_code(name) for name in names):
        with contextlib.suppress(ImportError):
            import torchmetrics.classification  # noqa: F401


def metric_columns(names: Sequence[str]) -> list[str]:
    """Return the columns, for each split and model, of those metrics that are numbers."""
    return [metric_column(name) for name in names if name not in _ARRAYS_ONLY]


def metric_column(name: str) -> str:
    """Return the name of a metric in the results: my_metric for my_module:my_metric."""
    return name.rpartition(":")[2]


def _array(value: Any) -> np.ndarray:
    return value.cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)


def _make_user_metric(name: str, n_outputs: int, device: torch.device) -> MetricLike:
    """Return a user-defined metric: an instance of a class, or the mean of a function."""
    definition = user_code.load(name, "metrics")
    if not isinstance(definition, type):
        return MeanOfFunction(definition)
    metric: Any = definition(n_outputs)
    if hasattr(metric, "sync_on_compute"):
        metric.sync_on_compute = False  # each process receives whole batches
    return metric.to(device) if hasattr(metric, "to") else metric  # as those of TorchMetrics


def _make_collection(names: Sequence[str], n_classes: int, device: torch.device) -> Any:
    """Return metrics of TorchMetrics for classification; equal ones share their state. NAME/each: a value per class."""
    try:
        from torchmetrics import MetricCollection
        from torchmetrics import classification as tm
    except ImportError:
        raise ConfigError(f"{', '.join(names)} need TorchMetrics, which is not installed", where="metrics",
                          hint="pip install torchmetrics") from None
    per_class = {"precision": tm.MulticlassPrecision, "recall": tm.MulticlassRecall, "f1": tm.MulticlassF1Score,
                 "auroc": tm.MulticlassAUROC}
    metrics: dict[str, Any] = {}
    options: dict[str, Any] = {"validate_args": False, "sync_on_compute": False}  # each process receives whole batches
    for name in names:
        if name in per_class:
            for key, average in ((name, "macro"), (f"{name}/each", "none")):
                metrics[key] = per_class[name](n_classes, average=average, **options)
        elif name == "calibration_error":
            metrics[name] = tm.MulticlassCalibrationError(n_classes, n_bins=15, **options)
        elif name == "confusion_matrix":
            metrics[name] = tm.MulticlassConfusionMatrix(n_classes, **options)
        elif name == "pr_curve":
            metrics[name] = tm.MulticlassPrecisionRecallCurve(n_classes, thresholds=CURVE_POINTS, **options)
        else:
            k = int(name.removeprefix("top"))
            if k > n_classes:
                raise ConfigError(f"{name} needs {k} outputs, and the model has {n_classes}", where="metrics",
                                  allowed=f"top1 to top{n_classes}")
            metrics[name] = tm.MulticlassAccuracy(n_classes, top_k=k, average="micro", **options)
    return MetricCollection(metrics).to(device)
