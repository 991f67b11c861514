"""Images that are kept on the training device as bytes, and cropped, flipped and normalized there in batches."""
from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from src.config import Config
from src.datasets.data import Batch, Data, Split, batches_per_block
from src.datasets.resampling import ATTEMPTS, Span, random_crops, resampled, to_integers, weights, windows
from src.datasets.transforms import gain_and_shift
from src.errors import DataError
from src.pretrained.image_models import is_pretrained, pretrained_images


@dataclass(frozen=True)
class Recipe:
    """The transform of images of one size, uint8 [n, c, h, w], to float32 [n, c, *size].

    Evaluation resizes the shorter side to size / crop_pct and takes the center. Training does the same unless padding
    or scale is set.

    mean, std: of each channel, for values from 0 to 1
    padding: training takes a random crop of `size` after padding by this number of black pixels on each side
    scale, ratio: training takes a random crop with an area and an aspect ratio from these ranges, resized
    hflip, vflip: probability of a flip
    interpolation: bilinear, bicubic, or random (drawn for each training image; bilinear in evaluation)
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    padding: int | None = None
    scale: tuple[float, float] | None = None
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    hflip: float = 0.0
    vflip: float = 0.0
    interpolation: str = "bilinear"
    crop_pct: float = 1.0

    @property
    def draws(self) -> int:
        """Number of random numbers per sample: flips, interpolation, position, and attempts at a crop."""
        return 5 + 2 * ATTEMPTS * (self.padding is None and self.scale is not None)

    def training(self, images: Tensor, draws: Tensor) -> Tensor:
        """Return augmented images, from 0 to 255. draws: [n, self.draws], uniform in [0, 1)."""
        flips, crop_draws = (draws[:, 0] < self.vflip, draws[:, 1] < self.hflip), draws[:, 3:]
        if self.padding is not None:
            images = pad(images, (self.padding,) * 4) if self.padding else images
            top, left = (to_integers(crop_draws[:, axis], images.shape[2 + axis] - self.size[axis]) for axis in (0, 1))
            return windows(images, top, left, self.size, *flips).float()
        spans = self._center(images)
        if self.scale is not None:
            top, left, height, width = random_crops((images.shape[2], images.shape[3]), self.scale, self.ratio,
                                                    crop_draws)
            spans = [Span(low, length / out, low, low + length) for low, length, out in (
                (top, height, self.size[0]), (left, width, self.size[1]))]
        cubic = draws[:, 2] < {"bilinear": 0.0, "random": 0.5, "bicubic": 1.0}[self.interpolation]
        return resampled(images, *(weights(span, side, out, cubic, flip) for span, side, out, flip in zip(
            spans, images.shape[2:], self.size, flips, strict=True)))

    def evaluation(self, images: Tensor) -> Tensor:
        """Return the images of evaluation, from 0 to 255."""
        no = torch.zeros(1, dtype=torch.bool, device=images.device)
        cubic = ~no if self.interpolation == "bicubic" else no
        if self._resized(images) == tuple(images.shape[2:]):
            rows, columns = (slice(round((side - out) / 2), round((side - out) / 2) + out) for side, out in zip(
                images.shape[2:], self.size, strict=True))
            return images[..., rows, columns].float()
        return resampled(images, *(weights(span, side, out, cubic, no) for span, side, out in zip(
            self._center(images), images.shape[2:], self.size, strict=True)))

    def _resized(self, images: Tensor) -> tuple[int, int]:
        """Return height and width after the resizing of evaluation: the image just covers size / crop_pct."""
        target = [int(out / self.crop_pct) for out in self.size]
        shorter = max((0, 1), key=lambda axis: target[axis] / images.shape[2 + axis])
        height, width = (target[shorter] * side // images.shape[2 + shorter] for side in images.shape[2:])
        return height, width

    def _center(self, images: Tensor) -> list[Span]:
        """Return the span of the resized image's center in the image, for both sides."""
        spans = []
        for side, resized, out in zip(images.shape[2:], self._resized(images), self.size, strict=True):
            step = side / resized
            spans.append(Span(*torch.tensor([[round((resized - out) / 2) * step], [step], [0.0], [side]],
                                            device=images.device)))
        return spans


class OnDevice:
    """A Lazy split of images, uint8 [n, c, h, w], with y [n], both on the training device.

    Random numbers of all samples of a pass are drawn at once on the CPU: they depend on the seed and a sample's index.
    """

    def __init__(self, images: Tensor, y: Tensor, recipe: Recipe) -> None:
        self.images, self.y, self.recipe = images, y, recipe
        self._gain, self._shift = gain_and_shift(recipe.mean, recipe.std, images.device)

    def __len__(self) -> int:
        return len(self.y)

    @property
    def nbytes(self) -> int:
        """Memory on the device, in bytes."""
        return self.images.nbytes + self.y.nbytes

    def to(self, device: torch.device) -> OnDevice:
        """Return the same split on another device."""
        return OnDevice(self.images.to(device), self.y.to(device), self.recipe)

    def batches(self, batch_size: int, order: Tensor | None, seed: int) -> Iterator[Batch]:
        """Yield the batches of a pass, as in Lazy."""
        if order is None:
            for rows in zip(self.images.split(batch_size), self.y.split(batch_size), strict=True):
                yield self._normalized(self.recipe.evaluation(rows[0])), rows[1]
            return
        draws = torch.rand(len(self.y), self.recipe.draws, generator=torch.Generator().manual_seed(seed))
        per_sample = 4 * self.images.shape[1] * self.recipe.size[0] * self.recipe.size[1]
        block = batch_size * batches_per_block(batch_size * per_sample)
        for rows in order.split(block):
            indices = rows.to(self.y.device)
            x = self.recipe.training(self.images.index_select(0, indices), draws[rows].to(self.y.device))
            yield from zip(self._normalized(x).split(batch_size), self.y[indices].split(batch_size), strict=True)

    def some(self, batch_size: int, rows: Tensor) -> Iterator[Batch]:
        """Yield batches of the images at `rows` [n], as in evaluation."""
        for part in rows.to(self.y.device).split(batch_size):
            yield self._normalized(self.recipe.evaluation(self.images.index_select(0, part))), self.y[part]

    def _normalized(self, x: Tensor) -> Tensor:
        return x.mul_(self._gain).add_(self._shift)


def to_on_device(config: Config, data: Data) -> Data:
    """Convert splits of images as bytes to OnDevice splits.

    They are normalized by the mean and standard deviation of the model's pretrained weights, or else of the split train
    (of the first split without one). DataError if the splits are not such images, or cannot be cropped as requested.
    """
    splits = data.splits.values()
    if not all(isinstance(split, Split) and split.x.dtype == torch.uint8 and split.x.dim() == 4 for split in splits):
        raise DataError(f"{config.dataset} has no images as bytes", where="data_on_device",
                        allowed="x of type uint8 and shape [n, channels, height, width]")
    recipe = recipe_of(config, data)
    converted = {id(split): OnDevice(split.x, split.y, recipe) for split in splits if isinstance(split, Split)}
    return dataclasses.replace(
        data, splits={name: converted[id(split)] for name, split in data.splits.items()},
        input_shape=(data.input_shape[0], *recipe.size), about={**data.about, "images": dataclasses.asdict(recipe)})


def recipe_of(config: Config, data: Data) -> Recipe:
    """Return the transform of the images of `data`. DataError if the config does not fit them."""
    channels, *sides = data.input_shape
    shape = config.model_input_shape or [channels, *sides]
    if len(shape) != 3 or shape[0] != channels:
        raise DataError(f"images of {channels} channels cannot be converted to {shape}", where="model_input_shape",
                        allowed=f"[{channels}, height, width]")
    height, width = shape[1:]
    if config.crop_padding is not None and (height > sides[0] + 2 * config.crop_padding or
                                            width > sides[1] + 2 * config.crop_padding):
        raise DataError(f"images of {sides} with {config.crop_padding} pixels around them have no windows of "
                        f"{[height, width]}", where="crop_padding", hint="choose scale, which resizes, or another "
                        "model_input_shape")
    train = data.splits.get("train") or next(iter(data.splits.values()))
    assert isinstance(train, Split)
    mean, std = _pretrained_statistics(config, channels) or statistics(train.x)
    return Recipe((height, width), mean, std, padding=config.crop_padding,
                  scale=(config.scale[0], config.scale[1]) if config.scale else None,
                  ratio=(config.ratio[0], config.ratio[1]) if config.ratio else Recipe.ratio,
                  hflip=config.hflip, vflip=config.vflip, interpolation=config.interpolation or Recipe.interpolation,
                  crop_pct=config.crop_pct or Recipe.crop_pct)


def _pretrained_statistics(config: Config, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Return mean and standard deviation of the images of a model's pretrained weights; None without such weights."""
    settings = pretrained_images(config.model) if is_pretrained(config) else None
    return (settings.mean, settings.std) if settings and len(settings.mean) == channels else None


def statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel, for values from 0 to 1; a deviation of 0 is returned as 1."""
    sums = torch.zeros(2, images.shape[1], dtype=torch.float64)
    for block in images.split(1000):
        x = block.double()
        sums += torch.stack([x.sum((0, 2, 3)), x.square().sum((0, 2, 3))])
    mean, square = sums / 255 / (images.numel() / images.shape[1])
    std = (square / 255 - mean.square()).clamp(min=0).sqrt()
    return tuple(mean.tolist()), tuple(torch.where(std > 0, std, 1.0).tolist())
