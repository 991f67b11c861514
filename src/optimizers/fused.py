"""SGD and Adam variants on PyTorch's fused kernels, without the import and step overhead of torch.optim.

A torch.optim.Optimizer imports torch._dynamo when it is created, which takes as long as importing torch itself. For a
small model, the bookkeeping of each step takes longer than the forward pass. The classes here call the functional
forms that torch.optim uses. They offer param_groups, step, zero_grad, state_dict and load_state_dict, the only members
that the training loop uses, so any optimizer of torch.optim can replace them.
"""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, compress
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.sgd import sgd

Group = dict[str, Any]  # "params": list of tensors, "lr", "weight_decay"


class FusedOptimizer:
    """Base class of SGD and Adam. `groups` need "params" and may override `lr` and `weight_decay`."""

    def __init__(self, groups: Iterable[Group], lr: float, weight_decay: float = 0.0) -> None:
        self.param_groups: list[Group] = [
            {"lr": lr, "weight_decay": weight_decay, **group, "params": list(group["params"])} for group in groups]
        # for each group, lists parallel to its parameters: the optimizer state, allocated at the start
        self._states = [self._new_state(group["params"]) for group in self.param_groups]

    def step(self) -> None:
        """Update every parameter that has a gradient."""
        with torch.no_grad():
            for group, state in zip(self.param_groups, self._states, strict=True):
                params: list[Tensor] = group["params"]
                columns: list[list[Any]] = [params, [parameter.grad for parameter in params], *state]
                if any(gradient is None for gradient in columns[1]):  # the loss does not depend on all parameters
                    used = [gradient is not None for gradient in columns[1]]
                    columns = [list(compress(column, used)) for column in columns]
                if columns[0]:
                    self._update(group, *columns)

    def zero_grad(self) -> None:
        """Set all gradients to None."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        """Return the state and the groups' settings, without the parameters."""
        settings = [{key: value for key, value in group.items() if key != "params"} for group in self.param_groups]
        return {"state": self._states, "param_groups": settings}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Load the result of state_dict, onto this optimizer's devices. The parameters must be the same."""
        for group, settings in zip(self.param_groups, saved["param_groups"], strict=True):
            group.update(settings)
        for state, saved_state in zip(self._states, saved["state"], strict=True):
            for tensor, saved_tensor in zip(chain(*state), chain(*saved_state), strict=True):
                tensor.copy_(saved_tensor)

    def state_columns(self, params: Sequence[Tensor]) -> list[list[Tensor]]:
        """Return the state as lists in the order of `params`: one list for each kind of state."""
        places = {id(param): (group, place) for group, settings in enumerate(self.param_groups)
                  for place, param in enumerate(settings["params"])}
        own_places = [places[id(param)] for param in params]
        rows = [[kind[place] for kind in self._states[group]] for group, place in own_places]
        return [list(column) for column in zip(*rows, strict=True)]

    def decay_of(self, param: Tensor) -> float:
        """Return the weight decay of a parameter."""
        return next(float(group["weight_decay"]) for group in self.param_groups
                    if any(param is other for other in group["params"]))

    def _new_state(self, params: list[Tensor]) -> list[list[Tensor]]:
        raise NotImplementedError

    def _update(self, group: Group, params: list[Tensor], gradients: list[Tensor], *state: list[Tensor]) -> None:
        raise NotImplementedError


class SGD(FusedOptimizer):
    """Stochastic gradient descent with L2 weight decay, as torch.optim.SGD; with Nesterov momentum if momentum > 0."""

    def __init__(self, groups: Iterable[Group], lr: float, *, momentum: float = 0.0, weight_decay: float = 0.0) -> None:
        self._momentum = momentum
        super().__init__(groups, lr, weight_decay)

    def _new_state(self, params: list[Tensor]) -> list[list[Tensor]]:
        return [[torch.zeros_like(parameter) for parameter in params]] if self._momentum else []

    def _update(self, group: Group, params: list[Tensor], gradients: list[Tensor], *state: list[Tensor]) -> None:
        velocities: list[Any] = state[0] if state else [None] * len(params)
        sgd(params, gradients, velocities, fused=True, foreach=False, lr=group["lr"],
            weight_decay=group["weight_decay"], momentum=self._momentum, nesterov=self._momentum > 0, dampening=0.0,
            maximize=False)


class Adam(FusedOptimizer):
    """Adam (Kingma and Ba, 2015). decoupled: the weight decay of AdamW; amsgrad: the variant of Reddi et al., 2018."""

    def __init__(self, groups: Iterable[Group], lr: float, *, betas: tuple[float, float] = (0.9, 0.999),
                 eps: float = 1e-8, weight_decay: float = 0.0, amsgrad: bool = False, decoupled: bool = False) -> None:
        self._betas, self._eps, self._amsgrad, self._decoupled = betas, eps, amsgrad, decoupled
        super().__init__(groups, lr, weight_decay)

    def _new_state(self, params: list[Tensor]) -> list[list[Tensor]]:
        steps = [torch.zeros((), device=parameter.device) for parameter in params]
        moments = [[torch.zeros_like(parameter) for parameter in params] for _ in range(3 if self._amsgrad else 2)]
        return [steps, *moments]

    def _update(self, group: Group, params: list[Tensor], gradients: list[Tensor], *state: list[Tensor]) -> None:
        steps, means, squares, *largest = state
        adam(params, gradients, means, squares, largest[0] if largest else [], steps, fused=True, foreach=False,
             lr=group["lr"], weight_decay=group["weight_decay"], beta1=self._betas[0], beta2=self._betas[1],
             eps=self._eps, amsgrad=self._amsgrad, decoupled_weight_decay=self._decoupled, maximize=False)
