"""Transforms of images: crops, flips and other augmentations, and the normalization."""
from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from src.config import Config
from src.errors import ConfigError
from src.pretrained.image_models import pretrained_images

# mean and standard deviation of ImageNet, by number of channels; for grey images, their means
_NORMAL = {3: ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), 1: ((0.449,), (0.226,))}


@dataclass(frozen=True, eq=False)
class Transforms:
    """The transforms of a run.

    shape: [channels, height, width] of the result
    mode: the PIL mode of the images to transform
    train, evaluation: from a PIL image to uint8 [c, h, w]
    mean, std: of each channel, for values from 0 to 1
    erasing: random erasing of normalized training batches; None: off
    """

    shape: tuple[int, int, int]
    mode: str
    train: Callable[[Any], Any]
    evaluation: Callable[[Any], Any]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    erasing: Any = None

    def about(self) -> dict[str, Any]:
        """Return facts for config.yaml: the repr of each step."""
        def steps(compose: Any) -> list[str]:
            return [" ".join(str(step).split()) for step in compose.transforms]
        erasing = [str(self.erasing)] if self.erasing else []
        return {"train": [*steps(self.train), f"normalise(mean={self.mean}, std={self.std})", *erasing],
                "evaluation": [*steps(self.evaluation), f"normalise(mean={self.mean}, std={self.std})"]}


def gain_and_shift(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
                   ) -> tuple[torch.Tensor, torch.Tensor]:
    """Return [c, 1, 1] each: x * gain + shift normalizes bytes x. mean, std: for values from 0 to 1."""
    deviation = torch.tensor(std, device=device)[:, None, None]
    return 1 / (255 * deviation), -torch.tensor(mean, device=device)[:, None, None] / deviation


def transforms_of(config: Config, image: Any) -> Transforms:
    """Return the transforms of a config.

    What the config leaves out follows from the model's data config (size, mean, standard deviation, interpolation, crop
    and whether images are squashed). image: the first image, whose size and channels are the last default.
    """
    pretrained = pretrained_images(config.model)
    channels = 1 if image.mode in ("1", "L", "I", "I;16", "F") else 3
    shape = tuple(config.model_input_shape or (pretrained and pretrained.shape)
                  or (channels, image.size[1], image.size[0]))
    if len(shape) != 3 or shape[0] not in _NORMAL:
        raise ConfigError(f"images cannot be converted to {list(shape)}", where="model_input_shape",
                          allowed="[3, height, width], or [1, height, width] for grey ones")
    mean, std = _NORMAL[shape[0]]
    if pretrained and shape[0] == len(pretrained.mean):
        mean, std = pretrained.mean, pretrained.std
    crop_pct = config.crop_pct or (pretrained.crop_pct if pretrained else 1.0)
    interpolation = config.interpolation or (pretrained.interpolation if pretrained else "bilinear")
    fill = tuple(round(255 * value) for value in mean)
    squash = pretrained is not None and pretrained.squash
    return Transforms(shape, "RGB" if shape[0] == 3 else "L",
                      _training(config, shape, interpolation, crop_pct, fill, squash),
                      _evaluation(shape, interpolation, crop_pct, squash), tuple(mean), tuple(std), _erasing(config))


def _evaluation(shape: tuple[int, ...], interpolation: str, crop_pct: float, squash: bool) -> Any:
    """Resize so that the image just covers size / crop_pct (squash: to exactly that), then crop the center."""
    from timm.data.transforms import MaybePILToTensor, ResizeKeepRatio, str_to_interp_mode
    from torchvision import transforms as T

    height, width = shape[1:]
    size = (int(height / crop_pct), int(width / crop_pct))
    kind = "bilinear" if interpolation == "random" else interpolation
    resize = (T.Resize(size, str_to_interp_mode(kind)) if squash else
              T.Resize(size[0], str_to_interp_mode(kind)) if height == width else
              ResizeKeepRatio(size, interpolation=kind))
    return T.Compose([resize, T.CenterCrop((height, width)), MaybePILToTensor()])


def _training(config: Config, shape: tuple[int, ...], interpolation: str, crop_pct: float, fill: tuple[int, ...],
              squash: bool) -> Any:
    """Return the training transform. fill: value, 0 to 255 for each channel, of areas that an image is moved out of."""
    from timm.data.transforms import (
        MaybePILToTensor,
        RandomResizedCropAndInterpolation,
        str_to_pil_interp,
    )
    from torchvision import transforms as T

    size = (shape[1], shape[2])
    if config.crop_padding is not None:
        steps: list[Any] = [_evaluation(shape, interpolation, 1.0, squash).transforms[0],
                            T.RandomCrop(size, padding=config.crop_padding or None)]
    elif config.scale:
        steps = [RandomResizedCropAndInterpolation(size, scale=tuple(config.scale), ratio=tuple(
            config.ratio or (3 / 4, 4 / 3)), interpolation=interpolation)]
    else:
        resize, center = _evaluation(shape, interpolation, crop_pct, squash).transforms[:2]
        steps = [resize, center]
    steps += [T.RandomHorizontalFlip(config.hflip)] * (config.hflip > 0)
    steps += [T.RandomVerticalFlip(config.vflip)] * (config.vflip > 0)
    if config.auto_augment:
        steps.append(_automatic(config.auto_augment, size, str_to_pil_interp(
            "bilinear" if interpolation == "random" else interpolation), fill))
    if config.color_jitter:
        steps.append(T.ColorJitter(config.color_jitter, config.color_jitter, config.color_jitter))
    return T.Compose([*steps, MaybePILToTensor()])


def _automatic(policy: str, size: tuple[int, int], interpolation: Any, fill: tuple[int, ...]) -> Any:
    """Return timm's `policy`: AutoAugment (Cubuk et al., 2019), RandAugment (2020) or AugMix (Hendrycks, 2020)."""
    from timm.data.auto_augment import augment_and_mix_transform, auto_augment_transform, rand_augment_transform

    options = {"translate_const": int(min(size) * 0.45), "interpolation": interpolation,
               "img_mean": fill if len(fill) > 1 else fill[0]}  # Pillow requires a number for grey images
    make = (rand_augment_transform if policy.startswith("rand") else augment_and_mix_transform
            if policy.startswith("augmix") else auto_augment_transform)
    try:
        transform = make(policy, options)
    except (AssertionError, ValueError, KeyError) as error:
        raise ConfigError(f"timm cannot read '{policy}': {error}", where="auto_augment",
                          allowed="rand-m9-mstd0.5, original, v0, augmix-m3-w3 and the like") from None
    for step in transform.ops if hasattr(transform, "ops") else itertools.chain(*transform.policy):
        if step.name.startswith("Posterize"):
            step.aug_fn = _posterize
    return transform


def _posterize(image: Any, bits: int, **_options: Any) -> Any:
    """Keep the first `bits` bits of each value, 0 to 8. Pillow's own rejects 0, which timm's policies may draw."""
    mask = 256 - 2 ** (8 - min(bits, 8))
    return image.point([value & mask for value in range(256)] * len(image.getbands()))


def _erasing(config: Config) -> Any:
    if not config.random_erasing:
        return None
    from timm.data.random_erasing import RandomErasing

    return RandomErasing(config.random_erasing, mode="pixel", device="cpu")
