from __future__ import annotations

import math

import pytest

from src.config import Config
from src.errors import ConfigError
from src.metrics import Metric
from src.training.output.recorder import stats_columns
from src.training.stopping import BestEpoch, Judgement, StoppingRule

COLUMNS = stats_columns(("loss", "accuracy"), ("val", "test"), ("last", "av"))


def _row(last: float, av: float | None = None) -> dict[str, float | None]:
    return {"epoch": 1, "val/last/accuracy": last, "val/av/accuracy": av, "val/last/loss": last}


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


def test_judgement_names_the_better_weights() -> None:
    best = BestEpoch("val/.*/accuracy", COLUMNS)
    assert best.judge(_row(0.5, 0.8)) == Judgement("av", 1, "val/av/accuracy", 0.8, "maximize")
    assert best.judge(_row(0.9, 0.8)) == Judgement("last", 1, "val/last/accuracy", 0.9, "maximize")
    assert best.judge(_row(math.nan, None)) is None
    rule = StoppingRule(Config(), COLUMNS, [], 3)  # nothing depends on the best epoch
    assert rule.judge(_row(0.9, 0.8), ["last", "av"]) == Judgement("av", 1)
    assert rule.judge(_row(0.9), ["last"]) == Judgement("last", 1)


ENERGY = stats_columns(("loss", "energy", "wer"), ("val",), ("last",))


def test_goal_of_the_job_spec_is_respected() -> None:
    values = (3.0, 2.0, 4.0)
    for goal, expected in (("minimize", [True, True, False]), ("maximize", [True, False, True])):
        best = BestEpoch("val/last/energy", ENERGY, Metric("val/last/energy", goal))
        assert [best.update({"epoch": 1, "val/last/energy": value}) for value in values] == expected
    best = BestEpoch("val/last/wer", ENERGY, Metric("val/last/energy", "maximize"))  # by its name
    assert [best.update({"epoch": 1, "val/last/wer": value}) for value in values] == [True, True, False]


def test_goal_of_the_config_takes_precedence() -> None:
    config = Config(best_checkpoint_metric="val/last/wer", best_checkpoint_goal="maximize", early_stopping_patience=2)
    rule = StoppingRule(config, ENERGY, [], 9, Metric("val/last/wer", "minimize"))
    bests = []
    for value in (3.0, 2.0, 4.0):
        rule.update({"epoch": 1, "train/loss": 0.0, "val/last/wer": value})
        bests.append(rule.is_best)
    assert bests == [True, False, True]


def test_unknown_direction_is_an_error() -> None:
    with pytest.raises(ConfigError, match="not known for val/last/energy; set best_checkpoint_goal: minimize or"):
        BestEpoch("val/last/energy", ENERGY)
    with pytest.raises(ConfigError, match="not known for val/last/energy"):
        BestEpoch("val/.*", ENERGY)


def test_state_keeps_its_direction() -> None:
    """Also the direction of states that an earlier version saved, for which more was better unless it was a loss."""
    before = BestEpoch("val/last/wer", ENERGY, Metric("val/last/wer", "maximize"))
    before.update({"epoch": 1, "val/last/wer": 0.5})
    for state in (before.state(), before.state()[:2]):
        after = BestEpoch("val/last/wer", ENERGY)
        after.restore(state)
        assert [after.update({"epoch": 2, "val/last/wer": value}) for value in (0.4, 0.6)] == [False, True]
    older = BestEpoch("val/last/loss", ENERGY)
    older.restore((-0.5, 0))
    assert [older.update({"epoch": 2, "val/last/loss": value}) for value in (0.6, 0.4)] == [False, True]
