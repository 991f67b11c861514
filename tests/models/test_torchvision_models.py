from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from src.config import Config
from src.datasets.factory import make_data
from src.errors import ConfigError, DataError
from src.models import torchvision_models
from src.models.factory import fetch, find_head, make_model, trained_head
from src.optimizers.layers import Freeze, layer_scales
from tests.datasets.test_images import make_folder
from tests.models.test_timm_models import stripes
from tests.training.toys import make_toy, train_toy

models = pytest.importorskip("torchvision.models")
SMALL = "torchvision/shufflenet_v2_x0_5"


def make(name: str, shape: tuple[int, ...] = (3, 32, 32), output_dim: int = 3, **other: Any) -> nn.Module:
    return make_model(Config(model=name, **other), shape, output_dim)


def test_a_short_run_learns() -> None:
    torch.manual_seed(0)
    rows, end = train_toy(make_toy({"train": stripes(96, 0), "test": stripes(60, 1)}, make(
        "torchvision/resnet18", (1, 32, 32)), optim_alg="adamw", base_lr=3e-3, train_length=4))
    assert end == "completed"
    assert rows[-1]["test/last/accuracy"] > 0.8  # 0.33 by chance


@pytest.mark.parametrize(("name", "shape"), [
    ("googlenet", (3, 64, 64)), ("inception_v3", (3, 80, 80)), ("squeezenet1_1", (1, 40, 48)),
    ("vit_b_32", (3, 64, 64)), ("mnasnet0_5", (4, 32, 32))])
def test_one_output_for_each_class_in_training_too(name: str, shape: tuple[int, ...]) -> None:
    """Without auxiliary outputs, for any channels, and transformers for other sizes."""
    model = make(f"torchvision/{name}", shape, 7, model_head_init="zero")
    assert all(module.training for module in model.modules())
    out = model(torch.rand(2, *shape))
    assert out.shape == (2, 7) and not out.any()


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """The file in torch's cache with the pretrained weights of SMALL."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    torch.manual_seed(7)
    weights = models.get_model("shufflenet_v2_x0_5").state_dict()
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    torch.save(weights, place(tmp_path))
    return weights


def place(folder: Path) -> Path:
    return folder / "hub/checkpoints" / models.get_model_weights("shufflenet_v2_x0_5").DEFAULT.url.rpartition("/")[2]


def test_pretrained_weights_under_a_new_head(published: dict[str, torch.Tensor]) -> None:
    made = []
    for _ in range(2):
        torch.manual_seed(0)
        made.append(make(SMALL, output_dim=5, model_pretrained=True))
    for name, weight in made[0].state_dict().items():
        assert torch.equal(weight, made[1].state_dict()[name])
        if name.startswith("fc."):
            assert len(weight) == 5
        else:
            assert torch.equal(weight, published[name])
    assert not make(SMALL, model_pretrained=True, model_head_init="zero").fc.weight.any()  # type: ignore[union-attr]
    same = make(SMALL, output_dim=1000, model_pretrained=True)  # as many classes as the weights are for
    assert torch.equal(same.fc.weight, published["fc.weight"])  # type: ignore[union-attr, arg-type]


def test_the_same_model_without_published_weights() -> None:
    config = Config(model="torchvision/googlenet", model_pretrained=True)
    assert make_model(config, (3, 64, 64), 2, weights=False).transform_input
    assert not make("torchvision/googlenet", (3, 64, 64)).transform_input


def test_grey_images_are_what_three_equal_channels_are(published: dict[str, torch.Tensor]) -> None:
    torch.manual_seed(0)
    colors = make(SMALL, model_pretrained=True).eval()
    torch.manual_seed(0)
    grey = make(SMALL, (1, 32, 32), model_pretrained=True).eval()
    x = torch.rand(2, 1, 32, 32)
    assert torch.allclose(grey(x), colors(x.expand(-1, 3, -1, -1)), atol=1e-5)


def test_images_are_normalized_as_for_the_weights(tmp_path: Path) -> None:
    make_folder(tmp_path / "colors", {"train": 2, "test": 1})
    spec = {"dataset": "folder/colors", "data_dir": str(tmp_path), "num_workers": 0, "model": "torchvision/resnet18"}
    made = make_data(Config.from_dict(spec))
    assert made.input_shape == (3, 224, 224)
    assert re.search(r"Resize\(size=256, interpolation=bilinear", made.about["images"]["evaluation"][0])
    assert make_data(Config.from_dict({**spec, "model_input_shape": [1, 32, 32]})).input_shape == (1, 32, 32)
    on_device = {**spec, "data_on_device": True, "model_pretrained": True}
    assert make_data(Config.from_dict(on_device)).about["images"]["mean"] == (0.485, 0.456, 0.406)


class Bad:
    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ("code of a file was run",)


@pytest.mark.parametrize("content", [{"fc.weight": Bad()}, {"of another model": torch.zeros(1)}])
def test_invalid_weight_file_is_refused(published: dict[str, Any], content: dict[str, Any], tmp_path: Path) -> None:
    torch.save(content, place(tmp_path))
    with pytest.raises(DataError, match=r"checkpoints/shufflenetv2.*: the pretrained .* cannot be read.*remove"):
        make(SMALL, model_pretrained=True)


def test_weights_are_downloaded_once_or_reported_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    config = Config(model=SMALL, model_pretrained=True)
    monkeypatch.setattr("src.io.download.unreachable_reason", lambda url: f"{url.split('/')[2]} is far")
    with pytest.raises(DataError, match="torchvision/shufflenet_v2_x0_5 is not here, and download.pytorch.org "
                                        "is far; .*experiments.py prefetch"):
        fetch(config)
    with pytest.raises(DataError, match="is not here, and data_download is false"):
        fetch(Config(model=SMALL, model_pretrained=True, data_download=False))
    fetched = []

    def load(url: str, **options: Any) -> None:
        assert options["weights_only"] and options["check_hash"]
        fetched.append(url)
        place(tmp_path).write_bytes(b"x")
    monkeypatch.setattr("src.io.download.unreachable_reason", lambda url: None)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", load)
    assert [fetch(config) for _ in range(2)] == [f"{SMALL}: pretrained weights are in the cache"] * 2
    assert len(fetched) == 1 and fetch(Config(model=SMALL)) == f"{SMALL}: no weights to fetch"


@pytest.mark.parametrize(("name", "shape", "message"), [
    ("resnt18", (3, 32, 32), "torchvision has no classifier 'resnt18'; did you mean 'torchvision/resnet18'"),
    ("fasterrcnn_resnet50_fpn", (3, 32, 32), "has no classifier"),
    ("resnet18", (10,), "needs images"),
    ("alexnet", (3, 32, 32), r"images of 32 × 32: .*its default size is model_input_shape: \[3, 224, 224\]"),
    ("vit_b_32", (3, 64, 32), "cannot take images of 64 × 32"),
])
def test_unavailable_models_are_refused(name: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=f"model: .*{message}"):
        make(f"torchvision/{name}", shape)


def layers(name: str) -> dict[str, int]:
    """The number of layers between that of each parameter and the head's."""
    with torch.device("meta"):
        model = make(f"torchvision/{name}", (3, 224, 224))
    scales = layer_scales(model, 0.5, find_head(model, f"torchvision/{name}"))
    return {key: int(torch.tensor(1 / scales[parameter]).log2()) for key, parameter in model.named_parameters()}


def test_layers_are_blocks() -> None:
    vit = layers("vit_b_32")
    assert {vit[name] for name in ("class_token", "conv_proj.weight", "encoder.pos_embedding")} == {13}
    assert vit["encoder.layers.encoder_layer_0.ln_1.weight"] == 12 and vit["heads.head.weight"] == 0
    resnet = layers("resnet18")
    assert [resnet[name] for name in ("conv1.weight", "layer1.0.conv1.weight", "layer4.1.bn2.bias", "fc.bias")] == [
        10, 8, 1, 0]
    net = layers("efficientnet_b0")  # a stage of one block is one layer
    assert net["features.1.0.block.0.0.weight"] == net["features.1.0.block.2.0.weight"] == net[
        "features.2.0.block.0.0.weight"] + 1


@pytest.mark.parametrize(("name", "head"), [("torchvision/squeezenet1_1", "classifier.1"), (SMALL, "fc")])
def test_a_frozen_backbone(name: str, head: str) -> None:
    model = make(name, (3, 64, 64))
    Freeze(model, trained_head(model, name), None).apply(1)
    assert [key for key, parameter in model.named_parameters() if parameter.requires_grad] == [
        f"{head}.weight", f"{head}.bias"]


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ConfigError, match="pip install torchvision"):
        torchvision_models.make(Config(model=SMALL), (3, 32, 32), 3)
