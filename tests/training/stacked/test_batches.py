"""Batches of a stack are those of the single runs: samples, order, size of the last one, and smoothed labels."""
from __future__ import annotations

import itertools

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from src.config import Config
from src.datasets.data import Data, Split
from src.training.stacked.batches import BatchSource
from src.training.steps.batches import shuffled_batches
from src.training.steps.mixing import make_mixing

CLASSES = 4


def identity(values: Tensor) -> Tensor:
    return values


@settings(deadline=None, max_examples=30)
@given(samples=st.integers(1, 30), batch_size=st.integers(1, 12), start=st.integers(0, 8),
       seeds=st.lists(st.integers(0, 2), min_size=1, max_size=3),
       smoothings=st.lists(st.sampled_from((0.0, 0.1, 0.5)), min_size=3, max_size=3), mixup=st.sampled_from((0.0, 0.4)))
def test_batches_are_those_of_single_runs(samples: int, batch_size: int, start: int, seeds: list[int],
                                          smoothings: list[float], mixup: float) -> None:
    generator = torch.Generator().manual_seed(samples)
    split = Split(torch.randn(samples, 2, 3, generator=generator),
                  torch.randint(CLASSES, (samples,), generator=generator))
    data = Data({"train": split}, "classification", tuple(range(CLASSES)), (2, 3))
    configs = [Config(batch_size=batch_size, seed_training=seed, label_smoothing=smoothing, mixup=mixup)
               for seed, smoothing in zip(seeds, smoothings, strict=False)]
    source = BatchSource(split, configs, data, identity, identity)
    batches = list(itertools.islice(source.from_step(start), 7))
    for member, config in enumerate(configs):
        singles = shuffled_batches(split, batch_size, config.seed_training or 0, torch.device("cpu"),
                                   make_mixing(config, data, CLASSES), start)
        for batch, (x, y) in zip(batches, singles, strict=False):
            torch.testing.assert_close(batch.x[member if len(batch.x) > 1 else 0], x)
            own = batch.y[member if len(batch.y) > 1 else 0]
            if own.dim() > y.dim():  # other members smooth their labels
                own = own.argmax(-1)
            torch.testing.assert_close(own, y)


def test_members_with_equal_seeds_share_their_batches() -> None:
    split = Split(torch.randn(8, 2), torch.zeros(8, dtype=torch.long))
    configs = [Config(batch_size=4, seed_training=1, base_lr=rate) for rate in (0.1, 0.2)]
    batch = next(BatchSource(split, configs, Data({}, "classification", (0,), (2,)), identity, identity).from_step(0))
    assert batch.x.shape == (1, 4, 2)
    assert batch.y.shape == (1, 4)
