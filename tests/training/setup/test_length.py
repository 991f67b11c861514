from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.config import Config
from src.training.setup.length import Length, steps_to_see


def _length(samples: int, **options: Any) -> Length:
    return Length.of(Config(**options), samples)


def test_an_epoch_is_a_pass_unless_it_is_steps_or_samples() -> None:
    assert _length(1000, batch_size=300).steps_per_epoch == 4
    assert _length(1000, batch_size=300, steps_per_epoch=7).steps_per_epoch == 7
    assert _length(1000, batch_size=300, samples_per_epoch=500).steps_per_epoch == 2
    assert _length(581_012, batch_size=8192, samples_per_epoch=81_920).steps_per_epoch == 10


@pytest.mark.parametrize(("options", "steps", "epochs"), [
    ({"train_length": 5}, 20, 5),
    ({"train_length": 5, "steps_per_epoch": 3}, 15, 5),
    ({"train_length": 5, "train_length_unit": "step"}, 5, 2),
    ({"train_length": 7, "train_length_unit": "step", "steps_per_epoch": 3}, 7, 3),
    ({"train_length": 700, "train_length_unit": "sample"}, 3, 1),
    ({"train_length": 2000, "train_length_unit": "sample"}, 8, 2),  # two passes, not ceil(2000 / 300) steps
    ({"train_length": 0}, 0, 0),
])
def test_train_length_in_each_unit(options: dict[str, Any], steps: int, epochs: int) -> None:
    for parts in (1, 7):
        length = _length(1000, batch_size=300, grad_accum_steps=parts, **options)
        assert (length.total_steps, length.epochs) == (steps, epochs)


@given(st.integers(1, 500), st.integers(1, 70), st.integers(1, 60), st.sampled_from(["epoch", "step"]),
       st.none() | st.integers(1, 20))
def test_epochs_cut_the_steps_without_gap_or_overlap(samples: int, batch_size: int, train_length: int, unit: str,
                                                     steps_per_epoch: int | None) -> None:
    length = _length(samples, batch_size=batch_size, train_length=train_length, train_length_unit=unit,
                     steps_per_epoch=steps_per_epoch)
    steps = itertools.chain(*(length.epoch_steps(epoch) for epoch in range(1, length.epochs + 1)))
    assert list(steps) == list(range(length.total_steps))
    assert all(length.epoch_steps(epoch) for epoch in range(1, length.epochs + 1))


@given(st.integers(0, 2000), st.integers(1, 300), st.integers(1, 70))
def test_samples_round_up_to_the_fewest_steps_that_see_them(wanted: int, samples: int, batch_size: int) -> None:
    sizes = [min(batch_size, samples - start) for start in range(0, samples, batch_size)]  # of one pass
    seen = [0, *itertools.accumulate(itertools.islice(itertools.cycle(sizes), 2001))]
    assert steps_to_see(wanted, samples, batch_size) == next(step for step, so_far in enumerate(seen)
                                                             if so_far >= wanted)


def test_milestones_are_in_the_unit_of_train_length() -> None:
    length = _length(1000, batch_size=300)
    assert [length.to_steps(*amount) for amount in ((2.5, "epoch"), (9.0, "step"), (1300.0, "sample"))] == [10, 9, 5]
    assert _length(1000, batch_size=100).to_steps(1.1, "epoch") == 11  # though 1.1 * 10 > 11
