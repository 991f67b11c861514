"""Runs in a container, end to end on this machine: with a fake Apptainer, and with a real one where it is installed."""
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
from tests import searching
from tests.conftest import ROOT
from tests.fake_apptainer.fixture import NAMES, Apptainer, apptainer, install_runtime
from tests.submission.conftest import Project, project
from tests.submission.job.test_worker import both_run, states_of, submit_in_background, wait_for

__all__ = ["apptainer", "project"]  # the fixtures
SECRET = "planted-secret-value"


def counts(project: Project) -> dict[str, int]:
    return status.counts(observe([str(project.batch)])[0])


def set_details(project: Project, **details: Any) -> None:
    """Add keys to the job_details of the job spec."""
    content = yaml_io.load_file(str(project.spec))
    project.spec.write_text(json.dumps({**content, "job_details": {**content["job_details"], **details}}))


def write_batch(project: Project) -> Path:
    """Write a batch of one run without submitting it. Return the run's spec."""
    assert project.submit(project.spec, "--no-submit", "--local", "-y", "--max-runs", "1") == 0
    run, = project.runs()
    return run / "spec.yaml"


def train(spec: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Execute a run as its Slurm job does."""
    return subprocess.run([sys.executable, "train.py", spec], text=True, capture_output=True, timeout=300,
                          env={**os.environ, **environment})


def attempt(spec: Path) -> Mapping[str, Any]:
    """Return the record of the only attempt."""
    only, = spec.parent.glob("attempt-*.json")
    return json.loads(only.read_text())


def files_with(folder: Path, secret: str) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


@pytest.mark.parametrize("name", NAMES)
def test_local_workers_run_a_grid_in_containers(name: str, project: Project, tmp_path: Path,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = install_runtime(tmp_path, monkeypatch, name)
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    monkeypatch.setenv("LD_LIBRARY_PATH", "/leak")
    project.write_spec("[1, 2, 13]")
    set_details(project, container={"image": str(runtime.image),
                                    "env": {"GREETING": "a $HOME `x` 'q' \\", "USER_VARIABLE": None}})
    monkeypatch.setenv("USER_VARIABLE", "passed on")
    assert project.submit(project.spec, "--local", "--workers", "2", "-y") == 1
    assert (counts(project), project.executed()) == ({"done": 4, "failed": 2}, [1, 1, 1, 1, 0, 0])
    one, other = runtime.starts()  # workers, each of which forks its runs inside
    expected = {"GREETING": "a $HOME `x` 'q' \\", "USER_VARIABLE": "passed on", "WANDB_API_KEY": SECRET}
    assert expected.items() <= one.container_env.items()
    assert "LD_LIBRARY_PATH" not in one.container_env
    assert {one.container_env["GRIDIRON_WORKER"], other.container_env["GRIDIRON_WORKER"]} == {"0", "1"}
    assert SECRET not in json.dumps([one.argv, other.argv])
    assert not files_with(project.folder, SECRET)


def test_dry_run_prints_the_command_that_is_executed(project: Project, apptainer: Apptainer,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    set_details(project, container=str(apptainer.image))
    arguments = [project.spec, "--local", "--workers", "1", "--max-runs", "1"]
    assert project.submit(*arguments, "-d") == 0
    out = capsys.readouterr().out
    assert f"container  {apptainer.image}, by apptainer\n" in out
    preview = shlex.split(out.split("the first of these starts:\n")[1].splitlines()[0])
    assert project.submit(*arguments, "-d", "--json") == 0
    assert json.loads(capsys.readouterr().out)["container"] == preview
    assert project.submit(*arguments, "-y") == 0
    only, = apptainer.starts()
    executed = ["apptainer", *only.argv[1:]]
    relay = [word for word in executed if "gridiron-" in word and word.startswith("--mount")]
    assert len(relay) == 1  # the temporary folder of the socket that answers Slurm commands
    assert [word for word in executed if word not in relay][:-1] == preview[:-1]
    assert (preview[-1], executed[-1][-11:]) == (str(project.runs()[0] / "spec.yaml"), ".tasks.json")


@pytest.mark.parametrize("gpus", [0, 2])
def test_requested_gpus_are_visible_inside(gpus: int, project: Project, apptainer: Apptainer,
                                           capsys: pytest.CaptureFixture[str]) -> None:
    set_details(project, container=str(apptainer.image), resources={"gpus": gpus})
    assert project.submit(project.spec, "-d", "--array") == 0
    command = shlex.split(capsys.readouterr().out.split("the first of these starts:\n")[1].splitlines()[0])
    assert command.count("--nv") == min(gpus, 1)
    assert command[-1].endswith(".0.tasks.json")


def test_retry_keeps_the_container_unless_overridden(project: Project, apptainer: Apptainer) -> None:
    project.write_spec("13")
    options = ["-y", "--local", "--workers", "1"]
    assert project.submit(project.spec, *options, "--container", apptainer.image, "--max-runs", "1") == 1
    assert project.submit("-r", project.batch, *options) == 1
    other = apptainer.image.with_name("2.sif")
    other.touch()
    assert project.submit("-r", project.batch, *options, "--container", other) == 1
    assert project.submit("-r", project.batch, *options) == 1
    assert [start.argv[start.argv.index(sys.executable) - 1] for start in apptainer.starts()] == [
        str(apptainer.image), str(apptainer.image), str(other), str(other)]
    assert project.submit("-r", project.batch, *options, "--container", "none") == 1
    assert project.submit("-r", project.batch, *options) == 1
    assert len(apptainer.starts()) == 4


def test_external_program_runs_inside(project: Project, apptainer: Apptainer) -> None:
    (project.folder / "tool.py").write_text("import os, sys; open(sys.argv[1] + '/output', 'w').write("
                                            "os.environ['SINGULARITY_CONTAINER'])\n")
    set_details(project, command=["python", "tool.py", "{folder}"], container=str(apptainer.image))
    assert project.submit(project.spec, "--local", "--workers", "1", "-y", "--max-runs", "1") == 0
    assert (project.runs()[0] / "output").read_text() == str(apptainer.image)


def test_snapshot_runs_in_a_container(project: Project, apptainer: Apptainer) -> None:
    set_details(project, snapshot=True, container=str(apptainer.image))
    assert project.submit(project.spec, "--local", "--workers", "1", "-y", "--max-runs", "1") == 0
    assert counts(project) == {"done": 1}
    only, = apptainer.starts()
    assert only.command[1] == str(*project.batch.glob("code/*/snapshot/train.py"))


def test_search_in_containers_with_a_snapshot(project: Project, apptainer: Apptainer) -> None:
    """Workers inside decide, run and pause trials, with the code of the snapshot."""
    (project.folder / "train.py").write_text((ROOT / "tests" / "submission" / "search_entry.py").read_text())
    searching.write(project)
    details = f"job_details:\n  snapshot: true\n  container: {apptainer.image}\n"
    project.spec.write_text(project.spec.read_text().replace("job_details:\n", details))
    assert project.submit(project.spec, "--local", "--workers", "2", "-y") == 0
    searching.assert_sound(project.batch, 18)
    assert {start.command[1] for start in apptainer.starts()} == {
        str(*project.batch.glob("code/*/snapshot/train.py"))}


def test_canaries_and_smoke_test_run_in_the_container(project: Project, apptainer: Apptainer,
                                                      capsys: pytest.CaptureFixture[str]) -> None:
    project.write_spec("1")
    set_details(project, container=str(apptainer.image))
    assert project.submit(project.spec, "--local", "--workers", "1", "-y", "--canary", "--smoke") == 0
    smoke, canary, worker = apptainer.starts()
    assert smoke.command[-1].endswith("/run/spec.yaml")
    assert "/canary/submissions/" in canary.command[-1]
    assert "/canary/" not in worker.command[-1]
    assert "one batch works" in capsys.readouterr().out


def test_missing_runtime_or_image_on_a_node_is_recorded(project: Project, apptainer: Apptainer,
                                                          capsys: pytest.CaptureFixture[str]) -> None:
    set_details(project, container=str(apptainer.image))
    spec = write_batch(project)
    done = train(spec, PATH="/nowhere")
    message = f"{apptainer.image}: neither apptainer nor singularity is on {os.uname().nodename}"
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {message}; a submit script, or activate.sh")
    assert (attempt(spec)["how"], attempt(spec)["error"][:len(message)]) == ("failed", message)
    experiments.main(["status", str(project.batch)])
    assert message[:30] in capsys.readouterr().out
    apptainer.image.unlink()
    done = train(spec)
    assert done.returncode == 2
    assert "the image is not on" in done.stderr


def test_container_in_which_python_does_not_start_is_an_error(project: Project, apptainer: Apptainer) -> None:
    set_details(project, container={"image": str(apptainer.image), "python": "no-such-python"})
    spec = write_batch(project)
    done = train(spec)
    assert done.returncode == 2
    assert "train.py did not start in the container: apptainer ended with exit code 255" in done.stderr
    assert "no-such-python must start there" in attempt(spec)["error"]


def exit_code_after_signal(spec: Path, number: int) -> int:
    """Start a run, signal it as soon as it has begun an attempt, and return its exit code."""
    with subprocess.Popen([sys.executable, "train.py", spec]) as train_process:
        end = time.monotonic() + 300
        while not list(spec.parent.glob("attempt-*")):
            assert time.monotonic() < end
            time.sleep(0.05)
        train_process.send_signal(number)
        return train_process.wait(30)


def test_stop_is_recorded_from_inside(project: Project, apptainer: Apptainer) -> None:
    project.write_spec("15")
    set_details(project, container=str(apptainer.image))
    spec = write_batch(project)
    assert exit_code_after_signal(spec, signal.SIGTERM) == 1
    assert attempt(spec)["how"] == "cancelled"


def test_ctrl_c_stops_workers_in_containers_cleanly(project: Project, apptainer: Apptainer) -> None:
    project.write_spec("[15, 8]")
    set_details(project, container=str(apptainer.image))
    command = submit_in_background(project)
    wait_for(lambda: both_run(project))
    command.send_signal(signal.SIGINT)
    assert command.wait(30) == 130
    assert states_of(project) == ["cancelled", "cancelled", "new", "new"]


def test_workers_in_containers_start_no_more_runs_after_the_command_was_killed(project: Project,
                                                                            apptainer: Apptainer) -> None:
    project.write_spec("[18, 8]")
    set_details(project, container=str(apptainer.image))
    command = submit_in_background(project)
    wait_for(lambda: both_run(project))
    command.kill()
    command.wait()
    time.sleep(2)  # longer than a worker needs to notice it
    (project.batch / "go").touch()
    wait_for(lambda: states_of(project)[:2] == ["done", "done"])
    time.sleep(0.5)
    assert states_of(project)[2:] == ["new", "new"]


def test_spec_outside_a_batch_needs_no_container(project: Project, apptainer: Apptainer) -> None:
    (project.folder / "single.yaml").write_text("batch_size: 1\n")
    assert train(project.folder / "single.yaml").returncode == 0
    assert not apptainer.starts()


def test_container_definition_uses_the_lock_and_names_no_host() -> None:
    text = (ROOT / "container.def").read_text()
    assert {"%files", "%post", "%environment", "%runscript", "%test", "%labels", "%help"} == set(
        re.findall(r"^%\w+", text, re.M))
    assert "://" not in text
    source = re.search(r"^From: (\S+)", text, re.M)
    assert source and re.fullmatch(r"python:\d+\.\d+-slim-\w+", source[1])  # a host name would precede it with a slash
    assert (ROOT / re.search(r"%files\n    (\S+) ", text)[1]).name == "requirements.lock"  # type: ignore[index]
    locked = re.findall(r"^([\w.-]+)==", (ROOT / "requirements.lock").read_text(), re.M)
    imported = re.search(r"%test\n.*?import ([\w, ]+);", text, re.S)[1].split(", ")  # type: ignore[index]
    names = {"sklearn": "scikit-learn", "yaml": "pyyaml"}
    assert {names.get(name, name) for name in imported} <= set(locked)


@pytest.mark.skipif(not (any(map(shutil.which, NAMES)) and os.environ.get("GRIDIRON_IMAGE")),
                    reason="needs Apptainer, and in $GRIDIRON_IMAGE an image in which the Python outside starts")
def test_real_runtime_behaves_as_the_fake_one(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mounts of any path, unevaluated values, workers that fork, signals and exit codes."""
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    monkeypatch.setenv("USER_VARIABLE", "no `ls`, \"$HOME\" nor 'this' \\ \n but both lines")
    (project.folder / "tool.py").write_text(
        "import json, os, sys; json.dump(dict(os.environ), open(sys.argv[1] + '/output', 'w'))\n")
    container = {"image": os.environ["GRIDIRON_IMAGE"], "binds": [str(ROOT)], "env": {"USER_VARIABLE": None}}
    set_details(project, name="tool", command=["python", "tool.py", "{folder}"], container=container)
    options = ["--local", "--workers", "1", "-y", "--max-runs", "1"]
    assert project.submit(project.spec, *options) == 0
    inside = json.loads((project.runs()[0] / "output").read_text())
    assert (inside["USER_VARIABLE"], inside["WANDB_API_KEY"]) == (os.environ["USER_VARIABLE"], SECRET)
    assert "GRIDIRON_TEST_ROOT" in inside and "PYTEST_CURRENT_TEST" not in inside
    shutil.rmtree(project.results)

    project.write_spec("[1, 13]")
    set_details(project, name="grid", container=container)
    assert project.submit(project.spec, "--local", "--workers", "2", "-y") == 1
    assert (counts(project), project.executed()) == ({"done": 2, "failed": 2}, [1, 1, 0, 0])
    assert not files_with(project.folder, SECRET)
    shutil.rmtree(project.results)

    for batch_size, number, code, how in ((16, signal.SIGUSR1, 75, "timeout"), (15, signal.SIGTERM, 1, "cancelled")):
        project.write_spec(str(batch_size))
        set_details(project, container=container)
        spec = write_batch(project)
        assert exit_code_after_signal(spec, number) == code
        assert attempt(spec)["how"] == how
        shutil.rmtree(project.results)
