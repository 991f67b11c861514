from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from src.training.steps import meters
from src.training.steps.losses import make_loss, squared_error
from src.training.steps.meters import Meter

CPU = torch.device("cpu")


@given(st.lists(st.integers(1, 9), min_size=1, max_size=40), st.integers(1, 5), st.integers(1, 60))
def test_classification_means_do_not_depend_on_batches(sizes: list[int], batches: int, numbers: int) -> None:
    kept = meters._KEPT_BATCHES, meters._KEPT_NUMBERS
    meters._KEPT_BATCHES, meters._KEPT_NUMBERS = batches, numbers
    try:
        generator = torch.Generator().manual_seed(len(sizes))
        meter, outputs, targets = Meter("classification", CPU), [], []
        for size in sizes:
            output = torch.randn(size, 3, generator=generator, requires_grad=True)
            target = torch.randint(3, (size,), generator=generator)
            meter.add(F.cross_entropy(output, target), output, target)
            outputs.append(output.detach())
            targets.append(target)
        output, target = torch.cat(outputs), torch.cat(targets)
        means = meter.means()
        assert means["loss"] == pytest.approx(F.cross_entropy(output.double(), target).item(), rel=1e-5)
        assert means["accuracy"] == pytest.approx((output.argmax(1) == target).double().mean().item())
        assert meter.samples == sum(sizes)
        assert meter.means() == means  # reading changes nothing
    finally:
        meters._KEPT_BATCHES, meters._KEPT_NUMBERS = kept


def test_equal_scores_are_not_all_correct() -> None:
    meter = Meter("classification", CPU)
    target = torch.tensor([0, 1, 2, 1])
    meter.add(torch.tensor(1.0), torch.zeros(4, 3), target)  # a model that starts from zero says class 0
    assert meter.means()["accuracy"] == 0.25


def test_regression_metrics() -> None:
    meter = Meter("regression", CPU)
    output, target = torch.tensor([[1.0], [2.0], [6.0]]), torch.tensor([2.0, 2.0, 5.0])
    for rows in (slice(0, 2), slice(2, 3)):
        meter.add(squared_error(output[rows], target[rows]), output[rows], target[rows])
    # errors 1, 0, 1; the targets' mean is 3, their squared deviations are 1, 1, 4
    assert meter.means() == pytest.approx({"loss": 2 / 3, "mae": 2 / 3, "r2": 1 - 2 / 6})


@pytest.mark.parametrize("target", [2.0, 0.1, 1e6 / 3])
def test_r2_of_constant_targets_is_unknown(target: float) -> None:
    meter = Meter("regression", CPU)
    for size in (3, 7):
        meter.add(torch.tensor(1.0), torch.ones(size, 1), torch.full((size,), target))
    assert math.isnan(meter.means()["r2"])


def test_r2_of_targets_far_from_zero() -> None:
    target = 1e6 + torch.arange(8.0)
    meter = Meter("regression", CPU)
    meter.add(torch.tensor(1.0), target[:, None] + 1, target)
    assert meter.means()["r2"] == pytest.approx(1 - 1 / 5.25)  # (8² - 1) / 12


def test_nan_is_not_hidden() -> None:
    meter = Meter("classification", CPU)
    meter.add(torch.tensor(math.nan), torch.zeros(2, 3), torch.zeros(2, dtype=torch.long))
    meter.add(torch.tensor(1.0), torch.zeros(2, 3), torch.zeros(2, dtype=torch.long))
    assert math.isnan(meter.means()["loss"])


def test_means_without_samples_are_nan() -> None:
    assert math.isnan(Meter("regression", CPU).means()["loss"])


def test_squared_error_has_no_half_and_no_broadcast() -> None:
    assert make_loss("square") is make_loss("mse")
    assert make_loss("xentropy") is make_loss("log")
    assert squared_error(torch.tensor([[3.0], [1.0]]), torch.tensor([1.0, 1.0])).item() == 2.0
