"""Feeding tiny/lenet with images of 32 x 32 x 3 pixels at batch 500: what cropping and flipping leave of the speed."""
from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import nn

from src.config import Config
from src.datasets.data import Batch, Data, Lazy, Split
from src.datasets.on_device import OnDevice, Recipe
from src.models.factory import make_model
from src.optimizers.factory import make_optimizer
from src.training.experiment import Parts, epochs

SAMPLES, BATCH_SIZE, STEPS, CLASSES = 20_000, 500, 80, 10
SHAPE = (3, 32, 32)
CPU = torch.device("cpu")
CONFIG = Config(model="tiny/lenet", batch_size=BATCH_SIZE, train_length=STEPS, train_length_unit="step",
                steps_per_epoch=STEPS, base_lr=0.01, seed_training=0, seed_model=0, log_interval=0)


def measure() -> list[tuple[str, float, float | None]]:
    """(what, ratio, the most it may be). All take turns in this process, on the cores that torch takes."""
    images, y = _images()
    cropped = OnDevice(images, y, Recipe((32, 32), (0.5,) * 3, (0.25,) * 3, padding=4, hflip=0.5))
    fixed = [(torch.randn(BATCH_SIZE, *SHAPE), y[:BATCH_SIZE])]
    plain = Split(images.float() / 255, y)
    turns = [(_bare(itertools.cycle(fixed)), _ours(cropped), _ours(plain)) for _ in range(8)][1:]
    step = 1e3 * statistics.median(bare for bare, _, _ in turns) / STEPS
    return [(f"data_on_device with crop and flip / one batch again and again ({step:.1f} ms a step)",
             statistics.median(ours / bare for bare, ours, _ in turns), 1 / 0.9),
            ("the same images in memory, as they are / one batch again and again",
             statistics.median(ours / bare for bare, _, ours in turns), None)]


def _images() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (SAMPLES, *SHAPE), dtype=torch.uint8, generator=generator)
    return images, torch.randint(CLASSES, (SAMPLES,), generator=generator)


def _ours(split: Split | Lazy) -> float:
    """Seconds of an epoch of our loop."""
    model = _model()
    data = Data({"train": split}, "classification", tuple(range(CLASSES)), SHAPE)
    with tempfile.TemporaryDirectory() as folder:
        (row, _, _), = epochs(Parts(CONFIG, data, model, [make_optimizer(CONFIG, model)], None, CPU, []), folder,
                              lambda: None)
    return row["train/time"] or 0.0


def _bare(batches: Iterator[Batch]) -> float:
    """Seconds of as many steps of a hand-written loop over `batches`."""
    model = _model()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, nesterov=True, fused=True)
    total, correct = torch.zeros(()), torch.zeros((), dtype=torch.long)
    start = time.perf_counter()
    for x, y in itertools.islice(batches, STEPS):
        output = model(x)
        loss = F.cross_entropy(output, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            total += loss
            correct += (output.argmax(1) == y).sum()
    total.item(), correct.item()
    return time.perf_counter() - start


def _model() -> nn.Module:
    torch.manual_seed(0)
    return make_model(CONFIG, SHAPE, CLASSES)


if __name__ == "__main__":
    for name, value, most in measure():
        print(f"{name:<90} {value:6.3f}" + (f"   at most {most:.3f}" if most else ""))
