"""The `metrics` of a config: those of TorchMetrics, by name, and user-defined ones."""
from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from src.checks import known_data, user_code
from src.checks.registered_names import is_user_code
from src.errors import ConfigError
from src.training.steps.class_metrics import Auroc, CalibrationError
from src.training.steps.meters import Meter

CURVE_POINTS = 101  # thresholds of pr_curve, evenly spaced from 0 to 1
_ARRAYS_ONLY = ("confusion_matrix", "pr_curve")  # without a column in stats.csv
_PER_CLASS = ("precision", "recall", "f1")
_OWN: dict[str, Callable[[torch.device], MetricLike]] = {
    "auroc": lambda _: Auroc(), "calibration_error": CalibrationError}
_OPTIONS: dict[str, Any] = {"validate_args": False, "sync_on_compute": False}  # each process receives whole batches
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
        torch_names = [name for name in names if name not in (*_OWN, "pr_curve") and ":" not in name]
        self._torch_metrics = _make_collection(torch_names, n_outputs, device) if torch_names else None
        self._pr_curve = _import_torchmetrics(["pr_curve"]).MulticlassPrecisionRecallCurve(
            n_outputs, thresholds=CURVE_POINTS, **_OPTIONS).to(device) if "pr_curve" in names else None
        self._own: dict[str, MetricLike] = {name: make(device) for name, make in _OWN.items() if name in names}

    def update(self, output: Tensor, target: Tensor) -> None:
        """Add a batch: output [n, k], targets [n].

        Metrics receive the outputs themselves, since the rounding of a softmax could change their order. Only pr_curve,
        whose thresholds are probabilities, receives the softmax.
        """
        if self._torch_metrics is not None:
            self._torch_metrics.update(output, target)
        if self._pr_curve is not None:
            self._pr_curve.update(output.softmax(1), target)
        for metric in (*self._own.values(), *self._user_metrics.values()):
            metric.update(output, target)

    def compute(self) -> tuple[dict[str, float], Arrays]:
        """Return the numbers for stats.csv, one per metric column, and the arrays for the file of arrays, by name.

        The number of an array is the mean of its values that are defined: auroc is NaN for classes that are absent.
        """
        numbers: dict[str, float] = {}
        arrays: Arrays = {}
        if self._pr_curve is not None:
            for part, values in zip(("precision", "recall", "thresholds"), self._pr_curve.compute(), strict=True):
                arrays[f"pr_curve/{part}"] = _array(values)
        for name, value in (self._torch_metrics.compute() if self._torch_metrics is not None else {}).items():
            if name.endswith("/each") or name in _ARRAYS_ONLY:
                arrays[name.removesuffix("/each")] = _array(value)
            else:
                numbers[name] = float(value)
        for name, metric in {**self._own, **self._user_metrics}.items():
            array = _array(metric.compute())
            is_defined = ~np.isnan(array) if name in self._own else np.ones(array.shape, bool)
            numbers[name] = float(array[is_defined].mean()) if is_defined.any() else math.nan
            if np.ndim(array):
                arrays[name] = array
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

    @property
    def absent_classes(self) -> int:
        """The number of classes for which auroc is not defined, after `means`."""
        return int(np.isnan(self.arrays.get("auroc", np.zeros(0))).sum())


def warm_up(names: Iterable[str]) -> None:
    """Import TorchMetrics, before a worker forks its runs, if a metric needs it. Errors are left to the runs."""
    if not all(map(is_user_code, names)):
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
    """Return metrics of TorchMetrics for classification. NAME/each: a value per class.

    Those per class share their state. MetricCollection would merge all metrics whose states are equal after the first
    batch: those of a good model for top2 and top3.
    """
    tm = _import_torchmetrics(names)
    from torchmetrics import MetricCollection

    per_class = dict(zip(_PER_CLASS, (tm.MulticlassPrecision, tm.MulticlassRecall, tm.MulticlassF1Score), strict=True))
    metrics: dict[str, Any] = {}
    for name in names:
        if name in per_class:
            for key, average in ((name, "macro"), (f"{name}/each", "none")):
                metrics[key] = per_class[name](n_classes, average=average, **_OPTIONS)
        elif name == "confusion_matrix":
            metrics[name] = tm.MulticlassConfusionMatrix(n_classes, **_OPTIONS)
        else:
            known_data.check_top_k(name, n_classes)
            metrics[name] = tm.MulticlassAccuracy(n_classes, top_k=int(name.removeprefix("top")), average="micro",
                                                  **_OPTIONS)
    shared = [key for key in metrics if key.removesuffix("/each") in per_class]
    groups = [shared] * bool(shared) + [[key] for key in metrics if key not in shared]
    return MetricCollection(metrics, compute_groups=groups).to(device)


def _import_torchmetrics(names: Sequence[str]) -> ModuleType:
    """Return torchmetrics.classification. ConfigError if it is not installed; names: metrics that need it."""
    try:
        from torchmetrics import classification
    except ImportError:
        raise ConfigError(f"{', '.join(names)} need TorchMetrics, which is not installed", where="metrics",
                          hint="pip install torchmetrics") from None
    return classification
