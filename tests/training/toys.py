"""Small data sets and trainings that tests put together by hand."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from src.checks.registered_names import parse_averaging
from src.config import Config
from src.datasets.data import Data, Split
from src.optimizers.averaging import AveragedModel
from src.optimizers.factory import make_optimizer
from src.training.components import TrainingComponents
from src.training.experiment import run_epochs
from src.training.output.recorder import Row

CPU = torch.device("cpu")


def toy_classes(samples: int = 60, features: int = 5, n_classes: int = 3, seed: int = 0) -> Split:
    """Samples whose class is mostly decided by a linear rule."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, features, generator=generator)
    scores = 3 * x @ torch.randn(features, n_classes, generator=torch.Generator().manual_seed(9))  # one rule for all
    return Split(x, (scores + torch.randn(scores.shape, generator=generator)).argmax(1))


def toy_targets(samples: int = 60, features: int = 5, seed: int = 0) -> Split:
    """Samples with a real target that is mostly a linear function."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, features, generator=generator)
    return Split(x, x.sum(1) + 3 + 0.1 * torch.randn(samples, generator=generator))


def make_toy(splits: dict[str, Split] | None = None, model: nn.Module | None = None,
             **options: Any) -> TrainingComponents:
    """A linear training on toy splits (train 60, test 40), seeded unless `options` say otherwise."""
    splits = splits or {"train": toy_classes(), "test": toy_classes(40, seed=1)}
    config = Config.from_dict({"seed_training": 0, "seed_model": 0, "batch_size": 16, "train_length": 3,
                               "base_lr": 0.1, "data_splits_map": dict.fromkeys(splits, "train"), **options})
    task = "regression" if config.loss == "mse" else "classification"
    n_classes = 1 if task == "regression" else 3
    torch.manual_seed(config.seed_model or 0)
    first = next(iter(splits.values()))
    model = model or nn.Linear(first.x.shape[1], n_classes)
    averaging = parse_averaging(config.averaging)
    data = Data(splits, task, tuple(range(n_classes)) if task == "classification" else (), tuple(first.x.shape[1:]))
    return TrainingComponents(config, data, model, [make_optimizer(config, model)],
                 AveragedModel(model, averaging) if averaging else None, CPU, [])


def train_toy(made: TrainingComponents, folder: str | None = None, check: Callable[[], None] = lambda: None
          ) -> tuple[list[Row], str | None]:
    """Train to the end: all rows, and how it ended."""
    results = [(row, end) for row, _model, end in run_epochs(made, folder, check)]
    return [row for row, _ in results], results[-1][1]
