from __future__ import annotations

import itertools
from random import Random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from loguru import logger
from torch import nn

from src.config import Config
from src.datasets.data import Split
from src.errors import ConfigError
from src.training.experiment import Experiment
from src.training.steps.batches import shuffled_batches
from src.training.steps.meters import Meter
from src.training.steps.mixing import Mixing, cutmix, smooth_labels
from tests.training.test_debugging_options import _Read
from tests.training.toys import CPU, make_toy, toy_classes, train_toy


def _batch(samples: int = 5, size: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(samples)
    return torch.randn(samples, 2, size, size, generator=generator), torch.arange(samples) % 3


def _lam(mixing: Mixing, batch: tuple[torch.Tensor, torch.Tensor], seed: int) -> float:
    """The share of the first sample, whose partner is of another class."""
    return mixing(batch, seed)[1][0, batch[1][0]].item()


def test_mixup_equals_a_manual_computation() -> None:
    x, y = _batch()
    mixing = Mixing(0.4, 0.0, 0.0, 3)
    mixed_x, shares = mixing((x, y), seed=1)
    lam = _lam(mixing, (x, y), 1)
    assert 0.01 < lam < 0.99
    for i, j in enumerate(reversed(range(5))):
        torch.testing.assert_close(mixed_x[i], lam * x[i] + (1 - lam) * x[j])
    output = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    by_hand = lam * F.cross_entropy(output, y) + (1 - lam) * F.cross_entropy(output, y.flip(0))
    torch.testing.assert_close(F.cross_entropy(output, shares), by_hand)


def test_cutmix_equals_a_manual_computation() -> None:
    x, y = _batch()
    for seed in range(20):
        mixed_x, shares = Mixing(0.0, 1.0, 0.0, 3)((x, y), seed)
        for i, j in enumerate(reversed(range(5))):
            if i == j:
                continue
            theirs = (mixed_x[i] == x[j]).all(0)  # [h, w]
            assert torch.equal(mixed_x[i][:, ~theirs], x[i][:, ~theirs])
            rows, columns = theirs.any(1), theirs.any(0)
            assert torch.equal(theirs, rows[:, None] & columns[None])  # a box
            torch.testing.assert_close(shares[i, y[i]].item(), 1 - theirs.float().mean().item()
                                       + (y[i] == y[j]).item() * theirs.float().mean().item())


@given(st.floats(0, 1), st.integers(1, 40), st.integers(1, 40), st.integers(0, 999))
def test_box_has_its_area_unless_it_crosses_an_edge(
        lam: float, height: int, width: int, seed: int) -> None:
    x = torch.stack([torch.zeros(1, height, width), torch.ones(1, height, width)])
    cut, left = cutmix(x, lam, Random(seed))
    box = cut[0, 0]  # ones came from the partner
    drawn = int(height * (1 - lam) ** 0.5) * int(width * (1 - lam) ** 0.5)
    assert box.sum().item() == pytest.approx((1 - left) * height * width)
    assert box.sum() <= drawn
    if not (box[0].any() or box[-1].any() or box[:, 0].any() or box[:, -1].any()) and box.any():
        assert box.sum() == drawn


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_smoothed_labels_give_the_loss_of_torch(smoothing: float) -> None:
    output, y = torch.randn(7, 4, generator=torch.Generator().manual_seed(0)), torch.arange(7) % 4
    torch.testing.assert_close(F.cross_entropy(output, smooth_labels(y, 4, smoothing)),
                               nn.CrossEntropyLoss(label_smoothing=smoothing)(output, y))


def test_targets_add_up_and_the_batch_is_unchanged() -> None:
    x, y = _batch(6)
    before = x.clone(), y.clone()
    for seed in range(30):
        _, shares = Mixing(0.5, 0.5, 0.1, 5)((x, y), seed)
        torch.testing.assert_close(shares.sum(1), torch.ones(6))
    assert torch.equal(x, before[0]) and torch.equal(y, before[1])


def test_mixup_and_cutmix_alternate_with_lam_from_beta() -> None:
    batch = torch.zeros(2, 1, 32, 32), torch.tensor([0, 1])
    batch[0][1] = 1
    kinds, lams = [], []
    for seed in range(400):
        x, shares = Mixing(1.0, 1.0, 0.0, 2)(batch, seed)
        kinds.append(set(x[0].unique().tolist()) <= {0.0, 1.0})
        lams.append(shares[0, 0].item())
    assert 0.4 < sum(kinds) / 400 < 0.6
    blended = [lam for lam, cut in zip(lams, kinds, strict=True) if not cut]
    assert abs(sum(blended) / len(blended) - 0.5) < 0.08  # Beta(1, 1) is uniform
    assert min(blended) < 0.05 and max(blended) > 0.95


def test_accuracy_uses_the_most_probable_class() -> None:
    meter = Meter("classification", CPU)
    output = torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    shares = torch.tensor([[0.7, 0.3], [0.4, 0.6], [0.1, 0.9]])
    meter.add(F.cross_entropy(output, shares), output, shares)
    assert meter.means()["accuracy"] == pytest.approx(2 / 3)
    assert meter.means()["loss"] == pytest.approx(F.cross_entropy(output, shares).item())


@pytest.mark.parametrize("lazy", [False, True])
def test_mixing_depends_on_seed_pass_and_first_sample(lazy: bool) -> None:
    split: Any = _Read(40) if lazy else toy_classes(40)
    mixing = Mixing(1.0, 0.0, 0.0, 3)

    def drawn(seed: int) -> list[torch.Tensor]:
        return [shares for _, shares in itertools.islice(shuffled_batches(split, 8, seed, CPU, mixing), 10)]

    first = drawn(0)
    torch.manual_seed(5)  # the global generators have no say
    assert all(map(torch.equal, first, drawn(0)))
    assert not all(map(torch.equal, first, drawn(1)))
    assert len({tuple(shares[0].sort().values.tolist()) for shares in first}) > 8  # each has a lam of its own


def test_training_uses_probabilities_and_evaluation_labels() -> None:
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def loss(output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        seen.append((output, y))
        return F.cross_entropy(output, y)

    made = make_toy(label_smoothing=0.1, mixup=0.2, train_length=1)
    run = Experiment(made)
    run.training.steps._loss = loss  # type: ignore[union-attr]
    run.run_epoch(1, logger)
    assert {(y.dim(), output.requires_grad) for output, y in seen} == {(2, True), (1, False)}


def test_one_split_for_training_and_evaluation_is_evaluated_with_labels() -> None:
    split = toy_classes()
    plain, _ = train_toy(make_toy({"train": split, "test": split}, train_length=1, base_lr=0.0))
    mixed, _ = train_toy(make_toy({"train": split, "test": split}, train_length=1, base_lr=0.0, mixup=1.0,
                           label_smoothing=0.2))
    assert mixed[0]["test/last/loss"] == plain[0]["test/last/loss"]
    assert mixed[0]["train/loss"] != plain[0]["train/loss"]


def test_micro_batches_are_of_the_mixed_batch() -> None:
    options = {"mixup": 0.4, "label_smoothing": 0.1, "batch_size": 20}
    whole, _ = train_toy(make_toy(**options))
    pieces, _ = train_toy(make_toy(**options, grad_accum_steps=3))
    assert pieces[-1]["test/last/loss"] == pytest.approx(whole[-1]["test/last/loss"], rel=1e-5)
    assert pieces[-1]["train/accuracy"] == pytest.approx(whole[-1]["train/accuracy"])


def test_smoothing_equals_that_of_torch() -> None:
    ours, _ = train_toy(make_toy(label_smoothing=0.1))
    made = make_toy()
    run = Experiment(made)
    loss = nn.CrossEntropyLoss(label_smoothing=0.1)
    run.training.steps._loss = loss  # type: ignore[union-attr]
    rows = [run.run_epoch(number, logger) for number in run.epochs]
    assert rows[-1]["train/loss"] == pytest.approx(ours[-1]["train/loss"], rel=1e-5)
    assert rows[-1]["test/last/accuracy"] == pytest.approx(ours[-1]["test/last/accuracy"])


@pytest.mark.parametrize(("spec", "message"), [
    ({"mixup": 0.2, "loss": "mse"}, "mixup: mixup needs classification, and this is regression"),
    ({"label_smoothing": 0.1, "targets": "numbers"}, "label_smoothing needs classification, and this is regression"),
    ({"cutmix": 1.0, "loss": "torch/NLLLoss"}, "cutmix: loss torch/NLLLoss does not accept class probabilities"),
    ({"mixup": 0.2, "task": "tests.training.tasks:Gan"}, "mixup: a user-defined task"),
    ({"mixup": -0.1}, "mixup: -0.1 is not an alpha"),
    ({"cutmix": float("inf")}, "cutmix: inf is not a finite number"),
    ({"label_smoothing": 1.0}, "label_smoothing: 1.0 is not a label smoothing"),
])
def test_invalid_mixing_is_rejected_at_submission(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config.from_dict(spec)


def test_cutmix_of_other_shapes_is_refused_before_training() -> None:
    with pytest.raises(ConfigError, match=r"cutmix: samples of shape \[5\] are not images"):
        Experiment(make_toy(cutmix=1.0))
    Experiment(make_toy({"train": Split(torch.randn(9, 3, 4, 4), torch.arange(9) % 3)}, nn.Flatten(), cutmix=1.0))
