"""Profile a run: a table of the time of its parts, and a trace of some steps for chrome://tracing or Perfetto."""
from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from src import run_folder
from src.datasets.data import Batch
from src.io import files
from src.training.steps.task import Supervised, UserTask

WARM_UP_STEPS, TRACED_STEPS = 5, 10  # steps before the trace, and in it
PARTS = ("data", "forward", "backward", "step", "training step", "evaluation", "logging", "tracing")


class Profile:
    """The seconds of each part of a run. It waits for the device after each part, so the run is a little slower.

    As a context manager it writes its files on exit. folder: run folder; None writes nothing.
    """

    def __init__(self, folder: str | None, device: torch.device, total_steps: int) -> None:
        self._folder, self._device = folder, device
        self._start = perf_counter()
        self._seconds: dict[str, float] = {}
        self._steps = 0
        self._first = min(WARM_UP_STEPS, max(0, total_steps - TRACED_STEPS))
        self._tracer: torch.profiler.profile | None = None

    @contextlib.contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Add the time of the body to a part, even if the body raises."""
        start = perf_counter()
        try:
            with torch.profiler.record_function(name):
                yield
        finally:
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            self.add(name, perf_counter() - start)

    def add(self, name: str, seconds: float) -> None:
        """Add seconds to a part."""
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    def before_step(self) -> None:
        """Start the trace after the warm-up steps, and end it some steps later."""
        if self._folder and self._steps == self._first:
            start = perf_counter()
            kinds = [torch.profiler.ProfilerActivity.CPU]
            if self._device.type == "cuda":
                kinds.append(torch.profiler.ProfilerActivity.CUDA)
            self._tracer = torch.profiler.profile(activities=kinds)
            self._tracer.start()
            self.add("tracing", perf_counter() - start)
        elif self._steps == self._first + TRACED_STEPS:
            self.end_trace()
        self._steps += 1

    def __enter__(self) -> Profile:
        return self

    def __exit__(self, *_: object) -> None:
        """Write the files, however the run ended."""
        self.end_trace()
        if self._folder:
            files.write_atomic(os.path.join(self._folder, run_folder.PROFILE), self.text())

    def end_trace(self) -> None:
        """Write the trace, if one has been started."""
        if self._tracer and self._folder:
            start = perf_counter()
            self._tracer.stop()
            self._tracer.export_chrome_trace(os.path.join(self._folder, run_folder.TRACE))
            self._tracer = None
            self.add("tracing", perf_counter() - start)

    def text(self) -> str:
        """Return the table: seconds and percentage of each part; the rest is start-up, loss, meters and all else."""
        total = perf_counter() - self._start
        parts = {name: self._seconds[name] for name in PARTS if name in self._seconds}
        rows = {**parts, "rest": max(0.0, total - sum(parts.values())), "all": total}
        return "".join(f"{name:<13} {seconds:10.3f} s {100 * seconds / total:5.1f} %\n"
                       for name, seconds in rows.items())


class ProfiledSupervised(Supervised):
    """The default steps, with the time of each part."""

    def __init__(self, profile: Profile, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._profile, self._original_forward = profile, self._forward
        self._forward = self._measured_forward

    def train(self, batch: Batch, step: int, meter: Any) -> None:
        self._profile.before_step()
        super().train(batch, step, meter)

    def _measured_forward(self, x: Any) -> Tensor:
        with self._profile.measure("forward"):
            return self._original_forward(x)

    def _backward(self, loss: Tensor) -> None:
        with self._profile.measure("backward"):
            super()._backward(loss)

    def _step(self) -> None:
        with self._profile.measure("step"):
            super()._step()


class ProfiledUserTask(UserTask):
    """The steps of a user-defined task, each measured as one part."""

    def __init__(self, profile: Profile, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._profile = profile

    def train(self, batch: Batch, step: int, meter: Any) -> None:
        self._profile.before_step()
        with self._profile.measure("training step"):
            super().train(batch, step, meter)
