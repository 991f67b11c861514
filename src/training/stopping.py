"""When a training ends: after its last epoch, when it diverges, or when too many epochs bring no better one."""
from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from src import metrics, run_folder
from src.config import Config
from src.metrics import MAXIMIZE, MINIMIZE, Metric
from src.training.output.recorder import Row

# metrics that were minimized by an earlier version, whose saved states do not contain the sign
_EARLIER_MINIMIZED = re.compile(r"(?:^|_)(?:loss|error|err|perplexity|ppl|mae|mse|rmse)(?:$|_)")
BestState = tuple[Any, ...]


class Judgement(NamedTuple):
    """Why weights were chosen, as checkpoints record it.

    weights: last, those of the model, or av, their average;
    metric, value: the column of stats.csv that decided, and its value; None if no metric decided;
    epoch: of the weights and the value;
    goal: whether the metric is maximized or minimized.
    """

    weights: str
    epoch: int
    metric: str | None = None
    value: float | None = None
    goal: str | None = None


def keeps_best_checkpoint(config: Config) -> bool:
    """Return whether the model of the best epoch is saved: also if early stopping evaluates it at the end."""
    return config.save_best_checkpoint or bool(config.early_stopping_patience and config.eval_at_end)


class StoppingRule:
    """Decides after each epoch whether it is the best so far, and whether the training ends with it.

    columns: those with a value in each epoch. loss_columns: the evaluation losses among them.
    metric: of the job spec, whose goal holds for the columns that it names.
    is_best: whether the last epoch is the best so far; False if nothing depends on the best epoch.
    """

    def __init__(self, config: Config, columns: Iterable[str], loss_columns: Sequence[str], last_epoch: int,
                 metric: Metric | None = None) -> None:
        self._patience, self._max_loss = config.early_stopping_patience, config.max_allowed_loss
        self._loss_columns, self._last_epoch = loss_columns, last_epoch
        needs_best = self._patience is not None or config.save_best_checkpoint
        if goal := config.best_checkpoint_goal:
            metric = Metric(config.best_checkpoint_metric, goal)
        self._best = BestEpoch(config.best_checkpoint_metric, columns, metric) if needs_best else None
        self.is_best = False

    def update(self, row: Row) -> str | None:
        """Take an epoch's row. Return how the training ends: completed, diverged or early_stopped; else None."""
        self.is_best = self._best is not None and self._best.update(row)
        if row["epoch"] and self._has_diverged(row):
            return run_folder.DIVERGED
        if row["epoch"] == self._last_epoch:
            return run_folder.COMPLETED
        if self._best and self._patience is not None and self._best.epochs_since >= self._patience:
            return run_folder.EARLY_STOPPED
        return None

    def judge(self, row: Row, models: Sequence[str]) -> Judgement:
        """Return which weights of an epoch are the better ones, by its row.

        models: those that are evaluated. Without a metric these are the averaged weights, if they are evaluated.
        """
        judgement = self._best.judge(row) if self._best else None
        return judgement or Judgement("av" if "av" in models else "last", int(row["epoch"] or 0))

    def _has_diverged(self, row: Row) -> bool:
        """Return whether the training loss is NaN or too large, or the last step led to NaN in an evaluation."""
        training_loss = row["train/loss"] or 0.0
        return not training_loss <= self._max_loss or any(math.isnan(row[name] or 0.0) for name in self._loss_columns)

    @property
    def uses_test_split(self) -> bool:
        """Whether the best epoch is chosen by a test split, so that its value is too optimistic."""
        return self._best is not None and self._best.uses_test_split

    def state(self) -> BestState | None:
        """Return what `restore` needs."""
        return self._best.state() if self._best else None

    def restore(self, state: BestState | None) -> None:
        """Continue as after the epoch at which `state` was called."""
        if self._best and state:
            self._best.restore(state)


class BestEpoch:
    """The best value so far, over all columns whose full name matches a regular expression.

    metric: of the job spec, whose goal holds for the columns that it names.
    ConfigError if the pattern matches no metric, one whose direction is not known, or metrics of opposite directions.
    """

    def __init__(self, pattern: str, columns: Iterable[str], metric: Metric | None = None) -> None:
        self.columns, goal = metrics.choosing_columns(pattern, columns, metric)
        self._sign = -1.0 if goal == MINIMIZE else 1.0
        self._best = -math.inf
        self.epochs_since = 0  # epochs since the best one

    def judge(self, row: Row) -> Judgement | None:
        """Return the best of the columns in an epoch's row, and whose weights it is of; None if all are NaN."""
        values = {column: value for column in self.columns if (value := row[column]) is not None and value == value}
        if not values:
            return None
        column = max(values, key=lambda name: self._sign * values[name])
        return Judgement("av" if "/av/" in column else "last", int(row["epoch"] or 0), column,
                         float(values[column]), MINIMIZE if self._sign < 0 else MAXIMIZE)

    def update(self, row: Row) -> bool:
        """Take an epoch's row. Return whether it is better than all before; NaN is never better."""
        judgement = self.judge(row)
        value = self._sign * judgement.value if judgement and judgement.value is not None else -math.inf
        is_better = value > self._best
        self._best = max(self._best, value)
        self.epochs_since = 0 if is_better else self.epochs_since + 1
        return is_better

    def state(self) -> BestState:
        """Return the best value, times the sign; the epochs since then; and the sign, -1 if smaller is better."""
        return self._best, self.epochs_since, self._sign

    def restore(self, state: BestState) -> None:
        """Continue as after the epoch at which `state` was called, in its direction."""
        self._best, self.epochs_since, *sign = state
        earlier_sign = -1.0 if _EARLIER_MINIMIZED.search(self.columns[0].rpartition("/")[2]) else 1.0
        self._sign = sign[0] if sign else earlier_sign

    @property
    def uses_test_split(self) -> bool:
        """Whether one of the columns is of a test split."""
        return any(map(metrics.chooses_by_test, self.columns))
