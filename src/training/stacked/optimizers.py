"""SGD and Adam on stacked parameters: one update for all members, each with its own numbers."""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from src.checks.registered_names import parse_momentum
from src.config import Config
from src.optimizers.fused import FusedOptimizer
from src.training.stacked.layout import Layout


class StackedOptimizer:
    """Base class. The members' optimizers keep their state, as views of the stacked state.

    params: stacked parameters as [members, elements].
    """

    def __init__(self, configs: Sequence[Config], optimizers: Sequence[FusedOptimizer],
                 params: Sequence[Sequence[nn.Parameter]], layout: Layout, stacked: Sequence[Tensor]) -> None:
        self.params = [tensor.flatten(1) for tensor in stacked]
        like = self.params[0]
        self._momenta = [like.new_tensor(numbers)[:, None] for numbers in zip(
            *(parse_momentum(config.momentum, config.optim_alg) for config in configs), strict=True)]
        decays = [[optimizer.decay_of(param) for param in own] for optimizer, own in zip(
            optimizers, params, strict=True)]
        self._decays = layout.spread(decays) if any(any(row) for row in decays) else None
        columns = [optimizer.state_columns(own) for optimizer, own in zip(optimizers, params, strict=True)]
        self._state = self._stack_state(columns, params, layout)

    def tables(self, rates: Tensor, steps: range) -> list[Tensor]:
        """Return the numbers of a range of steps that `update` needs, each [steps, members].

        rates: learning rates [steps, members].
        """
        raise NotImplementedError

    def update(self, gradients: Sequence[Tensor], numbers: Sequence[Tensor]) -> None:
        """Update the parameters by gradients [members, elements], which are overwritten. numbers: those of the step."""
        raise NotImplementedError

    def write_back(self) -> None:
        """Bring what is not a view of the stack up to date in the members' optimizers."""

    def _stack_state(self, columns: Sequence[Sequence[Sequence[Tensor]]], params: Sequence[Sequence[nn.Parameter]],
                     layout: Layout) -> list[list[Tensor]]:
        """Return the stacked state, a list of tensors [members, elements] for each kind of state.

        columns: of each member, for each kind of state, tensors parallel to its parameters. A member without that
        state, such as SGD without momentum, gets zeros that nothing else uses.
        """
        kinds = max(map(len, columns))
        filled = [list(own) + [[torch.zeros_like(param) for param in its_params]] * (kinds - len(own))
                  for own, its_params in zip(columns, params, strict=True)]
        return [[tensor.flatten(1) for tensor in layout.stack([own[kind] for own in filled])] for kind in range(kinds)]


class StackedSGD(StackedOptimizer):
    """SGD with Nesterov momentum and L2 weight decay, as src/optimizers/fused.py."""

    def tables(self, rates: Tensor, steps: range) -> list[Tensor]:
        return [-rates]

    def update(self, gradients: Sequence[Tensor], numbers: Sequence[Tensor]) -> None:
        (negative_rates,), (momenta,) = numbers, self._momenta
        velocities = self._state[0] if self._state else [None] * len(gradients)
        for index, (param, gradient, velocity) in enumerate(zip(self.params, gradients, velocities, strict=True)):
            if self._decays:
                gradient.addcmul_(param, self._decays[index])
            if velocity is not None:
                torch.addcmul(gradient, velocity, momenta, out=velocity)
                gradient.addcmul_(velocity, momenta)
            param.addcmul_(gradient, negative_rates)


class StackedAdam(StackedOptimizer):
    """Adam and its variants, as src/optimizers/fused.py."""

    def __init__(self, configs: Sequence[Config], optimizers: Sequence[FusedOptimizer],
                 params: Sequence[Sequence[nn.Parameter]], layout: Layout, stacked: Sequence[Tensor]) -> None:
        super().__init__(configs, optimizers, params, layout, stacked)
        self._amsgrad = configs[0].optim_alg.startswith("amsgrad")
        self._decoupled = configs[0].optim_alg.endswith("w")
        self._eps = self.params[0].new_tensor([config.ada_eps for config in configs])[:, None]
        self._complements = [1 - momenta for momenta in self._momenta]
        self._betas = torch.tensor([parse_momentum(config.momentum, config.optim_alg) for config in configs],
                                   dtype=torch.float64)
        self._counts = [count for optimizer, own in zip(optimizers, params, strict=True)
                        for count in optimizer.state_columns(own)[0]]
        self._steps = int(self._counts[0])  # equal for all: the members are at the same step

    def _stack_state(self, columns: Sequence[Sequence[Sequence[Tensor]]], params: Sequence[Sequence[nn.Parameter]],
                     layout: Layout) -> list[list[Tensor]]:
        return super()._stack_state([own[1:] for own in columns], params, layout)  # the first are the counts of steps

    def tables(self, rates: Tensor, steps: range) -> list[Tensor]:
        powers = torch.arange(steps.start + 1, steps.stop + 1, dtype=torch.float64)[:, None]
        corrections = 1 - self._betas[:, 0] ** powers, 1 - self._betas[:, 1] ** powers
        return [-rates / corrections[0], corrections[1].rsqrt(), -rates]

    def update(self, gradients: Sequence[Tensor], numbers: Sequence[Tensor]) -> None:
        negative_sizes, scales, negative_rates = numbers
        beta2, (complement1, complement2) = self._momenta[1], self._complements
        for index, (param, gradient) in enumerate(zip(self.params, gradients, strict=True)):
            mean, square, *largest = (kind[index] for kind in self._state)
            if self._decays:
                if self._decoupled:
                    param.addcmul_(param * self._decays[index], negative_rates)
                else:
                    gradient.addcmul_(param, self._decays[index])
            mean.lerp_(gradient, complement1.expand_as(mean))
            square.mul_(beta2).addcmul_(gradient.square_(), complement2)
            if largest:
                square = torch.maximum(largest[0], square, out=largest[0])
            param.addcmul_(mean / (square.sqrt() * scales).add_(self._eps), negative_sizes)
        self._steps += 1

    def write_back(self) -> None:
        for count in self._counts:
            count.fill_(self._steps)


def stack_optimizers(configs: Sequence[Config], optimizers: Sequence[FusedOptimizer],
                     params: Sequence[Sequence[nn.Parameter]], layout: Layout, stacked: Sequence[Tensor]
                     ) -> StackedOptimizer:
    """Return the optimizer of a stack.

    params: parameters of each member, in the order that `layout` stacks. stacked: the stacked parameters.
    """
    kind = StackedSGD if configs[0].optim_alg == "sgd" else StackedAdam
    return kind(configs, optimizers, params, layout, stacked)
