"""The images that a pretrained model expects, as its library records them: size, normalization and cropping."""
from __future__ import annotations

from src.config import Config
from src.frozen import Frozen


class ImageFormat(Frozen):
    """The images that a model was trained on.

    size: (height, width);
    mean, std: per channel, of values between 0 and 1;
    crop_pct: fraction of a side that evaluation keeps of a resized image;
    weights: the library's name of the pretrained weights;
    squash: whether both sides are resized regardless of the aspect ratio.
    """

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
    """Return whether the model starts from pretrained weights; clip/NAME@TAG always does."""
    return config.model_pretrained or config.model.startswith("clip/") and "@" in config.model


def pretrained_images(model: str) -> ImageFormat | None:
    """Return the image format of a model of timm, torchvision or open_clip.

    None for other models, unknown names, and if the library is not installed: building the model reports those.
    """
    family, _, name = model.partition("/")
    lookup = {"timm": _of_timm, "torchvision": _of_torchvision, "clip": _of_clip}.get(family)
    try:
        return lookup(name) if lookup else None
    except ImportError:
        return None


def _of_timm(name: str) -> ImageFormat | None:
    from timm.models import get_pretrained_cfg

    try:
        config = get_pretrained_cfg(name) if ":" not in name else None
    except RuntimeError:  # no such model
        config = None
    return None if config is None else ImageFormat(
        config.input_size[1:], config.mean, config.std, config.interpolation, config.crop_pct,
        ".".join(filter(None, (config.architecture, config.tag))), config.crop_mode == "squash")


def _of_torchvision(name: str) -> ImageFormat | None:
    from torchvision import models

    if name not in models.list_models(module=models):
        return None
    weights = models.get_model_weights(name).DEFAULT
    images = weights.transforms()
    size = (images.crop_size[0], images.crop_size[-1])
    return ImageFormat(size, tuple(images.mean), tuple(images.std), images.interpolation.value,
                       size[0] / images.resize_size[0], str(weights))


def _of_clip(name: str) -> ImageFormat | None:
    import open_clip

    name, _, tag = name.partition("@")
    settings = open_clip.get_model_config(name)
    if settings is None:
        return None
    size = settings["vision_cfg"]["image_size"]
    tag = tag or next(iter(open_clip.list_pretrained_tags_by_model(name)), "")
    weights = open_clip.get_pretrained_cfg(name, tag)
    return ImageFormat((size, size) if isinstance(size, int) else tuple(size),
                       tuple(weights.get("mean", open_clip.OPENAI_DATASET_MEAN)),
                       tuple(weights.get("std", open_clip.OPENAI_DATASET_STD)),
                       weights.get("interpolation", "bicubic"), 1.0, tag, weights.get("resize_mode") == "squash")
