"""Parameter counts against those in the papers, structure against torchvision's."""
from __future__ import annotations

import pytest
import torch
from torch import nn

from src.checks.registered_names import RESNET_DEPTHS, VGG_DEPTHS
from src.config import Config
from src.models.factory import make_model


def make(name: str, shape: tuple[int, ...] = (3, 32, 32), output_dim: int = 10) -> nn.Module:
    with torch.device("meta"):  # shapes alone
        return make_model(Config(model=name), shape, output_dim)


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("side", [32, 28])
def test_lenet(side: int) -> None:
    layers = [156, 2416, 48_120, 10_164, 850]  # C1, C3 (all maps joined), C5, F6, output
    model = make("tiny/lenet", (1, side, side))
    assert [count(layer) for layer in model.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))] == layers
    assert count(model) == 61_706


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_cifar_resnets(depth: int, millions: float) -> None:
    """Table 6 of He et al., 2016; depth counts convolutions and the linear layer."""
    model = make(f"tiny/resnet_{depth}")
    assert count(model) / 1e6 == pytest.approx(millions, abs=0.05 if depth == 110 else 0.005)
    assert sum(isinstance(layer, (nn.Conv2d, nn.Linear)) for layer in model.modules()) == depth


@pytest.mark.parametrize("depth", [depth for depth in RESNET_DEPTHS if depth in (18, 34, 50, 101, 152)])
def test_imagenet_resnets_are_torchvisions_but_for_the_stem(depth: int) -> None:
    models = pytest.importorskip("torchvision.models")
    with torch.device("meta"):
        theirs = getattr(models, f"resnet{depth}")()
    ours = make(f"tiny/resnet_{depth}", (3, 224, 224), 1000)
    assert count(ours) == count(theirs) - 3 * 64 * 7 * 7 + 3 * 64 * 3 * 3
    assert [p.shape for p in ours.parameters()][1:] == [p.shape for p in theirs.parameters()][1:]


def test_a_resnet_computes_what_torchvisions_does() -> None:
    """Ours with torchvision's weights, and torchvision's with our stem, give the same outputs."""
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    for name in ("18", "50"):
        theirs = getattr(models, f"resnet{name}")(num_classes=10).eval()
        theirs.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        theirs.maxpool = nn.Identity()
        ours = make_model(Config(model=f"tiny/resnet_{name}"), (3, 32, 32), 10).eval()
        for norm in (module for module in theirs.modules() if isinstance(module, nn.BatchNorm2d)):
            nn.init.uniform_(norm.weight)  # ones would hide two that are exchanged
        for mine, other in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
            assert mine.shape == other.shape
            mine.copy_(other)
        x = torch.randn(2, 3, 32, 32)
        assert torch.allclose(ours(x), theirs(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("depth", "millions"), [(11, 133), (13, 133), (16, 138), (19, 144)])
def test_vgg_with_the_layers_it_leaves_out_has_the_published_size(depth: int, millions: int) -> None:
    """Table 2 of Simonyan and Zisserman, 2015: for 224 × 224 images, with biases and three fully connected layers."""
    convolutions = [layer for layer in make(f"tiny/vgg_{depth}").modules() if isinstance(layer, nn.Conv2d)]
    size = sum(layer.weight.numel() + layer.out_channels for layer in convolutions)
    size += (7 * 7 * 512 + 1) * 4096 + (4096 + 1) * 4096 + (4096 + 1) * 1000
    assert round(size / 1e6) == millions
    assert len(convolutions) + 3 == depth


@pytest.mark.parametrize("depth", VGG_DEPTHS)
def test_vgg_has_torchvisions_convolutions(depth: int) -> None:
    models = pytest.importorskip("torchvision.models")
    with torch.device("meta"):
        theirs = getattr(models, f"vgg{depth}_bn")().features

    def kinds(model: nn.Module) -> list[object]:
        return [layer.weight.shape if isinstance(layer, nn.Conv2d) else type(layer) for layer in model]
    assert kinds(make(f"tiny/vgg_{depth}").features) == kinds(theirs)


@pytest.mark.parametrize(("name", "millions"), [("40_1", 0.6), ("40_2", 2.2), ("40_4", 8.9), ("40_8", 35.7),
                                                ("28_10", 36.5), ("28_12", 52.5), ("22_8", 17.2), ("22_10", 26.8),
                                                ("16_8", 11.0), ("16_10", 17.1)])
def test_wide_resnets(name: str, millions: float) -> None:
    """Table 4 of Zagoruyko and Komodakis, 2016."""
    assert round(count(make(f"tiny/wrn_{name}")) / 1e6, 1) == millions


def test_dropout_of_a_wide_resnet() -> None:
    with_dropout, without = make("tiny/wrn_16_4_.3"), make("tiny/wrn_16_4")
    drops = [module.p for module in with_dropout.modules() if isinstance(module, nn.Dropout)]
    assert drops == [0.3] * 6
    assert count(with_dropout) == count(without)
    assert not any(module.p for module in without.modules() if isinstance(module, nn.Dropout))
