"""make_optimizer: the algorithm, its momentum, and the weight decay and learning rate of each parameter group."""
from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from src.checks import registered_names
from src.config import Config
from src.errors import ConfigError
from src.optimizers.fused import SGD, Adam, FusedOptimizer, Group
from src.optimizers.layers import layer_scales


def make_optimizer(config: Config, model: nn.Module, head: nn.Module | None = None
                   ) -> FusedOptimizer | torch.optim.Optimizer:
    """Return the optimizer of `model`'s trainable parameters. head: its last layer, for layer_decay.

    ConfigError if momentum or optim_kwargs do not fit the algorithm.
    """
    scales = layer_scales(model, config.layer_decay, head) if config.layer_decay else None
    groups = parameter_groups(model, config.weight_decay, config.weight_decay_biases, config.base_lr, scales)
    momentum = registered_names.parse_momentum(config.momentum, config.optim_alg)
    if config.optim_alg.startswith("timm/"):
        return _of_timm(config, groups, momentum)
    if config.optim_alg == "sgd":
        return SGD(groups, config.base_lr, momentum=momentum[0])
    return Adam(groups, config.base_lr, betas=(momentum[0], momentum[1]), eps=config.ada_eps,
                amsgrad=config.optim_alg.startswith("amsgrad"), decoupled=config.optim_alg.endswith("w"))


def parameter_groups(model: nn.Module, weight_decay: float, weight_decay_biases: float, base_lr: float = 0.0,
                     scales: dict[nn.Parameter, float] | None = None) -> list[Group]:
    """Return a group of weights, and one of biases and parameters of norms (those with at most one dimension).

    scales: the factor on each parameter's learning rate. Each scale has groups of its own with `lr` scale * base_lr.
    """
    params = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if weight_decay == weight_decay_biases and not scales:  # one group takes one kernel
        return [{"params": params, "weight_decay": weight_decay}]
    groups: dict[tuple[float, float], Group] = {}
    for parameter in sorted(params, key=lambda parameter: parameter.ndim <= 1):  # stable: weights first
        decay = weight_decay if parameter.ndim > 1 else weight_decay_biases
        scale = scales[parameter] if scales else 1.0
        rate = {"lr": base_lr * scale} if scales else {}
        groups.setdefault((scale, decay), {"params": [], "weight_decay": decay, **rate})["params"].append(parameter)
    return list(groups.values())


def _of_timm(config: Config, groups: list[Group], momentum: tuple[float, ...]) -> torch.optim.Optimizer:
    """Return an optimizer of timm.optim. ConfigError if it cannot be created."""
    from timm.optim import create_optimizer_v2

    name = config.optim_alg.removeprefix("timm/")
    try:
        options = _options(config, name.removeprefix("lookahead_"), momentum, groups[0]["params"][0].is_cuda)
        return create_optimizer_v2(groups, name, lr=config.base_lr, momentum=momentum[0], **options)
    except (ImportError, AssertionError, NameError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else "it needs a package that is not installed"
        raise ConfigError(f"timm's {name} cannot be created: {reason}", where="optim_alg") from None


def _options(config: Config, name: str, momentum: tuple[float, ...], cuda: bool) -> dict[str, Any]:
    """Return the options of timm's optimizer: optim_kwargs, and momentum and ada_eps if they are not the defaults.

    On a GPU the fused form is requested if there is one.
    """
    from timm.optim import get_optimizer_class, get_optimizer_info

    info = get_optimizer_info(name)
    parameters = inspect.signature(get_optimizer_class(name, bind_defaults=False)).parameters
    options: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value
                               for key, value in (config.optim_kwargs or {}).items()}
    if unknown := [key for key in options if key not in parameters]:
        raise ConfigError(f"{config.optim_alg} has no option '{unknown[0]}'", where="optim_kwargs",
                          allowed=[key for key in parameters if key not in ("params", "lr", "weight_decay", "kwargs")])
    if info.has_betas and momentum != (0.9,) and "betas" not in options:
        default = parameters["betas"].default
        if len(momentum) > len(default):
            raise ConfigError(f"{config.optim_alg} has {len(default)} betas", where="momentum")
        options["betas"] = (*momentum, *default[len(momentum):])
    if info.has_eps and config.ada_eps != 1e-8:
        options.setdefault("eps", config.ada_eps)
    if "fused" in parameters and cuda:
        options.setdefault("fused", True)
    return options
