"""What the image models share: 3 × 3 convolutions, He's initialisation, and the check of the image's size."""
from __future__ import annotations

from torch import nn

from src.errors import ConfigError


def conv3x3(channels_in: int, channels_out: int, stride: int = 1) -> nn.Conv2d:
    """[n, channels_in, h, w] -> [n, channels_out, ⌈h/stride⌉, ⌈w/stride⌉]. No bias: batch norm follows or precedes."""
    return nn.Conv2d(channels_in, channels_out, kernel_size=3, stride=stride, padding=1, bias=False)


def init_he(model: nn.Module) -> None:
    """Normal weights of variance 2 / fan-out for convolutions; linear layers keep PyTorch's own.

    He, Zhang, Ren, Sun: Delving deep into rectifiers, ICCV 2015 (the backward form of equation 14).
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def image_size(model: str, input_shape: tuple[int, ...], least: int) -> tuple[int, int, int]:
    """(channels, height, width). ConfigError unless the input is an image of at least `least` × `least` pixels."""
    if len(input_shape) != 3:
        raise ConfigError(f"{model} needs images [channels, height, width], and a sample has the shape "
                          f"{list(input_shape)}", where="model", hint="try model: linear")
    channels, height, width = input_shape
    if min(height, width) < least:
        raise ConfigError(f"{model} cannot take images of {height} × {width}", where="model",
                          allowed=f"{least} × {least} or larger", hint="try model: tiny/lenet or linear")
    return channels, height, width
