from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from loguru import logger
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from src.optimizers.fused import SGD
from src.training import epoch
from src.training.epoch import Elapsed, Trainer, evaluate
from src.training.output.log import Progress
from src.training.output.resume import ResumeSaver, disabled_saver
from src.training.steps.batches import ordered_batches, shuffled_batches
from src.training.steps.meters import Meter
from src.training.steps.task import Supervised
from tests.training.toys import CPU, make_toy, toy_classes

SILENT = Progress(logger, "", 0.0)


def quiet() -> tuple[Progress, ResumeSaver, Elapsed]:
    """A training that says nothing and saves nothing."""
    return SILENT, disabled_saver(), Elapsed()


def _trainer(made: Any, micro_batch_size: int = 10**9, rate: float = 0.1, max_loss: float = 1e6) -> Trainer:
    steps = Supervised(made.model, F.cross_entropy, made.optimizers[0], micro_batch_size)
    return Trainer(made.model, steps, lambda step: rate / 0.1 / (1 + step), made.average, max_loss)  # 0.1: base_lr


def _evaluate(model: nn.Module, split: Any, batch_size: int) -> dict[str, float]:
    steps = Supervised(model, F.cross_entropy, SGD([], 0.1), 1)
    return evaluate(model, model, steps, split, batch_size, Meter("classification", CPU), SILENT, disabled_saver())


def test_loop_equals_a_manual_loop() -> None:
    split = toy_classes(50)
    made = make_toy({"train": split}, averaging="poly_0", momentum=0.9)
    model = copy.deepcopy(made.model)
    meter = Meter("classification", CPU)
    last, timing = _trainer(made).train(shuffled_batches(split, 16, seed=0, device=CPU), range(7), meter, *quiet())

    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, nesterov=True)
    history, losses, correct = [], 0.0, 0
    for step, (x, y) in enumerate(itertools.islice(shuffled_batches(split, 16, seed=0, device=CPU), 7)):
        optimizer.param_groups[0]["lr"] = 0.1 / (1 + step)
        output = model(x)
        loss = F.cross_entropy(output, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses += loss.item() * len(y)
        correct += int((output.argmax(1) == y).sum())
        history.append(model.weight.detach().clone())

    seen = 16 + 16 + 16 + 2 + 16 + 16 + 16
    torch.testing.assert_close(made.model.state_dict(), model.state_dict())
    torch.testing.assert_close(made.average.module().weight, torch.stack(history).mean(0), check_stride=False)
    assert meter.means() == pytest.approx({"loss": losses / seen, "accuracy": correct / seen})
    assert (last, meter.samples) == (6, seen)
    assert timing["examples_per_second"] == pytest.approx(seen / timing["time"])
    assert 0 <= timing["data_time"] <= timing["time"]


@pytest.mark.parametrize("micro_batch_size", [1, 5, 8, 15])
def test_accumulated_gradients_are_those_of_the_large_batch(micro_batch_size: int) -> None:
    split = toy_classes(50)
    whole, cut = make_toy({"train": split}), make_toy({"train": split})
    meters = Meter("classification", CPU), Meter("classification", CPU)
    _trainer(whole).train(shuffled_batches(split, 16, seed=0, device=CPU), range(8), meters[0], *quiet())
    _trainer(cut, micro_batch_size).train(shuffled_batches(split, 16, seed=0, device=CPU), range(8), meters[1],
                                          *quiet())
    torch.testing.assert_close(cut.model.state_dict(), whole.model.state_dict())
    assert meters[1].means() == pytest.approx(meters[0].means(), rel=1e-5)


def test_leftover_gradients_are_dropped() -> None:
    split = toy_classes(50)
    clean, soiled = make_toy({"train": split}), make_toy({"train": split})
    F.cross_entropy(soiled.model(split.x), split.y).backward()
    for made in (clean, soiled):
        _trainer(made).train(shuffled_batches(split, 16, seed=0, device=CPU), range(3), Meter("classification", CPU),
                             *quiet())
    assert torch.equal(soiled.model.weight, clean.model.weight)


class _CountReads(TorchDispatchMode):
    """Counts how often a number is fetched from the device."""

    reads = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            self.reads += 1
        return func(*args, **(kwargs or {}))


def test_steps_do_not_wait_for_the_device() -> None:
    split = toy_classes(400)
    made = make_toy({"train": split}, averaging="ema", optim_alg="adam")
    counts = []
    for steps in (5, 300):
        with _CountReads() as counter:
            _trainer(made).train(shuffled_batches(split, 8, seed=0, device=CPU), range(steps),
                                 Meter("classification", CPU), *quiet())
            counter_after_training = counter.reads
            _evaluate(made.model, split, steps)
        counts.append((counter_after_training, counter.reads))
    assert counts[0] == counts[1]


def test_divergence_ends_the_epoch_at_the_next_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epoch, "CHECK_EVERY", 4)
    split = toy_classes(50)

    def steps_taken(rate: float, max_loss: float) -> int:
        last, _ = _trainer(make_toy({"train": split}), rate=rate, max_loss=max_loss).train(
            shuffled_batches(split, 16, seed=0, device=CPU), range(2, 30), Meter("classification", CPU), *quiet())
        return last + 1

    assert steps_taken(0.1, 1e6) == 30
    assert steps_taken(0.1, 0.01) == 4
    assert steps_taken(math.inf, 1e6) == 4


class _Scores(nn.Module):
    """The first three features as scores; only for evaluation."""

    def forward(self, x: Tensor) -> Tensor:
        assert not self.training
        assert torch.is_inference_mode_enabled()
        return x[:, :3]


@pytest.mark.parametrize("batch_size", [1, 7, 40, 100])
def test_evaluation_is_that_of_the_whole_split(batch_size: int) -> None:
    split = toy_classes(40)
    result = _evaluate(_Scores(), split, batch_size)
    assert result["loss"] == pytest.approx(F.cross_entropy(split.x[:, :3], split.y).item(), rel=1e-5)
    assert result["accuracy"] == pytest.approx((split.x[:, :3].argmax(1) == split.y).float().mean().item())
    assert result.keys() == {"loss", "accuracy", "time", "data_time"}
    assert sum(len(y) for _, y in ordered_batches(split, batch_size)) == 40
