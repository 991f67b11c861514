"""Composites: each subtest a grid of its own over the shared base, tags on every run, workers that keep to theirs."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src import run_folder
from src.errors import JobSpecError
from src.io import yaml_io
from src.submission.batch import journal, task_files
from src.submission.slurm.submit import SlurmOptions, SubmissionContext, plan_workers
from src.submission.spec.grid import expand_parameters
from src.submission.status.observe import observe
from tests.submission.conftest import Project

BOOKS = ("TAGS", "SUBTESTS", "WORKERS")
values = st.lists(st.integers(0, 3), min_size=1, max_size=3, unique=True) | st.integers(0, 3)
grids = st.dictionaries(st.sampled_from("abcd"), values, max_size=3)


def yaml(text: str) -> Any:
    return yaml_io.load(text, "test")


def without_books(specs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in spec.items() if key not in BOOKS} for spec in specs]


def key(spec: dict[str, Any]) -> str:
    return json.dumps(spec, sort_keys=True)


@given(grids, st.dictionaries(st.sampled_from(["x", "y,x", "z"]), grids, min_size=1), st.sampled_from(
    ["SUBTESTS", "subtests"]))
def test_composite_is_the_union_of_its_subtests_with_their_tags(base, subtests, word):
    each = {name: [key(spec) for spec in expand_parameters({**base, **own}, "test").specs]
            for name, own in subtests.items()}
    grid = expand_parameters({**base, word: subtests}, "test")
    found = [key(spec) for spec in without_books(grid.specs)]
    assert found == list(dict.fromkeys(point for points in each.values() for point in points))
    for spec, point in zip(grid.specs, found, strict=True):
        names = [name for name, points in each.items() if point in points]
        assert spec["SUBTESTS"] == names
        assert spec["TAGS"] == list(dict.fromkeys(tag for name in names for tag in name.split(",")))
    varying = {name for name in "abcd" if len({json.dumps(spec.get(name, "-")) for spec in grid.specs}) > 1}
    assert set(grid.varying) == varying


def test_subtest_overrides_the_base():
    grid = expand_parameters(yaml("""
        seed: [1, 2]
        ZIP: {b: [1, 2], c: [3, 4]}
        LIST: [{d: 1}, {d: 2, e: 5}]
        TAGS: all
        SBATCH: {mem: 1G}
        WORKERS: 2
        EXCLUDE: [{d: 2, seed: 2}, {f: 9}]
        SUBTESTS:
          "one, two": {d: 7, ZIP: {b: 8}, SBATCH: {mem: 2G}}
          three: {seed: 5, ZIP_2: {b: 0, c: [1, 2]}, WORKERS: 1, TAGS: [more, all], f: [8, 9], EXCLUDE: [{c: 2}]}
          four:
        """), "test")
    one, three, four = ([spec for spec in grid.specs if spec["SUBTESTS"] == [name]]
                        for name in ("one, two", "three", "four"))
    assert without_books(one) == [{"seed": seed, "b": 8, "d": 7, **rest, "SBATCH": {"mem": "2G"}}
                                  for seed in (1, 2) for rest in ({}, {"e": 5})]
    assert without_books(three) == [{"seed": 5, "d": d, **({"e": 5} if d == 2 else {}), "SBATCH": {"mem": "1G"},
                                     "b": 0, "c": 1, "f": 8} for d in (1, 2)]
    assert [(spec["b"], spec["c"], spec["d"]) for spec in four] == [
        (1, 3, 1), (1, 3, 2), (2, 4, 1), (2, 4, 2), (1, 3, 1), (2, 4, 1)]
    assert [(spec["TAGS"], spec["WORKERS"]) for spec in (one[0], three[0], four[0])] == [
        (["all", "one", "two"], 2), (["all", "three", "more"], 1), (["all", "four"], 2)]


def test_override_applies_to_every_subtest():
    parameters = yaml("{a: 1, SUBTESTS: {x: {a: 2, b: [1, 2]}, y: {LIST: [{a: 3}]}}}")
    grid = expand_parameters(parameters, "test", {"a": [5, 6]})
    assert without_books(grid.specs) == [{"a": 5, "b": 1}, {"a": 5, "b": 2}, {"a": 6, "b": 1}, {"a": 6, "b": 2},
                                         {"a": 5}, {"a": 6}]


@pytest.mark.parametrize(("text", "number"), [
    ("{x: {a: 1, workers: 3}}", 3), ("{x: {a: 1, _num_nodes: 2}}", 2), ("{x: {a: 1, WORKERS: 4}}", 4)])
def test_number_of_workers_is_not_a_parameter(text: str, number: int) -> None:
    spec, = expand_parameters({"SUBTESTS": yaml(text)}, "test").specs
    assert spec == {"a": 1, "TAGS": ["x"], "SUBTESTS": ["x"], "WORKERS": number}


def test_parameters_named_workers_or_subtests() -> None:
    assert expand_parameters(yaml("SUBTESTS: {x: {workers: [4]}}"), "test").specs == [
        {"workers": 4, "TAGS": ["x"], "SUBTESTS": ["x"]}]
    assert expand_parameters(yaml("{a: 1, subtests: {x: 1, y: [2]}}"), "test").specs == [
        {"a": 1, "subtests": {"x": 1, "y": [2]}}]


@pytest.mark.parametrize(("text", "words"), [
    ("SUBTESTS: {}", ["test, SUBTESTS: at least one subtest is required"]),
    ("SUBTESTS: {x: [1]}", ["test, SUBTESTS, x: a subtest must be a mapping of parameters"]),
    ("SUBTESTS: {1: {a: 1}}", ["the subtest's name 1 contains no tags"]),
    ("SUBTESTS: {',': {a: 1}}", ["the subtest's name ',' contains no tags"]),
    ("{SUBTESTS: {x: {}}, subtests: {y: {}}}", ["SUBTESTS and subtests mean the same"]),
    ("SUBTESTS: {x: {workers: 1, WORKERS: 2}}", ["WORKERS and workers mean the same"]),
    ("SUBTESTS: {x: {workers: 0}}", ["test, SUBTESTS, x, WORKERS: invalid number of workers 0"]),
    ("SUBTESTS: {x: {WORKERS: two}}", ["invalid number of workers 'two'"]),
    ("LIST: [{SUBTESTS: {x: {a: 1}}}]", ["invalid SUBTESTS", "directly in parameters"]),
    ("{a: 1, EXCLUDE: [{a: 2}], SUBTESTS: {x: {b: 1}}}", ["test, EXCLUDE, entry 1: matches nothing"]),
    ("{SUBTESTS: {x: {a: [1, 2], SBATCH: {mem: 1G}}, y: {a: 1}}}", ["equal grid points differ in SBATCH"]),
])
def test_invalid_subtests_are_refused(text: str, words: list[str]) -> None:
    with pytest.raises(JobSpecError) as caught:
        expand_parameters(yaml(text), "test")
    assert all(word in str(caught.value) for word in words), str(caught.value)


SPECS = {"0": {"SUBTESTS": ["a", "b"], "WORKERS": 2}, "1": {"TAGS": ["t", "u"]}, "2": {"SUBTESTS": ["a"], "WORKERS": 2},
         "3": {"TAGS": ["t", "u"], "WORKERS": 5}, "4": {"SUBTESTS": ["c"]}}


def test_worker_groups() -> None:
    """Of a subtest that says how many, of a LIST item with TAGS that does, and of what says nothing."""
    found = task_files.worker_groups(dict.fromkeys(SPECS, 7), SPECS, 3)
    assert [(team.name, team.workers, list(team.tickets)) for team in found] == [
        ("a", 2, ["0", "2"]), ("t,u", 1, ["3"]), ("", 2, ["1", "4"])]
    assert task_files.worker_groups({"1": 2, "4": 1}, SPECS, 1) == [("", 1, {"1": 2, "4": 1})]
    assert task_files.worker_groups({}, {}, 4) == []


def test_slurm_workers_of_a_subtest_run_only_its_runs(tmp_path: Path) -> None:
    script = tmp_path / "s.sh"
    script.write_text("#!/bin/bash\n")
    specs = {name: {**spec, "SBATCH": {"gpus": 1}} if "a" in spec.get("SUBTESTS", ()) else spec
             for name, spec in SPECS.items()}
    teams = task_files.worker_groups(dict.fromkeys(specs, 1), specs, 1)
    options = SlurmOptions(str(script), shape={"workers": 1, "slots": 1})
    found = plan_workers(teams, specs, options, SubmissionContext(str(tmp_path), "t-1", "/p"), 1, {"3": "canary"})
    assert [call.command[-1].rpartition("/")[2] for call in found.calls] == [
        "t-1.0.tasks.json", "t-1.0.tasks.json", "t-1.1.tasks.json", "t-1.2.tasks.json"]
    assert ["--gpus=1" in call.command for call in found.calls] == [True, True, False, False]
    names = list(found.tickets)
    assert [list(found.units.runs(unit, names)) for unit in range(4)] == [["0", "2"], ["0", "2"], ["3"], ["1", "4"]]
    assert [found.units.unit_of(names.index(name)) for name in SPECS] == [0, 3, 0, 2, 3]
    of_team = [list(listed.tickets) for listed in found.tasks.values()]
    assert of_team == [["0", "2"], ["3"], ["1", "4"]]
    assert [listed.canaries for listed in found.tasks.values()] == [{}, {"3": "canary"}, {}]
    assert [listed.command[-1] for listed in found.tasks.values()] == list(found.tasks)
    # what the journal says of them is read back as it was
    book = journal.Journal(str(tmp_path), "t-1")
    (tmp_path / run_folder.SUBMISSIONS).mkdir()
    book.record_plan(journal.SLURM, found.tickets, found.units)
    for unit in range(4):
        book.record_sending(unit)
        book.record_job(unit, str(unit + 10))
    tickets = journal.read_history(str(tmp_path)).tickets
    assert {name: ticket.slurm_jobs for name, ticket in tickets.items()} == {
        "0": ["10", "11"], "2": ["10", "11"], "3": ["12"], "1": ["13"], "4": ["13"]}


def test_local_workers_of_each_subtest_run_a_composite(project: Project,
                                                              capsys: pytest.CaptureFixture[str]) -> None:
    project.spec.write_text("""
job_details: {name: tiny, output_dir: re sults, tags: all}
parameters:
  batch_size: [1, 2, 3]
  SUBTESTS:
    "small,first": {base_lr: [0.1, 0.2], WORKERS: 2}
    second: {base_lr: [0.2, 0.4], workers: 1}
    rest: {momentum: 0.9}
""")
    entry = (project.folder / "train.py").read_text()
    (project.folder / "train.py").write_text(entry.replace(
        "    check()\n    with open", "    open(os.path.join(folder, 'worker'), 'w').write(str(os.getppid()))\n"
        "    check()\n    with open"))
    assert project.submit(project.spec, "--local", "--workers", "1", "-y") == 0
    out = capsys.readouterr().out
    assert "workers    2 for small first, 1 for second, 1 for the rest on this machine" in out
    assert "subtest  small,first  6 runs\n" in out and "subtest  second       6 runs\n" in out
    assert project.executed() == [1] * 12  # 15 points, of which 3 stand in two subtests
    workers_of: dict[str, set[str]] = {}
    for run in project.runs():
        spec = run_folder.read_spec(run / "spec.yaml")
        workers_of.setdefault(spec["SUBTESTS"][0], set()).add((run / "worker").read_text())
        wanted = ["all", *(tag for name in spec["SUBTESTS"] for tag in name.split(","))]
        assert spec["TAGS"] == wanted
    assert {name: len(pids) for name, pids in workers_of.items()} in (
        {"small,first": 2, "second": 1, "rest": 1}, {"small,first": 1, "second": 1, "rest": 1})  # one may be late
    assert len(set.union(*workers_of.values())) == sum(map(len, workers_of.values()))  # none took another's
    assert [run.state.name for run in observe([str(project.batch)])[0].runs.values()] == ["done"] * 12


def test_retry_uses_the_workers_of_each_subtest(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.spec.write_text("""
job_details: {name: tiny, output_dir: re sults}
parameters: {base_lr: 1, LIST: [{batch_size: [13, 1], TAGS: [a, b], WORKERS: 2}, {batch_size: 13, seed_model: 1}]}
""")
    assert project.submit(project.spec, "--local", "--workers", "1", "-y") == 1
    (project.batch / "mended").touch()
    assert "workers    2 for a b, 1 for the rest" in capsys.readouterr().out
    assert project.submit("-r", project.batch, "--local", "--workers", "1", "-y") == 0
    assert "workers    1 for a b, 1 for the rest" in capsys.readouterr().out
    assert project.executed() == [1, 1, 1]


def test_random_points_are_drawn_in_each_subtest() -> None:
    """As many as asked for, one subtest after another, each with the draws that it has alone."""
    base = yaml("{base_lr: !uniform [0, 1], seed: [1, 2]}")
    own = {"a": yaml("{b: 1}"), "b": yaml("{c: !uniform [0, 1]}"), "c": yaml("{base_lr: 0.5}")}
    grid = expand_parameters({**base, "SUBTESTS": own}, "test", samples=3, seed=4)
    alone = [expand_parameters({**base, **item}, "test", samples=3, seed=4).specs if name != "c" else [
        {"base_lr": 0.5, "seed": seed} for seed in (1, 2)] for name, item in own.items()]
    assert without_books(grid.specs) == [spec for specs in alone for spec in specs]
    assert grid.axes == [("samples", 3)]
