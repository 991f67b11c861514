"""Summary: what a model weighs: parameters by part, FLOPs of one sample, and the memory that training it holds."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

import torch
from torch import Tensor, nn

from src.optimizers.fused import FusedOptimizer
from src.training.setup.seeds import preserve_generators

_MIB = 2**20
_MOST_PARTS = 8  # of a line of the log
_LEAST = 100_000  # parameters; importing torch's counter takes longer than all that a smaller model computes at first


def lines(model: nn.Module, optimizers: Sequence[object], averaged: bool) -> Iterator[str]:
    """What training.log says of a model's parameters and memory. averaged: an average of them is kept as well."""
    total = sum(parameter.numel() for parameter in model.parameters())
    free = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    parts = [f"{name} {size:,}" for name, size in parameters_by_part(model).items()]
    rest = [f"{len(parts) - _MOST_PARTS} more"] if len(parts) > _MOST_PARTS else []
    yield (f"{total:,} parameters, {'all' if free == total else f'{free:,}'} of them trained: "
           f"{', '.join(parts[:_MOST_PARTS] + rest)}")
    weights = _size(model.parameters())
    held = {"weights": weights, "gradients": _size(weight for weight in model.parameters() if weight.requires_grad),
            **({"their average": weights} if averaged else {})}
    state = optimizer_state_bytes(optimizers)
    known = {**held, "optimizer state": state} if state is not None else held
    told = ", ".join(f"{name} {size / _MIB:.1f}" for name, size in known.items())
    yield (f"{sum(known.values()) / _MIB:.1f} MiB: {told}; activations come on top"
           f"{'' if state is not None else ', and what the optimizer keeps'}")


def parameters_by_part(model: nn.Module) -> dict[str, int]:
    """Parameters of each top-level part; shared ones count where they come first, and a wrapper is looked into."""
    sizes: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        part = name.partition(".")[0]
        sizes[part] = sizes.get(part, 0) + parameter.numel()
    if len(sizes) == 1 and (inside := dict(model.named_children()).get(next(iter(sizes)))) is not None:
        return parameters_by_part(inside)
    return sizes


def optimizer_state_bytes(optimizers: Sequence[object]) -> int | None:
    """Bytes of what the optimizers keep beside the parameters; None for those that make it in their first step."""
    if not all(isinstance(optimizer, FusedOptimizer) for optimizer in optimizers):
        return None
    return sum(_size(chain.from_iterable(chain.from_iterable(optimizer.state_dict()["state"])))
               for optimizer in optimizers if isinstance(optimizer, FusedOptimizer))


def flops(model: nn.Module, input_shape: tuple[int, ...], device: torch.device, least: int = _LEAST) -> int | None:
    """Floating-point operations of the products and convolutions of a forward pass of one sample, where a
    multiplication and an addition are two. None for a model of less than `least` parameters, or if it cannot be told.

    The model is as it was afterwards: its modes, its running statistics, and what its layers draw next.
    """
    if not input_shape or sum(parameter.numel() for parameter in model.parameters()) < least:
        return None
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    fused = torch.backends.mha.get_fastpath_enabled()  # type: ignore[no-untyped-call]
    torch.backends.mha.set_fastpath_enabled(False)  # type: ignore[no-untyped-call]  # products in it are not counted
    try:  # inference mode would leave tensors that cannot be trained through in what a model caches
        with (preserve_generators(device), torch.no_grad(), sdpa_kernel(SDPBackend.MATH),
              FlopCounterMode(display=False) as counter):
            model(torch.zeros(1, *input_shape, device=device))
        return counter.get_total_flops()
    except Exception:  # a model of one's own may want another sample: that is no reason not to train it
        return None
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)  # type: ignore[no-untyped-call]
        for module, mode in modes:
            module.training = mode


def _size(tensors: Iterator[Tensor]) -> int:
    """In bytes."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
