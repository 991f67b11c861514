from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from src.config import Config
from src.models.factory import make_model
from src.optimizers.factory import make_optimizer
from src.training.setup.summary import flops, lines, optimizer_state_bytes, parameters_by_part
from tests.training.toys import CPU, make_toy, train_toy


def test_flops_of_products_and_convolutions() -> None:
    assert flops(nn.Linear(20, 30), (20,), CPU, min_parameters=0) == 2 * 20 * 30
    # 8 maps of 10 × 12, each number from 3 × 3 × 3 of the input
    assert flops(nn.Conv2d(3, 8, 3, padding=1), (3, 10, 12), CPU, min_parameters=0) == 2 * 8 * 10 * 12 * 27
    assert flops(make_model(Config(model="tiny/lenet"), (1, 28, 28), 10), (1, 28, 28), CPU, min_parameters=0) == 2 * (
        6 * 28 * 28 * 25 + 16 * 10 * 10 * 6 * 25 + 400 * 120 + 120 * 84 + 84 * 10)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


def test_flops_of_attention() -> None:
    tokens, width = 7, 16  # queries, keys, values and the output; then scores and the sums of values
    assert flops(Attention(), (tokens, width), CPU, min_parameters=0) == (
        2 * (4 * tokens * width**2 + 2 * tokens**2 * width))
    assert torch.backends.mha.get_fastpath_enabled()  # type: ignore[no-untyped-call]


class Picky(nn.Module):
    """Draws in every mode, has layers in both modes, and fails if told to."""

    def __init__(self, fails: bool) -> None:
        super().__init__()
        self.norm, self.linear, self.fails = nn.BatchNorm1d(4), nn.Linear(4, 4), fails

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.fails:
            raise RuntimeError("not such a sample")
        return self.linear(self.norm(x)) + torch.rand(4)


@pytest.mark.parametrize("fails", [False, True])
def test_counting_flops_changes_nothing(fails: bool) -> None:
    model = Picky(fails)
    model.norm.eval()
    before, state = {name: value.clone() for name, value in model.state_dict().items()}, torch.get_rng_state()
    assert flops(model, (4,), CPU, min_parameters=0) == (None if fails else 2 * 16)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert (model.training, model.norm.training, model.linear.training) == (True, False, True)
    assert torch.is_grad_enabled()


def test_flops_are_not_counted_for_other_samples_and_small_models() -> None:
    assert flops(nn.Linear(2, 2), (), CPU, min_parameters=0) is None
    assert flops(nn.Linear(316, 316), (316,), CPU) == 2 * 316**2  # 100,172 parameters
    assert flops(nn.Linear(300, 300), (300,), CPU) is None


def test_each_parameter_counts_in_one_part() -> None:
    model = nn.Module()
    model.first, model.second = nn.Linear(3, 4), nn.Linear(3, 4)
    model.second.weight, model.scale = model.first.weight, nn.Parameter(torch.zeros(2))
    assert parameters_by_part(model) == {"scale": 2, "first": 16, "second": 4}
    assert parameters_by_part(nn.Sequential(model)) == parameters_by_part(model)
    assert parameters_by_part(nn.Linear(3, 4)) == {"weight": 12, "bias": 4}


@pytest.mark.parametrize(("options", "times"), [
    ({"momentum": 0.0}, 0), ({}, 1), ({"optim_alg": "adam"}, 2), ({"optim_alg": "amsgradw"}, 3)])
def test_size_of_the_optimizer_state(options: dict[str, object], times: int) -> None:
    model = nn.Linear(100, 10, bias=False)
    optimizer = make_optimizer(Config.from_dict({"base_lr": 0.1, **options}), model)
    assert optimizer_state_bytes([optimizer]) == 4000 * times + (4 if times > 1 else 0)  # with Adam's count of steps


def test_log_lines_of_parameters_and_memory() -> None:
    model = nn.Sequential(nn.Linear(2**10, 2**9, bias=False), nn.Linear(2**9, 2**10, bias=False))  # 2 MiB each
    model[0].requires_grad_(False)
    optimizer = make_optimizer(Config(), model)
    assert list(lines(model, [optimizer], averaged=True)) == [
        "1,048,576 parameters, 524,288 of them trained: 0 524,288, 1 524,288",
        "12.0 MiB: weights 4.0, gradients 2.0, their average 4.0, optimizer state 2.0; activations come on top"]
    model = nn.Sequential(*(nn.Linear(1, 1) for _ in range(11)))
    told = list(lines(model, [torch.optim.Adam(model.parameters())], averaged=False))
    assert told[0].startswith("22 parameters, all of them trained: 0 2, ")
    assert told[0].endswith("7 2, 3 more")
    assert told[1].endswith("activations come on top, and the state of the optimizer")


def test_run_logs_its_size(tmp_path: Path) -> None:
    train_toy(make_toy(model=nn.Sequential(nn.Linear(5, 20_000), nn.Linear(20_000, 3))), str(tmp_path))
    assert "180,003 parameters, all of them trained: 0 120,000, 1 60,003" in (tmp_path / "training.log").read_text()
    assert f"flops: {2 * 8 * 20_000}" in (tmp_path / "config.yaml").read_text().replace('"', "")
