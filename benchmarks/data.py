"""Feeding tiny/lenet with images of 32 x 32 x 3 pixels, batch size 500: the cost of reading, cropping and flipping."""
from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from src.config import Config
from src.datasets.data import Batch, Data, Lazy, Split
from src.datasets.factory import make_data
from src.datasets.on_device import OnDevice, Recipe
from src.models.factory import make_model
from src.optimizers.factory import make_optimizer
from src.training.components import TrainingComponents
from src.training.experiment import run_epochs

SAMPLES, BATCH_SIZE, STEPS, CLASSES = 20_000, 500, 80, 10
FILES, WORKERS = 10_000, 2  # images in a folder, and the processes that read them
ROUNDS = 8  # the first does not count, because processes start in it
SHAPE = (3, 32, 32)
CPU = torch.device("cpu")
CONFIG = Config(model="tiny/lenet", batch_size=BATCH_SIZE, train_length=STEPS, train_length_unit="step",
                steps_per_epoch=STEPS, base_lr=0.01, seed_training=0, seed_model=0, log_interval=0)


def measure() -> list[tuple[str, float, float | None]]:
    """Return (label, ratio, limit). All variants take turns in this process, on the cores that torch uses."""
    return [*_in_memory(), *_read()]


def _in_memory() -> list[tuple[str, float, float | None]]:
    images, y = _images()
    cropped = OnDevice(images, y, Recipe((32, 32), (0.5,) * 3, (0.25,) * 3, padding=4, hflip=0.5))
    fixed = [(torch.randn(BATCH_SIZE, *SHAPE), y[:BATCH_SIZE])]
    plain = Split(images.float() / 255, y)
    turns = [(_bare(itertools.cycle(fixed)), _ours(cropped), _ours(plain)) for _ in range(ROUNDS)][1:]
    bare, cropping, keeping = map(min, zip(*turns, strict=True))  # the least disturbed round of each
    return [(f"data_on_device with crop and flip / a single repeated batch ({1e3 * bare / STEPS:.1f} ms per step)",
             cropping / bare, 1 / 0.9),
            ("the same images in memory, without augmentation / a single repeated batch", keeping / bare, None)]


def _read() -> list[tuple[str, float, float | None]]:
    """Compare a folder of png files in the training loop with timm's loader and a hand-written loop."""
    from timm.data import create_dataset, create_loader

    with tempfile.TemporaryDirectory() as folder:
        images, y = _images()
        root = Path(folder) / "images"
        for name in range(CLASSES):
            (root / "train" / str(name)).mkdir(parents=True)
        for number, (image, label) in enumerate(zip(images[:FILES], y.tolist(), strict=False)):
            pixels = image.permute(1, 2, 0).numpy()
            Image.fromarray(pixels).save(root / "train" / str(label) / f"{number}.png", compress_level=1)
        config = CONFIG._replace(dataset="folder/images", data_dir=folder, data_splits_map={"train": "train"},
                                 model_input_shape=[*SHAPE], scale=[0.5, 1.0], hflip=0.5, num_workers=WORKERS,
                                 train_length=ROUNDS, train_length_unit="epoch", steps_per_epoch=None)
        loader = create_loader(create_dataset("", str(root), "train"), SHAPE, BATCH_SIZE, is_training=True,
                               scale=(0.5, 1.0), hflip=0.5, color_jitter=None, num_workers=WORKERS,
                               device=CPU)
        (run := Path(folder) / "run").mkdir()
        ours = run_epochs(_parts(config, make_data(config)), str(run), lambda: None)
        turns = [(_bare(loader), next(ours)[0]["train/time"]) for _ in range(ROUNDS)][1:]
        ours.close()
    bare, read = map(min, zip(*turns, strict=True))
    return [(f"a folder of png files / timm's loader and a bare loop ({FILES / bare:,.0f} images per second)",
             read / bare, 1.03)]


def _images() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (SAMPLES, *SHAPE), dtype=torch.uint8, generator=generator)
    return images, torch.randint(CLASSES, (SAMPLES,), generator=generator)


def _ours(split: Split | Lazy) -> float:
    """Return the seconds of an epoch of the training loop."""
    data = Data({"train": split}, "classification", tuple(range(CLASSES)), SHAPE)
    with tempfile.TemporaryDirectory() as folder:
        (row, _, _), = run_epochs(_parts(CONFIG, data), folder, lambda: None)
    return row["train/time"] or 0.0


def _parts(config: Config, data: Data) -> TrainingComponents:
    model = _model()
    return TrainingComponents(config, data, model, [make_optimizer(config, model)], None, CPU, [])


def _bare(batches: Iterable[Batch]) -> float:
    """Return the seconds of as many steps of a hand-written loop over `batches`."""
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
    for label, value, limit in measure():
        print(f"{label:<90} {value:6.3f}" + (f"   limit {limit:.3f}" if limit else ""))
