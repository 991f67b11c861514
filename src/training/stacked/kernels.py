"""The gradients of all members at one step: of linear models by matrix products, of other models through torch.func."""
from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from src.checks.registered_names import LOSSES
from src.config import Config
from src.models.linear import Linear
from src.training.stacked.batches import StackedBatch
from src.training.stacked.layers import replace_layers
from src.training.stacked.layout import Layout, LinearLayout, SeparateLayout, stack_in_place
from src.training.steps.losses import make_loss


class Kernel(Protocol):
    """Computes gradients of stacked models.

    layout: how their tensors are stacked. params: the parameters of each member, in the order of the layout.
    stacked: the stacked parameters.
    """

    layout: Layout
    params: Sequence[Sequence[nn.Parameter]]
    stacked: Sequence[Tensor]

    def gradients(self, batch: StackedBatch) -> tuple[list[Tensor], Tensor]:
        """Return the gradient of each member's mean loss, parallel to `stacked`, as [members, elements], and the
        outputs [members, n, k] before the step.
        """

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean losses [b, members] of outputs [b, members, n, k] and targets [b, 1 or members, n, …]."""


class LinearKernel:
    """Linear models with the loss log or mse: one product for the outputs, and one for the gradients."""

    def __init__(self, models: Sequence[nn.Linear], loss: str) -> None:
        self.params = [list(model.parameters()) for model in models]
        self.layout = LinearLayout(models[0])
        self.stacked = self.layout.stack(self.params)
        self._weights = self.stacked[0]  # [members, outputs, features + 1]
        self._has_bias = models[0].bias is not None
        self._is_log = LOSSES[loss] == "log"
        self._one_hot = torch.eye(models[0].out_features, dtype=self._weights.dtype, device=self._weights.device)
        self._unused = self._weights.new_zeros(())

    @torch.no_grad()
    def gradients(self, batch: StackedBatch) -> tuple[list[Tensor], Tensor]:
        x = batch.x.flatten(2)
        if self._has_bias:
            x = F.pad(x, (0, 1), value=1.0)
        members, outputs, width = self._weights.shape
        samples = x.shape[1]
        if len(x) == 1:
            scores = (x[0] @ self._weights.view(-1, width).t()).view(samples, members, outputs).transpose(0, 1)
        else:
            scores = torch.bmm(x, self._weights.mT)
        errors = self._errors(scores, batch.y)
        scale = 1 / samples if self._is_log else 2 / samples
        if len(x) == 1:
            errors = errors.transpose(0, 1).reshape(samples, -1)
            gradient = torch.addmm(self._unused, errors.t(), x[0], beta=0, alpha=scale).view(members, -1)
        else:
            gradient = torch.baddbmm(self._unused, errors.mT, x, beta=0, alpha=scale).flatten(1)
        return [gradient], scores

    def _errors(self, scores: Tensor, y: Tensor) -> Tensor:
        """Return the derivative of each sample's loss by its outputs [members, n, k]; half of it for mse."""
        if not self._is_log:
            return scores - y[:, :, None]
        return torch.softmax(scores, 2).sub_(y if y.dim() == 3 else self._one_hot[y])

    @torch.no_grad()
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if not self._is_log:
            return (outputs.squeeze(-1) - targets).square_().mean(-1)
        logarithms = torch.log_softmax(outputs, -1)
        if targets.dim() == 4:
            return -(logarithms * targets).sum(-1).mean(-1)
        index = targets[..., None].expand(*outputs.shape[:-1], 1)
        return -logarithms.gather(-1, index).squeeze(-1).mean(-1)


class FunctionalKernel:
    """Any model that torch.func can call with stacked parameters and buffers.

    Buffers, such as the running statistics of batch norms, are views of stacked ones as well.
    """

    def __init__(self, models: Sequence[nn.Module], loss: str) -> None:
        self.params = [list(model.parameters()) for model in models]
        self.layout: Layout = SeparateLayout(self.params[0][0])
        self.stacked = self.layout.stack(self.params)
        names = [name for name, _ in models[0].named_parameters()]
        self._named = dict(zip(names, self.stacked, strict=True))
        self._buffers = {name: stack_in_place([model.get_buffer(name) for model in models])
                         for name, _ in models[0].named_buffers()}
        model = replace_layers(copy.deepcopy(models[0])).train()
        self._loss = make_loss(loss)

        def compute(params: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor, y: Tensor
                    ) -> tuple[Tensor, Tensor]:
            output = functional_call(model, (params, buffers), (x,))
            return self._loss(output, y), output

        self._compute: Callable[..., tuple[dict[str, Tensor], tuple[Tensor, Tensor]]] = grad_and_value(
            compute, has_aux=True)

    def gradients(self, batch: StackedBatch) -> tuple[list[Tensor], Tensor]:
        shared = [None if len(values) == 1 else 0 for values in batch]
        values = [values[0] if dim is None else values for values, dim in zip(batch, shared, strict=True)]
        call = vmap(self._compute, in_dims=(0, 0, *shared))
        gradients, (_, outputs) = call(self._named, self._buffers, *values)
        return [gradient.flatten(1) for gradient in gradients.values()], outputs

    @torch.no_grad()
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        targets = targets.expand(-1, outputs.shape[1], *targets.shape[2:])
        return vmap(vmap(self._loss))(outputs, targets)


def make_kernel(config: Config, models: Sequence[nn.Module]) -> Kernel:
    """Return the kernel of a stack, whose members' parameters and buffers become views of stacked ones."""
    linear = [model for model in models if type(model) in (nn.Linear, Linear)]
    if isinstance(models[0], nn.Linear) and len(linear) == len(models) and config.loss in LOSSES:
        return LinearKernel(linear, config.loss)  # type: ignore[arg-type]
    return FunctionalKernel(models, config.loss)
