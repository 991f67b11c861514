"""The number of runs that are trained as one stack: refused, as requested, or the fastest by a measurement."""
from __future__ import annotations

import resource
from collections.abc import Callable, Sequence
from time import perf_counter

import torch
from torch import nn

from src.config import Config
from src.datasets.data import Split
from src.errors import summarize
from src.io import machine
from src.models.linear import Linear
from src.optimizers.fused import FusedOptimizer
from src.training.components import TrainingComponents
from src.training.output.resume import disabled_saver
from src.training.setup.length import Length
from src.training.stacked.launch import build_run, is_out_of_memory
from src.training.stacked.stack import Stack
from src.training.steps.forward import make_forward
from src.training.steps.overfit_subset import with_overfit_subset
from src.training.training_phase import TrainingPhase

MAX_SIZE = 256  # each member has files open
_GROWTH = 4  # factor between the sizes that are measured
_SECONDS = 0.05  # of a measurement
_MAX_STEPS = 100
_GAIN = 1.05  # a stack has to be faster than single runs by this factor
_SIMILAR = 1.15  # ratio of times that count as equal
_SLOWER = 1.5  # slowdown per run from which larger stacks are not measured
_USABLE_MEMORY = 0.8
_TOLERANCE = 1e-3  # relative difference of a stacked step from a single one in float32


class _Unobserved:
    """An Observer that neither logs nor saves."""

    due = float("inf")

    def report(self, done: int, total: int) -> None:
        pass

    def is_save_due(self, now: float, step: int) -> bool:
        return False

    def save(self, step: int) -> None:
        pass


def choose_size(configs: Sequence[Config], requested: int | None) -> tuple[int, str]:
    """Return how many of these runs to train at once, and why.

    requested: the number that the user wants; None measures. 1 means that they run singly.
    """
    largest = min(len(configs), requested or MAX_SIZE, MAX_SIZE)
    if reason := refusal([build_run(config, None) for config in configs[:2]]):
        return 1, reason
    if requested or largest == 1:
        return largest, "as requested" if requested else "no other run is left"
    return _fastest(configs, largest)


def refusal(runs: Sequence[TrainingComponents]) -> str | None:
    """Return why runs cannot be stacked with the same results, by a trial step of two of them; None if they can."""
    run, split = runs[0], runs[0].data.splits.get("train")
    if not isinstance(split, Split):
        return "the samples are read while the runs train"
    if split.x.layout != torch.strided:
        return "the samples are sparse"
    if not isinstance(run.optimizers[0], FusedOptimizer):
        return f"{run.config.optim_alg} cannot be stacked"
    if not all(parameter.requires_grad for parameter in run.model.parameters()):
        return "some parameters are frozen"
    if isinstance(run.model, Linear):
        return None
    return _failed_trial([build_run(run.config, None) for run in runs], runs)


def _failed_trial(stacked: Sequence[TrainingComponents], singles: Sequence[TrainingComponents]) -> str | None:
    """Take a step with a stack and with single runs. Return why they differ, or None."""
    try:
        phases = [make_phase(run) for run in stacked]
        assert isinstance(phases[0].split, Split)
        Stack(stacked, phases, phases[0].split, 0).train(range(1), _Unobserved())
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return f"torch.func cannot compute this model: {summarize(error)}"
    for one, single in zip(stacked, singles, strict=True):
        make_phase(single).try_steps(range(1))
        if _differ(one.model, single.model):
            return "a step of a stack has other results than a step of a single run"
    return None


def _differ(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return any(bool((own.double() - others.double()).norm() > _TOLERANCE * (1e-6 + others.double().norm()))
               for own, others in pairs)


def _fastest(configs: Sequence[Config], largest: int) -> tuple[int, str]:
    """Time a few steps of stacks of growing size, until they are much slower per run or take too much memory.

    Return the largest of the sizes that are about as fast as the fastest one, for all runs in parts of that size.
    """
    seconds = {1: _time_single(configs[0])}  # of a step, by size
    size, memory = 1, 0.0
    while size < largest and seconds[size] / size < _SLOWER * min(time / size for size, time in seconds.items()):
        size = min(size * _GROWTH, largest)
        if size * memory > _USABLE_MEMORY * machine.available_memory():
            break
        before = _peak_memory()
        try:
            seconds[size] = _time_stack(configs[:size])
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            break
        memory = max(memory, (_peak_memory() - before) / size)
    totals = {size: -(-len(configs) // size) * time for size, time in seconds.items()}
    fastest = min(totals.values())
    if totals[1] < _GAIN * fastest:
        return 1, "single runs are as fast"
    size = max(size for size, total in totals.items() if total <= _SIMILAR * fastest)
    return size, f"{totals[1] / totals[size]:.1f} times as fast as single runs"


def _time_single(config: Config) -> float:
    """Return the seconds of a step."""
    phase = make_phase(build_run(config, None))
    return _time_steps(phase.try_steps, phase.length.total_steps)


def _time_stack(configs: Sequence[Config]) -> float:
    """Return the seconds of a step of a stack."""
    runs = [build_run(config, None) for config in configs]
    phases = [make_phase(run) for run in runs]
    assert isinstance(phases[0].split, Split)
    stack = Stack(runs, phases, phases[0].split, 0)
    return _time_steps(lambda steps: stack.train(steps, _Unobserved()), phases[0].length.total_steps)


def _time_steps(take: Callable[[range], object], total: int) -> float:
    """Return the seconds of a step: the better of two measurements. take: takes a range of steps."""
    take(range(1))
    start = perf_counter()
    take(range(1))
    count = max(1, min(_MAX_STEPS, total, int(_SECONDS / (perf_counter() - start))))
    seconds = []
    for _ in range(2):
        start = perf_counter()
        take(range(count))
        seconds.append(perf_counter() - start)
    return min(seconds) / count


def make_phase(run: TrainingComponents) -> TrainingPhase:
    """Return the training phase of a run that is not recorded."""
    split = with_overfit_subset(run.config, run.data).splits["train"]
    return TrainingPhase(run, split, Length.of(run.config, len(split)), make_forward(
        run.config, run.model, run.device), None, disabled_saver(), None)


def _peak_memory() -> float:
    """Return the largest memory of this process so far, in bytes."""
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
