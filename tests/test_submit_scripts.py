"""The submit scripts: what they ask Slurm for, and that train.py gets its arguments, its Python and its signals."""
from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from src.submission.slurm.directives import parse_time
from tests.conftest import ROOT, Slurm

# script: partition, CPUs, memory, GPUs, features
RESOURCES = {
    "submit_cpu.sh": ("cpu-killable", "2", "8G", None, None),
    "submit_2080.sh": ("killable", "4", "8G", "gpu:1", "geforce_rtx_2080"),
    "submit_3090plus.sh": ("killable", "4", "32G", "gpu:1", "tesla_v100|geforce_rtx_3090|a5000"),
}
each_script = pytest.mark.parametrize("script", RESOURCES)
each_of_all = pytest.mark.parametrize("script", [*RESOURCES, "submit_jupyter.sh"])
DDP = "submit_ddp.sh"
every_script = pytest.mark.parametrize("script", [*RESOURCES, DDP])

TELL_AND_WAIT = """
import os, signal, sys, time
told = []
signal.signal(signal.SIGUSR1, lambda *_: told.append("USR1"))
print(sys.argv[1:], os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
while "wait" in sys.argv and not told:
    time.sleep(0.05)
print(told, flush=True)
"""


def lines(script: str) -> list[str]:
    return (ROOT / script).read_text().splitlines()


def directives(script: str) -> dict[str, str | None]:
    """The options that sbatch reads: those before the first line that is neither blank nor a comment."""
    options: dict[str, str | None] = {}
    for line in lines(script):
        if line and not line.startswith("#"):
            break
        if line.startswith("#SBATCH "):
            name, equals, value = line.removeprefix("#SBATCH ").partition("=")
            assert name not in options, f"{script} asks twice for {name}"
            options[name] = value if equals else None
    return options


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project folder with a blank in its name, the submit scripts, and a train.py that tells what it was given."""
    folder = tmp_path / "my project"
    (folder / ".venv" / "bin").mkdir(parents=True)
    shutil.copytree(ROOT / "tools", folder / "tools")
    (folder / ".venv" / "bin" / "python").symlink_to(sys.executable)
    (folder / "train.py").write_text(TELL_AND_WAIT)
    for name in [*RESOURCES, DDP, "activate.sh"]:
        shutil.copy(ROOT / name, folder)
    return folder


def environment(**changes: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("CONDA_")} | changes


@each_script
def test_asks_for(script: str) -> None:
    partition, cpus, memory, gpus, features = RESOURCES[script]
    options = directives(script)
    assert (options["--partition"], options["--cpus-per-task"], options["--mem"]) == (partition, cpus, memory)
    assert (options.get("--gres"), options.get("--constraint")) == (gpus, features)


def test_a_process_for_each_gpu() -> None:
    options = directives(DDP)
    assert options["--gres"] == f"gpu:{options['--ntasks-per-node']}"
    assert int(options["--nodes"] or 0) > 1


@every_script
def test_goes_on_and_keeps_its_log(script: str) -> None:
    options = directives(script)
    hours = {"submit_cpu.sh": 3, DDP: 48}.get(script, 12)
    assert parse_time(options["--time"] or "") == 3600 * hours
    assert "--requeue" in options
    assert options["--open-mode"] == "append", "a requeued job would truncate its log"
    assert options["--signal"] == "B:USR1@180", "B: since the shell has become Python when it comes"


@every_script
def test_each_directive_is_explained(script: str) -> None:
    previous = ""
    for line in lines(script):
        if line.startswith("#SBATCH"):
            assert previous.startswith("#"), f"{line}: no comment above it"
        previous = line


@each_script
def test_ends_in_exec_with_its_arguments_quoted(script: str) -> None:
    assert lines(script)[-1] == 'exec python train.py "$@"'


def test_jupyter_is_not_put_back_where_nobody_would_find_it() -> None:
    options = directives("submit_jupyter.sh")
    assert "--no-requeue" in options
    assert options["--output"] == "jupyter-%j.out"
    assert lines("submit_jupyter.sh")[-1] == 'exec python -m src.analysis.lab "$@"'


@each_script
def test_train_gets_the_arguments_and_the_process(script: str, project: Path) -> None:
    with subprocess.Popen(["bash", script, "a run/spec.yaml", "b*"], cwd=project, text=True, stdout=subprocess.PIPE,
                          env=environment()) as process:
        output, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    assert output.startswith(f"['a run/spec.yaml', 'b*'] {process.pid} "), "Slurm signals the shell's process"


def test_srun_becomes_the_process_and_gets_the_arguments(project: Path, tmp_path: Path) -> None:
    srun = tmp_path / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text('#!/bin/sh\necho "$$" "$@"\n')
    srun.chmod(0o755)
    path = f"{srun.parent}:{os.environ['PATH']}"
    with subprocess.Popen(["bash", DDP, "a run/spec.yaml"], cwd=project, text=True, stdout=subprocess.PIPE,
                          env=environment(PATH=path, SLURM_CPUS_PER_TASK="4")) as process:
        output, _ = process.communicate(timeout=300)
    assert output == (f"{process.pid} --kill-on-bad-exit=1 --cpus-per-task=4 python train.py a run/spec.yaml\n")


def test_conda_where_there_is_no_venv(project: Path, tmp_path: Path) -> None:
    shutil.rmtree(project / ".venv")
    profile = tmp_path / "conda" / "etc" / "profile.d" / "conda.sh"
    profile.parent.mkdir(parents=True)
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    (bin_folder / "python").symlink_to(sys.executable)
    # like conda's own, it reads variables that are not set
    profile.write_text(f'conda() {{ echo "$PS1$*"; PATH={bin_folder}:$PATH; }}\n')
    done = subprocess.run(["bash", "submit_cpu.sh", "spec.yaml"], cwd=project, text=True, capture_output=True,
                          env=environment(CONDA_FOLDER=str(tmp_path / "conda"), PATH="/usr/bin:/bin"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("activate gridiron\n['spec.yaml'] ")


def test_neither_venv_nor_conda_says_what_to_edit(project: Path) -> None:
    shutil.rmtree(project / ".venv")
    done = subprocess.run(["bash", "submit_cpu.sh", "spec.yaml"], cwd=project, text=True, capture_output=True,
                          env=environment(HOME=str(project)))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "activate.sh" in done.stderr


@each_script
def test_runs_unedited_on_slurm(script: str, project: Path, slurm: Slurm) -> None:
    partition, cpus, memory, gpus, _ = RESOURCES[script]
    output = project / "job.out"
    job = slurm.run("sbatch", "--parsable", f"--chdir={project}", f"--output={output}", project / script,
                    "a run/spec.yaml")
    assert slurm.wait(job) == "COMPLETED"
    granted = slurm.run("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%P %C %m")
    assert granted == f"{partition} {cpus} {memory}"
    assert output.read_text().startswith("['a run/spec.yaml'] ")
    assert ("None" in output.read_text()) == (gpus is None), "CUDA_VISIBLE_DEVICES is set where a GPU was asked for"


@pytest.mark.parametrize(("script", "processes"), [("submit_cpu.sh", 1), (DDP, 4)])
def test_the_signal_before_the_end_reaches_train(script: str, processes: int, project: Path, slurm: Slurm) -> None:
    output = project / "job.out"
    job = slurm.run("sbatch", "--parsable", f"--chdir={project}", f"--output={output}", project / script, "wait")
    end = time.monotonic() + 300
    while not (output.exists() and output.read_text().count("['wait']") == processes):
        assert time.monotonic() < end, f"train.py did not start; the job is {slurm.state(job)}"
        time.sleep(0.1)
    slurm.run("scancel", "--batch", "--signal=USR1", job)  # as --signal=B:USR1@180 does
    assert slurm.wait(job) == "COMPLETED"
    assert output.read_text().count("['USR1']\n") == processes
