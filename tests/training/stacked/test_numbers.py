"""A stacked run equals its single run, for each model family and each parameter that may differ within a stack."""
from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from src.models.linear import Linear
from tests.training.stacked.stacks import classes_in_float64, largest_difference, toy_maker

TOLERANCE = 1e-9  # relative, over 200 steps in float64
STEPS = {"train_length": 200, "train_length_unit": "step", "steps_per_epoch": 70}

DIFFERENCES: dict[str, list[dict[str, Any]]] = {
    "base_lr": [{"base_lr": value} for value in (0.01, 0.03, 0.1)],
    "momentum": [{"momentum": value} for value in (0.0, 0.5, 0.9)],
    "weight_decay": [{"weight_decay": 0.01}, {"weight_decay_biases": 0.1}, {}],
    "lr_schedule": [{"lr_schedule": "cosine"}, {"lr_schedule": "poly_2"}, {"lr_schedule": "wsd_0.5"}],
    "warmup_steps": [{"warmup_steps": 10}, {"cooldown_steps": 20}, {}],
    "averaging": [{"averaging": "poly_8"}, {"averaging": "ema_0.9"}, {}],
    "label_smoothing": [{"label_smoothing": 0.1}, {"label_smoothing": 0.3}, {}],
    "clip_grad_norm": [{"clip_grad_norm": 0.1}, {"clip_grad_norm": 1.0}, {}],
    "seed_model": [{"seed_model": seed} for seed in range(3)],
    "seed_training": [{"seed_training": seed} for seed in range(3)],
    "seed_training, label_smoothing": [{"seed_training": seed, "label_smoothing": 0.1 * seed} for seed in range(3)],
}
ADAM = {
    "betas": [{"momentum": "0.8,0.99"}, {"momentum": "0.9,0.999"}, {"momentum": 0.5}],
    "ada_eps": [{"ada_eps": 1e-8}, {"ada_eps": 1e-3}],
    "weight_decay": [{"weight_decay": 0.01}, {"weight_decay_biases": 0.1}, {}],
}


@pytest.fixture(autouse=True)
def _float64() -> Any:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", DIFFERENCES)
def test_linear_runs_equal_their_single_runs(name: str, bias: bool) -> None:
    make = toy_maker(classes_in_float64(), lambda: Linear((5,), 3, bias), **STEPS)
    assert largest_difference(make, DIFFERENCES[name]) < TOLERANCE


@pytest.mark.parametrize("optim_alg", ["adam", "adamw", "amsgrad", "amsgradw"])
@pytest.mark.parametrize("name", ADAM)
def test_adam_equals_its_single_runs(name: str, optim_alg: str) -> None:
    make = toy_maker(classes_in_float64(), lambda: Linear((5,), 3), optim_alg=optim_alg, base_lr=0.01, **STEPS)
    assert largest_difference(make, ADAM[name]) < TOLERANCE


@pytest.mark.parametrize("name", DIFFERENCES)
def test_models_of_several_layers_equal_their_single_runs(name: str) -> None:
    make = toy_maker(classes_in_float64(), lambda: nn.Sequential(
        nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)), **STEPS)
    assert largest_difference(make, DIFFERENCES[name]) < TOLERANCE
