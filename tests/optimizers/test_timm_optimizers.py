"""The optimizers of timm.optim, each by its name."""
from __future__ import annotations

import pytest
import torch
from torch import nn

from src.checks.registered_names import TIMM_OPTIMIZERS
from src.config import Config
from src.errors import ConfigError
from src.optimizers.factory import make_optimizer

optim = pytest.importorskip("timm.optim")


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))


def make(net: nn.Module, name: str, **options: object) -> torch.optim.Optimizer:
    made = make_optimizer(Config.from_dict({"optim_alg": f"timm/{name}", "base_lr": 0.01, **options}), net)
    assert isinstance(made, torch.optim.Optimizer)
    return made


def test_the_names_are_those_of_timm() -> None:
    assert frozenset(optim.list_optimizers()) == TIMM_OPTIMIZERS


@pytest.mark.parametrize("name", [*sorted(TIMM_OPTIMIZERS), "lookahead_lion"])
def test_each_moves_every_parameter(name: str) -> None:
    net = model()
    before = [parameter.clone() for parameter in net.parameters()]
    if name.startswith(("bnb", "fused")):  # they need packages, or a GPU
        with pytest.raises(ConfigError, match=f"timm's {name} cannot be created"):
            make(net, name)
        return
    optimizer = make(net, name, weight_decay=0.01)
    for _ in range(3):
        loss = net(torch.ones(2, 1, 4, 4) + torch.randn(2, 1, 4, 4)).square().mean()
        loss.backward(create_graph=bool(getattr(optimizer, "is_second_order", False)))
        optimizer.step()
        optimizer.zero_grad()
    assert all(parameter.isfinite().all() for parameter in net.parameters())
    assert all(not torch.equal(parameter, old) for parameter, old in zip(net.parameters(), before, strict=True))


def test_timm_optimizer_gets_momentum_and_options() -> None:
    lion = make(model(), "lion", weight_decay=0.1, momentum="0.95,0.98", optim_kwargs={"caution": True})
    assert [group["weight_decay"] for group in lion.param_groups] == [0.1, 0.0]  # biases do not decay
    assert all(group["betas"] == (0.95, 0.98) and group["caution"] for group in lion.param_groups)
    assert make(model(), "lion").param_groups[0]["betas"] == (0.9, 0.99)  # its own default
    assert make(model(), "adamw", momentum=0.8, ada_eps=1e-6).param_groups[0]["betas"] == (0.8, 0.999)
    assert make(model(), "adamw", ada_eps=1e-6).param_groups[0]["eps"] == 1e-6
    assert make(model(), "sgd", momentum=0.5).param_groups[0]["momentum"] == 0.5


@pytest.mark.parametrize(("options", "message"), [
    ({"optim_alg": "timm/lino"}, "unknown optimizer 'timm/lino'.*timm/lion"),
    ({"optim_alg": "timm/lion", "optim_kwargs": {"cautoin": True}}, "no option 'cautoin'.*caution"),
    ({"optim_alg": "timm/lion", "momentum": "0.9,0.9,0.9"}, "has 2 betas"),
    ({"optim_alg": "timm/lion", "momentum": 2}, "does not fit"),
    ({"optim_alg": "sgd", "optim_kwargs": {"caution": True}}, "sgd accepts no optim_kwargs"),
    ({"optim_alg": "timm/lion", "optim_kwargs": {"caution": {"a": 1}}}, "wrong type")])
def test_invalid_options_are_rejected(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_optimizer(Config.from_dict(options), model())
