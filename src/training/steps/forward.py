"""Call a model in the precision of the config, compiled if it says so."""
from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from loguru import logger
from torch import Tensor, nn

from src.config import Config
from src.datasets.data import Batch
from src.errors import ConfigError, summarize

Forward = Callable[[Any], Tensor]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def make_forward(config: Config, model: nn.Module, device: torch.device) -> Forward:
    """Return a function from inputs to outputs in float32: the model itself, unless precision or compile are set."""
    call: Forward = Compiled(model, config.compile) if config.compile else model
    if config.precision not in DTYPES:
        return call
    dtype = DTYPES[config.precision]

    def under_autocast(x: Any) -> Tensor:
        with torch.autocast(device.type, dtype):
            output = call(x)
        return output.float()  # losses and metrics are never computed in 16 bits

    return under_autocast


class Compiled:
    """A model under torch.compile. If compilation fails, it logs why and runs without it."""

    def __init__(self, model: nn.Module, mode: str) -> None:
        self._model = model
        self._call: Forward = torch.compile(model, mode=None if mode == "default" else mode)
        self._replays = mode != "default"  # CUDA graphs overwrite their last output

    def __call__(self, x: Any) -> Tensor:
        try:
            output = self._call(x)
        except Exception as error:  # may happen at any call, since each new shape is compiled
            from torch._dynamo.exc import TorchDynamoException

            if not isinstance(error, TorchDynamoException):
                raise
            logger.warning("torch.compile failed, the model runs without it: {}: {}", type(error).__name__,
                           summarize(error))
            self._call, self._replays = self._model, False
            output = self._model(x)
        return output.clone() if self._replays else output


def check_device_support(config: Config, device: torch.device) -> None:
    """ConfigError if this device or machine does not support the precision, or torch.compile."""
    if config.precision in ("fp16", "tf32") and device.type != "cuda":
        raise ConfigError(f"{config.precision} needs a CUDA device, and this run is on {device}", where="precision",
                          hint="use bf16 or float32")
    if config.precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(False):
        raise ConfigError(f"{torch.cuda.get_device_name(device)} only emulates bf16, which is slow",
                          where="precision", hint="use fp16, which this GPU supports")
    if config.compile and not find_compiler():
        raise ConfigError("torch.compile needs a C++ compiler, and this machine has none", where="compile",
                          hint="install g++ or load its module, set $CXX, or set compile: null")


def find_compiler() -> str | None:
    """Return the C++ compiler that torch.compile would use, as would Triton on a GPU; None if there is none."""
    return next(filter(None, map(shutil.which, (os.environ.get("CXX") or "g++", "g++", "clang++"))), None)


@torch.no_grad()
def recompute_batch_norm(model: nn.Module, forward: Forward, batches: Iterable[Batch]) -> None:
    """Set the running statistics of the model's batch norms to their means over `batches`, with the current weights.

    torch.optim.swa_utils.update_bn does the same (Izmailov et al., Averaging weights, 2018).
    """
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    if not norms:
        return
    model.eval()  # without dropout
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a mean over all batches
        norm.train()
    for x, _ in batches:
        forward(x)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


@contextlib.contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    """Let float32 matrix products and convolutions use TensorFloat-32 in the body, if the precision is tf32.

    Otherwise PyTorch's own settings apply.
    """
    if precision != "tf32":
        yield
        return
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
