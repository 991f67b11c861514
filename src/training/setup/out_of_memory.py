"""A device that is out of memory: told with the batch size, the memory, and what to try."""
from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import torch

from src.checks import registered_names
from src.config import Config
from src.datasets.on_device import OnDevice
from src.errors import ConfigError

_GIB = 2**30


@contextlib.contextmanager
def explain_out_of_memory(config: Config, device: torch.device) -> Iterator[None]:
    """A torch.OutOfMemoryError inside becomes a ConfigError."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise ConfigError(describe(config, device), where="batch_size", hint=suggestions(config)) from None


def check_gpu_memory(splits: Iterable[OnDevice], device: torch.device) -> None:
    """ConfigError if the images of `splits`, which lie in this machine's memory, do not fit a GPU's."""
    if device.type != "cuda":
        return
    wanted, (free, total) = sum(split.nbytes for split in splits), torch.cuda.mem_get_info(device)
    if wanted > free:
        raise ConfigError(f"the images take {wanted / _GIB:.1f} GiB, and {torch.cuda.get_device_name(device)} has "
                          f"{free / _GIB:.1f} of {total / _GIB:.1f} GiB free", where="data_on_device",
                          hint="leave it out, choose a smaller part, as train[:50%], or a GPU with more memory")


def describe(config: Config, device: torch.device) -> str:
    """The device, its memory, and what was asked of it."""
    name, memory = str(device), ""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        name = torch.cuda.get_device_name(device)
        memory = (f", {(total - free) / _GIB:.1f} of {total / _GIB:.1f} GiB in use, "
                  f"{torch.cuda.max_memory_allocated(device) / _GIB:.1f} GiB by this run at most")
    pieces = f" in {config.grad_accum_steps} micro-batches" if config.grad_accum_steps > 1 else ""
    return f"{name} is out of memory with {config.batch_size} samples a step{pieces}{memory}"


def suggestions(config: Config) -> str:
    """Three things to try, with values."""
    pieces = min(config.batch_size, 2 * config.grad_accum_steps)
    layered = config.model not in registered_names.SHALLOW_MODELS and not config.grad_checkpointing
    lighter = ("precision: bf16" if config.precision in ("float32", "tf32") else
               "grad_checkpointing: true" if layered else "a smaller model")
    evaluated = config.eval_batch_size or config.batch_size
    return (f"try grad_accum_steps: {pieces} (the same training in smaller pieces), {lighter}, or eval_batch_size: "
            f"{max(1, evaluated // 2)} if an evaluation was under way; `python experiments.py probe SPEC` finds the "
            "largest batch")
