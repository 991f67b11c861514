"""Learning-rate schedules: pure functions from the step, counted from 0, to a factor on base_lr."""
from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence

from src.choices import Schedule

Factor = Callable[[int], float]


def make_schedule(schedule: Schedule, total_steps: int, milestones: Sequence[int] = (), warmup_steps: int = 0
                  ) -> Factor:
    """The factor at each of the steps 0 … total_steps - 1, warm-up included.

    milestones: the schedule's own, converted to steps. The warm-up multiplies the schedule by a line that rises from
    1/warmup_steps at the first step to 1.
    """
    factor = _without_warmup(schedule, total_steps, milestones)
    if not warmup_steps:
        return factor
    return lambda step: factor(step) * min(1.0, (step + 1) / warmup_steps)


def _without_warmup(schedule: Schedule, total_steps: int, milestones: Sequence[int]) -> Factor:
    if schedule.kind == "poly":
        return lambda step: poly(step, total_steps, schedule.power)
    if schedule.kind == "cosine":
        return lambda step: cosine(step, total_steps)
    if schedule.kind == "step":
        if not schedule.milestones:
            milestones = even_milestones(total_steps, schedule.drops)
        return lambda step: drops(step, milestones, schedule.factor)
    return lambda step: 1.0


def poly(step: int, total_steps: int, power: float) -> float:
    """(1 - t/T)^power."""
    return (1.0 - step / total_steps) ** power


def cosine(step: int, total_steps: int) -> float:
    """Half a cosine from 1 to 0 (Loshchilov and Hutter, 2017, without restarts)."""
    return 0.5 * (1.0 + math.cos(math.pi * step / total_steps))


def drops(step: int, milestones: Sequence[int], factor: float) -> float:
    """`factor` to the power of how many ascending milestones have been reached."""
    return factor ** bisect.bisect_right(milestones, step)


def even_milestones(total_steps: int, count: int) -> list[int]:
    """`count` steps that cut the training into count + 1 equal parts, rounded up to whole steps."""
    return [-(-total_steps * part // (count + 1)) for part in range(1, count + 1)]
