"""The recorder writes config.yaml, stats.csv and checkpoints, until a later attempt takes the run over."""
from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from src import run_folder
from src.config import Config
from src.errors import BatchError
from src.io import files, yaml_io
from src.training.output import checkpoint

Row = dict[str, float | None]  # a cell of stats.csv by its column; None is an empty cell


def stats_columns(metrics: Sequence[str], evaluated: Iterable[str], models: Iterable[str],
                  further: Sequence[str] = (), of_steps: Sequence[str] = ()) -> list[str]:
    """The columns of stats.csv. evaluated: splits; models: of last and av those that are evaluated on them; further:
    metrics of evaluations alone; of_steps: what else is known of the steps of an epoch, as grad_norm.

    train/: of the outputs before each step; time and data_time (waiting for batches) in seconds; examples_per_second of
    that time; seen_examples since the first epoch; learning_rate of the epoch's last step; trainable_parameters, how
    many numbers are trained in the epoch. {split}/last: of the model;
    {split}/av: of its average.
    """
    columns = ["epoch", "step", "timestamp"]
    columns += [f"train/{name}" for name in (*metrics, "time", "data_time", "examples_per_second", "seen_examples",
                                           "learning_rate", "trainable_parameters", *of_steps)]
    models = tuple(models)
    for split in evaluated:
        for which in models:
            columns += [f"{split}/{which}/{name}" for name in (*metrics, *further, "time", "data_time")]
    return columns


def _names_in(folder: str) -> list[str]:
    """The paths of the files in a folder that is no link; none if there is no such folder."""
    if not os.path.isdir(folder) or os.path.islink(folder):
        return []
    return [os.path.join(folder, name) for name in os.listdir(folder)]


class Recorder:
    """Writes a run's artefacts into its folder; does nothing if that is None. Start it once, close it at the end.

    check: raises if a later attempt has taken over; called before each row and each checkpoint. first: the epoch that
    comes next: rows before it stay, where an earlier attempt left them.
    """

    def __init__(self, folder: str | None, columns: list[str], check: Callable[[], None], first: int = 0) -> None:
        self._folder, self._columns, self._check, self._first = folder, columns, check, first

    def __enter__(self) -> Recorder:
        """Begin stats.csv, with what an earlier attempt left of earlier epochs; the rest of it is gone.

        BatchError if not all earlier epochs are there.
        """
        self._check()
        if self._folder:
            path = os.path.join(self._folder, run_folder.STATS)
            files.write_atomic(path, "".join(f"{line}\n" for line in (",".join(self._columns), *self._earlier(path))))
            first = os.path.basename(run_folder.arrays_name(self._first))
            for name in _names_in(os.path.join(self._folder, run_folder.ARRAYS)):
                if os.path.basename(name) >= first:
                    os.unlink(name)
            self._stats = open(path, "a", encoding="utf-8", newline="")
        return self

    def _earlier(self, path: str) -> list[str]:
        """The rows of the epochs before the first, which an earlier attempt wrote; a torn last line is none."""
        if self._first <= 1:
            return []
        header, *lines = (files.read_text(path) or "").split("\n")[:-1] or [""]
        rows = {int(line.partition(",")[0]): line for line in lines}
        if header != ",".join(self._columns) or any(epoch not in rows for epoch in range(1, self._first)):
            raise BatchError(f"epochs before {self._first} are missing, after which the training would go on",
                             where=path, hint=f"begin anew: `python train.py --fresh {self._folder}/{run_folder.SPEC}`")
        return [rows[epoch] for epoch in range(1, self._first)]

    def __exit__(self, *_: object) -> None:
        if self._folder:
            self._stats.close()

    def write_config(self, config: Config, facts: dict[str, Any]) -> None:
        """Write config.yaml, with the run's TAGS: given to train.py it repeats the run."""
        if self._folder:
            tags = run_folder.tags(self._folder)
            files.write_atomic(os.path.join(self._folder, run_folder.CONFIG), yaml_io.dump_flat(
                {**config.to_dict(), "output_dir": self._folder, **({"TAGS": tags} if tags else {}), "facts": facts}))

    def write_row(self, row: Row) -> None:
        """Append a line to stats.csv."""
        self._check()
        if self._folder:
            self._stats.write(",".join(["" if (value := row[name]) is None else repr(value) for name in self._columns])
                              + "\n")
            self._stats.flush()

    def write_arrays(self, epoch: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Write an epoch's arrays into their side file, if there are any."""
        if self._folder and arrays:
            self._check()
            path = os.path.join(self._folder, run_folder.arrays_name(epoch))
            os.makedirs(os.path.dirname(path), exist_ok=True)
            packed = io.BytesIO()
            np.savez_compressed(packed, **arrays)  # type: ignore[arg-type]
            files.write_atomic(path, packed.getvalue())

    def write_checkpoint(self, name: str, config: Config, row: Row, model: nn.Module,
                         averaged: nn.Module | None) -> None:
        """Save the model and its average under `name`."""
        self._check()
        if self._folder:
            checkpoint.save(os.path.join(self._folder, name), config, row, model, averaged)
