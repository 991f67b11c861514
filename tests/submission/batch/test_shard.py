"""Shards of one batch for several sites: every run belongs to exactly one."""
from __future__ import annotations

import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.errors import JobSpecError
from src.submission.batch import shard
from src.submission.batch.shard import Shard
from src.submission.spec import naming
from src.submission.status import observe
from tests.submission.conftest import Project


@given(st.integers(1, 60), st.integers(1, 9))
def test_parts_are_disjoint_complete_and_of_equal_size(runs: int, of: int) -> None:
    specs = [{"x": index} for index in range(runs)]
    names = naming.run_names("t", specs, ["x"])
    parts = []
    for number in range(1, of + 1):
        try:
            points = Shard(number, of).select(dict(zip(names, specs, strict=True)))
        except JobSpecError:
            points = {}
        assert [names[spec["x"]] for spec in points.values()] == list(points) == [
            name for name in names if Shard(number, of).contains(name)]
        parts.append(list(points))
    assert sorted(name for part in parts for name in part) == names
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("values", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("of", [2, 3, 4, 5])
def test_every_shard_has_all_values_of_an_axis(values: int, of: int) -> None:
    for number in range(1, of + 1):
        indices = [index for index in range(60 * values) if Shard(number, of).contains(f"{index:03d}_t")]
        for axis in (1, values):
            positions = [index // axis % values for index in indices]
            assert min(map(positions.count, range(values))) > 0.3 * len(indices) / values


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "1/0", "a/2", "1/2/3", "-1/2"])
def test_invalid_shards_are_refused(text: str) -> None:
    with pytest.raises(JobSpecError, match="invalid shard"):
        shard.parse(text)


def numbers(project: Project) -> list[int]:
    return [int(run.name.partition("_")[0]) for run in project.runs()]


def test_two_sites_submit_disjoint_shards(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.write_spec("[1, 2, 3]")
    arguments = [project.spec, "--local", "-y", "--workers", "1"]
    assert project.submit(*arguments, "--shard", "1/2", "--date", "26-01-02") == 0
    assert "shard      1/2: 3 of 6 runs; other sites add --date 26-01-02" in capsys.readouterr().out
    first = numbers(project)
    assert project.executed() == [1, 1, 1]
    assert project.batch.name == "26-01-02-tiny"
    empty = next(f"{number}/9" for number in range(1, 10) if not any(Shard(number, 9).contains(str(k))
                                                           for k in range(6)))
    for options, error in ((("--shard", "2/2", "--date", "26-01-02"), "shard"), (("--date", "26-01-02"), "--shard"),
                               (("--shard", empty), "is empty"),
                               (("--shard", "1/2", "--date", "x"), "invalid date")):
        capsys.readouterr()
        assert project.submit(*arguments, *options) == 2
        assert error in capsys.readouterr().err
    assert project.submit(*arguments, "--shard", "1/2", "--date", "26-01-02") == 0
    assert "nothing to submit" in capsys.readouterr().out
    assert project.submit("-r", project.batch, "--local", "-y", "--shard", "1/2") == 2
    project.batch.rename(project.folder / "site 1")
    assert project.submit(*arguments, "--shard", "2/2", "--date", "26-01-02") == 0
    assert sorted(first + numbers(project)) == [0, 1, 2, 3, 4, 5] and project.executed() == [1, 1, 1]


def test_retry_skips_runs_of_another_shard(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    """Their folders may be here after a download that was interrupted before the journals."""
    project.write_spec("[1, 13]")  # the second fails
    assert project.submit(project.spec, "--local", "-y", "--shard", "2/2") == 1
    own_runs = project.runs()
    others = {0, 1, 2, 3} - set(numbers(project))
    for index in others:
        shutil.copytree(own_runs[0], project.batch / f"{index:03d}_tiny+other", ignore=lambda *_: ["done", "executed"])
        (project.batch / f"{index:03d}_tiny+other" / "claim-1").unlink()
        next((project.batch / f"{index:03d}_tiny+other").glob("attempt-*")).unlink()
    capsys.readouterr()
    assert project.submit("-r", project.batch, "--local", "-y") == 1
    assert "4 runs: 1 to submit, 3 left alone (1 done, 2 in another shard)" in capsys.readouterr().out
    assert {int(run.name[:3]) for run in project.runs() if not list(run.glob("claim-*"))} == others
    observation, = observe.observe([str(project.batch)])
    assert [plan["identity"]["shard"] for plan in observation.history.recorded_plans] == ["2/2", "2/2"]


def test_dry_run_shows_the_shard(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.write_spec("[1, 2, 3]")
    assert project.submit(project.spec, "--local", "-d", "--shard", "2/3") == 0
    out = capsys.readouterr().out
    assert "6 runs: " in out and "2 of 6 runs" in out and out.count("train.py") == 2
    assert not project.results.exists()


