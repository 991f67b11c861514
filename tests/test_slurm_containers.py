"""On a real Slurm, in containers without its commands: the fake Apptainer hides them from the inside."""
from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

import submit_multiple
from src.io import yaml_io
from tests.conftest import ROOT, Slurm
from tests.fake_apptainer.fixture import Apptainer, apptainer
from tests.submission.conftest import Project, project
from tests.test_interrupted import SPEC, assert_same, attempts, calm
from tests.test_slurm_resume import SCRIPT as TRAIN
from tests.test_slurm_ways import SCRIPT, counts, wait_for

__all__ = ["apptainer", "calm", "project"]  # the fixtures
SECRET = "planted-secret-value"


def submit(folder: Path, image: Path) -> Path:
    """Submit a run in a container, wait until it trains, and return its spec."""
    (folder / "s.sh").write_text(TRAIN)
    details = {"name": "contained", "output_dir": str(folder / "results"), "container": str(image)}
    parameters = {key: [value] if isinstance(value, list) else value for key, value in SPEC.items()}
    (folder / "job.yaml").write_text(yaml_io.dump_flat({
        "job_details": details, "parameters": {**parameters, "data_dir": str(folder / "data")}}))
    assert submit_multiple.main([str(folder / "job.yaml"), "-s", str(folder / "s.sh"), "-y"]) == 0
    spec, = folder.glob("results/*/0*/spec.yaml")
    stats = spec.parent / "stats.csv"
    wait_for(lambda: stats.exists() and len(stats.read_text().splitlines()) >= 2)
    return spec


def test_run_in_a_container_is_requeued_at_the_time_limit_with_equal_results(
        slurm: Slurm, apptainer: Apptainer, calm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    spec = submit(tmp_path, apptainer.image)
    first, = attempts(spec)
    job = first["slurm_job"]
    slurm.run("scancel", "--batch", "--signal=USR1", job)
    slurm.restart(job, (spec.parent / "done").exists)
    slurm.wait(job, "COMPLETED")
    assert [attempt["how"] for attempt in attempts(spec)] == ["requeued", "completed"]
    assert {attempt["slurm_job"] for attempt in attempts(spec)} == {job}
    facts = yaml_io.load_file(str(spec.parent / "config.yaml"))["facts"]
    assert (facts["resumed_at_step"] > 0, facts["container"]) == (True, str(apptainer.image))
    nodes = slurm.run("sacct", "-nXP", f"--jobs={job}", "--duplicates", "-oNodeList").split()
    assert attempts(spec)[0]["node"] == nodes[0]
    starts = apptainer.starts()
    assert len(starts) == 2
    for environment in (start.container_env for start in starts):
        assert "slurm" not in environment["PATH"] and "/usr/bin" not in environment["PATH"]
        assert (environment["SLURM_JOB_ID"], environment["WANDB_API_KEY"]) == (job, SECRET)
    assert SECRET not in json.dumps([start.argv for start in starts])
    assert not [path for path in spec.parents[1].rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    (spec.parent / f"{job}.out").unlink()
    assert_same(spec, calm)


def test_cancelled_run_in_a_container_saves_itself(slurm: Slurm, apptainer: Apptainer, tmp_path: Path) -> None:
    spec = submit(tmp_path, apptainer.image)
    job = attempts(spec)[0]["slurm_job"]
    slurm.run("scancel", job)
    assert slurm.wait(job) == "CANCELLED"
    assert [attempt["how"] for attempt in attempts(spec)] == ["cancelled"]
    assert list(spec.parent.glob("resume-*.pt"))


@pytest.mark.parametrize("options", [[], ["--array"], ["--workers", "2"]], ids=["one each", "array", "workers"])
def test_every_submission_mode_runs_each_run_once(options: list[str], slurm: Slurm, project: Project,
                                                  apptainer: Apptainer) -> None:
    project.write_spec("[1, 13]")
    script = project.folder / "s.sh"
    script.write_text(SCRIPT.format(python=sys.executable))
    assert project.submit(project.spec, "-s", script, "-y", "--container", apptainer.image, *options) == 0
    wait_for(lambda: counts(project) == {"done": 2, "failed": 2})
    assert project.executed() == [1, 1, 0, 0]
    # a second worker may start when the first one has done all runs
    wait_for(lambda: len(apptainer.starts()) == (2 if options == ["--workers", "2"] else 4))
    (project.batch / "mended").touch()
    assert project.submit("-r", project.batch, "-y") == 0  # in the same mode and container
    wait_for(lambda: counts(project) == {"done": 4})
    assert project.executed() == [1] * 4
    wait_for(lambda: len(apptainer.starts()) == (4 if options == ["--workers", "2"] else 6))


def test_each_process_of_srun_has_its_own_container(slurm: Slurm, project: Project, apptainer: Apptainer) -> None:
    project.write_spec("17")
    script = project.folder / "s.sh"
    script.write_text("#!/bin/bash\n#SBATCH --ntasks=2 --cpus-per-task=1 --mem=100\n"
                      f"exec srun --kill-on-bad-exit=1 {sys.executable} train.py \"$@\"\n")
    assert project.submit(project.spec, "-s", script, "-y", "--max-runs", "1", "--container", apptainer.image) == 0
    wait_for(lambda: counts(project) == {"done": 1})
    assert sorted(start.container_env["SLURM_PROCID"] for start in apptainer.starts()) == ["0", "1"]


def test_successor_is_submitted_by_the_host_process(slurm: Slurm, project: Project, apptainer: Apptainer) -> None:
    """Where Slurm refuses to requeue, the host process calls sbatch, and the new job uses the container too."""
    project.write_spec("16")
    script = project.folder / "s.sh"
    script.write_text(f'#!/bin/bash\n#SBATCH --mem=100 --no-requeue\nexec {sys.executable} train.py "$@"\n')
    assert project.submit(project.spec, "-s", script, "-y", "--max-runs", "1", "--container", apptainer.image) == 0
    run, = project.runs()
    for start in (1, 2):
        wait_for(lambda start=start: (run / "steps").exists() and len((run / "steps").read_text().split()) == start)
        slurm.run("scancel", "--batch", "--signal=USR1", (run / "steps").read_text().split()[-1])
    wait_for(lambda: counts(project) == {"done": 1})
    assert len(set((run / "steps").read_text().split())) == 3  # Slurm jobs
    assert len(apptainer.starts()) == 3


def test_wrapper_script_with_its_own_container_gets_exit_code_75(slurm: Slurm, project: Project) -> None:
    """The wrapper script of docs/containers.md, around a train.py that does not find scontrol."""
    wrapper, = re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / "containers.md").read_text("utf-8"), re.S)
    assert wrapper.count("apptainer exec gridiron.sif python") == 1
    project.write_spec("16")
    script = project.folder / "s.sh"
    script.write_text("#!/bin/bash\n#SBATCH --mem=100 --requeue --open-mode=append\n" + wrapper.replace(
        "apptainer exec gridiron.sif python", f"PATH=/nowhere {sys.executable}"))
    assert project.submit(project.spec, "-s", script, "-y", "--max-runs", "1") == 0
    run, = project.runs()
    (run / "steps").write_text("earlier-start\n")
    wait_for(lambda: len((run / "steps").read_text().split()) == 2)
    job = (run / "steps").read_text().split()[-1]
    slurm.run("scancel", "--batch", "--signal=USR1", job)
    slurm.restart(job, (run / "done").exists)
    assert project.executed() == [1]
    assert {path.name for path in run.glob("attempt-*")} == {"attempt-1-0.json", "attempt-1-1.json"}
