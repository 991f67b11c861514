"""Crop, flip and resize each image of a batch by parameters of its own, in a few tensor operations."""
from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

ATTEMPTS = 10  # at a random crop of the drawn area and aspect ratio, as in torchvision and timm


class Span(NamedTuple):
    """The position of one side of the result in an image, in pixels of the image: [n], or [1] for all images.

    start: its first edge
    step: the distance of its pixels
    low, high: the range of the image's pixels that are used
    """

    start: Tensor
    step: Tensor
    low: Tensor
    high: Tensor


def to_integers(drawn: Tensor, largest: int | Tensor) -> Tensor:
    """Map numbers in [0, 1) to integers from 0 to `largest`, uniformly."""
    return (drawn * (largest + 1)).long()


def windows(images: Tensor, top: Tensor, left: Tensor, size: tuple[int, int], vflip: Tensor, hflip: Tensor) -> Tensor:
    """Return the window of `size` at top [n], left [n] of each image [n, c, h, w], flipped where vflip [n], hflip [n].

    This takes one gather.
    """
    n, channels, _, width = images.shape
    rows, columns = (torch.where(flip[:, None], side - 1 - torch.arange(side, device=images.device),
                                 torch.arange(side, device=images.device)) + start[:, None]
                     for start, side, flip in ((top, size[0], vflip), (left, size[1], hflip)))
    index = (rows[:, :, None] * width + columns[:, None]).view(n, 1, -1)
    return images.flatten(2).gather(2, index.expand(-1, channels, -1)).view(n, channels, *size)


def random_crops(sides: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float], draws: Tensor
                 ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return top, left, height, width [n] of random crops of images with these sides.

    scale: range of their fraction of the area. ratio: range of width / height, uniform in its logarithm.
    draws: [n, 2 + 2 * ATTEMPTS], uniform in [0, 1).
    The first attempt that fits is used; if none does, the largest centered crop within the ratios, as in torchvision's
    RandomResizedCrop (Szegedy et al., Going deeper with convolutions, 2015).
    """
    height, width = sides
    area = (scale[0] + (scale[1] - scale[0]) * draws[:, 2:2 + ATTEMPTS]) * height * width
    low, high = map(math.log, ratio)
    aspect = (low + (high - low) * draws[:, 2 + ATTEMPTS:]).exp()
    widths, heights = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
    fits = (widths >= 1) & (widths <= width) & (heights >= 1) & (heights <= height)
    first, any_fits = fits.int().argmax(1, keepdim=True), fits.any(1)
    # the largest crop within the ratios
    widest, highest = min(width, round(height * ratio[1])), min(height, round(width / ratio[0]))
    widths, heights = (torch.where(any_fits, sizes.gather(1, first)[:, 0], float(largest)).long()
                       for sizes, largest in ((widths, widest), (heights, highest)))
    top, left = (torch.where(any_fits, to_integers(drawn, side - size), (side - size) // 2)
                 for drawn, side, size in ((draws[:, 0], height, heights), (draws[:, 1], width, widths)))
    return top, left, heights, widths


def weights(span: Span, inputs: int, outputs: int, cubic: Tensor, flip: Tensor) -> Tensor:
    """Return [n, outputs, inputs], the weights of an image's pixels along one side in each pixel of the result.

    The kernel is that of Pillow: a triangle, or where `cubic` [n] Keys' kernel with a = -1/2, scaled to a pixel of the
    result if that is the larger one, so that downsizing averages. flip: [n].
    """
    steps = torch.arange(outputs, device=span.start.device) + 0.5
    centers = span.start[:, None] + span.step[:, None] * torch.where(flip[:, None], outputs - steps, steps)
    pixels = torch.arange(inputs, device=span.start.device) + 0.5
    distance = ((pixels - centers[:, :, None]) / span.step.clamp(min=1)[:, None, None]).abs()
    near = (1.5 * distance - 2.5) * distance.square() + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    keys = torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))
    kernel = torch.where(cubic[:, None, None], keys, (1 - distance).clamp(min=0))
    inside = (pixels > span.low[:, None]) & (pixels < span.high[:, None])
    kernel = kernel * inside[:, None]
    return kernel / kernel.sum(2, keepdim=True)


def resampled(images: Tensor, vertical: Tensor, horizontal: Tensor) -> Tensor:
    """Resize images [n, c, h, w] to [n, c, height, width] float32, from 0 to 255.

    vertical: weights [n, height, h], or [1, …] for all images. horizontal: weights [n, width, w], or [1, …].
    """
    rows = torch.einsum("nchw,nvw->nchv", images.float(), horizontal.expand(len(images), -1, -1))
    return torch.einsum("nchv,nuh->ncuv", rows, vertical.expand(len(images), -1, -1)).clamp_(0, 255)
