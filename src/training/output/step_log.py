"""steps.csv: a row every few optimizer steps. Values stay on the device until several rows are read together."""
from __future__ import annotations

import contextlib
import csv
import io
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from time import perf_counter, time
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from src import run_folder, stats_csv
from src.io import files
from src.training.parallel.distributed import SINGLE_PROCESS, SingleProcess
from src.training.setup.facts import accumulation_dtype

StepRow = dict[str, float]  # a row of steps.csv, without its empty cells
_READ_INTERVAL = 2.0  # seconds between reads from the device, each of which waits for it
_MAX_KEPT = 1000  # steps whose values are kept one by one
_Number: TypeAlias = float | Tensor  # a scalar on the device, if it is a tensor


class _Sum(NamedTuple):
    """A weighted sum of values, and the sum of the weights."""

    total: _Number
    weight: _Number

    def __add__(self, other: _Sum) -> _Sum:  # type: ignore[override]
        return _Sum(self.total + other.total, self.weight + other.weight)


class _Pending(NamedTuple):
    """A row whose values may still be on the device. seconds: of training since the row before."""

    cells: StepRow
    seconds: float
    samples: _Number
    sums: dict[str, _Sum]


class StepLog:
    """Collects the values of steps and writes their means to steps.csv, at each multiple of `interval` steps.

    The training appends to the lists below, and calls `visit` when a step is `due`. No step waits for the device.

    losses: mean loss [], weight in the mean (samples, or tokens as a tensor), and samples, of each micro-batch.
    norms: of the gradient before clipping, one per step.
    values: what a user-defined task logs, by name. Of several processes, those of the first one count.
    """

    def __init__(self, interval: int, base_lr: float, measures_norms: bool, device: torch.device,
                 group: SingleProcess = SINGLE_PROCESS) -> None:
        self.losses: list[tuple[Tensor, int | Tensor, int]] = []
        self.norms: list[Tensor] = []
        self.values: dict[str, list[Tensor | float]] = {}
        self._interval, self._base_lr, self._device, self._group = interval, base_lr, device, group
        self._dtype = accumulation_dtype(device)
        self._columns = [name for name in run_folder.STEP_COLUMNS if measures_norms or name != "grad_norm"]
        self._sums: dict[str, _Sum] = {}  # since the last row
        self._samples = 0
        self._seconds, self._epoch = 0.0, 0
        self._began: float | None = None  # when the clock was started, by perf_counter; None: it stands still
        self._pending: list[_Pending] = []
        self._next_read = 0.0
        self._path: str | None = None
        self._check: Callable[[], None] = lambda: None
        self._show: Callable[[Sequence[StepRow]], None] = lambda rows: None

    @contextlib.contextmanager
    def open(self, folder: str | None, step: int, check: Callable[[], None],
             show: Callable[[Sequence[StepRow]], None]) -> Iterator[None]:
        """Start steps.csv, with the rows of an earlier start up to `step`.

        folder: run folder; None writes nothing. check: raises if a later attempt has taken over the run.
        show: is given new rows.
        """
        self._check, self._show = check, show
        if folder:
            self._path = os.path.join(folder, run_folder.STEPS)
            header, *lines = (files.read_text(self._path) or "").split("\n")[:-1] or [""] if step else ("",)
            with contextlib.suppress(csv.Error):  # damaged: its rows are kept
                self._columns += [name for name in next(csv.reader([header]), []) if name not in self._columns]
            kept = [line for line in lines if (number := stats_csv.leading_number(line)) is not None and number <= step]
            files.write_atomic(self._path, "".join(f"{line}\n" for line in (_to_csv(self._columns), *kept)))
        yield

    def begin(self, epoch: int) -> None:
        """Start the clock, when the training of an epoch begins."""
        self._epoch, self._began = epoch, perf_counter()

    def due(self, step: int) -> int:
        """Return the step, counted from 1, of the next visit after `step`."""
        return min((step // self._interval + 1) * self._interval, (step // _MAX_KEPT + 1) * _MAX_KEPT)

    def visit(self, step: int, rate_factor: float) -> int:
        """Add up what was collected until `step`, counted from 1, for a row if one is due. Return the next due step."""
        self._fold()
        if step % self._interval == 0:
            self._add_row(step, rate_factor)
            if (now := perf_counter()) >= self._next_read:
                self.flush()
                self._next_read = now + _READ_INTERVAL
        return self.due(step)

    def pause(self) -> None:
        """Write all rows and stop the clock, when the training of an epoch ends."""
        self.flush()
        self._seconds, self._began = self._elapsed(), None

    def _elapsed(self) -> float:
        """Return the seconds of training since the last row."""
        return self._seconds + (0.0 if self._began is None else perf_counter() - self._began)

    def flush(self) -> None:
        """Read pending rows from the device, write them, and show them."""
        if not self._pending:
            return
        numbers = [[row.samples, *itertools.chain.from_iterable(row.sums.values())] for row in self._pending]
        on_device = [number for row in numbers for number in row if isinstance(number, Tensor)]
        read = iter(torch.stack(on_device).tolist() if on_device else ())
        rows = []
        for pending, row_numbers in zip(self._pending, numbers, strict=True):
            samples, *pairs = [next(read) if isinstance(number, Tensor) else number for number in row_numbers]
            means = {name: total / weight for name, total, weight in zip(
                pending.sums, pairs[::2], pairs[1::2], strict=True) if weight}
            rows.append({**pending.cells, **means, "examples_per_second": samples / max(pending.seconds, 1e-9)})
        self._pending = []
        if self._path:
            self._check()
            self._write(rows)
        self._show(rows)

    def state(self) -> dict[str, Any]:
        """Write all rows, and return what `restore` needs."""
        self.flush()
        return {"losses": [list(item) for item in self.losses], "norms": list(self.norms),
                "values": {name: list(values) for name, values in self.values.items()},
                "sums": {name: list(pair) for name, pair in self._sums.items()},
                "samples": self._samples, "seconds": self._elapsed()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue as after the step at which `state` was called."""
        def on_device(value: Any) -> Any:
            return value.to(self._device) if isinstance(value, Tensor) else value

        self.losses += [(on_device(loss), on_device(weight), samples) for loss, weight, samples in state["losses"]]
        self.norms += map(on_device, state["norms"])
        self.values |= {name: list(map(on_device, values)) for name, values in state["values"].items()}
        self._sums = {name: _Sum(*map(on_device, pair)) for name, pair in state["sums"].items()}
        self._samples, self._seconds = state["samples"], state["seconds"]

    def _fold(self) -> None:
        """Add up what was collected, without waiting for the device."""
        if self.losses:
            losses, weights, samples = zip(*self.losses, strict=True)
            self._samples += sum(samples)
            self._add("loss", self._stack(losses), weights)
        if self.norms:
            norms = self._stack(self.norms)
            is_finite = norms.isfinite()  # steps that overflowed in fp16 were skipped
            self._add_sum("grad_norm", _Sum(norms.where(is_finite, 0.0).sum(), is_finite.sum().to(self._dtype)))
        for name, values in self.values.items():
            self._add(name, self._stack(values), [1] * len(values))
        self.losses.clear()
        self.norms.clear()
        self.values.clear()

    def _stack(self, values: Sequence[_Number]) -> Tensor:
        """Return numbers, or scalars on the device, as (n,)."""
        if all(isinstance(value, Tensor) for value in values):
            return torch.stack(values).flatten().to(self._dtype)
        if not any(isinstance(value, Tensor) for value in values):
            return torch.tensor(values, dtype=self._dtype, device=self._device)
        return torch.stack([torch.as_tensor(value, dtype=self._dtype, device=self._device) for value in values])

    def _add(self, name: str, values: Tensor, weights: Sequence[_Number]) -> None:
        if len({*weights}) == 1 and not isinstance(weights[0], Tensor):  # almost always; the fast path
            self._add_sum(name, _Sum(values.sum() * weights[0], weights[0] * len(weights)))
        else:
            stacked = self._stack(weights)
            self._add_sum(name, _Sum(values.dot(stacked), stacked.sum()))

    def _add_sum(self, name: str, values: _Sum) -> None:
        self._sums[name] = self._sums[name] + values if name in self._sums else values

    def _add_row(self, step: int, rate_factor: float) -> None:
        sums = {"loss": self._sums.pop("loss", _Sum(0.0, 0.0)), **self._sums}
        samples: _Number = self._samples
        if self._group.size > 1:
            total, weight, samples = self._group.sum(self._stack([*sums["loss"], float(samples)]))
            sums["loss"] = _Sum(total, weight)
        cells = {"step": step, "epoch": self._epoch, "timestamp": time(), "learning_rate": self._base_lr * rate_factor}
        self._pending.append(_Pending(cells, self._elapsed(), samples, sums))
        self._sums, self._samples, self._seconds, self._began = {}, 0, 0.0, perf_counter()

    def _write(self, rows: Sequence[StepRow]) -> None:
        assert self._path
        if new := [name for name in dict.fromkeys(name for row in rows for name in row) if name not in self._columns]:
            # a column that begins later: earlier rows, which are shorter, have empty cells there
            width = len(self._columns)
            self._columns += new
            lines = (files.read_text(self._path) or "").split("\n")[1:-1]
            padded = [line + "," * (len(self._columns) - width) for line in lines]
            files.write_atomic(self._path, "".join(f"{line}\n" for line in (_to_csv(self._columns), *padded)))
        text = "".join(_to_csv(["" if name not in row else repr(row[name]) for name in self._columns]) + "\n"
                       for row in rows)
        with open(files.open_for_append(self._path), "a", encoding="utf-8", newline="") as file:
            file.write(text)


def _to_csv(cells: Sequence[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(cells)
    return text.getvalue()
