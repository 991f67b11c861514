"""TensorBoard: scalars, histograms of weights, images, PR curves, hyperparameters and the graph in RUN/tensorboard."""
from __future__ import annotations

import contextlib
import copy
import io
import os
import platform
import sys
import time
import types
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from src import run_folder
from src.config import Config
from src.io import files
from src.tracking.tracker import Action, EpochView, Tracker, TrackerUnavailable, step_metrics

_MAX_VALUES = 10_000  # of a tensor, for its histogram
_MAX_CLASSES = 20  # with a PR curve each
_MAX_PARAMETERS = 50_000_000  # of a model whose graph is written, which takes a copy


class TensorBoardTracker(Tracker):
    """Event files, by TensorBoard's own record writer. `tensorboard --logdir BATCH` shows a batch."""

    def __init__(self) -> None:
        self._has_sampled = False  # whether samples and graph, which are shown once, have been copied

    def start(self, config: Config, facts: Mapping[str, Any], folder: str | None) -> None:
        """Create a file. TensorBoard then discards what an earlier start wrote after the step of the resume."""
        if folder is None:
            raise TrackerUnavailable("TensorBoard needs a run folder")
        _disable_tensorflow()
        from tensorboard.compat.proto import event_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter
        from torch.utils.tensorboard import summary

        self._events, self._summary = event_pb2, summary
        self._config = {name: value for name, value in config.to_dict().items() if value != getattr(Config(), name)}
        if tags := run_folder.tags(folder):
            self._config["TAGS"] = ",".join(tags)  # as a hyperparameter, by which its page can filter runs
        path = os.path.join(folder, run_folder.TENSORBOARD)
        files.make_folder(path)
        name = f"events.out.tfevents.{time.time():.6f}.{platform.node()}.{os.getpid()}"
        events = files.open_for_append(os.path.join(path, name))
        self._file = RecordWriter(open(events, "wb"))  # noqa: SIM115  # closed by `finish`
        self._has_hparams = False  # whether the hyperparameters have been written
        self._metrics: dict[str, float] = {}
        self._write(0, file_version="brain.Event:2")
        session_start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._write(facts["resumed_at_step"] + 1 if "resumed_at_step" in facts else 0, session_log=session_start)

    def snapshot(self, view: EpochView, step: int) -> Action:
        """Copy some of the weights and what was measured; the first time, also some samples and the model's graph."""
        values = {name: _subsample(parameter) for name, parameter in view.model.named_parameters()}
        images, graph = (None, None) if self._has_sampled else _images_and_graph(view)
        self._has_sampled = True

        def show() -> None:
            for name, array in values.items():
                if len(array):
                    self._write(step, summary=self._summary.histogram(f"weights/{name}", array, 64))
            for summary in _curves(self._summary, view.arrays):
                self._write(step, summary=summary)
            if images is not None:
                self._write(step, summary=self._summary.image("samples", images))
            if graph is not None:
                self._write(0, graph_def=graph)
            self._file.flush()

        return show

    def log(self, row: Mapping[str, float], step: int) -> None:
        """Write the cells as scalars; with the first row, also the hyperparameters that differ from the defaults."""
        scalars = {name: value for name, value in row.items() if "/" in name}
        self._metrics |= scalars
        if not self._has_hparams:
            self._has_hparams = True
            experiment, begin, _ = self._hparams()
            self._write(step, summary=experiment)
            self._write(step, summary=begin)
        for name, value in scalars.items():
            self._write(step, summary=self._summary.scalar(name, value))
        self._file.flush()

    def log_steps(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Write the cells as scalars."""
        for row in rows:
            for name, value in step_metrics(row).items():
                self._write(int(row["step"]), row["timestamp"], summary=self._summary.scalar(name, value))
        self._file.flush()

    def finish(self, end: str | None) -> None:
        """Close the file."""
        if self._has_hparams and end:
            self._write(0, summary=self._hparams()[2])
        self._file.close()

    def _hparams(self) -> Any:
        values = {name: value if isinstance(value, (bool, int, float, str)) else str(value)
                  for name, value in self._config.items() if value is not None}
        return self._summary.hparams(values, {name: value for name, value in self._metrics.items()
                                              if name.count("/") == 2 or name == "train/loss"})

    def _write(self, step: int, when: float | None = None, **content: Any) -> None:
        event = self._events.Event(wall_time=time.time() if when is None else when, step=step, **content)
        self._file.write(event.SerializeToString())


def _disable_tensorflow() -> None:
    """Keep TensorBoard from importing TensorFlow, which takes five seconds, by its own switch."""
    sys.modules.setdefault("tensorboard.compat.notf", types.ModuleType("tensorboard.compat.notf"))


def _images_and_graph(view: EpochView) -> tuple[Any, bytes | None]:
    """Return a few samples [n, channels, height, width] from 0 to 1, if they are images, and the graph of the model."""
    samples = view.samples()
    if isinstance(samples, Mapping):
        return None, None
    samples, images, graph = samples.cpu(), None, None
    if samples.ndim == 4 and samples.shape[1] in (1, 3):
        low, high = samples.min(), samples.max()
        images = (samples - low) / (high - low).clamp(min=1e-9)
    with contextlib.suppress(Exception):  # not every model can be traced
        graph = _graph(view.model, samples[:1])
    return images, graph


def _subsample(parameter: Any) -> Any:
    """Return at most _MAX_VALUES finite values of a tensor, evenly spaced, as a numpy array."""
    flat = parameter.detach().flatten()
    values = flat[::max(1, -(-len(flat) // _MAX_VALUES))].float().cpu()
    return values[values.isfinite()].numpy().copy()


def _graph(model: Any, sample: Any) -> bytes:
    """Return the model's graph, by a trace of a copy on the CPU, so that the training is not affected."""
    _disable_tensorflow()
    import torch
    from torch.utils.tensorboard._pytorch_graph import graph

    if sum(parameter.numel() for parameter in model.parameters()) > _MAX_PARAMETERS:
        raise TrackerUnavailable("a copy of the model would take too much memory")
    with torch.random.fork_rng([]), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        serialized: bytes = graph(copy.deepcopy(model).cpu().eval(), sample)[0].SerializeToString()
    return serialized


def _curves(summary: Any, arrays: Mapping[str, Any]) -> Any:
    """Yield a PR curve for each class, if the metric pr_curve was measured."""
    for name, precision in arrays.items():
        if not name.endswith("/pr_curve/precision"):
            continue
        stem = name.removesuffix("/precision")
        recall, points = arrays[f"{stem}/recall"], len(arrays[f"{stem}/thresholds"])
        for index in range(min(len(precision), _MAX_CLASSES)):
            unknown = 0 * precision[index, :points]  # counts, which the metric does not keep
            yield summary.pr_curve_raw(f"{stem.removesuffix('/pr_curve')}/class {index}", unknown, unknown,
                                       unknown, unknown,
                                       precision[index, :points], recall[index, :points], points)
