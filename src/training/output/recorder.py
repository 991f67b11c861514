"""The files of a run: config.yaml, stats.csv, arrays and checkpoints, until a later attempt takes over the run."""
from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from src import run_folder, stats_csv
from src.config import Config
from src.errors import BatchError
from src.io import deletion, files, yaml_io
from src.training.output import checkpoint

Row = dict[str, float | None]  # the cells of stats.csv by column; None is an empty cell


def stats_columns(metrics: Sequence[str], evaluated: Iterable[str], models: Iterable[str],
                  evaluation_metrics: Sequence[str] = (), train_columns: Sequence[str] = ()) -> list[str]:
    """Return the columns of stats.csv.

    evaluated: splits.
    models: those of last and av that are evaluated.
    evaluation_metrics: metrics of evaluations only.
    train_columns: further columns of the training, such as grad_norm.

    train/ columns: metrics of the outputs before each step; time and data_time (waiting for batches) in seconds;
    examples_per_second; seen_examples since the first epoch; learning_rate of the last step; trainable_parameters, how
    many numbers are trained. {split}/last/ columns are of the model, {split}/av/ of its average.
    """
    columns = ["epoch", "step", "timestamp"]
    columns += [f"train/{name}" for name in (*metrics, "time", "data_time", "examples_per_second", "seen_examples",
                                             "learning_rate", "trainable_parameters", *train_columns)]
    models = tuple(models)
    for split in evaluated:
        for model in models:
            columns += [f"{split}/{model}/{name}" for name in (*metrics, *evaluation_metrics, "time", "data_time")]
    return columns


def create_run_folder(config: Config) -> str | None:
    """Create the run folder of output_dir, with its spec.yaml; None if output_dir is null.

    BatchError if that folder holds another run.
    """
    if config.output_dir is None:
        return None
    folder = os.path.abspath(files.expand_path(config.output_dir, "output_dir"))
    files.make_folder(folder)
    spec = os.path.join(folder, run_folder.SPEC)
    text = yaml_io.dump_flat({key: value for key, value in config.to_dict().items() if key != "output_dir"})
    if not files.create_exclusive(spec, text) and (
            files.read_text(spec) != text or os.path.exists(os.path.join(folder, run_folder.STATS))):
        raise BatchError("there is a run in this folder already", where=folder, hint="give another output_dir")
    return folder


class Recorder:
    """Writes the files of a run, as a context manager; without a folder it does nothing.

    check: raises if a later attempt has taken over; called before each row and each checkpoint.
    next_epoch: the epoch at which the training starts or resumes.
    """

    def __init__(self, folder: str | None, columns: list[str], check: Callable[[], None], next_epoch: int = 0) -> None:
        self._folder, self._columns, self._check, self._next_epoch = folder, columns, check, next_epoch

    def __enter__(self) -> Recorder:
        """Start stats.csv: keep the rows before the next epoch, and remove the others.

        BatchError if one of these rows is missing.
        """
        self._check()
        if self._folder:
            path = os.path.join(self._folder, run_folder.STATS)
            lines = ",".join(self._columns), *self._earlier_rows(path)
            with files.atomic_writer(path) as file:
                file.write("".join(f"{line}\n" for line in lines).encode())
                self._check()  # once this host has changed the folder, a network file system lists its current files
            first = os.path.basename(run_folder.arrays_name(self._next_epoch))
            with contextlib.suppress(FileNotFoundError, NotADirectoryError), deletion.folder_descriptor(
                    os.path.join(self._folder, run_folder.ARRAYS)) as arrays:
                # of a later epoch, or a temporary file of a killed start
                deletion.remove_files(arrays, lambda name: name >= first or name.startswith(".epoch-"))
            self._stats = open(files.open_for_append(path), "a", encoding="utf-8", newline="")
        return self

    def _earlier_rows(self, path: str) -> list[str]:
        """Return the rows before the next epoch, which an earlier attempt wrote; an incomplete last line is ignored.

        Columns that an earlier version did not have are empty.
        """
        if self._next_epoch <= 1:
            return []
        header, *lines = (files.read_text(path) or "").split("\n")[:-1] or [""]
        rows = {stats_csv.leading_number(line): line for line in lines if line.count(",") == header.count(",")}
        names = header.split(",")
        if names != self._columns and set(names) < set(self._columns):
            cells = {epoch: dict(zip(names, line.split(","), strict=True)) for epoch, line in rows.items()}
            rows = {epoch: ",".join(row.get(name, "") for name in self._columns) for epoch, row in cells.items()}
            names = self._columns
        if names != self._columns or any(epoch not in rows for epoch in range(1, self._next_epoch)):
            raise BatchError(f"cannot resume at epoch {self._next_epoch}: rows of earlier epochs are missing",
                             where=path, hint=f"start over: `python train.py --fresh {self._folder}/{run_folder.SPEC}`")
        return [rows[epoch] for epoch in range(1, self._next_epoch)]

    def __exit__(self, *_: object) -> None:
        if self._folder:
            self._stats.close()

    def write_config(self, config: Config, facts: dict[str, Any]) -> None:
        """Write config.yaml, with the run's TAGS. Passed to train.py, it repeats the run."""
        if self._folder:
            tags = run_folder.tags(self._folder)
            files.write_atomic(os.path.join(self._folder, run_folder.CONFIG), yaml_io.dump_flat(
                {**config.to_dict(), "output_dir": self._folder, **({"TAGS": tags} if tags else {}), "facts": facts}))

    def write_row(self, row: Row) -> None:
        """Append a row to stats.csv."""
        self._check()
        if self._folder:
            self._stats.write(",".join(["" if (value := row[name]) is None else repr(value) for name in self._columns])
                              + "\n")
            self._stats.flush()

    def write_arrays(self, epoch: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Write the arrays of an epoch to a file, if there are any."""
        if self._folder and arrays:
            self._check()
            path = os.path.join(self._folder, run_folder.arrays_name(epoch))
            files.make_folder(os.path.dirname(path))
            packed = io.BytesIO()
            np.savez_compressed(packed, **arrays)  # type: ignore[arg-type]
            files.write_atomic(path, packed.getvalue())

    def write_checkpoint(self, name: str, config: Config, row: Row, model: nn.Module,
                         averaged: nn.Module | None, judgement: Mapping[str, Any]) -> None:
        """Save the model and its average under `name`, with a judgement: which of them is the better one, and why."""
        self._check()
        if self._folder:
            checkpoint.save(os.path.join(self._folder, name), config, row, model, averaged, judgement)
