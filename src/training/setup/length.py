"""How long a training is: steps in a pass, in an epoch and in all, whatever unit the config counts in."""
from __future__ import annotations

import math
from dataclasses import dataclass

from src.config import Config


@dataclass(frozen=True)
class Length:
    """A training is a stream of passes over the train split, cut into epochs.

    Each pass has ceil(samples / batch_size) steps, the last of them smaller if need be, wherever epochs begin and end:
    how often a model is evaluated does not change how it is trained.
    """

    samples: int  # in the train split
    batch_size: int  # samples per step
    steps_per_epoch: int
    total_steps: int

    @classmethod
    def of(cls, config: Config, samples: int) -> Length:
        """The length of a config's training on `samples` samples; 0 steps if it is to evaluate only."""
        if not config.train_length:
            return cls(samples, config.batch_size, steps_per_epoch=1, total_steps=0)
        if config.fast_dev_run:
            return cls(samples, config.batch_size, steps_per_epoch=1, total_steps=1)
        steps_per_epoch = limit_batches(config.steps_per_epoch or steps_to_see(
            config.samples_per_epoch or samples, samples, config.batch_size), config.limit_train_batches)
        length = cls(samples, config.batch_size, steps_per_epoch, 0)
        return cls(samples, config.batch_size, steps_per_epoch,
                   length.to_steps(config.train_length, config.train_length_unit))

    @property
    def epochs(self) -> int:
        """How many epochs there are; the last may be shorter than the others."""
        return -(-self.total_steps // self.steps_per_epoch)

    def epoch_steps(self, epoch: int) -> range:
        """The steps (from 0) of an epoch (from 1)."""
        return range((epoch - 1) * self.steps_per_epoch, min(epoch * self.steps_per_epoch, self.total_steps))

    def to_steps(self, amount: float, unit: str) -> int:
        """`amount` epochs, steps or samples in steps, rounded up."""
        if unit == "sample":
            return steps_to_see(_ceil(amount), self.samples, self.batch_size)
        return _ceil(amount * self.steps_per_epoch if unit == "epoch" else amount)


def steps_to_see(wanted: int, samples: int, batch_size: int) -> int:
    """The fewest steps after which at least `wanted` samples were seen, in passes over `samples` samples."""
    passes, rest = divmod(wanted, samples)
    return passes * -(-samples // batch_size) + -(-rest // batch_size)


def limit_batches(batches: int, limit: float | None) -> int:
    """How many of an epoch's `batches` a limit leaves: an integer counts them, a fraction is a share, rounded up."""
    if limit is None:
        return batches
    return min(batches, limit) if isinstance(limit, int) else _ceil(limit * batches)


def _ceil(number: float) -> int:
    return math.ceil(round(number, 6))  # 1.1 epochs of 10 steps are 11.000000000000002 to a computer
