from __future__ import annotations

import math

import pytest

from src.errors import ConfigError
from src.training.output.recorder import stats_columns
from src.training.stopping import BestEpoch

COLUMNS = stats_columns(("loss", "accuracy"), ("val", "test"), ("last", "av"))


def _row(last: float, av: float | None = None) -> dict[str, float | None]:
    return {"val/last/accuracy": last, "val/av/accuracy": av, "val/last/loss": last}


def test_larger_accuracy_is_better() -> None:
    best = BestEpoch("val/last/accuracy", COLUMNS)
    assert [best.update(_row(value)) for value in (0.5, 0.6, 0.6, 0.55, 0.7)] == [True, True, False, False, True]
    assert best.epochs_since == 0


def test_smaller_loss_is_better_and_epochs_without_improvement_are_counted() -> None:
    best = BestEpoch("val/last/loss", COLUMNS)
    assert [best.update(_row(value)) for value in (2.0, 1.0, 1.5, math.nan, 1.0)] == [True, True, False, False, False]
    assert best.epochs_since == 3


def test_better_of_last_and_average_counts() -> None:
    best = BestEpoch("val/.*/accuracy", COLUMNS)
    assert best.columns == ["val/last/accuracy", "val/av/accuracy"]
    rows = [(0.5, 0.8), (0.7, 0.6), (0.81, None)]
    assert [best.update(_row(*row)) for row in rows] == [True, False, True]


def test_nan_is_never_the_best() -> None:
    best = BestEpoch("val/last/accuracy", COLUMNS)
    assert [best.update(_row(value)) for value in (math.nan, 0.1)] == [False, True]


@pytest.mark.parametrize("pattern", ["accuracy", "valid/.*", "val/last/time", "epoch", "train/learning_rate"])
def test_a_pattern_must_match_a_whole_metric(pattern: str) -> None:
    with pytest.raises(ConfigError, match=r"matches no metric.*val/last/accuracy"):
        BestEpoch(pattern, COLUMNS)


def test_metrics_of_opposite_directions_are_refused() -> None:
    with pytest.raises(ConfigError, match="improve by falling and metrics that improve by rising"):
        BestEpoch("val/last/(loss|accuracy)", COLUMNS)


def test_choosing_by_a_test_split_sets_uses_test_split() -> None:
    assert BestEpoch("test/.*/accuracy", COLUMNS).uses_test_split
    assert not BestEpoch("val/.*/accuracy", COLUMNS).uses_test_split
