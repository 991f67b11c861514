from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from src.training.steps.clipping import GradientClipping
from tests.training.toys import make_toy, toy_classes, train_toy


def with_gradients(seed: int) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    params = [nn.Parameter(torch.zeros(3, 2)), nn.Parameter(torch.zeros(5))]
    for parameter in params:
        parameter.grad = 3 * torch.randn(parameter.shape, generator=generator)
    return params


@pytest.mark.parametrize(("norm", "value"), [(1.0, None), (None, 0.5), (1.0, 0.5), (math.inf, None), (100.0, None)])
def test_clipping_equals_a_manual_computation(norm: float | None, value: float | None) -> None:
    clipping, norms = GradientClipping(norm, value), []
    for seed in range(3):
        params = with_gradients(seed)
        expected = torch.cat([parameter.grad.flatten() for parameter in params]).clone()
        clipping(params)
        if value is not None:
            expected = expected.clamp(-value, value)
        norms.append(float(expected.norm()))
        if norm is not None:
            expected *= min(1.0, norm / norms[-1])
        torch.testing.assert_close(torch.cat([parameter.grad.flatten() for parameter in params]), expected, rtol=1e-5,
                                   atol=1e-6)
    assert clipping.mean_norm() == ({} if norm is None else {"grad_norm": pytest.approx(sum(norms) / 3)})
    other = GradientClipping(norm, value)
    other.restore(clipping.state(), torch.device("cpu"))
    assert other.mean_norm() == clipping.mean_norm()
    clipping.reset()
    assert norm is None or math.isnan(clipping.mean_norm()["grad_norm"])


def test_clipping_in_a_training() -> None:
    """The first step moves the weights by at most the rate times the norm; the column is there only if it is asked for.
    """
    options = {"train_length": 1, "train_length_unit": "step", "momentum": 0.0, "base_lr": 1.0}
    made = make_toy({"train": toy_classes(), "test": toy_classes(40, seed=1)}, clip_grad_norm=0.01, **options)
    before = torch.cat([parameter.detach().flatten().clone() for parameter in made.model.parameters()])
    rows, _ = train_toy(made)
    after = torch.cat([parameter.detach().flatten() for parameter in made.model.parameters()])
    assert float((after - before).norm()) == pytest.approx(0.01, rel=1e-3)
    assert rows[0]["train/grad_norm"] > 0.01
    rows, _ = train_toy(make_toy({"train": toy_classes()}, eval_at_end=["train"], clip_grad_value=0.01, **options))
    assert "train/grad_norm" not in rows[0]
