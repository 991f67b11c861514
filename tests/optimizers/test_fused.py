from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from src.checks import registered_names
from src.config import Config
from src.optimizers.factory import make_optimizer, parameter_groups
from src.optimizers.fused import SGD, Adam


def _model() -> nn.Module:
    torch.manual_seed(0)
    # no bias under the norm: its gradient is rounding noise, which Adam would blow up
    return nn.Sequential(nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 2))


def _reference(config: Config, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of torch.optim that the config describes."""
    weights = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": weights, "weight_decay": config.weight_decay},
              {"params": others, "weight_decay": config.weight_decay_biases}]
    momentum = registered_names.parse_momentum(config.momentum, config.optim_alg)
    if config.optim_alg == "sgd":
        return torch.optim.SGD(groups, config.base_lr, momentum=momentum[0], nesterov=momentum[0] > 0, foreach=False)
    kind = torch.optim.AdamW if config.optim_alg.endswith("w") else torch.optim.Adam
    return kind(groups, config.base_lr, betas=momentum, eps=config.ada_eps, foreach=False,
                amsgrad=config.optim_alg.startswith("amsgrad"))


def _take_steps(model: nn.Module, optimizer: Any, steps: int = 6) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 / (1 + step)
        optimizer.zero_grad()
        (model(torch.randn(16, 4, generator=generator)) - 1).square().mean().backward()
        optimizer.step()
    return [parameter.detach() for parameter in model.parameters()]


@pytest.mark.parametrize(("alg", "decays"), list(itertools.product(
    registered_names.OPTIMIZERS, [(0.0, 0.0), (0.1, 0.1), (0.1, 0.0)])))
def test_every_algorithm_takes_the_steps_of_torch_optim(alg: str, decays: tuple[float, float]) -> None:
    for momentum in (0.0, 0.9) if alg == "sgd" else (0.9, "0.8,0.95"):
        config = Config(optim_alg=alg, momentum=momentum, base_lr=0.05, weight_decay=decays[0],
                        weight_decay_biases=decays[1])
        model = _model()
        twin = copy.deepcopy(model)
        expected = _take_steps(twin, _reference(config, twin))
        torch.testing.assert_close(_take_steps(model, make_optimizer(config, model)), expected)


def test_biases_and_norms_have_their_own_weight_decay() -> None:
    groups = parameter_groups(_model(), 0.1, 0.0)
    assert [(len(group["params"]), group["weight_decay"]) for group in groups] == [(2, 0.1), (3, 0.0)]
    assert len(parameter_groups(_model(), 0.1, 0.1)) == 1


def test_parameters_without_a_gradient_stay() -> None:
    used, unused, frozen = (nn.Parameter(torch.ones(3)) for _ in range(3))
    optimizer = Adam([{"params": [unused, used, frozen]}], 0.1)
    used.sum().backward()
    optimizer.step()
    assert unused.tolist() == frozen.tolist() == [1, 1, 1]
    torch.testing.assert_close(used.detach(), torch.full((3,), 0.9))
    optimizer.zero_grad()
    optimizer.step()  # nothing has a gradient
    torch.testing.assert_close(used.detach(), torch.full((3,), 0.9))


def test_frozen_parameters_are_left_out() -> None:
    model = _model().requires_grad_(False)
    model[3].requires_grad_(True)
    assert sum(len(group["params"]) for group in parameter_groups(model, 0.1, 0.0)) == 2


@pytest.mark.parametrize("make", [lambda groups: SGD(groups, 0.1, momentum=0.9), lambda groups: SGD(groups, 0.1),
                                  lambda groups: Adam(groups, 0.1, amsgrad=True)])
def test_restored_optimizer_takes_the_same_steps(make: Any) -> None:
    model = _model()
    optimizer = make([{"params": list(model.parameters())}])
    _take_steps(model, optimizer)
    twin = copy.deepcopy(model)
    restored = make([{"params": list(twin.parameters())}])
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    torch.testing.assert_close(_take_steps(twin, restored), _take_steps(model, optimizer), rtol=0, atol=0)
