"""Crops, flips and resizes of a batch of images of one size, each with its own, in a few tensor operations."""
from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

ATTEMPTS = 10  # at a part of the image with the area and the aspect ratio that were drawn, as in torchvision and timm


class Span(NamedTuple):
    """Where one side of what comes out lies in an image, in pixels of it: [n], or [1] for all alike.

    start: its first edge. step: the distance of its pixels. low, high: the range whose pixels count.
    """

    start: Tensor
    step: Tensor
    low: Tensor
    high: Tensor


def whole(drawn: Tensor, most: int | Tensor) -> Tensor:
    """Whole numbers from 0 to `most`, evenly, for numbers in [0, 1)."""
    return (drawn * (most + 1)).long()


def windows(images: Tensor, top: Tensor, left: Tensor, size: tuple[int, int], vflip: Tensor, hflip: Tensor) -> Tensor:
    """The window of `size` at top [n], left [n] of each image [n, c, h, w], flipped where vflip [n], hflip [n] say so:
    one gather."""
    n, channels, _, width = images.shape
    rows, columns = (torch.where(flip[:, None], side - 1 - torch.arange(side, device=images.device),
                                 torch.arange(side, device=images.device)) + start[:, None]
                     for start, side, flip in ((top, size[0], vflip), (left, size[1], hflip)))
    place = (rows[:, :, None] * width + columns[:, None]).view(n, 1, -1)
    return images.flatten(2).gather(2, place.expand(-1, channels, -1)).view(n, channels, *size)


def parts(sides: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float], draws: Tensor
          ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """top, left, height, width [n] of random parts of images with these sides: their share of the area from `scale`,
    width / height from `ratio`, evenly by its logarithm. draws: [n, 2 + 2 * ATTEMPTS], uniform in [0, 1).

    The first attempt that fits counts; if none does, the largest centred part within the ratios. As torchvision's
    RandomResizedCrop (Szegedy et al., Going deeper with convolutions, 2015).
    """
    height, width = sides
    area = (scale[0] + (scale[1] - scale[0]) * draws[:, 2:2 + ATTEMPTS]) * height * width
    low, high = map(math.log, ratio)
    aspect = (low + (high - low) * draws[:, 2 + ATTEMPTS:]).exp()
    widths, heights = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
    fits = (widths >= 1) & (widths <= width) & (heights >= 1) & (heights <= height)
    first, some = fits.int().argmax(1, keepdim=True), fits.any(1)
    # the largest part within the ratios
    widest, highest = min(width, round(height * ratio[1])), min(height, round(width / ratio[0]))
    widths, heights = (torch.where(some, sizes.gather(1, first)[:, 0], float(most)).long()
                       for sizes, most in ((widths, widest), (heights, highest)))
    top, left = (torch.where(some, whole(drawn, side - taken), (side - taken) // 2)
                 for drawn, side, taken in ((draws[:, 0], height, heights), (draws[:, 1], width, widths)))
    return top, left, heights, widths


def weights(span: Span, inputs: int, outputs: int, cubic: Tensor, flip: Tensor) -> Tensor:
    """[n, outputs, inputs]: what each pixel along one side of an image gives to each pixel of what comes out of it.

    As Pillow resizes: a triangle, or where `cubic` [n] Keys' kernel with a = -1/2, as wide as a pixel of the output,
    if that is the larger one, so that what is made smaller is averaged. flip: [n].
    """
    steps = torch.arange(outputs, device=span.start.device) + 0.5
    centres = span.start[:, None] + span.step[:, None] * torch.where(flip[:, None], outputs - steps, steps)
    pixels = torch.arange(inputs, device=span.start.device) + 0.5
    distance = ((pixels - centres[:, :, None]) / span.step.clamp(min=1)[:, None, None]).abs()
    near = (1.5 * distance - 2.5) * distance.square() + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    keys = torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))
    found = torch.where(cubic[:, None, None], keys, (1 - distance).clamp(min=0))
    inside = (pixels > span.low[:, None]) & (pixels < span.high[:, None])
    found = found * inside[:, None]
    return found / found.sum(2, keepdim=True)


def resampled(images: Tensor, vertical: Tensor, horizontal: Tensor) -> Tensor:
    """Images [n, c, h, w] by their weights [n, height, h] and [n, width, w], or [1, …] for all alike: [n, c, height,
    width] float32, from 0 to 255."""
    rows = torch.einsum("nchw,nvw->nchv", images.float(), horizontal.expand(len(images), -1, -1))
    return torch.einsum("nchv,nuh->ncuv", rows, vertical.expand(len(images), -1, -1)).clamp_(0, 255)
