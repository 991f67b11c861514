"""The live screen of `watch` on a real Slurm: a job from the queue to its end, and one that is cancelled by a key."""
from __future__ import annotations

from tests.conftest import Slurm
from tests.submission.conftest import Project, project
from tests.terminal.tmux import EXPERIMENTS, terminal
from tests.test_slurm_ways import all_jobs, counts, script, wait_for

__all__ = ["project", "script"]  # the fixtures


def test_jobs_are_followed_and_one_is_cancelled(slurm: Slurm, project: Project, script: str) -> None:
    project.write_spec("[18]")  # the runs wait for a file
    assert project.submit(project.spec, "-s", script, "-y", "--sbatch", "begin=now+1hour") == 0
    with terminal(project.folder, 100, 24) as screen:
        screen.run(f"GRIDIRON_RESULTS='re sults' {EXPERIMENTS} watch --every 0.5 --interval 1; echo exit code $?")
        screen.wait_for("2 pending")
        screen.wait_for("BeginTime")  # the reason that Slurm gives
        for job in all_jobs(project):
            slurm.run("scontrol", "update", f"jobid={job}", "StartTime=now")
        screen.wait_for("2 running")
        screen.wait_for("Slurm 0 s ago")
        screen.press("x")
        screen.wait_for("Cancel 000_tiny+bas_lr=0.1 (running)? y: yes, any other key: no")
        screen.press("y")
        screen.wait(lambda rows: "cancelled 1 run" in rows)  # in a row of its own; the counts may read alike
        screen.press("Home")  # a key replaces the message by the keys
        screen.wait_for("1 running")
        wait_for(lambda: counts(project) == {"running": 1, "cancelled": 1})
        (project.batch / "go").touch()
        rows = screen.wait_for("every run has ended or is stuck")
        assert [row.split()[:3] for row in rows if row.startswith(("> 0", "  001"))] == [
            [">", "000", "cancelled"], ["001", "done", "1"]], rows
        screen.press("q")
        screen.wait_for("exit code 0")
    assert project.executed() == [0, 1]
