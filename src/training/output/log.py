"""training.log: the facts, an aligned line per epoch, and signs of life within long ones, through loguru."""
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

if TYPE_CHECKING:
    from loguru import Logger, Record

_FORMAT = "{time:YYYY-MM-DD HH:mm:ss} | {level: <7} | {message}"
_KEY = "gridiron_run"  # what a run's lines are bound to; a host program may well bind a `run` of its own
_numbers = itertools.count()


@contextlib.contextmanager
def open_log(folder: str | None, to_stdout: bool, silent: bool = False) -> Iterator[Logger]:
    """A logger whose lines go to the folder's training.log, and to stdout if asked for or if there is no folder.

    silent: they go nowhere. What other code logs through loguru while the run is under way is in its log as well.
    Sinks of a host program are left as they are.
    """
    run = next(_numbers)
    _leave_runs_out_of_default_sink()
    sinks: list[Any] = [os.path.join(folder, run_folder.LOG)] if folder else []
    if to_stdout or not folder:
        sinks.append(_print)
    if silent:
        sinks = []
    ids = [logger.add(sink, format=_FORMAT, level="INFO", colorize=False,
                      filter=lambda record: record["extra"].get(_KEY) in (None, run)) for sink in sinks]
    try:
        yield logger.bind(**{_KEY: run})
    finally:
        for sink_id in ids:
            with contextlib.suppress(ValueError):  # the host removed every sink
                logger.remove(sink_id)


def _print(line: str) -> None:
    """Onto stdout, as long as somebody reads it: `train.py … | head` is no error."""
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(line)
        sys.stdout.flush()


def _leave_runs_out_of_default_sink() -> None:
    """loguru starts with a sink on stderr, number 0: as long as nobody replaced it, keep a run's lines out of it."""
    with contextlib.suppress(ValueError):  # somebody did
        logger.remove(0)
        logger.add(sys.stderr, filter=_is_no_run)


def _is_no_run(record: Record) -> bool:
    return _KEY not in record["extra"]


class Progress:
    """Lines such as `train epoch 3: 40 %` every `interval` seconds, until replaced. interval 0: none.

    The loop compares its clock with `due` and calls `line` when it is time.
    """

    def __init__(self, log: Logger, what: str, interval: float) -> None:
        self._log, self._what, self._interval = log, what, interval
        self.due = perf_counter() + interval if interval else math.inf

    def report(self, done: int, total: int) -> None:
        """Say that `done` of `total` steps or samples are done."""
        self.due = perf_counter() + self._interval
        self._log.info("{}: {:3.0f} % ({} of {})", self._what, 100 * done / total, done, total)


def header_lines(config: Mapping[str, Any], facts: Mapping[str, Any]) -> list[str]:
    """The first lines of a log: what is trained on what, where, and the facts one by one."""
    width = max(map(len, facts))
    return [f"{config['task'] or config['model']} on {config['dataset']}",
            *(f"{name:<{width}} {value}" for name, value in facts.items())]


def bottleneck_message(row: Mapping[str, Any], config: Mapping[str, Any], in_memory: bool, device: str) -> str | None:
    """Whether an epoch waited for its data or for its model, and what to try; None if it was too short to tell.

    in_memory: the train split is, or lies on the device, so no loader reads it.
    """
    seconds, share = row["train/time"], row["train/data_time"] / row["train/time"]
    if seconds < 1:
        return None
    speed = f"({row['train/examples_per_second']:.4g} examples a second)"
    more = f"a batch_size above {config['batch_size']}"
    if share > 0.3:
        tries = [more] if in_memory else [f"num_workers above {config['num_workers']}", "data_on_device: true, if they "
                                          "are images that fit", more]
        return f"the data is the bottleneck: {share:.0%} of the training waits for it {speed}; try {', '.join(tries)}"
    on_gpu = device.startswith("cuda")
    tries = [more] + ["precision: bf16"] * (on_gpu and config["precision"] in ("float32", "tf32")) + [
        "channels_last: true"] * (on_gpu and not config["channels_last"]) + ["compile: default"] * (
        not config["compile"])
    return f"the model is the bottleneck: {share:.0%} of the training waits for data {speed}; try {', '.join(tries)}"


def epoch_line(row: Mapping[str, float | None], epochs: int) -> str:
    """One line on an epoch, in columns that stay where they are."""
    groups: dict[str, list[str]] = {}
    for column, value in row.items():
        group, _, name = column.rpartition("/")
        if group and value is not None and name in ("loss", "accuracy", "mae", "r2"):
            groups.setdefault(group, []).append(f"{name} {value:<10.5g}")
    seconds = sum(value or 0.0 for column, value in row.items() if column.endswith("/time"))
    width = len(str(epochs))
    parts = [f"{group} {' '.join(cells)}" for group, cells in groups.items()]
    return " | ".join([f"epoch {row['epoch']:{width}}/{epochs}  step {row['step']:7}", *parts, f"{seconds:6.2f} s"])
