"""The length of a training in optimizer steps, whichever unit the config uses."""
from __future__ import annotations

import math
from dataclasses import dataclass

from src.config import Config


@dataclass(frozen=True)
class Length:
    """A training is a stream of passes over the train split, cut into epochs.

    Each pass has ceil(samples / batch_size) steps, of which the last may have a smaller batch. Passes do not depend on
    where epochs begin and end, so that the number of evaluations does not change the training.
    """

    samples: int  # in the train split
    batch_size: int  # samples per step
    steps_per_epoch: int
    total_steps: int

    @classmethod
    def of(cls, config: Config, samples: int) -> Length:
        """Return the length of a config's training on `samples` samples; 0 steps if it only evaluates."""
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
        """The number of epochs; the last may be shorter than the others."""
        return -(-self.total_steps // self.steps_per_epoch)

    def epoch_steps(self, epoch: int) -> range:
        """Return the steps, counted from 0, of an epoch, counted from 1."""
        return range((epoch - 1) * self.steps_per_epoch, min(epoch * self.steps_per_epoch, self.total_steps))

    def to_steps(self, amount: float, unit: str) -> int:
        """Convert `amount` epochs, steps or samples to steps, rounded up."""
        if unit == "sample":
            return steps_to_see(_ceil(amount), self.samples, self.batch_size)
        return _ceil(amount * self.steps_per_epoch if unit == "epoch" else amount)


def steps_to_see(count: int, samples: int, batch_size: int) -> int:
    """Return after how many steps at least `count` samples have been seen, in passes over `samples` samples."""
    passes, rest = divmod(count, samples)
    return passes * -(-samples // batch_size) + -(-rest // batch_size)


def limit_batches(batches: int, limit: float | None) -> int:
    """Apply a limit to an epoch's number of batches: an int, or a float, a fraction rounded up, at least 1."""
    if limit is None:
        return batches
    return min(batches, limit) if isinstance(limit, int) else max(1, _ceil(limit * batches))


def _ceil(number: float) -> int:
    return math.ceil(round(number, 6))  # 1.1 * 10 is 11.000000000000002 in floating point
