"""The size of a model: parameters by part, FLOPs per sample, and the memory that training it takes."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

import torch
from torch import Tensor, nn

from src.optimizers.fused import FusedOptimizer
from src.training.setup.seeds import preserve_generators

_MIB = 2**20
_MAX_PARTS = 8  # in a line of the log
_MIN_PARAMETERS = 100_000  # of a model whose FLOPs are counted: importing torch's counter takes time


def lines(model: nn.Module, optimizers: Sequence[object], averaged: bool) -> Iterator[str]:
    """Yield the lines of training.log on a model's parameters and memory. averaged: whether their average is kept."""
    total, trained = count_parameters(model), count_parameters(model, only_trained=True)
    parts = [f"{name} {size:,}" for name, size in parameters_by_part(model).items()]
    rest = [f"{len(parts) - _MAX_PARTS} more"] if len(parts) > _MAX_PARTS else []
    yield (f"{total:,} parameters, {'all' if trained == total else f'{trained:,}'} of them trained: "
           f"{', '.join(parts[:_MAX_PARTS] + rest)}")
    weights = _size(model.parameters())
    sizes = {"weights": weights, "gradients": _size(weight for weight in model.parameters() if weight.requires_grad),
            **({"their average": weights} if averaged else {})}
    state = optimizer_state_bytes(optimizers)
    if state is not None:
        sizes["optimizer state"] = state
    details = ", ".join(f"{name} {size / _MIB:.1f}" for name, size in sizes.items())
    yield (f"{sum(sizes.values()) / _MIB:.1f} MiB: {details}; activations come on top"
           f"{'' if state is not None else ', and the state of the optimizer'}")


def count_parameters(model: nn.Module, only_trained: bool = False) -> int:
    """Return the number of parameters of a model, or of those that are currently trained."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad or not only_trained)


def parameters_by_part(model: nn.Module) -> dict[str, int]:
    """Return the number of parameters of each top-level part, or of the parts of the only one.

    Shared parameters count in the first part that has them.
    """
    sizes: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        part = name.partition(".")[0]
        sizes[part] = sizes.get(part, 0) + parameter.numel()
    if len(sizes) == 1 and (inside := dict(model.named_children()).get(next(iter(sizes)))) is not None:
        return parameters_by_part(inside)
    return sizes


def optimizer_state_bytes(optimizers: Sequence[object]) -> int | None:
    """Return the bytes of the optimizers' state; None if one of them creates its state only in the first step."""
    if not all(isinstance(optimizer, FusedOptimizer) for optimizer in optimizers):
        return None
    return sum(_size(chain.from_iterable(chain.from_iterable(optimizer.state_dict()["state"])))
               for optimizer in optimizers if isinstance(optimizer, FusedOptimizer))


def flops(model: nn.Module, input_shape: tuple[int, ...], device: torch.device,
          min_parameters: int = _MIN_PARAMETERS) -> int | None:
    """Return the floating-point operations of matrix products and convolutions in a forward pass of one sample.

    A multiplication and an addition count as two. None for a model with fewer than `min_parameters`, or if they cannot
    be counted. The model and the random generators are left unchanged.
    """
    if not input_shape or count_parameters(model) < min_parameters:
        return None
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    had_fast_path = torch.backends.mha.get_fastpath_enabled()  # type: ignore[no-untyped-call]
    torch.backends.mha.set_fastpath_enabled(False)  # type: ignore[no-untyped-call]  # its products would not be counted
    try:  # not inference mode: a model may cache tensors, and cached inference tensors cannot be trained
        with (preserve_generators(device), torch.no_grad(), sdpa_kernel(SDPBackend.MATH),
              FlopCounterMode(display=False) as counter):
            model(torch.zeros(1, *input_shape, device=device))
        return counter.get_total_flops()
    except Exception:  # a user-defined model may need another kind of sample: it can be trained all the same
        return None
    finally:
        torch.backends.mha.set_fastpath_enabled(had_fast_path)  # type: ignore[no-untyped-call]
        for module, mode in modes:
            module.training = mode


def _size(tensors: Iterator[Tensor]) -> int:
    """Return the size in bytes."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
