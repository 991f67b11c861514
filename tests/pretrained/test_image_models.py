from __future__ import annotations

import sys

import pytest

from src.config import Config
from src.pretrained.image_models import ImageFormat, is_pretrained, pretrained_images

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize(("model", "library", "images"), [
    ("timm/resnet18.a1_in1k", "timm", ImageFormat((224, 224), *IMAGENET, "bicubic", 0.95, "resnet18.a1_in1k")),
    ("torchvision/resnet18", "torchvision", ImageFormat((224, 224), *IMAGENET, "bilinear", 224 / 256,
                                                   "ResNet18_Weights.IMAGENET1K_V1")),
    ("torchvision/efficientnet_v2_s", "torchvision", ImageFormat((384, 384), *IMAGENET, "bilinear", 1.0,
                                                            "EfficientNet_V2_S_Weights.IMAGENET1K_V1")),
    ("clip/ViT-B-32-256", "open_clip", ImageFormat((256, 256), (0.48145466, 0.4578275, 0.40821073), (
        0.26862954, 0.26130258, 0.27577711), "bicubic", 1.0, "datacomp_s34b_b86k")),
    ("clip/ViT-B-16-SigLIP@webli", "open_clip", ImageFormat((224, 224), (0.5,) * 3, (0.5,) * 3, "bicubic",
                                                   1.0, "webli", squash=True)),
    ("timm/resnt18", "timm", None), ("torchvision/resnt18", "torchvision", None), ("clip/ViT-B-23", "open_clip", None),
    ("timm/hf-hub:me/net", "timm", None), ("tiny/lenet", "timm", None)])
def test_what_the_libraries_know(model: str, library: str, images: ImageFormat | None) -> None:
    pytest.importorskip(library)
    found = pretrained_images(model)
    assert found == images
    assert found is None or found.shape == [3, *found.size]


def test_a_library_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    assert pretrained_images("clip/ViT-B-32") is None


def test_who_has_weights() -> None:
    assert is_pretrained(Config(model="clip/ViT-B-32@openai"))
    assert is_pretrained(Config(model="timm/resnet18", model_pretrained=True))
    assert not is_pretrained(Config(model="clip/ViT-B-32"))
