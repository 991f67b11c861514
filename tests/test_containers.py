"""Runs in a container, end to end on this machine, with a stand-in for Apptainer; and with a real one where it is."""
from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import experiments
from src.io import yaml_io
from src.submission.status import status
from src.submission.status.observe import observe
from tests.conftest import ROOT
from tests.fake_apptainer.fixture import NAMES, Apptainer, apptainer, install_runtime
from tests.submission.conftest import Project, project
from tests.submission.job.test_worker import both_run, states_of, submit_in_background, wait_for

__all__ = ["apptainer", "project"]  # the fixtures
SECRET = "not-for-anybodys-eyes"


def counts(project: Project) -> dict[str, int]:
    return status.counts(observe([str(project.batch)])[0])


def describe(project: Project, **details: Any) -> None:
    """Add to the job_details."""
    kept = yaml_io.load_file(str(project.spec))
    project.spec.write_text(json.dumps({**kept, "job_details": {**kept["job_details"], **details}}))


def written(project: Project) -> Path:
    """The spec of the only run of a batch that is yet to be submitted."""
    assert project.submit(project.spec, "--no-submit", "--local", "-y", "--max-runs", "1") == 0
    run, = project.runs()
    return run / "spec.yaml"


def train(spec: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Start a run as its Slurm job does."""
    return subprocess.run([sys.executable, "train.py", spec], text=True, capture_output=True, timeout=60,
                          env={**os.environ, **environment})


def attempt(spec: Path) -> Mapping[str, Any]:
    """The only one."""
    only, = spec.parent.glob("attempt-*.json")
    return json.loads(only.read_text())


def holding(folder: Path, secret: str) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


@pytest.mark.parametrize("name", NAMES)
def test_workers_here_run_a_grid_in_containers(name: str, project: Project, tmp_path: Path,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = install_runtime(tmp_path, monkeypatch, name)
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    monkeypatch.setenv("LD_LIBRARY_PATH", "/leak")
    project.write_spec("[1, 2, 13]")
    describe(project, container={"image": str(runtime.image), "env": {"GREETING": "a $HOME `x` 'q' \\", "MINE": None}})
    monkeypatch.setenv("MINE", "passed on")
    assert project.submit(project.spec, "--local", "--workers", "2", "-y") == 1
    assert (counts(project), project.executed()) == ({"done": 4, "failed": 2}, [1, 1, 1, 1, 0, 0])
    one, other = runtime.starts()  # workers, each of which forks its runs inside
    told = {"GREETING": "a $HOME `x` 'q' \\", "MINE": "passed on", "WANDB_API_KEY": SECRET}
    assert told.items() <= one.container_env.items()
    assert "LD_LIBRARY_PATH" not in one.container_env
    assert {one.container_env["GRIDIRON_WORKER"], other.container_env["GRIDIRON_WORKER"]} == {"0", "1"}
    assert SECRET not in json.dumps([one.argv, other.argv])
    assert not holding(project.folder, SECRET)


def test_the_command_of_a_dry_run_is_the_one_that_is_given(project: Project, apptainer: Apptainer,
                                                           capsys: pytest.CaptureFixture[str]) -> None:
    describe(project, container=str(apptainer.image))
    words = [project.spec, "--local", "--workers", "1", "--max-runs", "1"]
    assert project.submit(*words, "-d") == 0
    told = capsys.readouterr().out
    assert f"container  {apptainer.image}, by apptainer\n" in told
    shown = shlex.split(told.split("(the first of them):\n")[1].splitlines()[0])
    assert project.submit(*words, "-d", "--json") == 0
    assert json.loads(capsys.readouterr().out)["container"] == shown
    assert project.submit(*words, "-y") == 0
    only, = apptainer.starts()
    given = ["apptainer", *only.argv[1:]]
    line = [word for word in given if "gridiron-" in word and word.startswith("--mount")]
    assert len(line) == 1  # where Slurm's commands are answered, in a folder of that moment
    assert [word for word in given if word not in line][:-1] == shown[:-1]
    assert (shown[-1], given[-1][-11:]) == (str(project.runs()[0] / "spec.yaml"), ".tasks.json")


@pytest.mark.parametrize("gpus", [0, 2])
def test_gpus_that_are_asked_for_are_there_inside(gpus: int, project: Project, apptainer: Apptainer,
                                                  capsys: pytest.CaptureFixture[str]) -> None:
    describe(project, container=str(apptainer.image), resources={"gpus": gpus})
    assert project.submit(project.spec, "-d", "--array") == 0
    words = shlex.split(capsys.readouterr().out.split("(the first of them):\n")[1].splitlines()[0])
    assert words.count("--nv") == min(gpus, 1)
    assert words[-1].endswith(".0.tasks.json")


def test_a_retry_keeps_the_container_unless_another_is_given(project: Project, apptainer: Apptainer) -> None:
    project.write_spec("13")
    words = ["-y", "--local", "--workers", "1"]
    assert project.submit(project.spec, *words, "--container", apptainer.image, "--max-runs", "1") == 1
    assert project.submit("-r", project.batch, *words) == 1
    other = apptainer.image.with_name("2.sif")
    other.touch()
    assert project.submit("-r", project.batch, *words, "--container", other) == 1
    assert project.submit("-r", project.batch, *words) == 1
    assert [start.argv[start.argv.index(sys.executable) - 1] for start in apptainer.starts()] == [
        str(apptainer.image), str(apptainer.image), str(other), str(other)]
    assert project.submit("-r", project.batch, *words, "--container", "none") == 1
    assert project.submit("-r", project.batch, *words) == 1
    assert len(apptainer.starts()) == 4


def test_another_program_runs_inside_too(project: Project, apptainer: Apptainer) -> None:
    (project.folder / "tool.py").write_text("import os, sys; open(sys.argv[1] + '/told', 'w').write("
                                            "os.environ['SINGULARITY_CONTAINER'])\n")
    describe(project, command=["python", "tool.py", "{folder}"], container=str(apptainer.image))
    assert project.submit(project.spec, "--local", "--workers", "1", "-y", "--max-runs", "1") == 0
    assert (project.runs()[0] / "told").read_text() == str(apptainer.image)


def test_from_a_snapshot(project: Project, apptainer: Apptainer) -> None:
    describe(project, snapshot=True, container=str(apptainer.image))
    assert project.submit(project.spec, "--local", "--workers", "1", "-y", "--max-runs", "1") == 0
    assert counts(project) == {"done": 1}
    only, = apptainer.starts()
    assert only.command[1] == str(*project.batch.glob("code/*/snapshot/train.py"))


def test_canaries_and_smoke_are_in_it_too(project: Project, apptainer: Apptainer,
                                          capsys: pytest.CaptureFixture[str]) -> None:
    project.write_spec("1")
    describe(project, container=str(apptainer.image))
    assert project.submit(project.spec, "--local", "--workers", "1", "-y", "--canary", "--smoke") == 0
    smoke, canary, worker = apptainer.starts()
    assert smoke.command[-1].endswith("/run/spec.yaml")
    assert "/canary/submissions/" in canary.command[-1]
    assert "/canary/" not in worker.command[-1]
    assert "one batch works" in capsys.readouterr().out


def test_a_node_without_a_runtime_or_image_is_told_at_once(project: Project, apptainer: Apptainer,
                                                          capsys: pytest.CaptureFixture[str]) -> None:
    describe(project, container=str(apptainer.image))
    spec = written(project)
    done = train(spec, PATH="/nowhere")
    words = f"{apptainer.image}: neither apptainer nor singularity is on {os.uname().nodename}"
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {words}; a submit script, or activate.sh")
    assert (attempt(spec)["how"], attempt(spec)["error"][:len(words)]) == ("failed", words)
    experiments.main(["status", str(project.batch)])
    assert words[:30] in capsys.readouterr().out
    apptainer.image.unlink()
    done = train(spec)
    assert done.returncode == 2
    assert "the image is not on" in done.stderr


def test_a_container_in_which_python_does_not_start_is_told(project: Project, apptainer: Apptainer) -> None:
    describe(project, container={"image": str(apptainer.image), "python": "no-such-python"})
    spec = written(project)
    done = train(spec)
    assert done.returncode == 2
    assert "train.py did not start in the container: apptainer ended with exit code 255" in done.stderr
    assert "no-such-python must start there" in attempt(spec)["error"]


def stopped(spec: Path, number: int) -> int:
    """Start a run, and signal it as soon as it has begun; its exit code."""
    with subprocess.Popen([sys.executable, "train.py", spec]) as begun:
        end = time.monotonic() + 30
        while not list(spec.parent.glob("attempt-*")):
            assert time.monotonic() < end
            time.sleep(0.05)
        begun.send_signal(number)
        return begun.wait(30)


def test_who_is_stopped_says_so(project: Project, apptainer: Apptainer) -> None:
    project.write_spec("15")
    describe(project, container=str(apptainer.image))
    spec = written(project)
    assert stopped(spec, signal.SIGTERM) == 1
    assert attempt(spec)["how"] == "cancelled"


def test_ctrl_c_stops_workers_in_containers_cleanly(project: Project, apptainer: Apptainer) -> None:
    project.write_spec("[15, 8]")
    describe(project, container=str(apptainer.image))
    command = submit_in_background(project)
    wait_for(lambda: both_run(project))
    command.send_signal(signal.SIGINT)
    assert command.wait(30) == 130
    assert states_of(project) == ["cancelled", "cancelled", "new", "new"]


def test_workers_in_containers_begin_nothing_new_when_the_command_was_killed(project: Project,
                                                                            apptainer: Apptainer) -> None:
    project.write_spec("[18, 8]")
    describe(project, container=str(apptainer.image))
    command = submit_in_background(project)
    wait_for(lambda: both_run(project))
    command.kill()
    command.wait()
    time.sleep(2)  # longer than a worker takes to see it
    (project.batch / "go").touch()
    wait_for(lambda: states_of(project)[:2] == ["done", "done"])
    time.sleep(0.5)
    assert states_of(project)[2:] == ["new", "new"]


def test_a_file_that_is_no_run_of_a_batch_needs_no_container(project: Project, apptainer: Apptainer) -> None:
    (project.folder / "alone.yaml").write_text("batch_size: 1\n")
    assert train(project.folder / "alone.yaml").returncode == 0
    assert not apptainer.starts()


def test_the_definition_has_what_the_lock_says_and_names_no_host() -> None:
    text = (ROOT / "container.def").read_text()
    assert {"%files", "%post", "%environment", "%runscript", "%test", "%labels", "%help"} == set(
        re.findall(r"^%\w+", text, re.M))
    assert "://" not in text
    source = re.search(r"^From: (\S+)", text, re.M)
    assert source and re.fullmatch(r"python:\d+\.\d+-slim-\w+", source[1])  # a host would have a / or a dot in front
    assert (ROOT / re.search(r"%files\n    (\S+) ", text)[1]).name == "requirements.lock"  # type: ignore[index]
    locked = re.findall(r"^([\w.-]+)==", (ROOT / "requirements.lock").read_text(), re.M)
    imported = re.search(r"%test\n.*?import ([\w, ]+);", text, re.S)[1].split(", ")  # type: ignore[index]
    names = {"sklearn": "scikit-learn", "yaml": "pyyaml"}
    assert {names.get(name, name) for name in imported} <= set(locked)


@pytest.mark.skipif(not (any(map(shutil.which, NAMES)) and os.environ.get("GRIDIRON_IMAGE")),
                    reason="needs Apptainer, and in $GRIDIRON_IMAGE an image in which the Python outside starts")
def test_a_real_runtime_does_what_the_stand_in_does(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mounts of any path, values as they are, workers that fork, signals and exit codes."""
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    monkeypatch.setenv("MINE", "no `ls`, \"$HOME\" nor 'this' \\ \n but both lines")
    (project.folder / "tool.py").write_text(
        "import json, os, sys; json.dump(dict(os.environ), open(sys.argv[1] + '/told', 'w'))\n")
    container = {"image": os.environ["GRIDIRON_IMAGE"], "binds": [str(ROOT)], "env": {"MINE": None}}
    describe(project, name="tool", command=["python", "tool.py", "{folder}"], container=container)
    words = ["--local", "--workers", "1", "-y", "--max-runs", "1"]
    assert project.submit(project.spec, *words) == 0
    inside = json.loads((project.runs()[0] / "told").read_text())
    assert (inside["MINE"], inside["WANDB_API_KEY"]) == (os.environ["MINE"], SECRET)
    assert "GRIDIRON_TEST_ROOT" in inside and "PYTEST_CURRENT_TEST" not in inside
    shutil.rmtree(project.results)

    project.write_spec("[1, 13]")
    describe(project, name="grid", container=container)
    assert project.submit(project.spec, "--local", "--workers", "2", "-y") == 1
    assert (counts(project), project.executed()) == ({"done": 2, "failed": 2}, [1, 1, 0, 0])
    assert not holding(project.folder, SECRET)
    shutil.rmtree(project.results)

    for batch_size, number, code, how in ((16, signal.SIGUSR1, 75, "timeout"), (15, signal.SIGTERM, 1, "cancelled")):
        project.write_spec(str(batch_size))
        describe(project, container=container)
        spec = written(project)
        assert stopped(spec, number) == code
        assert attempt(spec)["how"] == how
        shutil.rmtree(project.results)
