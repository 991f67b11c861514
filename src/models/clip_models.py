"""CLIP models of open_clip: the image tower with a linear head, which can be initialized from the class names."""
from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from src.config import Config
from src.errors import ConfigError, did_you_mean
from src.io import files
from src.models import options
from src.models.layers import adapt_channels, check_forward, image_size, report_image_errors
from src.pretrained import hub

_STEM = r"(?:conv\d|bn\d|ln_pre|class_emb|positional_emb|cls_token|pos_emb|patch_emb|stem)"


class ImageClassifier(nn.Module):
    """[n, c, h, w] -> [n, output_dim]: a linear head on the features [n, features] of the image tower.

    normalized: features are scaled to norm 1 first, like the text features that a zero-shot head consists of.
    """

    def __init__(self, visual: nn.Module, features: int, output_dim: int, normalized: bool) -> None:
        super().__init__()
        self.visual = visual
        self.head = nn.Linear(features, output_dim)
        self.normalized = normalized

    def forward(self, x: Tensor) -> Tensor:
        features = self.visual(x)
        return self.head(functional.normalize(features, dim=-1) if self.normalized else features)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return timm's patterns of parameter names: the stem, and the blocks; the head is the rest."""
        return {"stem": rf"visual\.(?:trunk\.)?{_STEM}", "blocks": [
            (r"visual\.transformer\.resblocks\.(\d+)", None), (r"visual\.layer(\d)\.(\d+)", None),
            (r"visual\.trunk\.blocks\.(\d+)", None), (r"visual\.trunk\.stages\.(\d+)\.blocks\.(\d+)", None),
            (r"visual\.trunk\.(?:stages|layers)\.(\d+)", (0,))]}


class ClipModel(NamedTuple):
    """A model of open_clip. tag: of its pretrained weights; None for random weights."""

    open_clip: Any
    name: str
    tag: str | None
    settings: dict[str, Any]

    @property
    def size(self) -> list[int]:
        """Default height and width of its images."""
        size = self.settings["vision_cfg"]["image_size"]
        return [size, size] if isinstance(size, int) else list(size)


def make(config: Config, input_shape: tuple[int, ...], output_dim: int, classes: Sequence[object],
         device: torch.device | None, weights: bool = True) -> ImageClassifier:
    """Return the model, for images of any size that its patches fit into.

    Pretrained position embeddings are resampled.

    classes: those of the data, from whose names model_head_init: zero_shot computes the head, on `device`.
    weights: False skips pretrained weights and the zero-shot head.
    ConfigError for unknown names, images that the model does not accept, or classes without names. DataError for
    weights that are not in the cache and cannot be downloaded.
    """
    channels, *size = image_size(config.model, input_shape)
    clip = find(config)
    zero_shot = config.model_head_init == "zero_shot"
    names = class_names(config, classes, output_dim) if zero_shot and weights else []
    with report_image_errors(config.model, input_shape,
                             f"its default size is model_input_shape: [3, {clip.size[0]}, {clip.size[1]}]"):
        with options.as_config_error(config, list):
            model = _create(config, clip, size if size != clip.size else None, weights)
        classifier = ImageClassifier(model.visual, clip.settings["embed_dim"], output_dim, zero_shot)
        if names:
            with torch.no_grad():
                classifier.head.weight.copy_(_zero_shot_weights(config, clip, model, names, device))
                classifier.head.bias.zero_()
        adapt_channels(classifier, channels)
        if size != clip.size:
            check_forward(classifier, input_shape)
    if config.grad_checkpointing and isinstance(classifier.visual, clip.open_clip.model.ModifiedResNet):
        raise ConfigError(f"open_clip cannot recompute activations of {config.model}", where="grad_checkpointing",
                          allowed="false", hint="it can for vision transformers")
    return classifier


def fetch(config: Config) -> str:
    """Download pretrained weights, and the tokenizer of a zero-shot head, into the cache. Return what was done.

    Errors as in make.
    """
    clip = find(config)
    if "hf_model_name" in clip.settings["text_cfg"]:  # its text tower needs the hub even with random weights
        _create(config, clip, None)
    elif clip.tag:
        _weights(config, clip)
    if config.model_head_init == "zero_shot":
        _tokenizer(config, clip)
    return f"{config.model}: {f'weights {clip.tag} are in the cache' if clip.tag else 'no weights to fetch'}"


def find(config: Config) -> ClipModel:
    """Return the model. Its weights are those after @, or else, with model_pretrained, the first of open_clip.

    ConfigError for unknown names.
    """
    try:
        import open_clip
    except ImportError:
        raise ConfigError(f"{config.model} needs open_clip, which is not installed",
                          hint="pip install open-clip-torch") from None
    name, _, tag = config.model.removeprefix("clip/").partition("@")
    models, tags = open_clip.list_models(), open_clip.list_pretrained_tags_by_model(name)
    if name not in models:
        raise ConfigError(f"open_clip has no model '{name}'", where="model",
                          hint=did_you_mean(name, models, prefix="clip/") or "see open_clip.list_models()")
    if tag and not open_clip.is_pretrained_cfg(name, tag):
        raise ConfigError(f"open_clip has no weights '{tag}' of {name}", where="model", allowed=tags or None,
                          hint=did_you_mean(tag, tags, prefix=f"clip/{name}@"))
    if config.model_pretrained and not tags:
        raise ConfigError(f"open_clip has no pretrained weights of {name}", where="model_pretrained", allowed="false")
    return ClipModel(open_clip, name, tag or (tags[0] if config.model_pretrained else None),
                     open_clip.get_model_config(name))


def class_names(config: Config, classes: Sequence[object], output_dim: int) -> list[str]:
    """Return a name for each class, from class_names or the data. ConfigError unless there is one for each output."""
    names = config.class_names
    if isinstance(names, str):
        try:
            lines = Path(files.expand_path(names, "class_names")).read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"the file cannot be read: {error}", where="class_names") from None
        names = [line.strip() for line in lines if line.strip()]
    elif names is None:
        if not all(isinstance(label, str) and not label.isdigit() for label in classes):
            raise ConfigError(f"the classes of {config.dataset} have no names", where="class_names", allowed=(
                "a list of them, in the order of the labels, or a file with one in each line"))
        names = [str(label).replace("_", " ") for label in classes]
    if len(names) != output_dim:
        raise ConfigError(f"{len(names)} names for {output_dim} classes", where="class_names")
    return names


def _create(config: Config, clip: ClipModel, size: list[int] | None, with_weights: bool = True) -> Any:
    """Create open_clip's model with both towers, for images of `size` (None: its default)."""
    vision = {**clip.settings["vision_cfg"], **options.from_config(config)}
    options.check(config, [field.name for field in dataclasses.fields(clip.open_clip.CLIPVisionCfg)])
    forced: Any = None
    if size:  # its ResNets only accept one number
        forced = vision["image_size"] = size[0] if size[0] == size[1] else tuple(size)
    weights, quick_gelu = None, False
    if clip.tag:
        weights = _weights(config, clip) if with_weights else None
        quick_gelu = bool(clip.open_clip.get_pretrained_cfg(clip.name, clip.tag).get("quick_gelu"))

    def create() -> Any:
        with _quiet():
            return clip.open_clip.create_model(clip.name, weights, vision_cfg=vision, force_image_size=forced,
                                               force_quick_gelu=quick_gelu, pretrained_text=False)

    return _with_hub(config, clip.settings["text_cfg"].get("hf_model_name"), create)


def _weights(config: Config, clip: ClipModel) -> str:
    """Return the file of the pretrained weights in Hugging Face's cache. DataError if it is unavailable."""
    name, settings = f"clip/{clip.name}@{clip.tag}", clip.open_clip.get_pretrained_cfg(clip.name, clip.tag)
    return hub.create(config, name, f"the pretrained {name}",
                      lambda: str(clip.open_clip.download_pretrained(settings)))


def _zero_shot_weights(config: Config, clip: ClipModel, model: Any, names: Sequence[str], device: torch.device | None
                       ) -> Tensor:
    """Return the weights [classes, features] of a zero-shot head.

    They are, for each class, the normalized mean of the normalized embeddings of its texts, one for each template,
    times the model's logit scale (Radford et al., Learning transferable visual models from natural language
    supervision, 2021, section 3.1).
    """
    device = device or torch.device("cpu")
    weights: Tensor = clip.open_clip.build_zero_shot_classifier(
        model.to(device).eval(), _tokenizer(config, clip), names, config.zero_shot_templates, device=device)
    weights = (model.logit_scale.exp() * weights.T).cpu()
    model.cpu().train()
    return weights


def _tokenizer(config: Config, clip: ClipModel) -> Any:
    """Return the tokenizer of the model."""
    return _with_hub(config, clip.settings["text_cfg"].get("hf_tokenizer_name"),
                     lambda: clip.open_clip.get_tokenizer(clip.name))


def _with_hub(config: Config, name: str | None, create: Callable[[], Any]) -> Any:
    """Return what `create` returns. It may download the settings or the tokenizer `name` from Hugging Face's hub."""
    return hub.create(config, name, f"'{name}', which {config.model} needs,", create) if name else create()


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress warnings in the block: open_clip warns about random weights."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
