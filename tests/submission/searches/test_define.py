"""The definition of a search, and its errors before anything is submitted."""
from __future__ import annotations

from pathlib import Path

import pytest

from src.errors import ConfigError, JobSpecError
from src.search import definition
from src.search.definition import Search
from src.search.settings import UNKNOWN_LENGTH
from src.submission.planning import search_plan
from src.submission.planning.command_line import Options
from src.submission.planning.planner import check_point
from src.submission.searches import cost, define
from src.submission.searches import preview as search_preview
from src.submission.spec import naming
from src.submission.spec.reader import parse_job_spec
from tests.submission.usage.test_costs import earlier_run

JOB = """\
job_details:
  name: tune
  metric: {metric}
  search: {search}
parameters:
  base_lr: !loguniform [1e-4, 1]
  train_length: 20
  model: tiny/lenet
  dataset: sklearn/digits
  data_splits_map: {{train: "train[:80%]", val: "train[80%:]"}}
"""
METRIC = "{name: val/last/accuracy, goal: maximize}"


def search_of(search: str = "{trials: 27}", metric: str = METRIC, more: str = "", **options: object) -> Search:
    job_spec = parse_job_spec(JOB.format(search=search, metric=metric) + more, "t.yaml")
    requested = Options("t.yaml", {}, {}, **options)  # type: ignore[arg-type]
    return define.define_search(job_spec, requested, requested.workers or 1, check_point)


def test_defaults() -> None:
    search = search_of()
    assert (search.method, search.trials, search.parallel, search.seed, search.max_trial_failures) == (
        "tpe", 27, 1, 0, 2)
    assert (search.metric, search.maximize, search.length, search.rungs) == ("val/last/accuracy", True, 20, (20,))
    assert search.varying == ("base_lr",)


def test_parallel_is_workers_times_slots() -> None:
    assert search_of(workers=4, slots=2).parallel == 8
    assert search_of("{trials: 9, parallel: 3}", workers=4).parallel == 3


def test_max_runs_limits_the_trials() -> None:
    assert search_of(max_runs=5).trials == 5


def test_rungs_grow_by_eta_up_to_train_length() -> None:
    search = search_of("{trials: 27, early_stop: {min: 2, eta: 3}}")
    assert search.rungs == (2, 6, 18, 20)
    # worked by hand: 27 trials to 2 epochs, 9 to 6, 3 to 18, and one to 20
    assert cost.usual_counts(search) == [(27, 2), (9, 6), (3, 18), (1, 20)]
    # if each is better than all before: 25 to 6, 23 to 18, 21 to 20
    assert cost.most_epochs(search) == 27 * 2 + 25 * 4 + 23 * 12 + 21 * 2
    assert any("about 128 epochs, 0.24 of 27 whole trials (27 to 2, 9 to 6, 3 to 18, 1 to 20)" in line
               for line in search_preview.lines(search, ["000_a"], []))
    lengths = [spec["train_length"] for spec in cost.usual_specs(search)]
    assert sorted(lengths, reverse=True) == [20] + [18] * 2 + [6] * 6 + [2] * 18


def test_hours_are_those_of_the_epochs_that_a_search_usually_takes(tmp_path: Path) -> None:
    search = search_of("{trials: 27, early_stop: {min: 2, eta: 3}}")
    batch = str(tmp_path / "26-01-02-tune")
    assert search_preview.hours_line(search, batch) is None
    spec = {**search.space.constants, "train_length": 10}
    earlier_run(tmp_path / "26-01-01-a" / "000_a", 2, way="workers", **spec)
    # 128 epochs of 2 seconds, and 10 to start and end each of 27 trials
    assert search_preview.hours_line(search, batch, cpus=4) == (
        f"probably {4 * (128 * 2 + 27 * 10) / 3600:.3f} CPU-hours (1 similar run)")


def test_length_of_a_search_by_steps_is_not_known() -> None:
    assert search_of(more="  train_length_unit: step\n").length == UNKNOWN_LENGTH


def test_first_decisions_are_random_and_as_many_as_run_at_a_time() -> None:
    search = search_of("{trials: 9, parallel: 4}")
    points = search_plan.first_points(search)
    assert list(points) == [naming.name_run(search)(trial, search.space.to_spec(search.space.draw(0, trial)))
                            for trial in range(4)]
    assert len(search_plan.first_points(search_of("{trials: 3, parallel: 4}"))) == 3


def test_search_survives_its_file() -> None:
    search = search_of("{trials: 27, early_stop: {min: 2, eta: 3}, method: gp, seed: 7}")
    assert definition.Search.from_json(search.to_json()) == search


@pytest.mark.parametrize(("search", "message"), [
    ("{}", "trials is required"),
    ("{trials: 0}", "allowed: an integer from 1"),
    ("{trials: 9, method: bayes}", "allowed: tpe, gp, cmaes, random"),
    ("{trials: 9, triasl: 9}", "allowed: method, trials, parallel, seed, max_trial_failures, early_stop"),
    ("{trials: 9, early_stop: {eta: 3}}", "min is required"),
    ("{trials: 9, early_stop: {min: 2, eta: 1}}", "a number above 1"),
    ("{trials: 9, early_stop: {min: 2, patience: 1}}", "allowed: method, min, max, eta, resume, schedule"),
    ("{trials: 9, early_stop: {min: 2, schedule: rung}}", "would not equal one that was never paused"),
    ("{trials: 9, early_stop: {min: 20}}", "min is 20, and a whole trial has 20 epochs"),
    ("{trials: 9, early_stop: {min: 50}}", "allowed: min from 1 to 19")])
def test_invalid_search(search: str, message: str) -> None:
    with pytest.raises(JobSpecError) as error:
        search_of(search)
    assert message in str(error.value)


def test_metric_is_required_and_has_a_direction() -> None:
    with pytest.raises(JobSpecError, match="a search needs a metric"):
        search_of(metric="null")
    with pytest.raises(JobSpecError, match="whether more or less is better is not known"):
        search_of(metric="'val/.*/energy$'")


@pytest.mark.parametrize("options", [{"array": True}, {"shard": "1/2"}, {"skip_done": True}])
def test_options_of_grids_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(JobSpecError, match="is for grids, and this job spec is a search"):
        search_of(**options)


def test_invalid_value_of_one_branch_is_found() -> None:
    with pytest.raises(ConfigError, match="optim_alg"):
        search_of(more="  LIST: [{momentum: 0.5}, {optim_alg: sgdd, momentum: !uniform [0.1, 0.2]}]\n")


def test_early_stop_needs_a_known_length() -> None:
    stop = "{trials: 9, early_stop: {min: 2}}"
    with pytest.raises(JobSpecError, match="epochs of a whole trial are not known"):
        search_of(stop, more="  train_length_unit: step\n")
    with pytest.raises(JobSpecError, match="add `max`"):
        search_of(stop, command="python mine.py")
    assert search_of("{trials: 9, early_stop: {min: 2, max: 10}}", command="python mine.py").rungs == (2, 6, 10)
