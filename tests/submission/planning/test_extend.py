"""Extend a batch: new points are run once, with the next numbers, also after crashes and concurrent commands."""
from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import experiments
from src import run_folder
from src.submission.batch import journal
from src.submission.batch.extension import last_extension
from src.submission.planning import extend
from src.submission.planning.extend import match_points
from src.submission.status.observe import observe
from tests.submission.conftest import Project
from tests.test_submit_multiple import fake_slurm

__all__ = ["fake_slurm"]  # the fixture

CHAOS = os.environ.get("GRIDIRON_CHAOS") == "1"

JOB_SPEC = """\
job_details: {{name: tiny, output_dir: re sults}}
parameters: {{{parameters}}}
"""
points = st.fixed_dictionaries({}, optional={"batch_size": st.integers(1, 3), "base_lr": st.sampled_from([0.1, 1]),
                                             "save_freq": st.integers(0, 1), "TAGS": st.just(["t"])})


def write(project: Project, parameters: str) -> None:
    project.spec.write_text(JOB_SPEC.format(parameters=parameters))


def contents(project: Project) -> list[tuple[str, dict[str, Any]]]:
    return [(run.name, run_folder.read_spec(run / "spec.yaml")) for run in project.runs()]


@given(st.lists(points, max_size=6, unique_by=lambda spec: json.dumps(spec, sort_keys=True)), st.data())
def test_each_point_matches_one_run_with_an_equal_spec(specs: list[dict[str, Any]], data: st.DataObject) -> None:
    existing = {f"{index:03d}_x": spec for index, spec in enumerate(specs)}
    chosen = data.draw(st.permutations(specs))[:4]
    matches = match_points(chosen, existing)
    assert None not in matches and len(set(matches)) == len(chosen)  # no point is new, and no run matches two points
    for spec, name in zip(chosen, matches, strict=True):
        assert {**existing[name], "TAGS": 0} == {**spec, "TAGS": 0}
    assert match_points([{"batch_size": 4}, *chosen], existing) == [None, *matches]


def test_defaults_and_logging_keys_do_not_make_a_new_point() -> None:
    existing = {"0_x": {"batch_size": 8}, "1_x": {"batch_size": 9, "unknown": 1}}
    points = [{"momentum": 0.9, "batch_size": 8, "log_interval": 3}, {"batch_size": 9}]
    assert match_points(points, existing) == ["0_x", None]
    points = [{"batch_size": 8, "save_freq": 1}, {"batch_size": 8, "save_freq": 0}]
    assert match_points(points, existing) == ["0_x", None]
    program = {"COMMAND": ["x"], "a": 1}
    assert match_points([program, {**program, "a": 1.0}, {**program, "COMMAND": ["y"]}], {"0_x": program}) == [
        "0_x", None, None]


def test_extend_runs_only_new_points_and_continues_numbering(project: Project,
                                                             capsys: pytest.CaptureFixture[str]) -> None:
    assert project.submit(project.spec, "--local", "-y") == 0
    before = contents(project)
    old_text = project.spec.read_text()
    capsys.readouterr()
    write(project, "batch_size: [4, 32, 6], base_lr: [0.1, 1], momentum: [0, 0.9]")
    assert project.submit(project.spec, "--local", "--extend", "-d") == 0  # changes nothing
    assert contents(project) == before
    assert project.submit(project.spec, "--local", "--extend", "-y") == 0
    out = capsys.readouterr().out
    assert out.count("10 points new, 2 in it already") == 2
    assert "the new ones: 004_tiny+bat_siz=4+bas_lr=0.1+mom=0, " in out and " and 7 more" in out
    assert "note: no longer in the job spec, and left as they are: 2 runs, 000_tiny+bat_siz=8+bas_lr=0.1, " in out
    after = contents(project)
    assert after[:4] == before
    assert [int(name[:3]) for name, _ in after] == list(range(14))
    assert [(spec["batch_size"], spec["base_lr"], spec["momentum"]) for _, spec in after[4:]] == [
        (size, rate, momentum) for size in (4, 32, 6) for rate in (0.1, 1) for momentum in (0, 0.9)
        if (size, momentum) != (32, 0.9)]  # 0.9 is the default, which the earlier runs have
    assert project.executed() == [1] * 14
    assert (project.batch / "job.old.0.yaml").read_text() == old_text
    assert (project.batch / "job.yaml").read_text() == project.spec.read_text()


def test_extended_batch_is_continued_and_retried(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    write(project, "base_lr: 1, batch_size: [13]")
    assert project.submit(project.spec, "--local", "-y") == 1
    write(project, "base_lr: 1, batch_size: [1, 13, 2]")
    assert project.submit(project.spec, "--local", "--extend", "--max-runs", "1", "-y") == 0
    assert project.executed() == [0, 1, 0]  # the later point is known, to status and to -r
    capsys.readouterr()
    for arguments in ([project.spec, "--local", "-d"], [project.spec, "--local", "-d", "--extend"],
                      ["-r", project.batch, "--state", "new", "-d"]):
        assert project.submit(*arguments) == 0
        assert "002_tiny+bat_siz=2" in capsys.readouterr().out.splitlines()[-2]
    assert experiments.main(["status", str(project.batch), "--state", "new", "--names"]) == 0
    assert capsys.readouterr().out == "002_tiny+bat_siz=2\n"
    assert project.submit(project.spec, "--local", "-y") == 0  # the same command continues with the rest
    assert project.executed() == [0, 1, 1]
    assert [name for name, _ in contents(project)] == [
        "000_tiny", "001_tiny+bat_siz=1", "002_tiny+bat_siz=2"]
    (project.batch / "mended").touch()
    assert project.submit("-r", project.batch, "--local", "-y") == 0
    assert project.executed() == [1, 1, 1]
    capsys.readouterr()
    for arguments in ([], ["--extend"]):
        assert project.submit(project.spec, "--local", "-y", *arguments) == 0
        assert "nothing to submit: 3 of 3 done" in capsys.readouterr().out
    (project.runs()[1] / "spec.yaml").unlink()
    assert project.submit(project.spec, "--local", "--extend", "-y") == 2  # otherwise its point would be run again
    assert "this spec, or its run folder, is missing" in capsys.readouterr().err


def test_extend_with_other_overrides_twice(project: Project) -> None:
    write(project, "base_lr: 1, batch_size: 1")
    assert project.submit(project.spec, "--local", "-y") == 0
    for number, sizes in enumerate(("[1,2]", "[3,1]", "[4,3]")):
        arguments = (project.spec, "--local", "-y", "--set", f"batch_size={sizes}")
        assert project.submit(*arguments) == 2  # the batch has other overrides
        assert project.submit(*arguments, "--extend") == 0
        assert project.submit(*arguments) == 0  # now they are equal, and no run is left
        assert len(project.runs()) == number + 2
    assert [spec["batch_size"] for _, spec in contents(project)] == [1, 2, 3, 4]
    assert project.executed() == [1] * 4
    assert [last_extension(str(project.batch)).number, sorted(path.name for path in project.batch.glob("job.*"))] == [
        2, ["job.old.0.yaml", "job.old.1.yaml", "job.old.2.yaml", "job.yaml"]]


def test_extend_adds_random_points(project: Project) -> None:
    write(project, "base_lr: !loguniform [1e-4, 1], batch_size: [1, 2]")
    assert project.submit(project.spec, "--local", "-y", "--samples", "2") == 0
    before = contents(project)
    assert project.submit(project.spec, "--local", "-y", "--samples", "3", "--extend") == 0
    assert contents(project)[:4] == before
    assert project.executed() == [1] * 6


def test_extend_with_skip_done_leaves_out_points_done_elsewhere(project: Project) -> None:
    write(project, "base_lr: 1, batch_size: [1, 2]")
    assert project.submit(project.spec, "--local", "-y") == 0
    project.batch.rename(project.results / "26-01-01-other")
    write(project, "base_lr: 1, batch_size: 3")
    assert project.submit(project.spec, "--local", "-y") == 0
    write(project, "base_lr: 1, batch_size: [2, 3, 4]")
    assert project.submit(project.spec, "--local", "-y", "--extend", "--skip-done") == 0
    batch, = project.results.glob("*-tiny")
    assert sorted(path.name for path in batch.glob("0*")) == ["000_tiny", "002_tiny+bat_siz=4"]


def test_wrong_uses_of_extend_are_reported(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
            ((project.spec, "--extend", "--local"), "there is no batch 'tiny' in re sults to extend"),
            ((project.spec, "--extend", "-o", "--local"), "without -r and -o"),
            ((project.results, "--extend", "-r"), "without -r and -o")):
        assert project.submit(*arguments) == 2
        assert message in capsys.readouterr().err


def test_job_spec_without_new_points_is_still_stored(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert project.submit(project.spec, "--local", "-y") == 0
    project.spec.write_text(project.spec.read_text().replace("name: tiny", "name: tiny, metric: val/last/loss"))
    capsys.readouterr()
    assert project.submit(project.spec, "--local", "-y", "--extend") == 0
    assert "no new run to submit; " in capsys.readouterr().out
    assert (project.batch / "job.yaml").read_text() == project.spec.read_text()
    assert len(journal.read_history(str(project.batch)).tickets) == 4
    assert project.executed() == [1] * 4


def killed_at(project: Project, number: int, *arguments: str | Path) -> int:
    """Run submit_multiple.py in a subprocess that is killed before its `number`th change to the disk.

    Return its exit code, which is 137 if it was killed.
    """
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try:
        left = [number]

        def dying(real: Callable[..., Any]) -> Callable[..., Any]:
            def act(*args: Any, **kwargs: Any) -> Any:
                if left[0] == 0:
                    os._exit(137)
                left[0] -= 1
                return real(*args, **kwargs)
            return act

        for name in ("rename", "replace", "link", "mkdir", "unlink", "write"):
            setattr(os, name, dying(getattr(os, name)))
        os._exit(project.submit(*arguments))
    finally:
        os._exit(1)


@pytest.fixture
def counted(fake_slurm: Path) -> Path:
    program = (fake_slurm / "sbatch").read_text()
    noted = f'  for last; do :; done; basename "$(dirname "$last")" >> "{fake_slurm}/calls"\n'
    (fake_slurm / "sbatch").write_text(program.replace("  for word; do", noted + "  for word; do"))
    (fake_slurm / "calls").touch()
    return fake_slurm


def submitted(counted: Path) -> Counter[str]:
    return Counter((counted / "calls").read_text().splitlines())


def modification_times(folder: Path) -> dict[Path, int]:
    return {path: path.lstat().st_mtime_ns for path in (folder, *folder.rglob("*"))}


@pytest.mark.parametrize("again", ["--extend", "the same command", "-r"])
def test_extend_killed_before_each_change_to_disk_loses_nothing(project: Project, counted: Path, again: str) -> None:
    """Whichever command continues, each point has one run, and each run one Slurm job."""
    project.write_spec("[1]")
    slurm = ("-s", "s.sh", "-y")
    assert project.submit(project.spec, *slurm) == 0
    sizes, number, code = [1], -1, 137
    while code == 137:
        number += 1
        sizes.append(number + 20)
        project.write_spec(str(sizes))
        code = killed_at(project, number, project.spec, *slurm, "--extend")
        before = modification_times(project.batch)
        project.submit("-r", project.batch, *slurm, "-d")
        assert modification_times(project.batch) == before, "a dry run does not finish the extension"
        last = last_extension(str(project.batch))
        was_made = last and len(last.names) == 2 * len(sizes)
        if again == "-r" and was_made:
            assert project.submit("-r", project.batch, *slurm) == 0
        elif again == "the same command" and was_made:
            assert project.submit(project.spec, *slurm) in (0, 2)  # 2 if nothing was left
        else:  # killed before it had written anything: only the same command contains the request
            assert project.submit(project.spec, *slurm, "--extend") in (0, 2)
        specs = [(spec["batch_size"], spec["base_lr"]) for _, spec in contents(project)]
        assert sorted(specs) == [(size, rate) for size in sizes for rate in (0.1, 1)], f"change {number}"
        assert submitted(counted) == {name: 1 for name, _ in contents(project)}, f"change {number}"
        assert (project.batch / "job.yaml").read_text() == project.spec.read_text()
    assert code == 0 and number > 10  # the last process made fewer changes than the limit
    assert [name[:3] for name, _ in contents(project)] == [f"{index:03d}" for index in range(2 * len(sizes))]
    states = {run.state.name for run in observe([str(project.batch)])[0].runs.values()}
    assert states == {"pending"}


def test_concurrent_extensions_lose_nothing(project: Project, counted: Path) -> None:
    """Processes add values of their own and values that others add too: no run is lost or duplicated."""
    assert project.submit(project.spec, "-s", "s.sh", "-y") == 0
    wanted = {8, 32}
    for turn in range(6 if CHAOS else 2):
        crowd = []
        for terminal in range(4):
            sizes = [8, 32, 100 + turn, 200 + 4 * turn + terminal // 2]
            wanted.update(sizes)
            pid = os.fork()
            if pid == 0:
                try:
                    os._exit(project.submit(project.spec, "-s", "s.sh", "-y", "--extend", "--set",
                                            f"batch_size={sizes}"))
                finally:
                    os._exit(1)
            crowd.append((pid, sizes))
        for pid, _ in crowd:
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) in (0, 2)
        for _, sizes in crowd:  # a process that was overtaken tries again
            arguments = ("--set", f"batch_size={sizes}")
            assert project.submit(project.spec, "-s", "s.sh", "-y", "--extend", *arguments) in (0, 2)
    specs = [(spec["batch_size"], spec["base_lr"]) for _, spec in contents(project)]
    assert sorted(specs) == sorted((size, rate) for size in wanted for rate in (0.1, 1))
    assert submitted(counted) == {name: 1 for name, _ in contents(project)}
    numbers = [name[:3] for name, _ in contents(project)]
    assert len(set(numbers)) == len(numbers)
    assert not list(project.batch.glob(".extension*"))


def test_extension_made_while_another_is_planned(project: Project, monkeypatch: pytest.MonkeyPatch,
                                                 capsys: pytest.CaptureFixture[str]) -> None:
    write(project, "base_lr: 1, batch_size: 1")
    assert project.submit(project.spec, "--local", "-y") == 0
    arguments = (project.spec, "--local", "-y", "--extend", "--set", "batch_size=[1,2]")
    real = extend.observe_batch

    def overtaken(batch: str, dry_run: bool) -> Any:
        observation = real(batch, dry_run)
        monkeypatch.setattr(extend, "observe_batch", real)
        assert project.submit(*arguments) == 0
        return observation

    monkeypatch.setattr(extend, "observe_batch", overtaken)
    assert project.submit(*arguments) == 2
    assert "another process extended this batch a moment ago" in capsys.readouterr().err
    assert project.submit(*arguments) == 0 and "nothing to submit" in capsys.readouterr().out
    assert [name for name, _ in contents(project)] == ["000_tiny", "001_tiny+bat_siz=2"]
    assert project.executed() == [1, 1]


def test_extension_made_while_the_batch_is_read(project: Project, counted: Path, capsys: pytest.CaptureFixture[str],
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    """An extension between reading folders and journals: its runs are not submitted a second time."""
    write(project, "base_lr: 1, batch_size: 1")
    assert project.submit(project.spec, "-s", "s.sh", "-y") == 0
    arguments = (project.spec, "-s", "s.sh", "-y", "--extend", "--set", "batch_size=[1,2]")
    real = journal.read_history

    def overtaken(path: str) -> journal.History:
        monkeypatch.setattr(journal, "read_history", real)
        history = real(path)
        assert project.submit(*arguments) == 0
        return history

    monkeypatch.setattr(journal, "read_history", overtaken)
    assert project.submit(*arguments) == 2
    assert "another process extended this batch a moment ago" in capsys.readouterr().err
    assert submitted(counted) == {"000_tiny": 1, "001_tiny+bat_siz=2": 1}


def test_extended_composite_submits_workers_only_for_new_runs(project: Project, counted: Path,
                                                              capsys: pytest.CaptureFixture[str]) -> None:
    write(project, "base_lr: 1, SUBTESTS: {a: {batch_size: [1, 2], WORKERS: 2}}")
    assert project.submit(project.spec, "-s", "s.sh", "-y") == 0
    write(project, "base_lr: 1, SUBTESTS: {a: {batch_size: [1, 2], WORKERS: 2}, b: {batch_size: [2, 3], WORKERS: 1}}")
    capsys.readouterr()
    assert project.submit(project.spec, "-s", "s.sh", "-y", "--extend") == 0
    out = capsys.readouterr().out
    assert "1 point new, 2 in it already" in out and "workers    1 for b\n" in out
    assert "note: with other tags in the job spec, and left as they are: 1 run, 001_tiny+bat_siz=2" in out
    assert sum(submitted(counted).values()) == 3  # Slurm jobs: two workers, and one
    project.spec.write_text(project.spec.read_text().replace("name: tiny", "name: tiny, metric: psnr"))
    assert project.submit(project.spec, "-s", "s.sh", "-y", "--extend") == 0
    out = capsys.readouterr().out
    assert "no new run to submit" in out and "workers" not in out
    assert sum(submitted(counted).values()) == 3
