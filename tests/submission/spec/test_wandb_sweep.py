"""W&B sweep files: the same points in the same order as W&B's own library gives, its distributions, its commands.

tests/golden/wandb-sweeps.json has what the library `sweeps` 0.3 gave. It wants an older numpy than the project, so it
is in no lock file. Where it can be imported, as after `pip install --no-deps --target FOLDER sweeps jsonref` and with
PYTHONPATH=FOLDER, all is compared with it, and with GRIDIRON_REFRESH=1 the file is written anew.
"""
from __future__ import annotations

import importlib.util
import itertools
import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from src import metrics
from src.errors import JobSpecError
from src.io import yaml_io
from src.search.definition import EarlyStop, Search
from src.submission.job import external_program
from src.submission.planning.command_line import Options
from src.submission.planning.planner import check_point
from src.submission.searches import define
from src.submission.searches.space import read_space
from src.submission.spec import command_template, grid, sampling, wandb_sweep
from src.submission.spec.job_spec import JobSpec
from src.submission.spec.reader import is_job_spec, parse_job_spec
from tests.fake_slurm.fixture import FakeSlurm, fake_slurm
from tests.submission.conftest import Project, project

__all__ = ["fake_slurm", "project"]  # the fixtures

GOLDEN = Path(__file__).parents[3] / "tests" / "golden" / "wandb-sweeps.json"
SHARES = (0.003, 0.24, 0.48, 0.6, 0.731, 0.999)
with_library = pytest.mark.skipif(importlib.util.find_spec("sweeps") is None, reason="W&B's library sweeps is not here")


def library(module: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(f"sweeps.{module}")


def read(document: dict[str, Any] | str) -> JobSpec:
    return parse_job_spec(document if isinstance(document, str) else json.dumps(document), "my sweep.yaml")


def alike(value: Any) -> Any:
    """To W&B 1 and 1.0 are one value, and which of them it gives is by chance."""
    if isinstance(value, dict):
        return {key: alike(value[key]) for key in sorted(value)}
    return [alike(item) for item in value] if isinstance(value, list) else \
        int(value) if isinstance(value, float) and value.is_integer() else value


def text_of(point: dict[str, Any]) -> str:
    return json.dumps(alike(point))


def our_points(parameters: dict[str, Any]) -> list[str]:
    return [text_of(spec) for spec in grid.expand_job_spec(read({"method": "grid", "parameters": parameters})).specs]


def their_points(parameters: dict[str, Any]) -> list[str]:
    search = library("grid_search").grid_search_next_runs
    found = search([], {"method": "grid", "parameters": parameters}, n=10_000)
    return [text_of({key: value["value"] for key, value in run.config.items()}) for run in found if run]


def our_value(parameter: dict[str, Any], share: float) -> Any:
    """The value that is drawn for a parameter at a cumulative probability."""
    value, = read({"method": "random", "parameters": {"x": parameter}}).parameters["x"]
    return sampling.quantile_function(value, "x")(share)


def their_value(parameter: dict[str, Any], share: float) -> Any:
    value = library("params").HyperParameter("x", parameter).ppf(share)
    return value.item() if hasattr(value, "item") else value


GRIDS: list[dict[str, Any]] = [
    {"b": {"values": [2, 1]}, "a": {"values": ["y", "x"]}, "c": {"value": 3}},
    {"lr": {"values": [0.1, 0.01]}, "B": {"values": [True, 1, 1.0, 2.0, 2]}, "Z": {"value": None}},
    {"u": {"min": 1, "max": 3}, "q": {"distribution": "q_uniform", "min": 0, "max": 1, "q": 0.25},
     "i": {"distribution": "int_uniform", "min": -1, "max": 0}, "d": {"distribution": "constant", "value": [1]}},
    {"opt": {"parameters": {"name": {"values": ["sgd", "adam"]}, "eps": {"value": 1e-8},
                            "inner": {"parameters": {"k": {"values": [1, 2]}}}}},
     "m": {"values": [{"a": 1}, {"a": 2}]}, "z": {"distribution": "categorical", "values": [[1, 2], [3], "s", None]}},
]
DRAWN: list[dict[str, Any]] = [
    {"min": 0.5, "max": 2}, {"min": 1, "max": 6}, {"distribution": "uniform", "min": 0, "max": 3},
    {"distribution": "int_uniform", "min": -5, "max": 5}, {"distribution": "q_uniform", "min": 0, "max": 10, "q": 3},
    {"distribution": "q_uniform", "min": 0, "max": 1, "q": 0.1}, {"distribution": "q_uniform", "min": 0, "max": 9},
    {"distribution": "log_uniform", "min": -7, "max": -2},
    {"distribution": "log_uniform_values", "min": 1e-4, "max": 1},
    {"distribution": "inv_log_uniform", "min": 1, "max": 5},
    {"distribution": "inv_log_uniform_values", "min": 0.01, "max": 10},
    {"distribution": "q_log_uniform", "min": 0, "max": 5, "q": 2},
    {"distribution": "q_log_uniform_values", "min": 1, "max": 1000, "q": 8},
    {"distribution": "normal"}, {"distribution": "normal", "mu": 3, "sigma": 0.1},
    {"distribution": "q_normal", "mu": 10, "sigma": 4, "q": 1}, {"distribution": "log_normal", "mu": -1, "sigma": 2},
    {"distribution": "q_log_normal", "mu": 2, "sigma": 1, "q": 0.5},
    {"distribution": "beta", "a": 2, "b": 5}, {"distribution": "q_beta", "a": 2, "b": 5, "q": 0.2},
    {"values": [3, 1, 2]}, {"values": [1, 1, 2]}, {"values": ["a", "b"], "probabilities": [0.9, 0.1]},
    {"distribution": "categorical_w_probabilities", "values": [1, 2, 3], "probabilities": [0.2, 0.5, 0.3]},
]


@with_library
def test_golden_file_equals_the_results_of_the_library() -> None:
    found = {"grids": [{"parameters": parameters, "points": their_points(parameters)} for parameters in GRIDS],
             "draws": [{"parameter": parameter, "values": [their_value(parameter, share) for share in SHARES]}
                       for parameter in DRAWN]}
    if os.environ.get("GRIDIRON_REFRESH"):
        GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
    assert json.loads(GOLDEN.read_text()) == json.loads(json.dumps(found))


@pytest.mark.parametrize("case", json.loads(GOLDEN.read_text())["grids"] if GOLDEN.exists() else [],
                         ids=lambda case: "-".join(case["parameters"]))
def test_grid_has_the_points_and_order_of_wandb(case: dict[str, Any]) -> None:
    assert our_points(case["parameters"]) == case["points"]


@pytest.mark.parametrize("case", json.loads(GOLDEN.read_text())["draws"] if GOLDEN.exists() else [],
                         ids=lambda case: json.dumps(case["parameter"]))
def test_distribution_equals_that_of_wandb(case: dict[str, Any]) -> None:
    is_quantized = case["parameter"].get("distribution", "").startswith("q_")
    for share, expected in zip(SHARES, case["values"], strict=True):
        value = our_value(case["parameter"], share)
        if is_quantized:  # the library returns 55.0 for q: 1.0, and W&B's server, whose JSON has no floats, 55
            expected = sampling.integer_if_whole(expected)
        assert type(value) is type(expected)
        assert value == (pytest.approx(expected, rel=1e-5, abs=1e-9) if isinstance(expected, float) else expected)


# the numbers of each distribution that can be quantised, with a range that contains many integers
QUANTIZABLE: dict[str, dict[str, Any]] = {
    "uniform": {"min": 16, "max": 512}, "log_uniform": {"min": 3, "max": 6},
    "log_uniform_values": {"min": 16, "max": 512}, "normal": {"mu": 50, "sigma": 20},
    "log_normal": {"mu": 3, "sigma": 1}, "beta": {"a": 1, "b": 1}}
OTHERS: dict[str, dict[str, Any]] = {
    "inv_log_uniform": {"min": 1, "max": 5}, "inv_log_uniform_values": {"min": 0.1, "max": 10},
    "int_uniform": {"min": 1, "max": 9}}


@pytest.mark.parametrize("q", [None, 1, 1.0, 8, 8.0, 0.5])
@pytest.mark.parametrize("distribution", sorted(QUANTIZABLE))
def test_whole_numbers_of_quantized_distributions_are_integers(distribution: str, q: float | None) -> None:
    parameter = {"distribution": f"q_{distribution}", **QUANTIZABLE[distribution], **({"q": q} if q else {})}
    values = [our_value(parameter, place / 100) for place in range(1, 100)]
    assert all(type(value) is (int if float(value).is_integer() else float) for value in values)
    assert all(value % (q or 1) == 0 for value in values)
    assert q == 0.5 or {type(value) for value in values} == {int}


@pytest.mark.parametrize("distribution", sorted({**QUANTIZABLE, **OTHERS}))
def test_other_distributions_keep_their_type(distribution: str) -> None:
    parameter = {"distribution": distribution, **{**QUANTIZABLE, **OTHERS}[distribution]}
    kind = int if distribution == "int_uniform" else float
    assert {type(our_value(parameter, place / 100)) for place in range(1, 100)} == {kind}


@pytest.mark.parametrize(("more", "expected"), [
    ("", [0, 1, 2]), ("q: 1.0", [0, 1, 2]), ("q: 2.0", [0, 2]), ("q: 0.5", [0, 0.5, 1, 1.5, 2, 2.5])])
def test_a_grid_of_quantized_values_has_integers(more: str, expected: list[float]) -> None:
    parameter = f"{{distribution: q_uniform, min: 0.0, max: 3.0, {more}}}"
    specs = grid.expand_job_spec(read(f"{{method: grid, parameters: {{x: {parameter}}}}}")).specs
    assert [repr(spec["x"]) for spec in specs] == list(map(repr, expected))
    whole_limits = read("{method: grid, parameters: {x: {distribution: int_uniform, min: 1.0, max: 3.0}}}")
    assert [repr(spec["x"]) for spec in grid.expand_job_spec(whole_limits).specs] == ["1", "2", "3"]


@pytest.mark.parametrize("macro", ["${args}", "${args_no_hyphens}", "${args_no_equals}", "${args_no_boolean_flags}",
                                   "${args_append_hydra}", "${args_override_hydra}", "${args_json}",
                                   "${args_json_file}", "--hidden_dim={hidden_dim}"])
def test_quantized_integers_are_passed_as_integers(macro: str, tmp_path: Path) -> None:
    """On the command line, in the files, and in the file that WANDB_SWEEP_PARAM_PATH names."""
    sweep = read({"method": "random", "run_cap": 3, "program": "x.py", "command": ["x", macro], "parameters": {
        "hidden_dim": {"distribution": "q_log_uniform_values", "min": 16, "max": 512}}})
    for spec in grid.expand_job_spec(sweep).specs:
        external_program.write_parameters(sweep.command, spec, str(tmp_path))
        arguments = command_template.fill_command(sweep.command, spec, str(tmp_path))
        sweep_file = yaml_io.load_file(next(word for word in arguments if "WANDB_SWEEP_PARAM_PATH" in word
                                            ).partition("=")[2])
        assert type(sweep_file["hidden_dim"]["value"]) is int
        text = (tmp_path / "arguments.json").read_text() if macro == "${args_json_file}" else " ".join(arguments[2:])
        assert str(spec["hidden_dim"]) in text and "." not in text.replace(str(tmp_path), "")


scalars = st.sampled_from([0, 1, 1.0, 2.5, True, False, None, "a", "1", "1e-3", [1, 2], {"k": 1}])
one_parameter = st.one_of(
    st.builds(lambda value: {"value": value}, scalars),
    st.builds(lambda values: {"values": values}, st.lists(scalars, min_size=1, max_size=3)),
    st.builds(lambda low, width: {"min": low, "max": low + width}, st.integers(-3, 3), st.integers(1, 3)),
    st.builds(lambda low, width, q: {"distribution": "q_uniform", "min": low, "max": low + width, "q": q},
              st.integers(-2, 2), st.integers(1, 2), st.sampled_from([0.5, 0.3, 1, 2])))
names = st.sampled_from(["a", "B", "lr", "b.c", "Z", "x-y", "_z"])
sweeps_of_grids = st.dictionaries(names, st.recursive(one_parameter, lambda inner: st.builds(
    lambda parameters: {"parameters": parameters}, st.dictionaries(names, inner, min_size=1, max_size=3)),
    max_leaves=3), min_size=1, max_size=4)


@with_library
@given(sweeps_of_grids)
def test_any_grid_has_the_points_and_order_of_the_library(parameters: dict[str, Any]) -> None:
    theirs = their_points(parameters)
    assume(len(theirs) < 2000)
    assert our_points(parameters) == theirs


@settings(max_examples=30)
@given(st.dictionaries(names, st.lists(scalars, min_size=1, max_size=3), min_size=1, max_size=4))
def test_axes_are_sorted_by_name_the_first_varying_slowest(values: dict[str, list[Any]]) -> None:
    axes = {key: list(dict.fromkeys(map(text_of_value, values[key]))) for key in sorted(values)}
    expected = [dict(zip(axes, point, strict=True)) for point in itertools.product(*axes.values())]
    parameters = {key: {"values": listed} for key, listed in values.items()}
    specs = grid.expand_job_spec(read({"method": "grid", "parameters": parameters})).specs
    assert [{key: text_of_value(value) for key, value in spec.items()} for spec in specs] == expected


def text_of_value(value: Any) -> str:
    return json.dumps(alike(value))


def test_scalars_and_lists_without_keys() -> None:
    spec = read("{method: grid, parameters: {b: 3, a: [1, 2], c: 'range(3)', d: {value: [1]}}}")
    assert grid.expand_job_spec(spec).specs == [{"a": a, "b": 3, "c": "range(3)", "d": [1]} for a in (1, 2)]


RANDOM = """
method: random
run_cap: 6
parameters:
  lr: {distribution: log_uniform_values, min: 1e-4, max: 1e-1}
  size: {values: [8, 16]}
  one: {values: [7]}
  fixed: {value: x}
  opt: {parameters: {eps: {min: 0.0, max: 1.0}, kind: {value: y}}}
"""


def test_seed_determines_random_points_and_more_samples_extend_them() -> None:
    spec = read(RANDOM)
    six = grid.expand_job_spec(spec).specs
    assert len(six) == 6
    assert grid.expand_job_spec(spec, samples=9).specs[:6] == six
    assert grid.expand_job_spec(spec, seed=1).specs != six
    assert {(point["one"], point["fixed"], point["opt"]["kind"]) for point in six} == {(7, "x", "y")}
    assert len({point["lr"] for point in six}) == len({point["opt"]["eps"] for point in six}) == 6
    with pytest.raises(JobSpecError, match="--samples 20, .*run_cap in a sweep file"):
        grid.expand_job_spec(read(RANDOM.replace("run_cap: 6", "")))


def test_run_cap_keeps_the_first_points_of_a_grid(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    (project.folder / "s.yaml").write_text("{method: grid, run_cap: 3, parameters: {batch_size: [1, 2, 3, 4, 5]}}")
    assert project.submit("s.yaml", "--local", "-d") == 0
    out = capsys.readouterr().out
    assert "note: only the first 3 of 5 runs, because of run_cap" in out and "3 runs: 3 to submit" in out
    assert project.submit("s.yaml", "--local", "-d", "--max-runs", "4") == 0
    assert "4 runs: 4 to submit" in capsys.readouterr().out


COMPOSITE = """
method: grid
parameters:
  size: {values: [8, 16]}
  model: {value: base}
  subtests:
    "adam,small": {lr: {values: [1, 2]}, _num_nodes: 3}
    big: {size: 16, model: {values: [base, big]}, lr: 1, workers: 2}
    plain:
"""


def test_subtests_are_separate_sweeps_over_a_base() -> None:
    specs = grid.expand_job_spec(read(COMPOSITE)).specs
    assert [(spec.get("lr"), spec["model"], spec["size"], spec["TAGS"], spec.get("WORKERS")) for spec in specs] == [
        (1, "base", 8, ["adam", "small"], 3), (1, "base", 16, ["adam", "small", "big"], 3),
        (2, "base", 8, ["adam", "small"], 3), (2, "base", 16, ["adam", "small"], 3), (1, "big", 16, ["big"], 2),
        (None, "base", 8, ["plain"], None), (None, "base", 16, ["plain"], None)]
    drawn = read(COMPOSITE.replace("grid", "random").replace("size:", "size: {min: 0.0, max: 1.0}\n  rest:", 1))
    assert [spec["TAGS"][0] for spec in grid.expand_job_spec(drawn, samples=2).specs] == [
        "adam", "adam", "big", "big", "plain", "plain"]
    overridden = grid.expand_job_spec(read(COMPOSITE), {"lr": 5})
    assert {spec["lr"] for spec in overridden.specs} == {5}
    listed = read("{method: grid, parameters: {subtests: {values: [1, 2]}}}")
    assert [spec["subtests"] for spec in grid.expand_job_spec(listed).specs] == [1, 2]
    with pytest.raises(JobSpecError, match="parameters, subtests, a, lr: neither"):
        read("{method: grid, parameters: {subtests: {a: {lr: {}}}}}")


def test_name_project_entity_and_metric() -> None:
    spec = read("{name: My sweep (v2), description: why, project: p, entity: e, program: ./train.py, method: grid, "
                "metric: {name: val_acc, goal: maximize, impute: worst}, parameters: {base_lr: 1}}")
    assert (spec.name, spec.description, spec.command) == ("My-sweep-v2", "why", None)
    assert spec.metric == metrics.Metric("val_acc", "maximize")
    assert spec.parameters == {"wandb_project_name": ["p"], "wandb_entity": ["e"], "base_lr": [1]}
    assert [text.partition(": ")[2] for text in spec.warnings] == [
        "metric.impute is not supported: a run without the metric is ranked last",
        "project and entity are stored; `--set wandb=true` sends the runs to W&B",
        "the batch of sweep 'My sweep (v2)' is named My-sweep-v2"]
    assert read("{method: grid, parameters: {a: 1}}").name == "my-sweep"
    assert read("{name: '...', method: grid, parameters: {a: 1}}").name == "sweep"


def test_batch_is_ranked_by_the_metric_of_the_sweep(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("{method: random, metric: {name: loss, impute: best}, parameters: {a: 1}}")
    assert metrics.read_from_batch(tmp_path) == metrics.Metric("loss", None)


@pytest.mark.parametrize(("more", "words"), [
    ("controller: {type: local}", "controller is not supported"),
    ("scheduler: {engine: ax}", "scheduler is not supported"),
    ("metric: {name: x, goal: minimize, target: 3}", "metric.target is not supported: no value ends the sweep"),
    ("image_uri: u", "image_uri is not supported"), ("my_own: 3", "'my_own' is not a key of sweep files"),
    ("run_name: x", "'run_name' is not a key of sweep files"), ("settings: {}", "'settings' is not a key"),
    ("tags: [a]", "'tags' is not a key"), ("early_stop: {}", "is not a key"),
    ("parameters: {x: {value: on}}", "parameters, x, value: W&B reads True and Gridiron reads 'on'"),
    ("parameters: {x: {values: [a, 1:30]}}", "x, values: W&B reads 90 and Gridiron reads '1:30'"),
    ("parameters: {x: {distribution: log_uniform, min: -3, max: 0}}", "takes exponents of e: this draws from 0.0497871 "
     "to 1; log_uniform_values takes the values themselves"),
])
def test_ignored_keys_and_ambiguous_values_give_warnings(more: str, words: str) -> None:
    text = f"method: random\n{more}\n" + ("" if "parameters" in more else "parameters: {base_lr: 1e-3}\n")
    warned = read(text).warnings
    assert len(warned) == 1 and words in warned[0] and warned[0].startswith("my sweep.yaml")
    assert not read("{method: random, apiVersion: v1, kind: sweep, parameters: {base_lr: 1e-3}}").warnings


@pytest.mark.parametrize(("text", "words"), [
    ("{method: bayes, early_terminate: {type: asha}, parameters: {a: 1}}", "unknown value 'asha'; allowed: hyperband"),
    ("{method: bayes, early_terminate: {min_iter: 1, max_iter: 9}, parameters: {a: 1}}", "either min_iter, or max"),
    ("{method: bayes, early_terminate: {max_iter: 9}, parameters: {a: 1}}", "s is required with max_iter"),
    ("{method: bayes, early_terminate: {min_itr: 9}, parameters: {a: 1}}", "did you mean 'min_iter'?"),
    ("{method: custom, parameters: {a: 1}}", "unknown method 'custom'; allowed: grid, random, bayes"),
    ("{program: x.py, parameters: {a: 1}}", "method is required; allowed: grid, random, bayes"),
    ("{method: grid}", "parameters are required"),
    ("{method: grid, parametres: {a: 1}}", "unknown key 'parametres'; did you mean 'parameters'?"),
    ("{method: grid, parameters: {a: {min: 0.5, max: 1}}}", "uniform is continuous or weighted"),
    ("{method: grid, parameters: {a: {values: [1], probabilities: [1]}}}",
     "categorical_w_probabilities is continuous or weighted"),
    ("{method: grid, parameters: {a: {values: []}}}", "invalid values []"),
    ("{method: grid, parameters: {a: {min: 1, max: 2000000000}}}", "my sweep.yaml, parameters, a"),
    ("{method: random, parameters: {a: {min: 1}}}", "neither a value, nor values, nor a range"),
    ("{method: random, parameters: {a: {distribution: unifrom, min: 1, max: 2}}}", "did you mean 'uniform'?"),
    ("{method: random, parameters: {a: {distribution: q_int_uniform, min: 1, max: 2}}}", "unknown distribution"),
    ("{method: random, parameters: {a: {distribution: normal, mu: 1, max: 2}}}", "no key 'max'; allowed: mu, s"),
    ("{method: random, parameters: {a: {distribution: uniform, min: 1}}}", "uniform needs 'max'"),
    ("{method: random, parameters: {a: {distribution: log_uniform, min: 1, max: 1e9}}}", "log_uniform_values takes"),
    ("{method: random, parameters: {LIST_a: 1}}", "'LIST_a' would be a reserved word"),
    ("{method: grid, run_cap: 0, parameters: {a: 1}}", "invalid number of runs 0"),
    ("{method: grid, metric: {name: a, goal: max}, parameters: {a: 1}}", "allowed: maximize, minimize"),
    ("{method: grid, command: python x.py, parameters: {a: 1}}", "a list of words"),
    ("{method: grid, program: x.py, command: ['${programm}'], parameters: {a: 1}}", "did you mean '${program}'?"),
    ("{method: grid, command: ['${program}'], parameters: {a: 1}}", "program is required"),
    ("{method: grid, program: train.py, command: [torchrun, '${program}'], parameters: {a: 1}}", "takes no 'torchrun'"),
])
def test_invalid_sweep_is_refused(text: str, words: str) -> None:
    with pytest.raises(JobSpecError) as error:
        read(text)
    assert words in str(error.value) and str(error.value).startswith("my sweep.yaml")


def search_of(text: str, **options: Any) -> Search:
    return define.define_search(read(text), Options("s.yaml", {}, {}, **options), 1, check_point)


BAYES = """\
{method: bayes, run_cap: 40, metric: {name: val/last/accuracy, goal: maximize}, early_terminate: EARLY,
 parameters: {dataset: {value: sklearn/digits}, model: {value: linear},
              data_splits_map: {value: {train: "train[:80%]", val: "train[80%:]"}},
              base_lr: {distribution: log_uniform_values, min: 0.01, max: 0.5},
              batch_size: {values: [8, 32]}, train_length: {value: 30}}}
"""


@pytest.mark.parametrize(("early", "bands", "eta", "strict"), [
    ("{type: hyperband, min_iter: 2}", (2, 6, 18), 3.0, True),
    ("{type: hyperband, min_iter: 2, eta: 2, strict: false}", (2, 4, 8, 16), 2.0, False),
    ("{type: hyperband, max_iter: 27, s: 2}", (3, 9), 3.0, True)])
def test_bayes_is_a_search_with_bands_in_logged_values(early: str, bands: tuple[int, ...], eta: float,
                                                       strict: bool) -> None:
    search = search_of(BAYES.replace("EARLY", early))
    assert (search.method, search.trials, search.maximize) == ("gp", 40, True)
    assert search.early_stop == EarlyStop("hyperband", bands, eta, strict, resume=False, counts="values")
    assert [(item.name, getattr(item, "kind", None)) for item in search.space.walk()] == [
        ("base_lr", "float"), ("batch_size", "choice")]


def test_run_cap_or_samples_is_the_number_of_trials() -> None:
    text = BAYES.replace(", early_terminate: EARLY", "")
    assert search_of(text.replace("40", "400")).method == "tpe"
    with pytest.raises(JobSpecError, match="write run_cap in the sweep file, or pass --samples"):
        search_of(text.replace("run_cap: 40, ", ""))
    assert search_of(text.replace("run_cap: 40, ", ""), samples=7).trials == 7


def test_random_sweep_is_a_search_only_with_early_terminate() -> None:
    text = BAYES.replace("bayes", "random")
    assert search_of(text.replace("EARLY", "{type: hyperband, min_iter: 2}")).method == "random"
    assert read(text.replace("EARLY", "null")).search is None
    assert read(BAYES.replace("bayes", "grid").replace("EARLY", "{type: hyperband, min_iter: 2}").replace(
        "distribution: log_uniform_values, min: 0.01, max: 0.5", "value: 0.1")).warnings == [
        "my sweep.yaml: early_terminate is not supported with method grid: no run is terminated early"]


leaves = st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.floats(-3, 3, allow_nan=False), st.sampled_from(
    [1e300, 2**70, "", "x", "uniform", "range(3)", "dict(a=1)", "${args}", "${env}", "train.py"]))
keys = st.sampled_from(["value", "values", "min", "max", "distribution", "q", "mu", "sigma", "parameters", "subtests",
                        "probabilities", "a", "b", "LIST", "TAGS", "workers"])
anything = st.recursive(leaves, lambda inner: st.one_of(
    st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=4)), max_leaves=6)
a_draw = st.fixed_dictionaries({"distribution": st.sampled_from([*wandb_sweep.DISTRIBUTIONS, "q_beta", "q_normal"])},
                               optional=dict.fromkeys(("min", "max", "q", "mu", "sigma", "a", "b"), leaves))


@settings(max_examples=200)
@given(st.fixed_dictionaries({"method": st.sampled_from(["grid", "random", "bayes"]),
                              "parameters": st.dictionaries(keys, st.one_of(anything, a_draw), max_size=3)},
                             optional=dict.fromkeys(("name", "project", "program", "command", "metric",
                                                     "run_cap", "early_terminate", "mine"), anything)))
def test_any_sweep_is_expanded_or_refused_in_one_line(document: dict[str, Any]) -> None:
    told = "my sweep.yaml"
    try:
        job_spec = read(document)
        if job_spec.search:
            read_space(job_spec.parameters, {}, job_spec.source)
        specs = grid.expand_job_spec(job_spec, samples=3).specs
        assert all(grid.spec_texts(specs))
    except JobSpecError as error:
        told = str(error)
    assert "\n" not in told and told.startswith("my sweep.yaml")


def test_sweeps_are_distinguished_from_other_files() -> None:
    assert is_job_spec({"method": "grid", "parameters": {}})
    assert is_job_spec({"job_details": {"name": "x"}, "method": "grid", "parameters": {}})
    assert not is_job_spec({"base_lr": 1, "model": "linear"})
    assert read("{job_details: {name: own}, parameters: {a: 1}, method: x}").name == "own"


SPEC = {"lr": 1e-05, "size": 8, "flag": True, "off": False, "none": None, "name": "two words", "list": [1, "a"],
        "deep": {"k": 1.5}, "TAGS": ["t"]}
COMMANDS = [
    None, ["${env}", "python3", "${program}", "--fast", "${args_no_boolean_flags}"],
    ["bash", "-c", "echo ${x}", "${args_no_hyphens}"], ["${env}", "${interpreter}", "${program}", "${args_json}"],
    ["${program}", "--config", "${args_json_file}", 3], ["x", "${args_no_equals}", "${args_append_hydra}"],
    ["x", "--user=${envvar:GRIDIRON_TEST_USER}", "${envvar:GRIDIRON_TEST_USER}", "${args_override_hydra}"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(map(str, command or ["default"])))
def test_command_equals_that_of_the_wandb_agent(command: list[Any] | None, tmp_path: Path,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    from wandb import wandb_agent
    from wandb.sdk.lib import config_util

    started: list[list[str]] = []
    monkeypatch.setattr(wandb_agent, "AgentProcess", lambda command, **_: started.append(command) or AgentRun())
    for key in ("WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH"):
        monkeypatch.setenv(key, "set back by this test")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("GRIDIRON_TEST_USER", "me and you")
    (tmp_path / "wandb" / "sweep-None").mkdir(parents=True)
    parameters = {key: value for key, value in SPEC.items() if key != "TAGS"}
    agent = wandb_agent.Agent(None, None)
    agent._sweep_command = list(command or [])
    agent._command_run({"run_id": "r", "program": "p r/x.py", "args": {key: {"value": value} for key, value in
                                                                      parameters.items()}})
    ours = read({"method": "grid", "program": "p r/x.py", "command": command, "project": "p", "parameters": {"a": 1}})
    assert ours.command[:3] == ["/usr/bin/env", "WANDB_PROJECT=p", "WANDB_SWEEP_PARAM_PATH={sweep}"]
    folder = str(tmp_path / "run")
    os.mkdir(folder)
    external_program.write_parameters(ours.command, SPEC, folder)
    filled = command_template.fill_command(ours.command[3:], SPEC, folder)
    theirs = [word for word in started[0] if word != "/usr/bin/env"]
    json_file, sweep_file = tmp_path / "run" / "arguments.json", tmp_path / "run" / "sweep.yaml"
    renamed = {str(json_file): str(tmp_path / "wandb" / "sweep-None" / "config-r.json"), sys.executable: "python"}
    assert [renamed.get(word, word) for word in filled] == theirs
    assert config_util.dict_from_config_file(str(sweep_file)) == parameters
    if json_file.exists():
        assert json_file.read_text() == (tmp_path / "wandb" / "sweep-None" / "config-r.json").read_text()
    assert json_file.exists() == ("${args_json_file}" in (command or []))


class AgentRun:
    """Stands for a process that W&B's agent has started."""


def test_unset_environment_variable_fails_the_run() -> None:
    with pytest.raises(command_template.CommandFailed, match="the environment variable GRIDIRON_NOT_SET is not set"):
        command_template.fill_command(["${envvar:GRIDIRON_NOT_SET}"], {}, "f")


@pytest.mark.parametrize("name", ["WANDB_API_KEY", "PGPASSWORD", "HF_TOKEN"])
def test_secrets_do_not_become_arguments(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every user of the machine sees the arguments of all processes."""
    with pytest.raises(JobSpecError, match=rf"the value of \${name} would be visible to all users"):
        command_template.parse_command(["x", f"--key=${{envvar:{name}}}"], "x.yaml")
    monkeypatch.setenv("GRIDIRON_TEST_DATABASE", "postgres://me:password@host/db")
    with pytest.raises(command_template.CommandFailed, match="looks like a secret"):
        command_template.fill_command(["${envvar:GRIDIRON_TEST_DATABASE}"], {}, "f")


def test_program_reads_its_parameters_from_wandb_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    (tmp_path / "x.py").write_text("import json, wandb\nrun = wandb.init(config={'lr': 1, 'more': 2})\n"
                                   "json.dump([dict(run.config), run.project], open('seen', 'w'))\n")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.chdir(tmp_path)
    sweep = read("{method: grid, program: x.py, project: p, parameters: {lr: 1e-5, opt: {parameters: {k: [v]}}}}")
    spec, = grid.expand_job_spec(sweep).specs
    assert external_program.run({**spec, "COMMAND": sweep.command}, str(tmp_path), lambda: None) == "completed"
    assert json.loads((tmp_path / "seen").read_text()) == [{"lr": 1e-5, "more": 2, "opt": {"k": "v"}}, "p"]


PROGRAM = """
import json, os, sys
keys = ("WANDB_PROJECT", "WANDB_ENTITY", "WANDB_SWEEP_PARAM_PATH")
with open("seen", "a") as file:
    file.write(json.dumps([sys.argv[1:], *map(os.environ.get, keys)]) + "\\n")
"""


@pytest.mark.parametrize("way", ["--local --workers 2", "-s s.sh", "-s s.sh --workers 2", "-s s.sh --array"])
def test_sweep_over_an_external_program_runs_unchanged(way: str, project: Project, fake_slurm: FakeSlurm) -> None:
    (project.folder / "my program.py").write_text(PROGRAM)
    (project.folder / "s.sh").write_text(f"#!/bin/bash\nexec {sys.executable} train.py \"$@\"\n")
    (project.folder / "sweep.yaml").write_text(
        "program: my program.py\nmethod: random\nproject: vision\nentity: team\nparameters:\n"
        "  lr: {min: 0.0, max: 1.0}\n  layers: {values: [1, 2, 3]}\n")
    words = ("sweep.yaml", *way.split(), "-y", "--samples", "3")
    assert project.submit(*words) == 0
    fake_slurm.run_all(parallel=2)
    seen = sorted(map(json.loads, (project.folder / "seen").read_text().splitlines()))
    assert len(seen) == 3
    for arguments, name, entity, path in seen:
        assert [argument.split("=")[0] for argument in arguments] == ["--layers", "--lr"]
        assert (name, entity) == ("vision", "team")
        given = yaml_io.load_file(path)
        assert [f"--{key}={given[key]['value']}" for key in ("layers", "lr")] == arguments
    project.results = project.folder / "results"
    assert [(run / "done").read_text().strip() for run in project.runs()] == ["completed"] * 3
    assert project.submit(*words) == 0  # nothing runs twice
