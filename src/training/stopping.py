"""Which epoch is the best, by best_checkpoint_metric, and when too many have passed without a better one."""
from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

from src.errors import ConfigError
from src.metrics import descends

_NO_METRICS = ("epoch", "step", "timestamp", "time", "data_time", "examples_per_second", "seen_examples",
               "learning_rate", "trainable_parameters", "grad_norm")


class BestEpoch:
    """The best value so far of the columns that a pattern matches as a whole; the best of them counts.

    ConfigError if it matches no metric, or metrics that improve in opposite directions.
    """

    def __init__(self, pattern: str, columns: Iterable[str]) -> None:
        metrics = [column for column in columns if column.rpartition("/")[2] not in _NO_METRICS]
        self.columns = [column for column in metrics if re.fullmatch(pattern, column)]
        if not self.columns:
            raise ConfigError(f"{pattern!r} matches no metric of this run", where="best_checkpoint_metric",
                              allowed=metrics, hint="it is a regular expression for the whole of a name")
        directions = {descends(column) for column in self.columns}
        if len(directions) > 1:
            raise ConfigError(f"{pattern!r} matches metrics that fall and metrics that rise as they improve",
                              where="best_checkpoint_metric", allowed=f"one kind of {', '.join(self.columns)}")
        self._sign = -1.0 if directions.pop() else 1.0
        self._best = -math.inf
        self.epochs_since = 0  # epochs since the best one

    def update(self, row: Mapping[str, float | None]) -> bool:
        """Take in an epoch's row; whether it is better than all before. NaN is never better."""
        values = [self._sign * value for column in self.columns if (value := row[column]) is not None]
        value = max((value for value in values if not math.isnan(value)), default=-math.inf)
        better = value > self._best
        self._best = max(self._best, value)
        self.epochs_since = 0 if better else self.epochs_since + 1
        return better

    def state(self) -> tuple[float, int]:
        """The best value, as it is compared, and the epochs since."""
        return self._best, self.epochs_since

    def restore(self, state: tuple[float, int]) -> None:
        """Go on as from when `state` was called."""
        self._best, self.epochs_since = state

    @property
    def uses_test_split(self) -> bool:
        """Whether the metric is one of a test split, so that its best value is no honest estimate."""
        return any(column.startswith("test") for column in self.columns)
