"""A training on images that are read while they are used, augmented at random, goes on with the same numbers."""
from __future__ import annotations

import dataclasses
import functools
import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from src.config import Config
from src.training.components import TrainingComponents
from tests.training.output.test_resume import assert_nobody_notices, quick_disk, start
from tests.training.toys import make_toy

pytest.importorskip("timm")
PIL = pytest.importorskip("PIL.Image")

from src.datasets.image_splits import IndexedSplit, StreamedSplit  # noqa: E402
from src.datasets.transforms import transforms_of  # noqa: E402

__all__ = ["quick_disk"]  # the fixture

NOISE = {"dataset": "folder/drawn", "crop_padding": 1, "hflip": 0.5, "auto_augment": "rand-m9-mstd0.5",
         "random_erasing": 0.5, "mixup": 0.4, "averaging": "ema_0.9", "lr_schedule": "cosine", "warmup_steps": 3}
# a pass has four steps
CONFIGS: dict[str, dict[str, Any]] = {
    "indexed": {**NOISE, "grad_accum_steps": 2}, "two loaders": {**NOISE, "num_workers": 2, "cutmix": 1.0},
    "repeats, short epochs": {**NOISE, "aug_repeats": 3, "steps_per_epoch": 3},
    "stream": NOISE, "stream, long epochs": {**NOISE, "steps_per_epoch": 7, "train_length": 2}}


def image(number: int) -> Any:
    return PIL.fromarray(np.random.default_rng(number).integers(0, 255, (6, 6, 3), np.uint8))


def images(config: Config, samples: int, streamed: bool) -> Any:
    transforms, labels = transforms_of(config, image(0)), np.arange(samples) % 3

    def stream() -> Iterator[tuple[Any, int]]:
        return ((image(index), int(labels[index])) for index in range(samples))
    if streamed:
        return StreamedSplit("it", samples, stream, 3, transforms)
    return IndexedSplit([("it", image, str, labels, np.arange(samples))], transforms, config.num_workers,
                        config.aug_repeats or 1)


def training(net: nn.Module, streamed: bool, **options: Any) -> TrainingComponents:
    made = make_toy(None, net, **{"batch_size": 5, "num_workers": 0, **options})
    splits = {"train": images(made.config, 18, streamed), "test": images(made.config, 7, streamed)}
    return dataclasses.replace(made, data=dataclasses.replace(made.data, splits=splits, input_shape=(3, 6, 6)))


def layers() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3),
                         nn.Linear(64, 3))


@pytest.mark.parametrize(("what", "number"), [("kill", 7), ("leave", 9)])
@pytest.mark.parametrize("name", CONFIGS)
def test_resumed_run_is_identical(name: str, what: str, number: int, tmp_path: Path) -> None:
    options = {**CONFIGS[name], "layers": layers,
               "training": functools.partial(training, streamed=name.startswith("stream"))}
    start(tmp_path / "calm", **options)
    assert_nobody_notices(tmp_path / "run", number, what, tmp_path / "calm", **options)


def test_loader_processes_leave_signals_to_the_training() -> None:
    """Slurm's TERM reaches them too, and the training must be able to save itself."""
    split = images(Config(num_workers=2), 18, False)
    batches = split.batches(3, torch.arange(18), 0)
    next(batches)
    loaders = multiprocessing.active_children()
    assert len(loaders) == 2
    for loader in loaders:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            os.kill(loader.pid or 0, number)
    assert len(list(batches)) == 5
    split.close()
