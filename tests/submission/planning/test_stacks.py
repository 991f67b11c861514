"""Which points stack: exactly those whose configs are equal but for the fields that enter the arithmetic as numbers."""
from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.checks.stack_rules import STACKABLE_FIELDS, refusal
from src.config import DEFAULTS, FIELDS, Config
from src.submission.batch.task_files import Stacks, units
from src.submission.planning import stacks
from src.submission.planning.stacks import plan_stacks
from tests.conftest import ROOT
from tests.submission.conftest import Project

NUMBERS: dict[str, st.SearchStrategy[Any]] = {
    "base_lr": st.sampled_from([0.1, 1, 1.0]), "momentum": st.sampled_from([0.9, 0]),
    "averaging": st.sampled_from([None, "poly_8"]), "seed_model": st.sampled_from([None, 1]),
    "clip_grad_norm": st.sampled_from([None, 1.0])}
OTHERS: dict[str, st.SearchStrategy[Any]] = {
    "batch_size": st.sampled_from([100, 100.0, 8]), "model": st.sampled_from(["linear", "linear/no_bias"]),
    "limit_train_batches": st.sampled_from([None, 1, 1.0]), "system_metrics": st.sampled_from([None, 5, 5.0]),
    "precision": st.sampled_from(["float32", "fp16"]), "model_output_dim": st.sampled_from([None, 2]),
    "data_splits_map": st.sampled_from([{"train": "train", "test": "test"}, {"test": "test", "train": "train"}])}
SPECS = st.fixed_dictionaries({}, optional={**NUMBERS, **OTHERS, "TAGS": st.lists(st.sampled_from("ab"), max_size=2),
                                            "SBATCH": st.just({"mem": "8G"})})


def named(specs: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {f"{number:03d}_x": spec for number, spec in enumerate(specs)}


def rest_of(spec: dict[str, Any]) -> str:
    """All of a config that must be equal, as an independent definition: the whole config without the numeric fields."""
    config = Config.from_dict(spec).to_dict()
    for key in STACKABLE_FIELDS:
        del config[key]
    return json.dumps([config, spec.get("SBATCH")])


@settings(deadline=None, max_examples=60)
@given(st.lists(SPECS, max_size=12), st.sampled_from(["auto", 2, 3, 5]), st.sampled_from([None, 1, 2, 7]))
def test_runs_of_a_stack_differ_in_numbers_alone(specs: list[dict[str, Any]], requested: int | str,
                                                 slots: int | None) -> None:
    points = named(specs)
    plan = plan_stacks(points, points, requested, slots)
    stacked = [name for stack in plan.stacks.runs for name in stack]
    assert len(stacked) == len(set(stacked))
    assert sum(plan.alone.values()) == len(points) - len(stacked)
    for stack in plan.stacks.runs:
        assert len(stack) >= 2 and (requested == "auto" or len(stack) <= int(requested))
        assert list(stack) == sorted(stack)
        assert len({rest_of(points[name]) for name in stack}) == 1
        assert refusal(points[stack[0]], DEFAULTS) is None
    if requested == "auto" and slots is None:  # nobody who has a partner is left alone
        partners: dict[str, int] = {}
        for spec in specs:
            if refusal(spec, DEFAULTS) is None:
                partners[rest_of(spec)] = partners.get(rest_of(spec), 0) + 1
        assert len(stacked) == sum(number for number in partners.values() if number > 1)


@given(st.lists(st.integers(1, 5), max_size=6), st.integers(1, 3))
def test_each_group_of_workers_gets_its_part_of_the_stacks(sizes: list[int], groups: int) -> None:
    runs, number = [], 0
    for size in sizes:
        runs.append([f"{index:03d}" for index in range(number, number + size)])
        number += size
    names = [name for stack in runs for name in stack]
    parts = [names[group::groups] for group in range(groups)]
    for part, positions in zip(parts, Stacks(runs).divide(parts), strict=True):
        started = units(part, positions)
        assert sorted(name for unit in started for name in unit) == part
        for unit in started:
            stack, = (stack for stack in runs if unit[0] in stack)
            assert unit == [name for name in stack if name in part] or len(unit) == 1


def grid(batch_sizes: int = 6, rates: int = 18) -> dict[str, dict[str, Any]]:
    return named([{"batch_size": 8 * (1 + size), "base_lr": 0.1 * (1 + rate), "momentum": 0.9 * (rate % 2), "model":
                   "linear"} for size in range(batch_sizes) for rate in range(rates)])


@pytest.mark.parametrize(("requested", "slots", "line"), [
    ("auto", None, "108 runs in 6 stacks of 18 (base_lr, momentum)"),
    ("auto", 2, "108 runs in 6 stacks of 18 (base_lr, momentum)"),
    ("auto", 12, "108 runs in 12 stacks of 9 (base_lr, momentum)"),
    (4, 2, "108 runs in 30 stacks of 3 to 4 (base_lr, momentum)"),
    (18, 50, "108 runs in 6 stacks of 18 (base_lr, momentum)")])
def test_plan_line(requested: int | str, slots: int | None, line: str) -> None:
    points = grid()
    assert plan_stacks(points, points, requested, slots).lines() == [f"stacks     {line}"]


def test_plan_lists_why_runs_are_alone() -> None:
    points = named([{"base_lr": 1}, {"base_lr": 2}, {"batch_size": 1}, {"compile": "default"}, {"compile": "default"}])
    assert plan_stacks(points, points, "auto").lines() == [
        "stacks     2 runs in 1 stack of 2 (base_lr)",
        "           1 run alone: no other run differs from it in numbers alone",
        "           2 runs alone: compile: default"]
    points = grid(1, 4)
    assert plan_stacks(points, points, "auto", 4).lines() == ["stacks     4 runs alone: there is a worker for each"]


@pytest.mark.parametrize("spec", [
    {"task": "my_module:MyTask"}, {"compile": "default"}, {"precision": "fp16"}, {"freeze": "backbone"},
    {"layer_decay": 0.5}, {"optim_alg": "timm/lion"}, {"grad_checkpointing": True}, {"channels_last": True},
    {"grad_accum_steps": 2}, {"log_steps": 10}, {"profile": True}, {"train_length": 0}, {"targets": "next_token"},
    {"loss": "my_module:my_loss"}, {"model": "timm/resnet18"}, {"model": "tiny/wrn_10_1_0.3"},
    {"dataset": "folder/x"}, {"data_on_device": True}])
def test_configs_that_run_alone(spec: dict[str, Any]) -> None:
    (key, value), = spec.items()
    assert refusal(spec, DEFAULTS) == f"{key}: {value}"


@pytest.mark.parametrize("model", ["linear", "linear/no_bias", "tiny/lenet", "tiny/resnet_20", "tiny/wrn_10_1",
                                   "my_module:make"])
def test_models_that_stack(model: str) -> None:
    assert refusal({"model": model}, DEFAULTS) is None


def test_stackable_fields_are_fields_of_config() -> None:
    assert FIELDS.keys() >= STACKABLE_FIELDS


def test_grouping_100_000_points_compares_each_value_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of a point is a few lookups: values that points share, as those of a grid, are converted once."""
    calls = []
    compare: Callable[[str, Any], str | None] = stacks._comparable
    monkeypatch.setattr(stacks, "_comparable", lambda key, value: calls.append(key) or compare(key, value))
    sizes = [8 * (1 + size) for size in range(100)]
    points = named([{"batch_size": sizes[number % 100], "base_lr": float(number), "model": "linear"}
                    for number in range(100_000)])
    plan = plan_stacks(points, points, 20)
    assert len(plan.stacks.runs) == 5_000
    assert len(calls) == 101


def plan_lines(project: Project, capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    assert project.submit(*arguments, "-d") == 0
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith(("stacks", "workers", "sbatch"))]


@pytest.fixture
def script(project: Project) -> str:
    (project.folder / "s.sh").write_text("#!/bin/bash\n#SBATCH --mem=1G\n")
    return "s.sh"


def test_slurm_jobs_of_stacks(project: Project, script: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Without --workers each stack has a Slurm job of its own; with it the workers take stacks."""
    stacks_line, *calls = plan_lines(project, capsys, "x.yaml", "-s", script, "--stack", "auto")
    assert stacks_line == "stacks     4 runs in 2 stacks of 2 (base_lr)"
    assert len(calls) == 2 and all(".tasks.json" in call and "--job-name=tiny-stack-" in call for call in calls)
    workers, stacks_line, *calls = plan_lines(project, capsys, "x.yaml", "-s", script, "--stack", "2", "--workers", "1")
    assert (workers, stacks_line) == ("workers    1", "stacks     4 runs in 2 stacks of 2 (base_lr)")
    assert len(calls) == 1


def test_job_spec_requests_stacks_and_the_command_line_overrides_it(
        project: Project, script: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = project.spec.read_text()
    project.spec.write_text(text.replace("name: tiny", "name: tiny, stack: auto"))
    assert plan_lines(project, capsys, "x.yaml", "--local", "--workers", "1")[1].startswith("stacks     4 runs in 2")
    assert plan_lines(project, capsys, "x.yaml", "--local", "--workers", "1", "--stack", "1") == [
        "workers    1 on this machine"]
    assert project.submit("x.yaml", "-s", script, "--array", "-d") == 2
    assert "job_details.stack: --array makes each run a task of a job array" in capsys.readouterr().err


@pytest.mark.parametrize(("value", "message"), [
    ("0", "invalid value 0; allowed: auto, or an integer from 1"), ("fast", "invalid value 'fast'"),
    ("true", "invalid value True"), ("2.5", "invalid value 2.5")])
def test_invalid_stack_in_a_job_spec(project: Project, value: str, message: str,
                                     capsys: pytest.CaptureFixture[str]) -> None:
    project.spec.write_text(project.spec.read_text().replace("name: tiny", f"name: tiny, stack: {value}"))
    assert project.submit("x.yaml", "--local", "-d") == 2
    assert f"x.yaml, job_details, stack: {message}" in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "message"), [
    (["--local", "--stack", "0"], "'0' is neither a number of runs, from 1, nor auto"),
    (["--local", "--stack", "all"], "'all' is neither a number of runs, from 1, nor auto"),
    (["-s", "s.sh", "--array", "--stack", "auto"], "--array makes each run a task of a job array, and --stack trains"),
    (["--local", "--stack", "2", "--command", "true {args}"], "--stack trains runs of train.py together")])
def test_refused_command_lines(project: Project, arguments: list[str], message: str,
                               capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = project.submit("x.yaml", *arguments, "-d")
    except SystemExit as end:  # argparse
        code = int(end.code or 0)
    assert code == 2
    assert message in capsys.readouterr().err


def test_trials_of_a_search_are_not_stacked(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    search = str(ROOT / "jobs" / "tune-digits.yaml")
    assert project.submit(search, "--local", "--stack", "auto", "-d") == 2
    assert "a search chooses one trial after another" in capsys.readouterr().err


def test_json_has_the_stack_of_each_run(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert project.submit("x.yaml", "--local", "--workers", "1", "--stack", "auto", "-d", "--json") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["stack"] for row in rows] == [0, 0, 1, 1]


def test_retry_repeats_the_stacks_and_leaves_them_out_with_stack_1(
        project: Project, script: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert project.submit("x.yaml", "-s", script, "--stack", "2", "--no-submit", "-y") == 0
    capsys.readouterr()
    assert plan_lines(project, capsys, "-r", str(project.batch))[0] == "stacks     4 runs in 2 stacks of 2 (base_lr)"
    assert len(plan_lines(project, capsys, "-r", str(project.batch), "--stack", "1")) == 4
    assert len(plan_lines(project, capsys, "-r", str(project.batch), "--stack", "auto", "--workers", "1")) == 3
    with_array = plan_lines(project, capsys, "-r", str(project.batch), "--stack", "1", "--array")
    assert len(with_array) == 1 and "--array=0-3" in with_array[0]
