"""When a training ends: after its last epoch, when it diverges, or when too many epochs bring no better one."""
from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from src import run_folder
from src.config import Config
from src.errors import ConfigError
from src.metrics import lower_is_better
from src.training.output.recorder import Row

_NOT_METRICS = ("epoch", "step", "timestamp", "time", "data_time", "examples_per_second", "seen_examples",
                "learning_rate", "trainable_parameters", "grad_norm")


class StoppingRule:
    """Decides after each epoch whether it is the best so far, and whether the training ends with it.

    columns: those with a value in each epoch. loss_columns: the evaluation losses among them.
    is_best: whether the last epoch is the best so far; False if nothing depends on the best epoch.
    """

    def __init__(self, config: Config, columns: Iterable[str], loss_columns: Sequence[str], last_epoch: int) -> None:
        self._patience, self._max_loss = config.early_stopping_patience, config.max_allowed_loss
        self._loss_columns, self._last_epoch = loss_columns, last_epoch
        needs_best = self._patience is not None or config.save_best_checkpoint
        self._best = BestEpoch(config.best_checkpoint_metric, columns) if needs_best else None
        self.is_best = False

    def update(self, row: Row) -> str | None:
        """Take an epoch's row. Return how the training ends with it: completed, diverged or early_stopped; else None.
        """
        self.is_best = self._best is not None and self._best.update(row)
        if row["epoch"] and self._has_diverged(row):
            return run_folder.DIVERGED
        if row["epoch"] == self._last_epoch:
            return run_folder.COMPLETED
        if self._best and self._patience is not None and self._best.epochs_since >= self._patience:
            return run_folder.EARLY_STOPPED
        return None

    def _has_diverged(self, row: Row) -> bool:
        """Return whether the training loss is NaN or too large, or an evaluation shows that the last step led to NaN.
        """
        training_loss = row["train/loss"] or 0.0
        return not training_loss <= self._max_loss or any(math.isnan(row[name] or 0.0) for name in self._loss_columns)

    @property
    def uses_test_split(self) -> bool:
        """Whether the best epoch is chosen by a test split, so that its value is too optimistic."""
        return self._best is not None and self._best.uses_test_split

    def state(self) -> tuple[float, int] | None:
        """Return what `restore` needs."""
        return self._best.state() if self._best else None

    def restore(self, state: tuple[float, int] | None) -> None:
        """Continue as after the epoch at which `state` was called."""
        if self._best and state:
            self._best.restore(state)


class BestEpoch:
    """The best value so far, over all columns whose full name matches a regular expression.

    ConfigError if it matches no metric, or metrics that improve in opposite directions.
    """

    def __init__(self, pattern: str, columns: Iterable[str]) -> None:
        metrics = [column for column in columns if column.rpartition("/")[2] not in _NOT_METRICS]
        self.columns = [column for column in metrics if re.fullmatch(pattern, column)]
        if not self.columns:
            raise ConfigError(f"{pattern!r} matches no metric of this run", where="best_checkpoint_metric",
                              allowed=metrics, hint="it is a regular expression for the whole of a name")
        directions = {lower_is_better(column) for column in self.columns}
        if len(directions) > 1:
            raise ConfigError(f"{pattern!r} matches metrics that improve by falling and metrics that improve by rising",
                              where="best_checkpoint_metric", allowed=f"one kind of {', '.join(self.columns)}")
        self._sign = -1.0 if directions.pop() else 1.0
        self._best = -math.inf
        self.epochs_since = 0  # epochs since the best one

    def update(self, row: Row) -> bool:
        """Take an epoch's row. Return whether it is better than all before; NaN is never better."""
        values = [self._sign * value for column in self.columns if (value := row[column]) is not None]
        value = max((value for value in values if not math.isnan(value)), default=-math.inf)
        is_better = value > self._best
        self._best = max(self._best, value)
        self.epochs_since = 0 if is_better else self.epochs_since + 1
        return is_better

    def state(self) -> tuple[float, int]:
        """Return the best value, negated if smaller is better, and the epochs since then."""
        return self._best, self.epochs_since

    def restore(self, state: tuple[float, int]) -> None:
        """Continue as after the epoch at which `state` was called."""
        self._best, self.epochs_since = state

    @property
    def uses_test_split(self) -> bool:
        """Whether one of the columns is of a test split."""
        return any(column.startswith("test") for column in self.columns)
