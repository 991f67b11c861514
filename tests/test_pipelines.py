"""Commands in sequence: wait, missing, --skip-done, --after, and retries that depend on what failed."""
from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import experiments
from src.submission.batch import journal
from src.submission.status.observe import observe
from tests.conftest import Slurm
from tests.submission.conftest import Project, project
from tests.submission.job.test_worker import both_run, submit_in_background, wait_for
from tests.test_submit_multiple import fake_slurm

__all__ = ["fake_slurm", "project"]  # fixtures


def end(project: Project, index: int, how: str | None, error: str = "", node: str = "n1",
        ended: str = "failed") -> None:
    """End a run of the fake Slurm: by a `done` file that contains `how`, or by a failed attempt."""
    run, job = project.runs()[index], str(index + 1)
    (run / "claim-1").write_text(json.dumps({"slurm_job": job}))
    (run / "attempt-1-0.json").write_text(json.dumps({"ticket": 1, "number": 0, "slurm_job": job, "node": node,
                                                      "how": how or ended, "error": error, "start": 1, "end": 2}))
    if how:
        (run / "done").write_text(how)


@pytest.fixture
def submitted(project: Project, fake_slurm: Path) -> Project:
    """Return a batch of four runs, pending in a fake Slurm that starts none."""
    assert project.submit(project.spec, "-s", "s.sh", "-y") == 0
    return project


def forget_queue(fake_slurm: Path) -> None:
    (fake_slurm / "queue").write_text("")


def test_wait_returns_0_if_all_runs_ended_well(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert project.submit(project.spec, "--local", "-y") == 0
    (project.runs()[0] / "done").write_text("diverged")
    capsys.readouterr()
    assert experiments.main(["wait", str(project.batch)]) == 0
    assert capsys.readouterr().out == f"{project.batch}: 3 done, 1 diverged\n"


def test_wait_prints_failures_by_groups(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.write_spec("[8, 13]")
    assert project.submit(project.spec, "--local", "-y") == 1
    capsys.readouterr()
    assert experiments.main(["wait", str(project.batch)]) == 1
    out = capsys.readouterr().out.splitlines()
    assert out[0].endswith(": 2 done, 2 failed")
    assert out[1].startswith("  2 failed: RuntimeError: unlucky\\nnumber (")
    assert out[1].endswith("local.out)")


def test_wait_blocks_while_runs_are_running(project: Project) -> None:
    project.write_spec("[15, 8]")
    process = submit_in_background(project)
    wait_for(lambda: both_run(project))
    for run in project.runs()[:2]:
        (run / "spec.yaml").write_text("batch_size: 1\n")
    looks = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            process.terminate()
            process.wait(20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("src.submission.status.wait.time", SimpleNamespace(sleep=sleep))
        assert experiments.main(["wait", "--every", "0.5", str(project.batch)]) == 1
    assert looks == [0.5] * 3


def test_wait_ignores_stuck_runs(submitted: Project, fake_slurm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for index in (1, 2, 3):
        end(submitted, index, "completed")
    (fake_slurm / "queue").write_text((fake_slurm / "queue").read_text().replace("Priority", "PartitionTimeLimit"))
    capsys.readouterr()
    assert experiments.main(["wait", str(submitted.batch)]) == 1
    assert "1 stuck: PartitionTimeLimit" in capsys.readouterr().out


def test_missing_lists_points_that_no_batch_has_done(submitted: Project, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    end(submitted, 1, "completed")
    assert experiments.main(["missing", str(submitted.spec)]) == 1
    assert capsys.readouterr().out.splitlines() == [run.name for run in submitted.runs() if run != submitted.runs()[1]]
    assert experiments.main(["missing", str(submitted.spec), "--set", "base_lr=1", "--set", "batch_size=8.0"]) == 0
    assert capsys.readouterr().out == ""
    assert experiments.main(["missing", str(submitted.spec), "--output-dir", "elsewhere"]) == 1


def test_skip_done_leaves_out_points_done_by_another_batch(submitted: Project,
                                                           capsys: pytest.CaptureFixture[str]) -> None:
    end(submitted, 0, "completed")
    end(submitted, 3, "diverged")
    submitted.spec.write_text(submitted.spec.read_text().replace("tiny", "other").replace("[8, 32]", "[8, 32, 64]"))
    capsys.readouterr()
    assert submitted.submit(submitted.spec, "-s", "s.sh", "-y", "--skip-done") == 0
    assert "6 runs: 4 to submit, 2 left alone (2 done elsewhere)" in capsys.readouterr().out
    other, = submitted.results.glob("*-other")
    assert sorted(path.name for path in other.iterdir() if path.name[0].isdigit()) == [
        "001_other+bat_siz=8+bas_lr=1", "002_other+bat_siz=32+bas_lr=0.1", "004_other+bat_siz=64+bas_lr=0.1",
        "005_other+bat_siz=64+bas_lr=1"]
    # later without the option: the rest of the grid, with the names that it has in the whole grid
    assert submitted.submit(submitted.spec, "-s", "s.sh", "-y") == 0
    assert len([path for path in other.iterdir() if path.name[0].isdigit()]) == 6


def test_skip_done_with_nothing_left_writes_nothing(submitted: Project, capsys: pytest.CaptureFixture[str]) -> None:
    for index in range(4):
        end(submitted, index, "completed")
    submitted.spec.write_text(submitted.spec.read_text().replace("tiny", "other"))
    assert submitted.submit(submitted.spec, "-s", "s.sh", "-y", "--skip-done") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "nothing to submit: 0 of 4 done, 4 done elsewhere"
    assert submitted.batch.name.endswith("-tiny")  # no second batch was made
    assert submitted.submit("-r", submitted.batch, "--skip-done") == 2


def test_after_adds_a_dependency_on_another_batch(submitted: Project, fake_slurm: Path,
                                                  capsys: pytest.CaptureFixture[str]) -> None:
    first = submitted.batch
    end(submitted, 0, "completed")
    submitted.spec.write_text(submitted.spec.read_text().replace("tiny", "second"))
    arguments = [submitted.spec, "-s", "s.sh", "--after", first]
    (submitted.folder / "s.sh").write_text("#!/bin/bash\n#SBATCH --dependency=singleton\n")
    assert submitted.submit(*arguments, "-d") == 0
    out = capsys.readouterr().out
    assert "--dependency=singleton,afterok:2:3:4 --kill-on-invalid-dep=yes" in out
    assert f"after      {first}\n" in out
    end(submitted, 1, None, "ValueError: no")
    forget_queue(fake_slurm)
    assert submitted.submit(*arguments, "-d") == 2
    assert "--after" in (error := capsys.readouterr().err)
    assert "cannot be waited for (001_tiny+bat_siz=8+bas_lr=1: failed)" in error
    for index in range(4):
        end(submitted, index, "completed")
    assert submitted.submit(*arguments, "-y") == 0
    assert "(all of it has ended)" in capsys.readouterr().out
    second, = submitted.results.glob("*-second")
    assert "afterok" not in json.dumps(journal.read_history(str(second)).recorded_plans)


def test_after_rejects_batches_that_slurm_cannot_wait_for(project: Project, fake_slurm: Path,
                                                          capsys: pytest.CaptureFixture[str]) -> None:
    assert project.submit(project.spec, "-s", "s.sh", "-y", "--workers", "2") == 0
    first = project.batch
    project.spec.write_text(project.spec.read_text().replace("tiny", "second"))
    assert project.submit(project.spec, "-s", "s.sh", "-y", "--after", first) == 2
    assert "experiments.py wait" in capsys.readouterr().err
    assert project.submit(project.spec, "--local", "--after", first) == 2
    assert project.submit(project.spec, "-s", "s.sh", "--no-submit", "--after", first) == 2


def test_out_of_memory_is_retried_only_with_more_memory(submitted: Project, fake_slurm: Path,
                                                        capsys: pytest.CaptureFixture[str]) -> None:
    end(submitted, 0, None, ended="out_of_memory")
    end(submitted, 1, None, "ValueError: no 1")
    end(submitted, 2, None, "ValueError: no 2")
    end(submitted, 3, "completed")
    forget_queue(fake_slurm)
    capsys.readouterr()
    assert submitted.submit("-r", submitted.batch, "-d") == 0
    out = capsys.readouterr().out
    assert "4 runs: 2 to submit, 2 left alone (1 out of memory, 1 done)" in out
    assert "2 failed: ValueError: no 1 (" in out
    assert "--state out_of_memory --sbatch mem=32G`" in out
    assert submitted.submit("-r", submitted.batch, "--state", "out_of_memory", "-y") == 0
    assert "nothing to submit" in capsys.readouterr().out
    assert submitted.submit("-r", submitted.batch, "-d", "--state", "out_of_memory", "--sbatch", "mem=32G") == 0
    assert "1 to submit" in (out := capsys.readouterr().out)
    assert "--mem=32G" in out


def test_retry_excludes_nodes_that_failed(submitted: Project, fake_slurm: Path,
                                          capsys: pytest.CaptureFixture[str]) -> None:
    for index in range(3):
        end(submitted, index, None, "CUDA error", node="bad7")
    end(submitted, 3, "completed", node="fine1")
    forget_queue(fake_slurm)
    (submitted.folder / "s.sh").write_text("#!/bin/bash\n#SBATCH -x old1,old2\n")
    capsys.readouterr()
    assert submitted.submit("-r", submitted.batch, "-d") == 0
    out = capsys.readouterr().out
    assert "excludes   bad7: 3 runs failed there" in out
    assert out.count("--exclude=old1,old2,bad7 ") == 3
    assert submitted.submit("-r", submitted.batch, "-d", "--sbatch", "exclude=other3") == 0
    assert capsys.readouterr().out.count("--exclude=other3,bad7 ") == 3
    assert submitted.submit("-r", submitted.batch, "-d", "--sbatch", "exclude=") == 0
    assert "--exclude=" not in capsys.readouterr().out


def test_cancel_by_state_and_by_run(submitted: Project, fake_slurm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (fake_slurm / "scancel").write_text(f'#!/bin/sh\necho "$@" >> "{fake_slurm}/cancelled"\n')
    (fake_slurm / "scancel").chmod(0o755)
    queue = (fake_slurm / "queue").read_text()
    (fake_slurm / "queue").write_text(queue.replace("PENDING", "RUNNING", 2))
    assert experiments.main(["cancel", "-y", str(submitted.batch), "--state", "pending"]) == 0
    assert experiments.main(["cancel", "-y", f"{submitted.batch}:0", f"{submitted.batch}:3"]) == 0
    assert experiments.main(["cancel", "-y", str(submitted.batch)]) == 0
    assert (fake_slurm / "cancelled").read_text().splitlines() == ["3 4", "1 4", "1 2 3 4"]


def test_cancel_fails_if_squeue_does_not_answer_and_offers_the_journal(
        submitted: Project, fake_slurm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (fake_slurm / "scancel").write_text(f'#!/bin/sh\necho "$@" >> "{fake_slurm}/cancelled"\n')
    (fake_slurm / "scancel").chmod(0o755)
    (fake_slurm / "squeue").write_text("#!/bin/sh\nexit 1\n")
    end(submitted, 0, "completed")
    names = [run.name for run in submitted.runs()]
    assert experiments.main(["cancel", "-y", str(submitted.batch)]) == 2
    output = capsys.readouterr()
    assert "nothing is pending" not in output.out
    assert f"3 runs still wait or run (squeue did not answer): {', '.join(names[1:])}" in output.err
    assert "--by-id` to cancel Slurm jobs 2, 3, 4 by the ids in the journal" in output.err
    assert experiments.main(["cancel", "-y", f"{submitted.batch}:1", "--by-id"]) == 0
    assert experiments.main(["cancel", "-y", str(submitted.batch), "--by-id"]) == 0
    assert (fake_slurm / "cancelled").read_text().splitlines() == ["2", "2 3 4"]


def test_single_run_of_a_worker_is_not_cancelled(project: Project, fake_slurm: Path,
                                                 capsys: pytest.CaptureFixture[str]) -> None:
    (fake_slurm / "scancel").write_text(f'#!/bin/sh\necho "$@" >> "{fake_slurm}/cancelled"\n')
    (fake_slurm / "scancel").chmod(0o755)
    assert project.submit(project.spec, "-s", "s.sh", "-y", "--workers", "2") == 0
    assert experiments.main(["cancel", "-y", f"{project.batch}:0"]) == 2
    assert "a worker that has 3 other runs too" in capsys.readouterr().err
    assert experiments.main(["cancel", "-y", str(project.batch)]) == 0
    assert (fake_slurm / "cancelled").read_text() == "1 2\n"  # both workers


def test_status_filters_by_state(submitted: Project, fake_slurm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    end(submitted, 1, None, "ValueError: no")
    forget_queue(fake_slurm)
    capsys.readouterr()
    batch = str(submitted.batch)
    assert experiments.main(["status", batch, "--state", "failed", "--names"]) == 0
    assert capsys.readouterr().out == f"{submitted.runs()[1].name}\n"
    assert experiments.main(["status", batch, "--state", "failed", "--json"]) == 0
    assert [run["state"] for run in json.loads(capsys.readouterr().out)[0]["runs"]] == ["failed"]
    assert experiments.main(["status", batch, "--state", "failed"]) == 0
    assert capsys.readouterr().out.count("_tiny+") == 2  # the run, and its log


def test_logs_accept_a_run_index(submitted: Project, capsys: pytest.CaptureFixture[str]) -> None:
    (submitted.runs()[1] / "training.log").write_text("epoch 1\n")
    capsys.readouterr()
    assert experiments.main(["logs", f"{submitted.batch}:1"]) == 0
    assert "epoch 1" in capsys.readouterr().out


SCRIPT = """\
#!/bin/bash
#SBATCH --time=5 --cpus-per-task=1 --mem=100
exec {python} train.py "$@"
"""


def test_after_and_efficiency_on_a_real_cluster(slurm: Slurm, project: Project,
                                                capsys: pytest.CaptureFixture[str]) -> None:
    (project.folder / "s.sh").write_text(SCRIPT.format(python=sys.executable))
    assert project.submit(project.spec, "-s", "s.sh", "-y", "--sbatch", "begin=now+5", "--array") == 0
    first = project.batch
    project.spec.write_text(project.spec.read_text().replace("tiny", "second"))
    assert project.submit(project.spec, "-s", "s.sh", "-y", "--after", first) == 0
    second, = project.results.glob("*-second")
    queue = {run.state.why for run in observe([str(second)])[0].runs.values()}
    assert queue == {"Dependency"}
    assert experiments.main(["wait", "--every", "0.5", "--interval", "0.5", str(second)]) == 0
    assert max(done.stat().st_mtime for done in first.glob("*/done")) < min(
        claim.stat().st_mtime for claim in second.glob("*/claim-1"))
    capsys.readouterr()
    for _ in range(50):
        assert experiments.main(["status", str(first), str(second), "--efficiency"]) == 0
        if (out := capsys.readouterr().out).count("4 ended: at most") == 2:
            break
        time.sleep(0.2)
    assert out.count("4 ended: at most") == 2
    assert out.count("(requested: 100 MB)") == 2
    assert "(limit: 5:00)" in out
    assert "suggestion: " in out
    assert "--sbatch time=5" in out


def test_expected_starts_and_a_failed_dependency_on_a_real_cluster(slurm: Slurm, project: Project) -> None:
    (project.folder / "s.sh").write_text(SCRIPT.format(python=sys.executable))
    project.write_spec("13")  # which fails
    assert project.submit(project.spec, "-s", "s.sh", "-y", "--sbatch", "begin=now+5") == 0
    first = project.batch
    project.spec.write_text(project.spec.read_text().replace("tiny", "second").replace("13", "8"))
    assert project.submit(project.spec, "-s", "s.sh", "-y", "--after", first) == 0
    second, = project.results.glob("*-second")
    from src.submission.slurm import client as commands

    observation, = observe([str(first)])
    jobs = [run.state.slurm_job for run in observation.runs.values()]
    starts = commands.squeue().expected_starts()
    assert all(abs(starts[job] - time.time()) < 60 for job in jobs if job in starts)
    tickets = journal.read_history(str(second)).tickets.values()
    waiting = {job for ticket in tickets for job in ticket.slurm_jobs}
    assert len(waiting) == 2

    def are_cancelled() -> bool:
        queued = commands.squeue().jobs
        return all(queued[job].state == "CANCELLED" for job in waiting if job in queued)
    wait_for(are_cancelled, 60)
    assert not list(second.glob("*/executed"))
