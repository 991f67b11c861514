"""Runs in a container, end to end on this machine, with a stand-in for Apptainer."""
from __future__ import annotations

import json
import os
import shlex

import pytest

from src.submission import status
from src.submission.observe import observe
from tests.fake_apptainer.fixture import Apptainer, apptainer
from tests.submission.conftest import Project, project

__all__ = ["apptainer", "project"]  # the fixtures


def counts(project: Project) -> dict[str, int]:
    return status.counts(observe([str(project.batch)])[0])


def with_container(project: Project, container: object) -> None:
    text = project.spec.read_text().replace("job_details: {", f"job_details: {{container: {json.dumps(container)}, ")
    project.spec.write_text(text)


def test_workers_here_run_a_grid_in_containers(project: Project, apptainer: Apptainer) -> None:
    project.write_spec("[1, 2, 13]")
    assert project.submit(project.spec, "--local", "--workers", "2", "-y", "--container", apptainer.image) == 1
    assert counts(project) == {"done": 4, "failed": 2}
    assert project.executed() == [1, 1, 1, 1, 0, 0]
    assert len(apptainer.starts()) == 2  # workers, each of which forks its runs inside


def test_the_command_of_a_dry_run_is_the_one_that_is_given(project: Project, apptainer: Apptainer,
                                                           capsys: pytest.CaptureFixture[str]) -> None:
    with_container(project, str(apptainer.image))
    project.write_spec("1") if False else None
    words = [project.spec, "--local", "--workers", "1", "--max-runs", "1"]
    assert project.submit(*words, "-d") == 0
    shown = shlex.split(capsys.readouterr().out.split("(the first of them):\n")[1].splitlines()[0])
    assert project.submit(*words, "-y") == 0
    only, = apptainer.starts()
    given = [os.path.basename(only.argv[0]), *only.argv[1:]]
    own = "--mount=type=bind,source=/tmp/gridiron-" # where Slurm's commands are answered
    assert [word for word in given if not word.startswith(own)][:-1] == shown[:-1]
    assert given[-1].endswith(".tasks.json")
    print(shown, given)
