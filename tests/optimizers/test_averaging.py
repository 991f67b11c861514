from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim import swa_utils

from src.checks.registered_names import Averaging, parse_averaging
from src.optimizers.averaging import AveragedModel, newest_weight

VALUES = st.lists(st.floats(-10, 10), min_size=1, max_size=30)


def _average(text: str, values: list[float]) -> float:
    """The average of one parameter that takes `values` after steps 1, 2, …"""
    averaging = parse_averaging(text)
    assert averaging is not None
    model = nn.Linear(1, 1, bias=False).double()
    average = AveragedModel(model, averaging)
    for step, value in enumerate(values, start=1):
        model.weight.data.fill_(value)
        average.update(step)
    return average.module().weight.item()


@given(VALUES)
def test_poly_0_is_the_uniform_mean(values: list[float]) -> None:
    assert _average("poly_0", values) == pytest.approx(sum(values) / len(values), abs=1e-9)


@given(VALUES, st.sampled_from([1, 3, 8]))
def test_poly_weighs_step_t_by_a_polynomial_of_degree_eta(values: list[float], eta: int) -> None:
    # the weights unroll to (t + eta - 1)! / (t - 1)!, which is t (t + 1) … (t + eta - 1)
    weights = [1.0] * len(values)
    for t in range(1, len(values) + 1):
        for k in range(eta):
            weights[t - 1] *= t + k
    expected = sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
    assert _average(f"poly_{eta}", values) == pytest.approx(expected, abs=1e-9)


@given(VALUES, st.sampled_from([0.0, 0.5, 0.999]))
def test_ema_keeps_d_of_the_average(values: list[float], decay: float) -> None:
    n = len(values)
    expected = decay ** (n - 1) * values[0] + sum(
        (1 - decay) * decay ** (n - t) * values[t - 1] for t in range(2, n + 1))
    assert _average(f"ema_{decay}", values) == pytest.approx(expected, abs=1e-9)


def test_names_alone_mean_poly_8_and_ema_0999() -> None:
    assert parse_averaging("poly") == Averaging("poly", 8)
    assert parse_averaging("ema") == Averaging("ema", 0.999)
    assert newest_weight(Averaging("poly", 8), 4) == pytest.approx(9 / 12)
    assert newest_weight(Averaging("ema", 0.999), 4) == pytest.approx(0.001)


@pytest.mark.parametrize(("text", "multi_avg_fn"), [
    ("poly_0", swa_utils.get_swa_multi_avg_fn()), ("ema_0.9", swa_utils.get_ema_multi_avg_fn(0.9))])
def test_agrees_with_torch_and_copies_buffers(text: str, multi_avg_fn: object) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    averaging = parse_averaging(text)
    assert averaging is not None
    ours, reference = AveragedModel(model, averaging), swa_utils.AveragedModel(model, multi_avg_fn=multi_avg_fn)
    for step in range(1, 6):
        model(torch.randn(8, 3))  # moves the running means
        for parameter in model.parameters():
            parameter.data.add_(torch.randn_like(parameter))
        ours.update(step)
        reference.update_parameters(model)
    torch.testing.assert_close(ours.module().state_dict(), reference.module.state_dict())
    assert ours.module()[1].num_batches_tracked == 5


def test_an_average_is_no_part_of_the_graph() -> None:
    model = nn.Linear(2, 1)
    before = copy.deepcopy(model.state_dict())
    average = AveragedModel(model, Averaging("poly", 8))
    average.update(1)
    assert not any(parameter.requires_grad for parameter in average.module().parameters())
    torch.testing.assert_close(model.state_dict(), before)
