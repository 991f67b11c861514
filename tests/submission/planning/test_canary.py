"""Canaries on the fake Slurm: which are submitted, which runs wait for them, and what happens when one fails."""
from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import experiments
from src import config, run_folder
from src.analysis.reading import results
from src.submission.batch import journal, task_files
from src.submission.execution import canary_dependencies
from src.submission.execution.canary_dependencies import CanaryDependencies
from src.submission.planning import canary
from src.submission.slurm import submit
from src.submission.status import status
from src.submission.status.observe import observe
from tests.fake_slurm.fixture import FakeSlurm, fake_slurm
from tests.submission.conftest import Project

__all__ = ["fake_slurm"]  # the fixture

SCRIPT = """#!/bin/bash
#SBATCH --time=5
exec {python} train.py "$@"
"""
# the entry of these tests crashes at batch_size 13, and so does the second model's canary
GRID = """\
job_details: {name: tiny, output_dir: re sults}
parameters:
  base_lr: [0.1, 1]
  LIST:
    - {model: linear, batch_size: [8, 32]}
    - {model: tiny/lenet, dataset: sklearn/digits, batch_size: [13, 14], data_splits_map: {train: train, test: train}}
"""
MODES = [[], ["--array"], ["--workers", "2"]]


@pytest.fixture
def grid(project: Project, fake_slurm: FakeSlurm) -> Project:
    (project.folder / "s.sh").write_text(SCRIPT.format(python=sys.executable))
    project.spec.write_text(GRID)
    return project


def canary_folder(project: Project) -> Path:
    """Return the folder of the canaries of a batch."""
    return project.batch / "canary"


def counts(project: Project) -> dict[str, int]:
    return status.counts(observe([str(project.batch)])[0])


def canaries(project: Project) -> list[str]:
    """Return the states of the canaries by name: first that of linear, then that of lenet."""
    return [run.state.name for run in observe([str(project.batch)])[0].canaries.values()]


def fix(project: Project) -> None:
    (project.batch / "mended").touch()
    (canary_folder(project) / "mended").touch()


def executions(folder: Path) -> list[int]:
    return [len(path.read_text().split()) for path in sorted(folder.glob("*/executed"))]


def dependencies(slurm: FakeSlurm) -> list[str]:
    return [word.partition("=")[2] for call in slurm.calls("sbatch") for word in call.argv
            if word.startswith("--dependency=")]


@given(st.text(max_size=300), st.text(max_size=300), st.text(max_size=300))
def test_canary_names_are_safe_and_short(script: str, model: str, dataset: str) -> None:
    name = canary.canary_name(f"/a/{script}", {"model": model, "dataset": dataset}, "/b")
    assert len(name.encode()) <= 200
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+-")
    assert name[0] != "."
    # a name contains no separator of a list of dependencies
    option = f"--dependency=afterok:{canary.JOB_PLACEHOLDER}{name},singleton"
    assert canary_dependencies.fill_in_jobs([option], {name: "12"}) == ["--dependency=afterok:12,singleton"]


def test_canary_names_differ_by_script_model_and_data_set() -> None:
    specs = [{"model": model, "dataset": data} for model in ("a/b", "a_b", "a b") for data in ("d/1", "d_1")]
    names = [canary.canary_name(script, spec, "/b") for script in (None, "/x/s.sh", "/y/s.sh") for spec in specs]
    assert len(set(names)) == len(names) == 18
    spec = {"model": config.DEFAULTS["model"]}
    assert canary.canary_name(None, spec, "/b") == canary.canary_name(None, {}, "/b")  # defaults are filled in
    # each submission writes a new script from resources
    names = [canary.canary_name(f"/b/submissions/{token}.sh", spec, "/b") for token in ("1", "2")]
    assert names[0] == names[1]


def test_canary_trains_one_epoch_without_trackers() -> None:
    spec = {"model": "linear", "base_lr": 0.1, "train_length": 90, "train_length_unit": "step", "wandb": True,
            "wandb_tags": ["x"], "save_freq": 1, "save_best_checkpoint": True, "output_dir": "x", "TAGS": ["t"],
            "SBATCH": {"mem": 1}}
    assert canary.canary_spec(spec) == {"model": "linear", "base_lr": 0.1, "train_length": 1,
                                        "train_length_unit": "epoch", "SBATCH": {"mem": 1}}
    assert canary.canary_spec({"train_length": 0}) == {"train_length": 0}  # only evaluates


@pytest.mark.parametrize(("word", "jobs", "filled"), [
    ("afterok:JOB_OF_a", {"a": "7"}, ["--dependency=afterok:7"]),
    ("afterok:JOB_OF_a", {"a": "7:8"}, ["--dependency=afterok:7:8"]),
    ("afterok:JOB_OF_a", {}, []),
    ("singleton,afterok:1:2,afterok:JOB_OF_a", {}, ["--dependency=singleton,afterok:1:2"]),
    ("afterany:JOB_OF_a:JOB_OF_a+b-1", {"a+b-1": "7"}, ["--dependency=afterany:7"])])
def test_dependencies_are_filled_in(word: str, jobs: dict[str, str], filled: list[str]) -> None:
    assert canary_dependencies.fill_in_jobs(["sbatch", f"--dependency={word}", "x"], jobs) == ["sbatch", *filled, "x"]


def test_dry_run_prints_canaries_and_writes_nothing(grid: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert grid.submit(grid.spec, "-s", "s.sh", "--canary", "-d") == 0
    out = capsys.readouterr().out
    assert "canary     2 runs of one epoch first: linear on libsvm/a9a, tiny/lenet on sklearn/digits" in out
    calls = [line for line in out.splitlines() if line.startswith("sbatch ")]
    assert len(calls) == 2 + 8
    assert [f"dependency=afterok:{canary.JOB_PLACEHOLDER}s+" in line for line in calls] == [False] * 2 + [True] * 8
    assert all("/canary/s+" in line for line in calls[:2])
    assert not grid.results.exists()


@pytest.mark.parametrize("mode", MODES, ids=" ".join)
def test_all_canaries_succeed(mode: list[str], grid: Project, fake_slurm: FakeSlurm) -> None:
    grid.spec.write_text(GRID.replace("13", "12"))
    assert grid.submit(grid.spec, "-s", "s.sh", "--canary", "-y", *mode) == 0
    one, two, *rest = fake_slurm.jobs()
    assert len(rest) == {"": 8, "--array": 2, "--workers": 2}["".join(mode[:1])] or rest[0].endswith("_0")
    assert set(dependencies(fake_slurm)) == ({f"afterany:{one}:{two}"} if "--workers" in mode else
                                             {f"afterok:{one}", f"afterok:{two}"})
    assert counts(grid) == {"pending": 8}
    fake_slurm.run_all(parallel=2)
    assert counts(grid) == {"done": 6, "diverged": 2}
    assert executions(grid.batch) == [1] * 8
    assert executions(canary_folder(grid)) == [1, 1]
    began = min(float((run / "claim-1").stat().st_mtime) for run in grid.runs()[:4])
    assert (canary_folder(grid) / sorted(os.listdir(canary_folder(grid)))[0] / "done").stat().st_mtime <= began


@pytest.mark.parametrize("mode", MODES, ids=" ".join)
def test_failed_canary_is_fixed_and_retried(mode: list[str], grid: Project, fake_slurm: FakeSlurm,
                                            capsys: pytest.CaptureFixture[str]) -> None:
    assert grid.submit(grid.spec, "-s", "s.sh", "--canary", "-y", *mode) == 0
    fake_slurm.run_all(parallel=2)
    assert counts(grid) == {"done": 4, "cancelled": 4}
    assert canaries(grid) == ["done", "failed"]
    assert executions(grid.batch) == [1] * 4
    capsys.readouterr()
    assert experiments.main(["status", str(grid.batch)]) == 0
    out = capsys.readouterr().out
    assert out.count("its canary failed: RuntimeError: unlucky\\nnumber; see ") == 5  # 4 runs, 1 group
    assert "canaries   1 done, 1 failed\n  1 failed: RuntimeError: unlucky" in out
    log = observe([str(grid.batch)])[0].runs[grid.runs()[2].name].state.why.partition("; see ")[2]
    assert "RuntimeError" in Path(log).read_text()
    calls = [len(fake_slurm.calls(name)) for name in ("squeue", "sacct")]
    observe([str(grid.batch)])
    assert [len(fake_slurm.calls(name)) for name in ("squeue", "sacct")] == [number + 1 for number in calls]
    assert experiments.main(["wait", str(grid.batch)]) == 1

    fix(grid)
    assert grid.submit("-r", grid.batch, "-y") == 0  # canaries are used as before
    assert "canary     1 run of one epoch first: tiny/lenet on sklearn/digits" in capsys.readouterr().out
    fake_slurm.run_all(parallel=2)
    assert counts(grid) == {"done": 6, "diverged": 2}
    assert executions(grid.batch) == [1] * 8
    assert executions(canary_folder(grid)) == [1, 1]


def test_canaries_are_not_counted_as_runs(grid: Project, fake_slurm: FakeSlurm, capsys: pytest.CaptureFixture[str],
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    fake_slurm.reuse_ids_from(500)  # greater than all run indices
    grid.spec.write_text(GRID.replace("13", "12"))
    assert grid.submit(grid.spec, "-s", "s.sh", "--canary", "-y") == 0
    fake_slurm.run_all(parallel=2)
    assert len(run_folder.run_names(grid.batch)) == 8
    assert len(results.read_experiments(str(grid.batch))) == 8
    capsys.readouterr()
    assert experiments.main(["status", str(grid.batch), "--json"]) == 0
    batch, = json.loads(capsys.readouterr().out)
    assert len(batch["runs"]) == 8
    assert [run["state"] for run in batch["canaries"]] == ["done", "done"]
    assert experiments.main(["missing", str(grid.spec)]) == 0
    name = next(path.name for path in canary_folder(grid).iterdir() if path.name.startswith("s+"))
    monkeypatch.setenv("GRIDIRON_RESULTS", str(grid.results))
    for run in (str(canary_folder(grid) / name), fake_slurm.jobs()[0]):  # by folder and by job id
        assert experiments.main(["logs", run]) == 0
        assert "training" in capsys.readouterr().out


def test_state_of_a_held_back_run_whose_job_slurm_has_forgotten(grid: Project, fake_slurm: FakeSlurm) -> None:
    """Without sacct, the files of the canary explain the state."""
    assert grid.submit(grid.spec, "-s", "s.sh", "--canary", "-y") == 0
    fake_slurm.run_all()
    fake_slurm.reject("accounting_disabled", command="sacct")
    assert counts(grid) == {"done": 4, "cancelled": 4}


def test_crash_between_canaries_and_runs_loses_nothing(grid: Project, fake_slurm: FakeSlurm,
                                                       monkeypatch: pytest.MonkeyPatch,
                                                       capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (grid.spec, "-s", "s.sh", "--canary", "-y")

    class Crash(Exception):
        pass

    def crash(*_: object, **__: object) -> None:
        raise Crash
    for module, jobs in ((canary_dependencies, 0), (submit, 2)):  # before any canary, and before any run
        with monkeypatch.context() as patch:
            patch.setattr(module, "submit_all", crash)
            with pytest.raises(Crash):
                grid.submit(*arguments)
        assert len(fake_slurm.jobs()) == jobs
        forget_submitters(grid)
    assert counts(grid) == {"new": 8}
    capsys.readouterr()
    assert grid.submit(*arguments) == 0
    assert f"canary     linear on libsvm/a9a: pending, Slurm job {fake_slurm.jobs()[0]}" in capsys.readouterr().out
    assert len(fake_slurm.jobs()) == 10
    fake_slurm.run_all(parallel=2)
    assert counts(grid) == {"done": 4, "cancelled": 4}
    assert executions(grid.batch) == [1] * 4


def forget_submitters(project: Project) -> None:
    """Change the journals as if the submitting processes, including this one, had died."""
    for path in project.batch.rglob("submissions/*.jsonl"):
        path.write_text(path.read_text() + '{"kind": "ended", "time": 0}\n')


def test_canary_that_ended_before_the_runs_were_submitted(grid: Project, fake_slurm: FakeSlurm,
                                                          capsys: pytest.CaptureFixture[str]) -> None:
    """Slurm has forgotten the job of the canary; its files show that runs need not wait, or must not run."""
    arguments = (grid.spec, "-s", "s.sh", "--canary", "-y", "--max-queued", "2")
    assert grid.submit(*arguments) == 3  # only the canaries were submitted
    assert len(fake_slurm.jobs()) == 2
    fake_slurm.run_all(parallel=2)
    for job in fake_slurm.jobs():
        fake_slurm.delete(job)
    capsys.readouterr()
    assert grid.submit(*arguments[:-2]) == 0
    out = capsys.readouterr().out
    assert "4 left alone (4 held back by a canary)" in out or "4 cancelled" in out
    assert dependencies(fake_slurm) == []
    fake_slurm.run_all(parallel=2)
    assert counts(grid) == {"done": 4, "cancelled": 4}
    assert grid.submit(*arguments) == 0  # a failed canary is only retried by -r
    assert "-r" in capsys.readouterr().out
    fix(grid)
    assert grid.submit("-r", grid.batch, "-y") == 0
    fake_slurm.run_all(parallel=2)
    assert counts(grid) == {"done": 6, "diverged": 2}
    assert executions(grid.batch) == [1] * 8


def test_canary_fails_while_the_runs_are_being_submitted(grid: Project, fake_slurm: FakeSlurm,
                                                         monkeypatch: pytest.MonkeyPatch,
                                                         capsys: pytest.CaptureFixture[str]) -> None:
    submit_canaries = CanaryDependencies.submit

    def submit_and_run(*arguments: object) -> None:
        submit_canaries(*arguments)  # type: ignore[arg-type]
        fake_slurm.run_all(parallel=2)
    monkeypatch.setattr(CanaryDependencies, "submit", submit_and_run)
    assert grid.submit(grid.spec, "-s", "s.sh", "--canary", "-y") == 2
    assert "4 of 8 Slurm jobs not submitted" in capsys.readouterr().err
    assert dependencies(fake_slurm) == []
    fake_slurm.run_all(parallel=2)
    assert counts(grid) == {"done": 4, "cancelled": 4}


def test_max_queued_counts_canaries(grid: Project, fake_slurm: FakeSlurm) -> None:
    arguments = (grid.spec, "-s", "s.sh", "--canary", "-y", "--max-queued", "3")
    assert grid.submit(*arguments) == 3
    assert len(fake_slurm.jobs()) == 3


def test_lost_answer_of_sbatch_for_a_canary(grid: Project, fake_slurm: FakeSlurm,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.submission.slurm.client._PAUSES", (0, 0))
    monkeypatch.setattr("src.submission.slurm.client.submit_with_retries.__defaults__", ((0, 0),))
    fake_slurm.lose_reply(nth=1)
    assert grid.submit(grid.spec, "-s", "s.sh", "--canary", "-y") == 0
    assert len(fake_slurm.jobs()) == 10
    fake_slurm.run_all(parallel=2)
    assert executions(canary_folder(grid)) == [1]
    assert executions(grid.batch) == [1] * 4


def test_no_canary_turns_canaries_off(grid: Project, fake_slurm: FakeSlurm) -> None:
    assert grid.submit(grid.spec, "-s", "s.sh", "--canary", "-y") == 0
    fake_slurm.run_all(parallel=2)
    (grid.batch / "mended").touch()
    assert grid.submit("-r", grid.batch, "-y", "--no-canary") == 0
    assert len(dependencies(fake_slurm)) == 8  # those of the first submission
    fake_slurm.run_all(parallel=2)
    assert counts(grid) == {"done": 6, "diverged": 2}
    assert canaries(grid) == ["done", "failed"]


def test_after_and_canary_are_both_waited_for(grid: Project, fake_slurm: FakeSlurm) -> None:
    grid.spec.write_text("job_details: {name: earlier, output_dir: re sults}\nparameters: {batch_size: 8}\n")
    assert grid.submit(grid.spec, "-s", "s.sh", "-y") == 0
    earlier = grid.batch
    grid.spec.write_text(GRID.replace("13", "12"))
    assert grid.submit(grid.spec, "-s", "s.sh", "--canary", "-y", "--after", earlier) == 0
    before, one, two, *_ = fake_slurm.jobs()
    calls = [call for call in fake_slurm.calls("sbatch") if call.argv[-1].startswith(str(grid.results))]
    assert len(calls) == 11
    assert sorted(dependencies(fake_slurm)) == sorted(
        [f"afterok:{before}"] * 2 + [f"afterok:{before},afterok:{one}", f"afterok:{before},afterok:{two}"] * 4)


def test_cancel_includes_canaries(grid: Project, fake_slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]) -> None:
    assert grid.submit(grid.spec, "-s", "s.sh", "--canary", "-y") == 0
    assert experiments.main(["cancel", str(grid.batch), "-y"]) == 0
    assert "cancelled 8 runs and 2 canaries" in capsys.readouterr().out
    assert fake_slurm.jobs("PENDING") == []
    assert canaries(grid) == ["cancelled"] * 2
    assert counts(grid) == {"cancelled": 8}
    fix(grid)
    assert grid.submit("-r", grid.batch, "-y") == 0
    fake_slurm.run_all(parallel=2)
    assert counts(grid) == {"done": 6, "diverged": 2}


def test_batch_with_a_running_canary_is_not_overwritten(grid: Project, fake_slurm: FakeSlurm,
                                                        capsys: pytest.CaptureFixture[str]) -> None:
    assert grid.submit(grid.spec, "-s", "s.sh", "--canary", "-y", "--max-queued", "2") == 3
    assert grid.submit(grid.spec, "-s", "s.sh", "-o", "-y") == 2
    assert "may be pending or running" in capsys.readouterr().err


def test_no_submit_with_canary_submits_canaries_later(grid: Project, fake_slurm: FakeSlurm) -> None:
    assert grid.submit(grid.spec, "--canary", "-y", "--no-submit") == 0
    assert not canary_folder(grid).exists()
    assert grid.submit("-r", grid.batch, "-s", "s.sh", "-y") == 0
    fake_slurm.run_all(parallel=2)
    assert counts(grid) == {"done": 4, "cancelled": 4}


def test_resources_and_scripts_of_single_points_have_canaries(grid: Project, fake_slurm: FakeSlurm) -> None:
    (grid.folder / "big.sh").write_text(SCRIPT.format(python=sys.executable))
    (grid.folder / "activate.sh").write_text("python() { " + sys.executable + ' "$@"; }\n')
    grid.spec.write_text("""\
job_details: {name: tiny, output_dir: re sults, resources: {setup: []}}
parameters:
  LIST:
    - {batch_size: [8, 32]}
    - {batch_size: 64, SCRIPT: big.sh, SBATCH: {mem: 2G}}
""")
    arguments = (grid.spec, "--canary", "-y", "--max-queued", "2")
    assert grid.submit(*arguments) == 3
    names = sorted(path.name.partition("+")[0] for path in canary_folder(grid).iterdir() if path.name != "submissions")
    assert names == ["big", "resources"]
    assert "--mem=2G" in fake_slurm.calls("sbatch")[1].argv
    assert grid.submit(*arguments[:-2]) == 0  # with a new script, and the same canary
    assert len(fake_slurm.jobs()) == 2 + 3
    one, two, *_ = fake_slurm.jobs()
    assert dependencies(fake_slurm) == [f"afterok:{one}"] * 2 + [f"afterok:{two}"]


def test_canaries_that_differ_only_in_the_script_are_labelled_with_it(grid: Project,
                                                                      capsys: pytest.CaptureFixture[str]) -> None:
    (grid.folder / "big.sh").write_text(SCRIPT.format(python=sys.executable))
    grid.spec.write_text("""\
job_details: {name: tiny, output_dir: re sults}
parameters: {LIST: [{batch_size: 8}, {batch_size: 64, SCRIPT: big.sh}, {model: linear}]}
""")
    assert grid.submit(grid.spec, "-s", "s.sh", "--canary", "-d") == 0
    assert ("canary     3 runs of one epoch first: linear/no_bias on libsvm/a9a (s), linear/no_bias on libsvm/a9a "
            "(big), linear on libsvm/a9a\n") in capsys.readouterr().out


def test_worker_checks_canaries_itself_and_its_successor_has_no_dependency(grid: Project) -> None:
    assert grid.submit(grid.spec, "-s", "s.sh", "--canary", "-y", "--workers", "1") == 0
    path, = (grid.batch / "submissions").glob("*.tasks.json")
    listed = task_files.read(str(path))
    assert not any(word.startswith("--dependency") for word in listed.command)
    assert list(listed.startable()) == []
    linear = next(canary_folder(grid).glob("s+linear*"))
    (linear / "done").write_text("completed")
    assert sorted(listed.startable()) == sorted(run.name for run in grid.runs() if "mod=linear" in run.name)


def test_validation_leaves_out_dependencies_on_canaries(grid: Project, fake_slurm: FakeSlurm) -> None:
    """sbatch would refuse a dependency on a job that does not exist yet."""
    assert grid.submit(grid.spec, "-s", "s.sh", "--canary", "-y") == 0
    tried = fake_slurm.calls("sbatch --test-only")
    assert len(tried) == 1  # canaries have the same options as the runs
    assert not any("dependency" in word for word in tried[0].argv)


def test_external_program_with_canary_is_rejected(grid: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert grid.submit(grid.spec, "-s", "s.sh", "--canary", "-y", "--command", "true {args}") == 2
    assert "an external program cannot be cut to one epoch" in capsys.readouterr().err
    assert not grid.results.exists()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_local_canaries_hold_runs_back(workers: str, project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.spec.write_text(GRID)
    assert project.submit(project.spec, "--local", "--workers", workers, "--canary", "-y") == 1
    out = capsys.readouterr().out
    assert "4 runs held back, its canary failed: RuntimeError: unlucky\\nnumber; see " in out
    assert counts(project) == {"done": 4, "cancelled": 4}
    assert project.submit(project.spec, "--local", "--canary", "-y") == 0  # the rest can only be submitted by -r
    fix(project)
    assert project.submit("-r", project.batch, "--local", "-y") == 0
    assert counts(project) == {"done": 6, "diverged": 2}
    assert executions(project.batch) == [1] * 8
    assert executions(canary_folder(project)) == [1, 1]


def test_local_stops_if_every_canary_fails(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.spec.write_text(GRID.replace("[8, 32]", "13").replace("[13, 14]", "13"))
    assert project.submit(project.spec, "--local", "--canary", "-y") == 2
    captured = capsys.readouterr()
    assert "no run was started: every canary failed" in captured.err
    assert captured.out.count("held back, its canary failed") == 2
    assert counts(project) == {"cancelled": 4}


def test_journal_records_the_canary_of_each_run(grid: Project) -> None:
    assert grid.submit(grid.spec, "-s", "s.sh", "--canary", "-y", "--array") == 0
    plan = journal.read_history(str(grid.batch)).recorded_plans[0]
    assert plan["canary"] is True
    assert sorted(plan["canaries"].values()) == [[0, 1, 2, 3], [4, 5, 6, 7]]
