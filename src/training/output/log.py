"""training.log: the facts, an aligned line per epoch, and progress within long epochs, by loguru."""
from __future__ import annotations

import contextlib
import itertools
import math
import os
import sys
from collections.abc import Iterator, Mapping
from time import perf_counter
from typing import TYPE_CHECKING, Any

from loguru import logger

from src import run_folder
from src.io import files
from src.monitoring.gpu_idle import DATA_BOUND

if TYPE_CHECKING:
    from loguru import Logger, Record

_FORMAT = "{time:YYYY-MM-DD HH:mm:ss} | {level: <7} | {message}"
_KEY = "gridiron_run"  # key of a run's log records; a host program may use the key `run` itself
_PROGRESS = "gridiron_progress"  # key of those records that a terminal shows
_numbers = itertools.count()


@contextlib.contextmanager
def open_log(folder: str | None, to_stdout: bool, silent: bool = False, shows_progress: bool = False
             ) -> Iterator[Logger]:
    """Yield a logger that writes to training.log in the folder, and to stdout if `to_stdout` or without a folder.

    What other code logs through loguru during the run is written too. Sinks of a host program are left unchanged.

    silent: write nothing.
    shows_progress: if the log does not go to stdout, print the records of `progress` and warnings there.
    """
    run = next(_numbers)
    _exclude_runs_from_default_sink()

    def is_of_run(record: Record) -> bool:
        return record["extra"].get(_KEY) in (None, run)

    def is_progress(record: Record) -> bool:
        return is_of_run(record) and (_PROGRESS in record["extra"] or record["level"].name != "INFO")

    with contextlib.ExitStack() as stack:
        sinks: list[tuple[Any, str, Any]] = []
        if silent:
            to_stdout = shows_progress = False
        elif folder:
            descriptor = files.open_for_append(os.path.join(folder, run_folder.LOG))
            sinks.append((stack.enter_context(open(descriptor, "a", buffering=1, encoding="utf-8")), _FORMAT,
                          is_of_run))
        if to_stdout or not (folder or silent):
            sinks.append((_print, _FORMAT, is_of_run))
        elif shows_progress:
            sinks.append((_print, "{message}", is_progress))
        ids = [logger.add(sink, format=line_format, level="INFO", colorize=False, filter=is_shown)
               for sink, line_format, is_shown in sinks]
        try:
            yield logger.bind(**{_KEY: run})
        finally:
            for sink_id in ids:
                with contextlib.suppress(ValueError):  # the host removed every sink
                    logger.remove(sink_id)


def progress(log: Logger) -> Logger:
    """Return a logger whose records a terminal shows too."""
    return log.bind(**{_PROGRESS: True})


def _print(line: str) -> None:
    """Write to stdout, ignoring a closed pipe: `train.py … | head` is not an error."""
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(line)
        sys.stdout.flush()


def _exclude_runs_from_default_sink() -> None:
    """Keep a run's lines out of loguru's default sink on stderr, number 0, unless it has been replaced."""
    with contextlib.suppress(ValueError):  # it has been replaced
        logger.remove(0)
        logger.add(sys.stderr, filter=lambda record: _KEY not in record["extra"])


class Progress:
    """Logs lines such as `epoch 3: 40 %` every `interval` seconds; 0 disables.

    The loop compares its clock with `due`, and then calls `report`.
    """

    def __init__(self, log: Logger, label: str, interval: float) -> None:
        self._log, self._label, self._interval = progress(log), label, interval
        self.due = perf_counter() + interval if interval else math.inf

    def report(self, done: int, total: int) -> None:
        """Log that `done` of `total` steps or samples are done."""
        self.due = perf_counter() + self._interval
        self._log.info("{}: {:3.0f} % ({} of {})", self._label, 100 * done / total, done, total)


def header_lines(config: Mapping[str, Any], facts: Mapping[str, Any]) -> list[str]:
    """Return the first lines of a log: model and data set, then one line per fact."""
    width = max(map(len, facts))
    return [f"{config['task'] or config['model']} on {config['dataset']}",
            *(f"{name:<{width}} {value}" for name, value in facts.items())]


def bottleneck_message(row: Mapping[str, Any], config: Mapping[str, Any], in_memory: bool, device: str) -> str | None:
    """Return whether data or model limits the speed, and what to try; None if the epoch was too short to decide.

    in_memory: whether the train split is in memory or on the device, so that no loader reads it.
    """
    seconds, share = row["train/time"], row["train/data_time"] / row["train/time"]
    if seconds < 1:
        return None
    speed = f"({row['train/examples_per_second']:.4g} examples a second)"
    remedies = [f"a batch_size above {config['batch_size']}"]
    if share > DATA_BOUND:
        if not in_memory:
            remedies = [f"num_workers above {config['num_workers']}",
                        "data_on_device: true, if they are images that fit", *remedies]
        return (f"the data is the bottleneck: {share:.0%} of the training waits for it {speed}; "
                f"try {', '.join(remedies)}")
    if device.startswith("cuda"):
        if config["precision"] in ("float32", "tf32"):
            remedies.append("precision: bf16")
        if not config["channels_last"]:
            remedies.append("channels_last: true")
    if not config["compile"]:
        remedies.append("compile: default")
    return (f"the model is the bottleneck: {share:.0%} of the training waits for data {speed}; "
            f"try {', '.join(remedies)}")


def epoch_line(row: Mapping[str, float | None], epochs: int) -> str:
    """Return the log line of an epoch, with aligned columns."""
    groups: dict[str, list[str]] = {}
    for column, value in row.items():
        group, _, name = column.rpartition("/")
        if group and value is not None and name in ("loss", "accuracy", "mae", "r2"):
            groups.setdefault(group, []).append(f"{name} {value:<10.5g}")
    seconds = sum(value or 0.0 for column, value in row.items() if column.endswith("/time"))
    width = len(str(epochs))
    parts = [f"{group} {' '.join(cells)}" for group, cells in groups.items()]
    return " | ".join([f"epoch {row['epoch']:{width}}/{epochs}  step {row['step']:7}", *parts, f"{seconds:6.2f} s"])
