"""Shared by the image models: convolutions, initialization, checks of channels and sizes."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from src.checks import known_data
from src.errors import ConfigError, UserError, summarize


def conv3x3(channels_in: int, channels_out: int, stride: int = 1) -> nn.Conv2d:
    """Return [n, channels_in, h, w] -> [n, channels_out, ⌈h/stride⌉, ⌈w/stride⌉]. No bias: batch norm has one."""
    return nn.Conv2d(channels_in, channels_out, kernel_size=3, stride=stride, padding=1, bias=False)


def init_he(model: nn.Module) -> None:
    """Draw normal weights of variance 2 / fan-out for convolutions; linear layers keep PyTorch's initialization.

    He, Zhang, Ren, Sun: Delving deep into rectifiers, ICCV 2015 (the backward form of equation 14).
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def image_size(model: str, input_shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return (channels, height, width). ConfigError unless samples are images, and large enough for a tiny/ model."""
    known_data.check_image_size(model, input_shape)
    channels, height, width = input_shape
    return channels, height, width


@contextmanager
def report_image_errors(model: str, input_shape: tuple[int, ...], hint: str) -> Iterator[None]:
    """Convert exceptions in the block, of a library that creates or calls a model for such images, to a ConfigError."""
    try:
        yield
    except UserError:
        raise
    except (ArithmeticError, AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(f"{model} cannot take images of {input_shape[1]} × {input_shape[2]}: {summarize(error)}",
                          where="model", hint=hint) from None


def check_forward(model: nn.Module, input_shape: tuple[int, ...]) -> None:
    """Call a new model in evaluation mode. Its exception is raised if samples do not fit. The random state is kept."""
    with torch.random.fork_rng([]), torch.no_grad():
        model.eval()(torch.zeros(1, *input_shape))
    model.train()


def adapt_channels(model: nn.Module, channels: int) -> None:
    """Adapt the first convolution of a model for three channels to `channels`.

    A grey image gives the same result as three equal channels (timm.models.adapt_input_conv).
    """
    if channels == 3:
        return
    from timm.models import adapt_input_conv

    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    first.weight = nn.Parameter(adapt_input_conv(channels, first.weight.detach()))
    first.in_channels = channels
