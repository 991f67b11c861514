"""Where the time of a run goes: a table of its parts, and a trace of some steps for chrome://tracing or Perfetto."""
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

TRACE_AFTER, TRACED_STEPS = 5, 10  # steps that warm up, and then those in the trace
PARTS = ("data", "forward", "backward", "step", "training step", "evaluation", "logging", "tracing")


class Profile:
    """Seconds by part of the run, each measured with the device's work done: so the run itself is a little slower.

    Starts with the run and writes its files when it is closed. folder: None keeps the table to `text`.
    """

    def __init__(self, folder: str | None, device: torch.device, total_steps: int) -> None:
        self._folder, self._device = folder, device
        self._start = perf_counter()
        self._seconds: dict[str, float] = {}
        self._steps = 0
        self._first = min(TRACE_AFTER, max(0, total_steps - TRACED_STEPS))
        self._tracer: torch.profiler.profile | None = None

    @contextlib.contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """What the body takes counts for this part, also if it is left by an error."""
        start = perf_counter()
        try:
            with torch.profiler.record_function(name):
                yield
        finally:
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            self.add(name, perf_counter() - start)

    def add(self, name: str, seconds: float) -> None:
        """Seconds that were measured elsewhere."""
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    def before_step(self) -> None:
        """Begin the trace when the first steps have warmed up, end it some steps later."""
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
        """Write what there is, however the run ended."""
        self.end_trace()
        if self._folder:
            files.write_atomic(os.path.join(self._folder, run_folder.PROFILE), self.text())

    def end_trace(self) -> None:
        """Write the trace, if one is under way."""
        if self._tracer and self._folder:
            start = perf_counter()
            self._tracer.stop()
            self._tracer.export_chrome_trace(os.path.join(self._folder, run_folder.TRACE))
            self._tracer = None
            self.add("tracing", perf_counter() - start)

    def text(self) -> str:
        """The table: seconds and share of each part; the rest is start-up, loss, meters and all else."""
        total = perf_counter() - self._start
        known = {name: self._seconds[name] for name in PARTS if name in self._seconds}
        rows = {**known, "rest": max(0.0, total - sum(known.values())), "all": total}
        return "".join(f"{name:<13} {seconds:10.3f} s {100 * seconds / total:5.1f} %\n"
                       for name, seconds in rows.items())


class ProfiledSupervised(Supervised):
    """The default steps, with the time of each part taken."""

    def __init__(self, profile: Profile, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._profile, self._unwatched = profile, self._forward
        self._forward = self._watched

    def train(self, batch: Batch, step: int, meter: Any) -> None:
        self._profile.before_step()
        super().train(batch, step, meter)

    def _watched(self, x: Any) -> Tensor:
        with self._profile.measure("forward"):
            return self._unwatched(x)

    def _backward(self, loss: Tensor) -> None:
        with self._profile.measure("backward"):
            super()._backward(loss)

    def _step(self) -> None:
        with self._profile.measure("step"):
            super()._step()


class ProfiledUserTask(UserTask):
    """Steps of a task of one's own, which are one part."""

    def __init__(self, profile: Profile, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._profile = profile

    def train(self, batch: Batch, step: int, meter: Any) -> None:
        self._profile.before_step()
        with self._profile.measure("training step"):
            super().train(batch, step, meter)
