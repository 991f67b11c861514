from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from src.config import Config
from src.errors import ConfigError, DataError
from src.models import timm_models
from src.models.factory import fetch, find_head, make_model


def make(name: str, shape: tuple[int, ...] = (3, 32, 32), output_dim: int = 10, **other: object) -> nn.Module:
    return make_model(Config(model=name, **other), shape, output_dim)


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", ["linear", "linear/no_bias"])
def test_linear_models_are_a_matrix_on_the_flattened_sample(name: str) -> None:
    model = make(name, (1, 8, 8))
    x = torch.rand(3, 1, 8, 8)
    expected = x.view(3, 64) @ model.weight.T
    if name == "linear":
        expected = expected + model.bias
    assert torch.allclose(model(x), expected, atol=1e-6)
    assert parameters(model) == 640 + 10 * (name == "linear")
    assert make(name, (123,), 2)(torch.rand(3, 123)).shape == (3, 2)


SHAPES = [("tiny/lenet", (1, 4, 4)), ("tiny/lenet", (1, 8, 8)), ("tiny/lenet", (1, 28, 28)),
          ("tiny/lenet", (3, 40, 17)), ("tiny/resnet_20", (1, 8, 8)), ("tiny/resnet_20", (3, 33, 20)),
          ("tiny/resnet_18", (1, 8, 8)), ("tiny/resnet_50", (3, 32, 32)), ("tiny/vgg_11", (3, 32, 32)),
          ("tiny/vgg_11", (1, 70, 40)), ("tiny/wrn_10_2", (1, 8, 8)), ("tiny/wrn_16_1_.3", (3, 32, 32))]


@pytest.mark.parametrize(("name", "shape"), SHAPES)
@pytest.mark.parametrize("output_dim", [10, 1])
def test_every_parameter_of_every_family_is_trained(name: str, shape: tuple[int, ...], output_dim: int) -> None:
    torch.manual_seed(0)
    model = make(name, shape, output_dim)
    out = model(torch.rand(8, *shape))
    assert out.shape == (8, output_dim)
    out.square().sum().backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.abs().sum() > 0, parameter_name


@pytest.mark.parametrize("name", ["linear", "tiny/lenet", "tiny/resnet_20", "tiny/wrn_10_1"])
def test_the_seed_of_the_caller_decides_the_weights(name: str) -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return nn.utils.parameters_to_vector(make(name, (1, 8, 8)).parameters())
    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize(("name", "shape", "message"), [
    ("tiny/lenet", (123,), r"needs images \[channels, height, width\]"),
    ("tiny/lenet", (1, 3, 8), "images of 3 × 8; allowed: 4 × 4 or larger"),
    ("tiny/resnet_18", (1, 7, 8), "allowed: 8 × 8 or larger"),
    ("tiny/resnet_20", (10,), "needs images"),
    ("tiny/vgg_16", (1, 8, 8), "images of 8 × 8; allowed: 32 × 32 or larger"),
    ("tiny/wrn_10_2", (1, 32, 4), "allowed: 8 × 8 or larger"),
    ("timm/resnet18", (10,), "needs images"),
])
def test_samples_that_do_not_fit_are_refused(name: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(name, shape)


@pytest.mark.parametrize(("name", "shape"), SHAPES)
def test_the_head_is_the_last_layer(name: str, shape: tuple[int, ...]) -> None:
    model = make(name, shape, 7, model_head_init="zero")
    assert find_head(model, name).out_features == 7
    assert (model(torch.rand(4, *shape)) == 0).all()


@pytest.mark.parametrize("name", ["linear", "linear/no_bias"])
def test_head_init(name: str) -> None:
    torch.manual_seed(0)
    model = make(name, (10_000,), 10, model_head_init="rand")
    assert model.weight.mean().item() == pytest.approx(0, abs=1e-4)
    assert model.weight.var().item() == pytest.approx(1 / 10_000, rel=0.05)  # 100,000 draws
    assert model.bias is None or (model.bias == 0).all()
    assert (make(name, (10,), model_head_init="zero").weight == 0).all()
    assert (make(name, (10,)).weight != 0).all()


def test_a_model_without_linear_layer_has_no_head() -> None:
    with pytest.raises(ConfigError, match="model_head_init: .*no linear layer"):
        find_head(nn.Conv2d(1, 1, 1), "conv")


def test_unpublished_weights_are_refused() -> None:
    for act in (lambda: make("tiny/lenet", model_pretrained=True),
                lambda: fetch(Config(model="linear", model_pretrained=True))):
        with pytest.raises(ConfigError, match="no pretrained weights"):
            act()
    assert fetch(Config(model="tiny/lenet")) == "tiny/lenet: no weights to fetch"


def test_timm_models_take_the_channels_and_classes_of_the_data() -> None:
    pytest.importorskip("timm")
    model = make("timm/resnet10t", (1, 32, 32), 5, model_head_init="zero")
    out = model(torch.rand(2, 1, 32, 32))
    assert out.shape == (2, 5)
    assert (out == 0).all()


@pytest.mark.parametrize(("name", "pretrained", "message"), [
    ("timm/resnt18", False, "no model 'resnt18'; did you mean 'timm/resnet18'"),
    ("timm/resnet18.bogus", False, r"no pretrained weights 'resnet18.bogus'; allowed: .*resnet18\.a1_in1k"),
    ("timm/beit3_giant_patch14_224", True, "allowed: model_pretrained: false"),
])
def test_unknown_timm_names_are_refused(name: str, pretrained: bool, message: str) -> None:
    pytest.importorskip("timm")
    with pytest.raises(ConfigError, match=message):
        make(name, model_pretrained=pretrained)


def test_weights_come_from_the_cache_or_are_downloaded_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    from huggingface_hub import constants
    from huggingface_hub.errors import LocalEntryNotFoundError

    cached, fetched = [], []

    def create_model(*_: object, pretrained: bool) -> nn.Module:
        head = nn.Linear(1, 1)  # draws
        if constants.is_offline_mode() and not cached:
            raise LocalEntryNotFoundError("cannot find the requested files in the local cache")
        if not constants.is_offline_mode():
            fetched.append(1)
            cached.append(1)
        return head

    monkeypatch.setattr(timm, "create_model", create_model)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    config = Config(model="timm/resnet18", model_pretrained=True)
    for changes, reachable, why in (({}, "hub cannot be reached", "hub cannot be reached"),
                                    ({"data_download": False}, None, "data_download is false")):
        monkeypatch.setattr("src.io.download.unreachable_reason", lambda url, answer=reachable: answer)
        with pytest.raises(DataError, match=f"pretrained timm/resnet18 is not here, and {why}; .*experiments.py prefe"):
            fetch(config._replace(**changes))  # type: ignore[arg-type]
    monkeypatch.setattr("src.io.download.unreachable_reason", lambda url: None)
    drawn = []
    for _ in range(2):  # whether it is in the cache or not: the same draws
        torch.manual_seed(0)
        drawn.append(timm_models.create(config).weight.item())  # type: ignore[union-attr, operator]
    assert drawn[0] == drawn[1] and fetched == [1]


def test_timm_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match="pip install timm"):
        make("timm/resnet18")
