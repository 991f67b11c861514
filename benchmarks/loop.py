"""The training loop, an evaluation and a row of stats, compared with equivalent hand-written PyTorch."""
from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from loguru import logger
from torch import Tensor, nn

from src.checks.registered_names import Averaging
from src.config import Config
from src.datasets.data import Data, Split
from src.models.linear import Linear
from src.optimizers.averaging import AveragedModel
from src.optimizers.factory import make_optimizer
from src.optimizers.fused import SGD
from src.training.components import TrainingComponents
from src.training.epoch import evaluate
from src.training.experiment import run_epochs
from src.training.output.log import Progress, epoch_line, open_log
from src.training.output.recorder import Recorder, stats_columns
from src.training.output.resume import disabled_saver
from src.training.output.table import StatsTable
from src.training.steps.meters import Meter
from src.training.steps.task import Supervised

SAMPLES, FEATURES, CLASSES = 50_000, 54, 7
EVALUATED = 200_000
LOG_STEPS = 50
CPU = torch.device("cpu")


def measure() -> list[tuple[str, float, float | None]]:
    """Return (label, ratio or milliseconds, limit). Both sides of a ratio take turns in this process."""
    rows: list[tuple[str, float, float | None]] = []
    split = random_split(SAMPLES)
    for batch_size, speed in ((8, 0.85), (128, 0.9), (2048, 0.9)):
        steps = min(4 * SAMPLES // batch_size, 12_000)
        ours, bare = rivals(lambda b=batch_size, s=steps: _our_training(split, b, s),
                             lambda b=batch_size, s=steps: _bare_training(split, b, s))
        rows.append((f"training, batch size {batch_size} / bare loop ({1e6 * bare / steps:.0f} us per step)",
                     ours / bare, 1 / speed))
    rows.append((f"training with log_steps: {LOG_STEPS} / without, batch size 128", _step_log_ratio(split), 1.02))
    split = random_split(EVALUATED)
    model = Linear((FEATURES,), CLASSES)
    ours, bare = rivals(lambda: _our_evaluation(model, split), lambda: _bare_evaluation(model, split))
    rows.append((f"evaluation of {EVALUATED:,} rows / whole-batch matmuls ({1e3 * bare:.1f} ms)", ours / bare, 1 / 0.8))
    rows.append(("write a row of stats, log and frame at epoch 3,000, in ms", _row_milliseconds(3_000), 0.3))
    return rows


def rivals(one: Callable[[], float], other: Callable[[], float], turns: int = 7) -> tuple[float, float]:
    """Return the median seconds of each, taking turns after a warm-up."""
    one(), other()
    pairs = [(one(), other()) for _ in range(turns)]
    return statistics.median(pair[0] for pair in pairs), statistics.median(pair[1] for pair in pairs)


def _step_log_ratio(split: Split, turns: int = 21) -> float:
    """Return the median ratio of neighboring trainings with and without rows of steps.csv, in alternating order.

    Their processor time is compared, to which other processes add less noise than to the time of the day.
    """
    def cpu_seconds(log_steps: int | None) -> float:
        start = time.process_time()
        _our_training(split, 128, 4 * SAMPLES // 128, log_steps)
        return time.process_time() - start

    cpu_seconds(LOG_STEPS), cpu_seconds(None)
    ratios = []
    for turn in range(turns):
        seconds = {log_steps: cpu_seconds(log_steps) for log_steps in ((LOG_STEPS, None) if turn % 2 else (
            None, LOG_STEPS))}
        ratios.append(seconds[LOG_STEPS] / seconds[None])
    return statistics.median(ratios)


def random_split(samples: int) -> Split:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, FEATURES, generator=generator)
    return Split(x, (x @ torch.randn(FEATURES, CLASSES, generator=generator)).argmax(1))


def linear_parts(split: Split, config: Config) -> TrainingComponents:
    model = Linear((FEATURES,), CLASSES)
    return TrainingComponents(config, Data({"train": split}, "classification", tuple(range(CLASSES)), (FEATURES,)),
                              model,
                 [make_optimizer(config, model)], AveragedModel(model, Averaging("poly", 8.0)), CPU, [])


def _our_training(split: Split, batch_size: int, steps: int, log_steps: int | None = None) -> float:
    config = Config(batch_size=batch_size, train_length=steps, train_length_unit="step", steps_per_epoch=steps,
                    base_lr=0.01, seed_training=0, log_steps=log_steps)
    with tempfile.TemporaryDirectory() as folder:
        (row, _, _), = run_epochs(linear_parts(split, config), folder, lambda: None)
    return row["train/time"] or 0.0


def _bare_training(split: Split, batch_size: int, steps: int) -> float:
    """Return the seconds of a hand-written loop with loss, accuracy and an average, without waiting for the device."""
    model, rates = nn.Linear(FEATURES, CLASSES), [0.01] * steps
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, nesterov=True, fused=True)
    params = list(model.parameters())
    averages = [parameter.detach().clone() for parameter in params]
    total_loss, total_correct = torch.zeros(()), torch.zeros((), dtype=torch.long)
    start, batches = time.perf_counter(), _bare_batches(split, batch_size)
    for step, (x, y) in zip(range(steps), batches, strict=False):
        for group in optimizer.param_groups:
            group["lr"] = rates[step]
        output = model(x)
        loss = F.cross_entropy(output, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(averages, params, 9 / (9 + step))
            total_loss += loss * len(y)
            total_correct += (output.argmax(1) == y).sum()
    total_loss.item(), total_correct.item()
    return time.perf_counter() - start


def _bare_batches(split: Split, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        order = torch.randperm(len(split))
        for start in range(0, len(split), batch_size):
            rows = order[start:start + batch_size]
            yield split.x[rows], split.y[rows]


def _our_evaluation(model: nn.Module, split: Split) -> float:
    start = time.perf_counter()
    steps = Supervised(model, F.cross_entropy, SGD([], 1.0), 1)
    evaluate(model, model, steps, split, 10_000, Meter("classification", CPU), Progress(logger, "", 10.0),
             disabled_saver())
    return time.perf_counter() - start


@torch.inference_mode()
def _bare_evaluation(model: nn.Module, split: Split) -> float:
    start = time.perf_counter()
    output = model(split.x)
    F.cross_entropy(output, split.y).item(), (output.argmax(1) == split.y).float().mean().item()
    return time.perf_counter() - start


def _row_milliseconds(epoch: int) -> float:
    """Time a line of stats.csv, a line of training.log and the caller's DataFrame, after `epoch` others."""
    columns = stats_columns(("loss", "accuracy"), ("val", "test"), ("last", "av"))
    row: dict[str, float | None] = {**dict.fromkeys(columns, 1 / 3), "epoch": epoch, "step": 10 * epoch}
    table = StatsTable(columns)
    with (tempfile.TemporaryDirectory() as folder, Recorder(folder, columns, lambda: None) as recorder,
          open_log(folder, to_stdout=False) as log):
        for count in range(epoch + 200):
            if count == epoch:
                start = time.perf_counter()
            recorder.write_row(row)
            log.info(epoch_line(row, epoch))
            table.add(row)
        return 1e3 * (time.perf_counter() - start) / 200


if __name__ == "__main__":
    for label, value, limit in measure():
        print(f"{label:<70} {value:6.3f}   limit {limit:.3f}")
