"""Learning-rate schedules: pure functions from the step, counted from 0, to a factor on base_lr."""
from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence

from src.checks.registered_names import Schedule

Factor = Callable[[int], float]


def make_schedule(schedule: Schedule, total_steps: int, milestones: Sequence[int] = (), warmup_steps: int = 0,
                  cooldown_steps: int = 0) -> Factor:
    """Return the factor at each of the steps 0 … total_steps - 1, including warm-up and cool-down.

    milestones: those of the schedule, converted to steps. The warm-up multiplies the schedule by a line that rises from
    1/warmup_steps at the first step to 1, the cool-down by one that falls from 1 to 1/cooldown_steps at the last step.
    """
    factor = _without_warmup(schedule, total_steps, milestones)
    if not warmup_steps and not cooldown_steps:
        return factor
    up, down = warmup_steps or 1, cooldown_steps or 1
    return lambda step: factor(step) * min(1.0, (step + 1) / up) * min(1.0, (total_steps - step) / down)


def _without_warmup(schedule: Schedule, total_steps: int, milestones: Sequence[int]) -> Factor:
    if schedule.kind == "poly":
        return lambda step: poly(step, total_steps, schedule.power)
    if schedule.kind == "linear":
        return lambda step: poly(step, total_steps, 1.0)
    if schedule.kind == "cosine":
        return lambda step: cosine(step, total_steps, schedule.cycles, schedule.stretch)
    if schedule.kind == "onecycle":
        return lambda step: one_cycle(step, total_steps, schedule.share)
    if schedule.kind == "wsd":
        return lambda step: min(1.0, (total_steps - step) / (schedule.share * total_steps))
    if schedule.kind == "step":
        if not schedule.milestones:
            milestones = even_milestones(total_steps, schedule.drops)
        return lambda step: drops(step, milestones, schedule.factor)
    return lambda step: 1.0


def poly(step: int, total_steps: int, power: float) -> float:
    """Return (1 - t/T)^power."""
    return (1.0 - step / total_steps) ** power


def cosine(step: int, total_steps: int, cycles: int = 1, stretch: float = 1.0) -> float:
    """Return half a cosine from 1 to 0, `cycles` times, each `stretch` times as long as the one before.

    Loshchilov and Hutter, 2017.
    """
    length = total_steps / sum(stretch ** cycle for cycle in range(cycles))
    begin = 0.0
    for _ in range(cycles - 1):
        if step < begin + length - 1e-9 * total_steps:  # a cycle that ends at 10 may end at 10.000000000000002
            break
        begin, length = begin + length, length * stretch
    return 0.5 * (1.0 + math.cos(math.pi * max(0.0, step - begin) / length))


def one_cycle(step: int, total_steps: int, share: float, start: float = 1 / 25, end: float = 1 / 250_000) -> float:
    """Return half a cosine from `start` up to 1 in `share` of the steps, then another down to `end` at the last step.

    Smith and Topin, 2018; the numbers are those of torch.optim.lr_scheduler.OneCycleLR.
    """
    top, last = share * total_steps - 1, max(1, total_steps - 1)
    if step <= top:
        return _between(start, 1.0, step / top if top else 1.0)
    return _between(1.0, end, (step - top) / (last - top))


def _between(first: float, second: float, position: float) -> float:
    """Interpolate from the first value at position 0 to the second at 1 along half a cosine."""
    return second + (first - second) * 0.5 * (1.0 + math.cos(math.pi * position))


def drops(step: int, milestones: Sequence[int], factor: float) -> float:
    """Return `factor` to the power of the number of ascending milestones that have been reached."""
    return factor ** bisect.bisect_right(milestones, step)


def even_milestones(total_steps: int, count: int) -> list[int]:
    """Return `count` steps that divide the training into count + 1 equal parts, rounded up to whole steps."""
    return [-(-total_steps * part // (count + 1)) for part in range(1, count + 1)]
