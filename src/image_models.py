"""What images a model was made for, as its library knows it: their size, and the numbers that normalise them."""
from __future__ import annotations

from dataclasses import dataclass

from src.config import Config


@dataclass(frozen=True)
class Images:
    """size: (height, width). mean, std: of each channel, of values from 0 to 1. crop_pct: the part of a side that
    evaluation leaves of a resized image. squash: whether both sides are resized, whatever that does to an image's
    shape. weights: the name of the pretrained ones, as the library calls them."""

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop_pct: float
    weights: str
    squash: bool = False

    @property
    def shape(self) -> list[int]:
        """[channels, height, width]."""
        return [len(self.mean), *self.size]


def is_pretrained(config: Config) -> bool:
    """Whether the model begins with weights that somebody has trained; clip/NAME@TAG names them."""
    return config.model_pretrained or config.model.startswith("clip/") and "@" in config.model


def own_images(model: str) -> Images | None:
    """Those of a model of timm, torchvision or open_clip; None for others, and for names that their library does not
    know, or if it is not installed: the model itself says that better."""
    family, _, name = model.partition("/")
    known = {"timm": _of_timm, "torchvision": _of_torchvision, "clip": _of_clip}.get(family)
    try:
        return known(name) if known else None
    except ImportError:
        return None


def _of_timm(name: str) -> Images | None:
    from timm.models import get_pretrained_cfg

    try:
        found = get_pretrained_cfg(name) if ":" not in name else None
    except RuntimeError:  # no such model
        found = None
    return None if found is None else Images(
        found.input_size[1:], found.mean, found.std, found.interpolation, found.crop_pct,
        ".".join(filter(None, (found.architecture, found.tag))), found.crop_mode == "squash")


def _of_torchvision(name: str) -> Images | None:
    from torchvision import models

    if name not in models.list_models(module=models):
        return None
    weights = models.get_model_weights(name).DEFAULT
    images = weights.transforms()
    size = (images.crop_size[0], images.crop_size[-1])
    return Images(size, tuple(images.mean), tuple(images.std), images.interpolation.value,
                  size[0] / images.resize_size[0], str(weights))


def _of_clip(name: str) -> Images | None:
    import open_clip

    name, _, tag = name.partition("@")
    settings = open_clip.get_model_config(name)
    if settings is None:
        return None
    size = settings["vision_cfg"]["image_size"]
    tag = tag or next(iter(open_clip.list_pretrained_tags_by_model(name)), "")
    weights = open_clip.get_pretrained_cfg(name, tag)
    return Images((size, size) if isinstance(size, int) else tuple(size),
                  tuple(weights.get("mean", open_clip.OPENAI_DATASET_MEAN)),
                  tuple(weights.get("std", open_clip.OPENAI_DATASET_STD)), weights.get("interpolation", "bicubic"), 1.0,
                  tag, weights.get("resize_mode") == "squash")
