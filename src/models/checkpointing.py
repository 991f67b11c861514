"""Gradient checkpointing: recompute activations in the backward pass instead of storing them."""
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from src.errors import ConfigError


def enable(model: nn.Module, name: str) -> None:
    """Make the model recompute parts of its forward pass in the backward pass, with the same result.

    A model that supports it, as those of timm and transformers, uses its own method; in others, top-level sequences are
    split into segments. ConfigError for a model with neither.
    """
    sequences = [(part, child) for part, child in model.named_children()
                 if isinstance(child, nn.Sequential) and len(child) > 1]
    if not _enable_own_method(model):
        if not sequences:
            raise ConfigError(f"{name} does not support gradient checkpointing", where="grad_checkpointing",
                              allowed="false",
                              hint="a model from user code needs a method set_grad_checkpointing(enable), or a "
                                   "torch.nn.Sequential at its top level")
        for part, child in sequences:
            setattr(model, part, Segments(child))
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats:
            module.register_forward_pre_hook(_freeze_statistics)
            # always_call: PyTorch stops recomputing by an exception, as soon as it has what it needs
            module.register_forward_hook(_unfreeze_statistics, always_call=True)


class Segments(nn.Sequential):
    """A sequence of n modules, under the same names, that stores the input of every ⌈√n⌉-th for the backward pass.

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
            x = checkpoint(_apply, modules[segment.start:segment.stop], x, use_reentrant=False)
        return x


def segments(in_place: Sequence[bool]) -> list[range]:
    """Return the indices of n modules in runs of ⌈√n⌉ or more.

    Only the first may begin with an in-place module, which would overwrite the stored input.
    """
    n = len(in_place)
    length = math.ceil(math.sqrt(n))
    starts = [0]
    for index in range(1, n):
        if index >= starts[-1] + length and not in_place[index]:
            starts.append(index)
    return [range(start, stop) for start, stop in zip(starts, [*starts[1:], n], strict=True)]


def _apply(modules: Sequence[nn.Module], x: Any) -> Any:
    for module in modules:
        x = module(x)
    return x


def _enable_own_method(model: nn.Module) -> bool:
    """Call the method of the model, or of the one that it wraps. Return whether it has one that works."""
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
        except (AssertionError, NotImplementedError, ValueError):  # it has the method, but does not support it
            continue
    return False


def _freeze_statistics(norm: nn.Module, _: Any) -> None:
    """Keep the running statistics when a batch is recomputed in the backward pass."""
    if not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1:  # -1: not in a backward pass
        norm.usual_momentum, norm.momentum = norm.momentum, 0.0
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked -= 1  # the forward pass is about to count it


def _unfreeze_statistics(norm: nn.Module, *_: Any) -> None:
    if not torch.compiler.is_compiling() and "usual_momentum" in norm.__dict__:
        norm.momentum = norm.__dict__.pop("usual_momentum")
