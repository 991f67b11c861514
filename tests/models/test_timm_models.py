from __future__ import annotations

import pytest
import torch

from src.config import Config
from src.datasets.data import Split
from src.errors import ConfigError
from src.models.factory import make_model
from tests.training.toys import make_toy, train_toy

pytest.importorskip("timm")


def stripes(samples: int, seed: int) -> Split:
    """Noise with horizontal, vertical or no stripes, 1 × 32 × 32."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(3, (samples,), generator=generator)
    wave = (torch.arange(32) // 4 % 2 * 2.0 - 1).expand(32, 32)
    pictures = torch.stack([wave, wave.T, torch.zeros(32, 32)])
    return Split(pictures[y][:, None] + 0.5 * torch.randn(samples, 1, 32, 32, generator=generator), y)


@pytest.mark.parametrize("name", ["timm/test_resnet", "timm/test_vit"])
def test_a_short_run_learns(name: str) -> None:
    torch.manual_seed(0)
    model = make_model(Config(model=name), (1, 32, 32), 3)
    rows, end = train_toy(make_toy({"train": stripes(96, 0), "test": stripes(60, 1)}, model, optim_alg="adamw",
                            base_lr=2e-3, train_length=4))
    assert end == "completed"
    assert rows[-1]["test/last/accuracy"] > 0.8  # 0.33 by chance


@pytest.mark.parametrize(("name", "shape"), [
    ("timm/test_vit", (1, 48, 32)), ("timm/vit_tiny_patch16_224", (3, 32, 32)), ("timm/levit_128s", (3, 64, 64)),
    ("timm/test_vit", (3, 160, 160)), ("timm/test_resnet", (2, 20, 30))])
def test_models_of_a_fixed_image_size_are_made_for_that_of_the_data(name: str, shape: tuple[int, ...]) -> None:
    model = make_model(Config(model=name), shape, 7)
    assert all(module.training for module in model.modules())
    assert model(torch.rand(2, *shape)).shape == (2, 7)


def test_trying_the_size_draws_nothing_and_leaves_statistics_alone() -> None:
    def made(side: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        torch.manual_seed(3)
        return make_model(Config(model="timm/test_resnet"), (3, side, side), 7).state_dict(), torch.rand(1)

    (usual, drawn), (other, then) = made(160), made(32)  # the latter is tried
    assert all(torch.equal(value, other[name]) for name, value in usual.items())
    assert torch.equal(drawn, then)


@pytest.mark.parametrize(("name", "side", "message"), [
    ("timm/test_vit", 28, r"model: timm/test_vit cannot take images of 28 × 28: .*patch size \(16\).*timm/resnet18"),
    ("timm/crossvit_9_240", 64, "cannot take images of 64 × 64.*try a model for any size"),
    ("timm/vgg11", 8, "cannot take images of 8 × 8.*try larger images"),
])
def test_images_that_do_not_fit(name: str, side: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_model(Config(model=name), (3, side, side), 10)
