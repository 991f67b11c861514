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
    output_dim: the dimension of a sample's outputs in those that `gradients` returns: -1, or -2.
    """

    layout: Layout
    params: Sequence[Sequence[nn.Parameter]]
    stacked: Sequence[Tensor]
    output_dim: int

    def encode_samples(self, x: Tensor) -> Tensor:
        """Return samples [n, …] in the form that `gradients` takes, [n, …] too."""

    def encode_targets(self, y: Tensor) -> Tensor:
        """Return the targets of some steps, [steps, 1 or members, n, …], in the form that `gradients` takes."""

    def encode_outputs(self, outputs: Tensor) -> Tensor:
        """Return a model's outputs [members, n, k] in the form that `gradients` returns."""

    def gradients(self, batch: StackedBatch) -> tuple[list[Tensor], Tensor]:
        """Return the gradient of each member's mean loss, parallel to `stacked`, as [members, elements], and the
        outputs before the step, [members, n, k] or [members, k, n].
        """

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean losses [b, members] of the outputs of b steps, given targets [b, 1 or members, n, …]."""


class LinearKernel:
    """Linear models with the loss log or mse: one product for the outputs, and one for the gradients.

    The outputs are [members, k, n], so that sums over k are fast: logarithms of probabilities for the loss log.
    """

    output_dim = -2

    def __init__(self, models: Sequence[nn.Linear], loss: str) -> None:
        self.params = [list(model.parameters()) for model in models]
        self.layout = LinearLayout(models[0])
        self.stacked = self.layout.stack(self.params)
        self._weights = self.stacked[0]  # [members, outputs, features + 1]
        self._has_bias = models[0].bias is not None
        self._is_log = LOSSES[loss] == "log"
        self._ignored = self._weights.new_zeros(())  # the summand that addmm requires, times beta=0

    def encode_samples(self, x: Tensor) -> Tensor:
        return F.pad(x.flatten(1), (0, int(self._has_bias)), value=1.0)

    def encode_targets(self, y: Tensor) -> Tensor:
        """Return targets as [steps, 1 or members, k, n]: probabilities of the classes, or numbers."""
        if y.dim() == 4:
            return y.mT.contiguous()
        if not self._is_log:
            return y[:, :, None, :]
        classes = torch.arange(self._weights.shape[1], device=y.device)[:, None]
        return (y[:, :, None, :] == classes).to(self._weights.dtype)

    def encode_outputs(self, outputs: Tensor) -> Tensor:
        return torch.log_softmax(outputs.mT, -2) if self._is_log else outputs.mT

    @torch.no_grad()
    def gradients(self, batch: StackedBatch) -> tuple[list[Tensor], Tensor]:
        members, outputs, width = self._weights.shape
        x, is_shared, samples = batch.x, len(batch.x) == 1, batch.x.shape[1]
        if is_shared:
            scores = (self._weights.view(-1, width) @ x[0].t()).view(members, outputs, samples)
        else:
            scores = torch.bmm(self._weights, x.mT)
        if self._is_log:
            scores = torch.log_softmax(scores, 1)
            errors, scale = scores.exp().sub_(batch.encoded), 1 / samples
        else:
            errors, scale = scores - batch.encoded, 2 / samples
        if is_shared:
            gradient = torch.addmm(self._ignored, errors.view(-1, samples), x[0], beta=0, alpha=scale)
        else:
            gradient = torch.baddbmm(self._ignored, errors, x, beta=0, alpha=scale)
        return [gradient.view(members, -1)], scores

    @torch.no_grad()
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if not self._is_log:
            return (outputs.squeeze(-2) - targets).square_().mean(-1)
        if targets.dim() == 4:
            return -(outputs * targets.mT).sum(-2).mean(-1)
        index = targets[:, :, None, :].expand(-1, outputs.shape[1], -1, -1)
        return -outputs.gather(-2, index).squeeze(-2).mean(-1)


class FunctionalKernel:
    """Any model that torch.func can call with stacked parameters and buffers.

    Buffers, such as the running statistics of batch norms, are views of stacked ones as well.
    """

    output_dim = -1

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

    def encode_samples(self, x: Tensor) -> Tensor:
        return x

    def encode_targets(self, y: Tensor) -> Tensor:
        return y

    def encode_outputs(self, outputs: Tensor) -> Tensor:
        return outputs

    def gradients(self, batch: StackedBatch) -> tuple[list[Tensor], Tensor]:
        inputs = batch.x, batch.encoded
        shared = [None if len(values) == 1 else 0 for values in inputs]
        values = [values[0] if dim is None else values for values, dim in zip(inputs, shared, strict=True)]
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
