"""Each model family trains in a stack as singly: exactly in float64, and in the first epoch of float32."""
from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from src.datasets.data import Split
from src.models.lenet import LeNet
from src.models.linear import Linear
from src.models.resnet import ResNet
from src.models.vgg import VGG
from src.models.wide_resnet import WideResNet
from src.training.components import TrainingComponents
from tests.training.stacked.stacks import double, largest_difference, toy_maker, train_stacked
from tests.training.toys import toy_targets, train_toy


class Own(nn.Module):
    """A model with what layers of user code have: a buffer, a parameter of its own, and functions."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.GroupNorm(2, 4)
        self.scale = nn.Parameter(torch.ones(4, 1, 1))
        self.register_buffer("offset", torch.full((1,), 0.1))
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.gelu(self.norm(self.convolution(x)) * self.scale + self.offset)
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


# model and image size
FAMILIES: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "linear": (lambda: Linear((1, 8, 8), 3), 8),
    "lenet": (lambda: LeNet((1, 8, 8), 3), 8),
    "resnet": (lambda: ResNet(8, (1, 8, 8), 3, width=2), 8),
    "wrn": (lambda: WideResNet(10, 1, 0.0, (1, 8, 8), 3), 8),
    "vgg": (lambda: VGG(11, (1, 32, 32), 3, width=2), 32),
    "own": (Own, 8),
}
STEPS = 200
POINTS = [{"base_lr": 0.003, "momentum": 0.9}, {"base_lr": 0.01, "momentum": 0.0, "seed_model": 1, "averaging": "poly"},
          {"base_lr": 0.005, "weight_decay": 0.1, "seed_model": 2, "lr_schedule": "cosine"}]


def images(samples: int, size: int, seed: int) -> Split:
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(3, (samples,), generator=generator)
    return Split(torch.randn(samples, 1, size, size, generator=generator) + y[:, None, None, None], y)


@pytest.fixture
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(("name", "seeds"), [*((name, (0, 1, 2)) for name in FAMILIES),
                                             ("linear", (0, 0, 0)), ("own", (0, 0, 0))])
@pytest.mark.usefixtures("_float64")
def test_stack_equals_single_runs_in_float64(name: str, seeds: tuple[int, ...]) -> None:
    model, size = FAMILIES[name]
    make = toy_maker({"train": double(images(40, size, 0)), "test": double(images(20, size, 1))}, model,
                     train_length=STEPS, train_length_unit="step", steps_per_epoch=STEPS)
    points = [{**point, "seed_training": seed} for point, seed in zip(POINTS, seeds, strict=True)]
    assert largest_difference(make, points) < 1e-9


@pytest.mark.parametrize("name", FAMILIES)
def test_first_epoch_in_float32_is_that_of_single_runs(name: str) -> None:
    model, size = FAMILIES[name]
    make = toy_maker({"train": images(40, size, 0), "test": images(20, size, 1)}, model, train_length=1)
    assert largest_difference(make, [{**point, "seed_training": seed} for seed, point in enumerate(POINTS)]) < 1e-5


@pytest.mark.parametrize("name", FAMILIES)
def test_final_losses_in_float32_differ_less_than_those_of_seeds(name: str) -> None:
    model, size = FAMILIES[name]
    test = images(60, size, 1)
    make = toy_maker({"train": images(40, size, 0), "test": test}, model, train_length=12, base_lr=0.01, momentum=0.9)
    points = [{"seed_model": seed, "seed_training": seed} for seed in range(4)]
    stacked, singles = [make(point) for point in points], [make(point) for point in points]
    train_stacked(stacked)
    for single in singles:
        train_toy(single)

    def losses(runs: list[TrainingComponents]) -> torch.Tensor:
        with torch.no_grad():
            return torch.stack([F.cross_entropy(run.model.eval()(test.x), test.y) for run in runs])
    assert (losses(stacked) - losses(singles)).abs().max() < losses(singles).std()


@pytest.mark.parametrize("loss", ["mse", "torch/HuberLoss"])
@pytest.mark.usefixtures("_float64")
def test_regression_equals_single_runs(loss: str) -> None:
    make = toy_maker({"train": double(toy_targets()), "test": double(toy_targets(40, seed=1))}, lambda: Linear((5,), 1),
                     loss=loss, train_length=200, train_length_unit="step", clip_grad_value=1.0)
    points = [{"base_lr": 0.001 * (1 + seed), "seed_training": seed // 2} for seed in range(4)]
    assert largest_difference(make, points) < 1e-9
