"""Gradient checkpointing: some activations are not kept for the backward pass but recomputed in it."""
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from src.errors import ConfigError


def enable(model: nn.Module, name: str) -> None:
    """Have the model compute parts of its forward pass again in the backward pass, with the same result.

    The model's own way if it has one, as those of timm and transformers; else its top-level sequences, in segments.
    ConfigError if it has neither.
    """
    sequences = [(part, child) for part, child in model.named_children()
                 if isinstance(child, nn.Sequential) and len(child) > 1]
    if not _by_itself(model):
        if not sequences:
            raise ConfigError(f"{name} cannot use grad_checkpointing", where="grad_checkpointing", allowed="false",
                              hint="a model of one's own needs a method set_grad_checkpointing(enable), or a "
                              "torch.nn.Sequential at its top level")
        for part, child in sequences:
            setattr(model, part, Segments(child))
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats:
            module.register_forward_pre_hook(_see_a_batch_once)
            module.register_forward_hook(_see_the_next_batch, always_call=True)  # computing again ends by an exception


class Segments(nn.Sequential):
    """A sequence of n modules, under the same names, that keeps what goes into every ⌈√n⌉-th for the backward pass.

    Chen, Xu, Zhang, Guestrin: Training deep nets with sublinear memory cost, 2016.
    """

    def __init__(self, sequence: nn.Sequential) -> None:
        super().__init__()
        for name, module in sequence.named_children():
            self.add_module(name, module)
        self._segments = segments([bool(getattr(module, "inplace", False)) for module in self])

    def forward(self, x: Any) -> Any:
        if not self.training or not torch.is_grad_enabled():
            return super().forward(x)
        modules = list(self)
        for segment in self._segments:
            x = checkpoint(_through, modules[segment.start:segment.stop], x, use_reentrant=False)
        return x


def segments(in_place: Sequence[bool]) -> list[range]:
    """Divide n modules into segments of ⌈√n⌉ or more; none but the first begins with an in-place module,
    which would overwrite what is kept."""
    n = len(in_place)
    length = math.ceil(math.sqrt(n))
    starts = [0]
    for place in range(1, n):
        if place >= starts[-1] + length and not in_place[place]:
            starts.append(place)
    return [range(start, stop) for start, stop in zip(starts, [*starts[1:], n], strict=True)]


def _through(modules: Sequence[nn.Module], x: Any) -> Any:
    for module in modules:
        x = module(x)
    return x


def _by_itself(model: nn.Module) -> bool:
    """Enable the checkpointing that the model, or the one it wraps, implements itself. Return whether there is one."""
    for part in (model, *model.children()):
        try:
            if hasattr(part, "set_grad_checkpointing"):
                part.set_grad_checkpointing(True)
                return True
            of_transformers = getattr(part, "activation_checkpointing_enable", None) or getattr(
                part, "gradient_checkpointing_enable", None)  # its earlier name
            if of_transformers:
                of_transformers({"use_reentrant": False})
                return True
        except (AssertionError, NotImplementedError, ValueError):  # the method only reports that it is not supported
            continue
    return False


def _see_a_batch_once(norm: nn.Module, _: Any) -> None:
    """Do not update running statistics again when a batch is recomputed in the backward pass."""
    if not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1:  # -1: no such pass
        norm.usual_momentum, norm.momentum = norm.momentum, 0.0
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked -= 1  # it is about to be counted


def _see_the_next_batch(norm: nn.Module, *_: Any) -> None:
    if not torch.compiler.is_compiling() and "usual_momentum" in norm.__dict__:
        norm.momentum = norm.__dict__.pop("usual_momentum")
