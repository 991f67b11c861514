from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from src.checks.registered_names import parse_schedule
from src.optimizers.schedules import even_milestones, make_schedule

T = 40


def _rates(make: Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler]) -> list[float]:
    """The rates of a torch scheduler at steps 0 … T - 1, from a base of 1."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 1.0)
    rates = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheduler = make(optimizer)
        for _ in range(T):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
    return rates


@pytest.mark.parametrize(("text", "reference"), [
    ("constant", lambda o: lr_scheduler.ConstantLR(o, 1.0)),
    ("poly", lambda o: lr_scheduler.PolynomialLR(o, T, power=0.5)),
    ("poly_2", lambda o: lr_scheduler.PolynomialLR(o, T, power=2)),
    ("cosine", lambda o: lr_scheduler.CosineAnnealingLR(o, T)),
    ("linear", lambda o: lr_scheduler.LinearLR(o, start_factor=1, end_factor=1e-12, total_iters=T)),
    ("cosine_4", lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, T // 4)),
    ("cosine_2_3", lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, T // 4, T_mult=3)),
    ("onecycle", lambda o: lr_scheduler.OneCycleLR(o, 1.0, total_steps=T, cycle_momentum=False)),
    ("onecycle_0.5", lambda o: lr_scheduler.OneCycleLR(o, 1.0, total_steps=T, pct_start=0.5, cycle_momentum=False)),
    ("step", lambda o: lr_scheduler.MultiStepLR(o, [10, 20, 30], 0.1)),
    ("step_1_0.3", lambda o: lr_scheduler.MultiStepLR(o, [20], 0.3)),
    ("step_3,17_0.5", lambda o: lr_scheduler.MultiStepLR(o, [3, 17], 0.5)),
])
def test_schedules_are_those_of_torch(text: str, reference: Callable) -> None:
    schedule = parse_schedule(text)
    factor = make_schedule(schedule, T, [int(milestone) for milestone in schedule.milestones])
    assert [factor(step) for step in range(T)] == pytest.approx(_rates(reference), abs=1e-9)


def test_warm_up_is_a_line_from_one_part_to_the_whole() -> None:
    factor = make_schedule(parse_schedule("constant"), T, warmup_steps=8)
    expected = _rates(lambda o: lr_scheduler.LinearLR(o, start_factor=1 / 8, total_iters=7))
    assert [factor(step) for step in range(T)] == pytest.approx(expected)
    assert factor(0) == 1 / 8


def test_stable_then_a_line_to_zero() -> None:
    factor = make_schedule(parse_schedule("wsd_0.25"), T, warmup_steps=4)
    assert [factor(step) for step in (0, 3, 29, 30, 35, 39)] == pytest.approx([0.25, 1, 1, 1, 0.5, 0.1])
    assert make_schedule(parse_schedule("wsd"), T)(36) == 0.5


def test_cool_down_is_a_line_that_multiplies_the_end() -> None:
    factor = make_schedule(parse_schedule("cosine"), T, warmup_steps=2, cooldown_steps=8)
    plain = make_schedule(parse_schedule("cosine"), T)
    assert [factor(step) / plain(step) for step in (0, 1, 32, 36, 39)] == pytest.approx([0.5, 1, 1, 0.5, 1 / 8])


@given(st.integers(1, 300), st.integers(1, 6), st.sampled_from([0.5, 1.0, 1.7]))
def test_each_cycle_begins_at_the_top_and_falls(total: int, cycles: int, stretch: float) -> None:
    factor = make_schedule(parse_schedule(f"cosine_{cycles}_{stretch}"), total)
    rates = [factor(step) for step in range(total)]
    assert rates[0] == 1
    assert all(0 <= rate <= 1 for rate in rates)
    assert sum(later > earlier for earlier, later in itertools.pairwise(rates)) <= cycles - 1


@given(st.integers(1, 200), st.floats(0.01, 0.99))
def test_one_cycle_stays_within_its_bounds(total: int, share: float) -> None:
    factor = make_schedule(parse_schedule(f"onecycle_{share}"), total)
    assert all(0 < factor(step) <= 1 for step in range(total))


def test_warm_up_multiplies_the_schedule() -> None:
    factor = make_schedule(parse_schedule("cosine"), T, warmup_steps=10)
    plain = make_schedule(parse_schedule("cosine"), T)
    assert factor(4) == pytest.approx(plain(4) * 0.5)
    assert factor(20) == plain(20)


@given(st.integers(1, 10_000), st.integers(1, 12))
def test_even_drops_cut_the_training_into_equal_parts(total: int, count: int) -> None:
    bounds = [0, *even_milestones(total, count), total]
    lengths = [later - earlier for earlier, later in itertools.pairwise(bounds)]
    assert sum(lengths) == total
    assert max(lengths) - min(lengths) <= 1
