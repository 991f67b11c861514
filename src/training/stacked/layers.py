"""Layers that compute the same as those of torch.nn, but faster under vmap."""
from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_MAX_PIXELS = 64  # of an image that is convolved by a matrix
_MAX_ENTRIES = 1 << 16  # of that matrix


class SmallImageConv2d(nn.Conv2d):
    """Convolves small images by the matrix of the convolution, which vmap turns into a batched product.

    Other images are convolved as by nn.Conv2d: in groups under vmap, which takes long for small groups.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if input.dim() != 4 or input.shape[2] * input.shape[3] > _MAX_PIXELS:
            return super()._conv_forward(input, weight, bias)
        height, width = input.shape[2:]
        index, shape = _matrix_index(tuple(weight.shape), (height, width), _pair(self.stride), _pair(self.padding),
                                     input.device)
        if index.numel() > _MAX_ENTRIES:
            return super()._conv_forward(input, weight, bias)
        matrix = F.pad(weight.flatten(), (0, 1)).gather(0, index).unflatten(0, (-1, shape.numel()))
        output = (input.flatten(1) @ matrix).unflatten(1, shape)
        return output if bias is None else output + bias[:, None, None]


def replace_layers(model: nn.Module) -> nn.Module:
    """Make the layers that are slow under vmap faster, in place. Return the model."""
    for module in model.modules():
        if type(module) is nn.Conv2d and module.groups == 1 and module.padding_mode == "zeros" and (
                not isinstance(module.padding, str)) and _pair(module.dilation) == (1, 1):
            module.__class__ = SmallImageConv2d
    return model


@functools.lru_cache(maxsize=64)
def _matrix_index(weight: tuple[int, ...], image: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int],
                  device: torch.device) -> tuple[Tensor, torch.Size]:
    """Return where the entries of the matrix [inputs × outputs] are in the flat weight, and the shape of an output.

    An entry that is 0 is at the index after the last weight.
    """
    outputs, inputs, *kernel = weight
    sizes = [(image[i] + 2 * padding[i] - kernel[i]) // stride[i] + 1 for i in (0, 1)]
    # offsets[i]: [pixels of the input, pixels of the output], the place in the kernel along an axis
    offsets = [torch.arange(image[i])[:, None] + padding[i] - stride[i] * torch.arange(sizes[i]) for i in (0, 1)]
    rows, columns = offsets[0][:, None, :, None], offsets[1][None, :, None, :]  # [h, w, h', w']
    is_inside = (rows >= 0) & (rows < kernel[0]) & (columns >= 0) & (columns < kernel[1])
    channels = torch.arange(outputs) * inputs + torch.arange(inputs)[:, None]  # [inputs, outputs]
    index = (channels[:, None, None, :, None, None] * kernel[0] + rows[None, :, :, None]) * kernel[1] + (
        columns[None, :, :, None])
    index = torch.where(is_inside[None, :, :, None], index, outputs * inputs * kernel[0] * kernel[1])
    return index.flatten().to(device), torch.Size((outputs, *sizes))


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])
