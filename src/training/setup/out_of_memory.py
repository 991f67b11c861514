"""Errors when a device is out of memory: with the batch size, the memory in use, and remedies."""
from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import torch

from src.checks import registered_names
from src.config import Config
from src.datasets.on_device import OnDevice
from src.errors import ConfigError
from src.training.setup.facts import evaluation_batch_size

_GIB = 2**30


@contextlib.contextmanager
def explain_out_of_memory(config: Config, device: torch.device) -> Iterator[None]:
    """Turn a torch.OutOfMemoryError into a ConfigError with remedies."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise ConfigError(describe(config, device), where="batch_size", hint=suggestions(config)) from None


def check_gpu_memory(splits: Iterable[OnDevice], device: torch.device) -> None:
    """ConfigError if the images of `splits`, which are in this machine's memory, do not fit into a GPU's."""
    if device.type != "cuda":
        return
    needed, (free, total) = sum(split.nbytes for split in splits), torch.cuda.mem_get_info(device)
    if needed > free:
        raise ConfigError(f"the images take {needed / _GIB:.1f} GiB, and {torch.cuda.get_device_name(device)} has "
                          f"{free / _GIB:.1f} of {total / _GIB:.1f} GiB free", where="data_on_device",
                          hint="set it to false, choose a part such as train[:50%], or use a GPU with more memory")


def describe(config: Config, device: torch.device) -> str:
    """Return the device, its memory, and the batch that did not fit."""
    name, memory = str(device), ""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        name = torch.cuda.get_device_name(device)
        memory = (f", {(total - free) / _GIB:.1f} of {total / _GIB:.1f} GiB in use, "
                  f"{torch.cuda.max_memory_allocated(device) / _GIB:.1f} GiB by this run at most")
    split = f" in {config.grad_accum_steps} micro-batches" if config.grad_accum_steps > 1 else ""
    return f"{name} is out of memory with {config.batch_size} samples per step{split}{memory}"


def suggestions(config: Config) -> str:
    """Return three remedies, with values."""
    micro_batches = min(config.batch_size, 2 * config.grad_accum_steps)
    has_layers = config.model not in registered_names.SHALLOW_MODELS and not config.grad_checkpointing
    smaller = ("precision: bf16" if config.precision in ("float32", "tf32") else
               "grad_checkpointing: true" if has_layers else "a smaller model")
    return (f"try grad_accum_steps: {micro_batches} (the same training in smaller parts), {smaller}, or "
            f"eval_batch_size: {max(1, evaluation_batch_size(config) // 2)} if it happened in an evaluation; "
            "`python experiments.py probe SPEC` finds the largest batch")
