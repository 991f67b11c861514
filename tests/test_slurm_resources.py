"""Resources instead of a script, on a real Slurm: what it is asked for, what is kept, and what a retry uses."""
from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.conftest import Slurm
from tests.submission.conftest import Project, project
from tests.test_slurm_ways import all_jobs, counts, wait_for

__all__ = ["project"]  # the fixture

JOB_SPEC = """\
job_details:
  name: tiny
  output_dir: re sults
  resources:
    {{gpus: 1, cpus_per_gpu: 2, mem: 100M, time: 5, constraint: tesla_v100|a5000, setup: ["PATH={path}:$PATH"]}}
parameters:
  batch_size: [1, 13]
"""


@pytest.mark.usefixtures("slurm")
def test_script_made_from_resources_is_used_by_a_retry(project: Project, slurm: Slurm,
                                                       capsys: pytest.CaptureFixture[str]) -> None:
    project.spec.write_text(JOB_SPEC.format(path=Path(sys.executable).parent))
    assert project.submit(project.spec, "-d") == 0
    out = capsys.readouterr().out
    assert "    #SBATCH --constraint=tesla_v100|a5000\n" in out
    assert "--test-only" not in out
    assert not project.results.exists()
    assert project.submit(project.spec, "-y") == 0
    assert re.search(r"^starts     \d{4}-\d\d-\d\d \d\d:\d\d:\d\d \(Slurm's estimate\)$", capsys.readouterr().out, re.M)
    wait_for(lambda: counts(project) == {"done": 1, "failed": 1})
    script, = (project.batch / "submissions").glob("*.sh")
    assert script.read_text() in out.replace("\n    ", "\n").replace("    #!", "#!")
    shown = slurm.run("scontrol", "show", "job", sorted(all_jobs(project))[0])
    assert re.search(r"NumCPUs=2 NumTasks=1 CPUs/Task=2", shown)
    assert f"Command={script} " in shown
    assert "gres:gpu:1" in shown
    (project.batch / "mended").touch()
    assert project.submit("-r", project.batch, "-y") == 0
    wait_for(lambda: counts(project) == {"done": 2})
    assert project.executed() == [1, 1]
    assert len(list((project.batch / "submissions").glob("*.sh"))) == 1


@pytest.mark.usefixtures("slurm")
def test_batch_that_was_only_written_is_submitted_by_its_script(project: Project) -> None:
    project.spec.write_text(JOB_SPEC.format(path=Path(sys.executable).parent))
    assert project.submit(project.spec, "-y", "--no-submit") == 0
    project.batch.rename(project.results / "moved")
    assert project.submit("-r", project.batch, "-y", "--max-runs", "1") == 0
    wait_for(lambda: counts(project) == {"done": 1, "new": 1})


RANKS = """\
job_details:
  name: tiny
  output_dir: re sults
  resources: {{nodes: 2, gpus: 2, cpus_per_gpu: 1, mem: 100M, time: 5, setup: ["PATH={path}:$PATH"]}}
parameters:
  batch_size: {batch_size}
"""


@pytest.mark.usefixtures("slurm")
def test_four_processes_on_two_nodes_train_one_run(project: Project, slurm: Slurm,
                                                   capsys: pytest.CaptureFixture[str]) -> None:
    project.spec.write_text(RANKS.format(path=Path(sys.executable).parent, batch_size="[17, 13]"))
    assert project.submit(project.spec, "-y") == 0
    assert "processes  4 train each run together\n" in capsys.readouterr().out
    wait_for(lambda: counts(project) == {"done": 1, "failed": 1})
    assert project.executed() == [4, 0]  # each rank trained, and one run was claimed, recorded and done
    for run in project.runs():
        assert {path.name for path in run.glob("[acl]*-*")} == {"attempt-1-0.json", "claim-1"}
    jobs = sorted(all_jobs(project), key=int)
    assert [slurm.wait(job) for job in jobs] == ["COMPLETED", "FAILED"]
    shown = slurm.run("scontrol", "show", "job", jobs[0])
    assert re.search(r"NumNodes=2 NumCPUs=4 NumTasks=4 CPUs/Task=1", shown)


@pytest.mark.usefixtures("slurm")
def test_of_two_multi_node_jobs_with_one_ticket_only_one_runs(project: Project, slurm: Slurm) -> None:
    project.spec.write_text(RANKS.format(path=Path(sys.executable).parent, batch_size="15"))
    assert project.submit(project.spec, "-y") == 0
    run, = project.runs()
    wait_for((run / "attempt-1-0.json").exists)
    script, = (project.batch / "submissions").glob("*.sh")
    twin = slurm.run("env", "GRIDIRON_TICKET=1", "sbatch", "--parsable", f"--chdir={project.folder}",
                     f"--output={project.folder}/twin.out", script, run / "spec.yaml")
    assert slurm.wait(twin) == "COMPLETED"
    twin_log = (project.folder / "twin.out").read_text()
    assert twin_log.count("run already claimed by") == 1
    assert twin_log.count("the first of 4 processes did not start this run; exiting") == 3
    assert counts(project) == {"running": 1}
    slurm.run("scancel", *all_jobs(project))
    wait_for(lambda: counts(project) == {"cancelled": 1})
