"""A config's optimizer: the algorithm, its momentum, and which parameters decay how much."""
from __future__ import annotations

from torch import nn

from src import choices
from src.config import Config
from src.optimizers.fused import SGD, Adam, FusedOptimizer, Group


def make_optimizer(config: Config, model: nn.Module) -> FusedOptimizer:
    """The optimizer of `model`'s trainable parameters. ConfigError if momentum does not fit it."""
    groups = parameter_groups(model, config.weight_decay, config.weight_decay_biases)
    momentum = choices.parse_momentum(config.momentum, config.optim_alg)
    if config.optim_alg == "sgd":
        return SGD(groups, config.base_lr, momentum=momentum[0])
    return Adam(groups, config.base_lr, betas=(momentum[0], momentum[1]), eps=config.ada_eps,
                amsgrad=config.optim_alg.startswith("amsgrad"), decoupled=config.optim_alg.endswith("w"))


def parameter_groups(model: nn.Module, weight_decay: float, weight_decay_biases: float) -> list[Group]:
    """Weights, and apart from them biases and the parameters of norms (all that have at most one dimension)."""
    params = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if weight_decay == weight_decay_biases:  # one group is one kernel
        return [{"params": params, "weight_decay": weight_decay}]
    groups: list[Group] = [
        {"params": [parameter for parameter in params if parameter.ndim > 1], "weight_decay": weight_decay},
        {"params": [parameter for parameter in params if parameter.ndim <= 1], "weight_decay": weight_decay_biases}]
    return [group for group in groups if group["params"]]
