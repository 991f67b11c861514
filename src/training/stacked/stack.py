"""A stack: the models, optimizers and averages of several runs as one, and its training steps."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from time import perf_counter
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from src.checks.registered_names import parse_averaging
from src.datasets.data import Split
from src.optimizers.averaging import newest_weight
from src.optimizers.fused import FusedOptimizer
from src.training.components import TrainingComponents
from src.training.epoch import CHECK_EVERY
from src.training.setup.seeds import derive_seed, seed_generators
from src.training.stacked.batches import BatchSource, StackedBatch
from src.training.stacked.clipping import StackedClipping
from src.training.stacked.kernels import make_kernel
from src.training.stacked.meters import StackedMeter
from src.training.stacked.numbers import StepNumbers, tabulate
from src.training.stacked.optimizers import stack_optimizers
from src.training.training_phase import TrainingPhase


class Observer(Protocol):
    """An object that is called between the steps of a stack. due: when `report` is to be called, by perf_counter."""

    due: float

    def report(self, done: int, total: int) -> None:
        """Log that `done` of `total` steps are done."""

    def is_save_due(self, now: float, step: int) -> bool:
        """Return whether to save after `step` steps. now: by perf_counter."""

    def save(self, step: int) -> None:
        """Save the members' states, after Stack.write_back."""


class Progress(NamedTuple):
    """The end of some steps. last_step: the last one taken; diverged: places of the members with too large a loss."""

    last_step: int
    diverged: list[int]


class Stack:
    """Runs that are trained together from optimizer step `step` on. Their tensors become views of the stack's.

    phases: the training phases of the runs, in the same order. split: what all of them train on.
    """

    def __init__(self, runs: Sequence[TrainingComponents], phases: Sequence[TrainingPhase], split: Split, step: int
                 ) -> None:
        self._runs, self._phases = runs, phases
        self._configs = configs = [run.config for run in runs]
        self._optimizers = [run.optimizers[0] for run in runs]
        assert all(isinstance(optimizer, FusedOptimizer) for optimizer in self._optimizers)
        self._kernel = kernel = make_kernel(configs[0], [run.model for run in runs])
        self._optimizer = stack_optimizers(configs, self._optimizers, kernel.params,  # type: ignore[arg-type]
                                           kernel.layout, kernel.stacked)
        self._averages = self._stack_averages()
        self._like = kernel.stacked[0]
        self._clipping = StackedClipping(configs, [phase.clipping for phase in phases], self._like)
        self._source = BatchSource(split, configs, runs[0].data, kernel.encode_samples, kernel.encode_targets)
        self._batches: Iterator[StackedBatch] = self._source.from_step(step)
        self._numbers = StepNumbers(self._tables, phases[0].length.total_steps, self._like)
        self._steps_per_pass = -(-len(split) // configs[0].batch_size)
        self._meter = self._new_meter()

    def begin_epoch(self) -> None:
        """Take over the meters that the phases have made for an epoch."""
        self._meter = self._new_meter()

    def train(self, steps: range, observer: Observer) -> Progress:
        """Take the given steps, or fewer if the loss of a member diverges. Each member's model is in training mode."""
        start, waited, step, diverged = perf_counter(), 0.0, steps.start - 1, []
        for step in steps:
            before = perf_counter()
            batch = next(self._batches)
            now = perf_counter()
            waited += now - before
            self._step(batch, step)
            if now >= observer.due:
                observer.report(step + 1 - steps.start, len(steps))
            if (step + 1) % CHECK_EVERY == 0 and (diverged := self._diverged()):
                break
            if observer.is_save_due(now, step + 1):
                self._add_time(perf_counter() - start, waited)
                start, waited = perf_counter(), 0.0
                self.write_back(step + 1)
                observer.save(step + 1)
        self._meter.losses()  # waits until the device has finished the steps
        self._add_time(perf_counter() - start, waited)
        self.write_back(step + 1)
        return Progress(step, diverged)

    def write_back(self, step: int) -> None:
        """Bring everything that is not a view of the stack up to date in the runs, after `step` steps."""
        self._optimizer.write_back()
        self._clipping.write_back()
        self._meter.write_back()
        for optimizer, phase in zip(self._optimizers, self._phases, strict=True):
            factor = phase.rate_factor(max(0, step - 1))
            for group in optimizer.param_groups:
                group.setdefault("initial_lr", group["lr"])
                group["lr"] = group["initial_lr"] * factor

    def seed_generators(self, place: int, step: int) -> None:
        """Seed the global generators as they are in the single run of a member after `step` steps."""
        number = max(0, step - 1) // self._steps_per_pass
        seed_generators(derive_seed("noise", self._configs[place].seed_training, number), self._runs[place].device)

    def _step(self, batch: StackedBatch, step: int) -> None:
        rates_and_weights = self._numbers.at(step)
        gradients, outputs = self._kernel.gradients(batch)
        with torch.no_grad():
            if self._clipping.is_active:
                self._clipping(gradients)
            if self._averages:
                *numbers, weights = rates_and_weights
                self._optimizer.update(gradients, numbers)
                for average, param in zip(self._averages, self._optimizer.params, strict=True):
                    average.lerp_(param, weights.expand_as(param))
            else:
                self._optimizer.update(gradients, rates_and_weights)
            self._meter.add(outputs, batch.y)

    def _tables(self, steps: range) -> list[Tensor]:
        """Return the numbers that each step needs, [steps, members]: those of the optimizer, and of the averages."""
        factors = tabulate([((config.lr_schedule, config.warmup_steps, config.cooldown_steps), phase.rate_factor)
                            for config, phase in zip(self._configs, self._phases, strict=True)], steps)
        initial = torch.tensor([optimizer.param_groups[0].get("initial_lr", optimizer.param_groups[0]["lr"])
                                for optimizer in self._optimizers], dtype=torch.float64)
        tables = self._optimizer.tables(factors * initial, steps)
        weights = [tabulate([(config.averaging, _averaging_weight(config.averaging)) for config in self._configs],
                            steps)] if self._averages else []
        return [*tables, *weights]

    def _stack_averages(self) -> list[Tensor]:
        """Return the stacked averages [members, elements]; empty if no run has any. Runs without get unused ones."""
        if not any(run.average for run in self._runs):
            return []
        own = [list(run.average.module().parameters()) if run.average else [param.detach().clone() for param in params]
               for run, params in zip(self._runs, self._kernel.params, strict=True)]
        return [tensor.flatten(1) for tensor in self._kernel.layout.stack(own)]

    def _new_meter(self) -> StackedMeter:
        return StackedMeter([phase.meter for phase in self._phases],  # type: ignore[misc]
                            self._runs[0].data.task, self._kernel)

    def _diverged(self) -> list[int]:
        return [place for place, (loss, config) in enumerate(zip(self._meter.losses(), self._configs, strict=True))
                if not loss <= config.max_allowed_loss]  # also if NaN

    def _add_time(self, seconds: float, waited: float) -> None:
        for phase in self._phases:
            phase.elapsed.time += seconds
            phase.elapsed.data += waited


def _averaging_weight(text: str | None) -> Callable[[int], float]:
    averaging = parse_averaging(text)
    return (lambda step: newest_weight(averaging, step + 1)) if averaging else (lambda step: 1.0)
