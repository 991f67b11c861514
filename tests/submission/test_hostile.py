"""Ten thousand hostile names and values: none reaches a shell or leaves the batch folder, all are read back equal."""
from __future__ import annotations

import os
import random
import re
from pathlib import Path

import pytest

from src import run_folder
from src.errors import JobSpecError
from src.submission.batch import batch_folder
from src.submission.slurm import client, submit
from src.submission.slurm.submit import SlurmOptions, SubmissionContext
from src.submission.spec import command_template, grid, job_spec, naming

NUMBER = 10_000
PIECES = ("$(touch pwned)", "`touch pwned`", ";touch pwned;", "|touch pwned", "&& touch pwned", "> pwned", "\n", "\r",
          "\t", " ", "'", '"', "\\", "..", "/", "../../pwned", "/etc/passwd", "~", "$HOME", "${HOME}", "*", "?", "[a]",
          "{a,b}", "%j", "%A", "%%", "#", "!", "-rf", "--wrap=touch pwned", "=", "+", ",", ":", "é", "漢字", "🙂",
          "\u202e", "\x1b[31m", "\x7f", "a", "B", "7", "null", "true", "1e-3", "é" * 150, "x" * 300)
RECORDER = """#!/bin/sh
for argument; do printf '%s\\0' "$argument" >> "$RECORD"; done
printf '\\0' >> "$RECORD"
echo 1
"""


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Distinct strings, each made of a few hostile pieces."""
    draw = random.Random(1)
    strings: dict[str, None] = {}
    while len(strings) < NUMBER:
        strings["".join(draw.choices(PIECES, k=draw.randint(1, 6)))] = None
    return list(strings)


@pytest.fixture(scope="module")
def specs(texts: list[str]) -> list[dict[str, str]]:
    return grid.expand_parameters({"model": texts, "optim_alg": "sgd"}, "x.yaml").specs


def test_job_spec_names_are_refused_or_safe(texts: list[str]) -> None:
    accepted = []
    for text in texts:
        try:
            accepted.append(job_spec.check_name(text, "x.yaml"))
        except JobSpecError:
            continue
    assert accepted
    assert all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+=,@-]{0,99}", name) and ".." not in name for name in accepted)


def test_each_run_has_a_safe_name_and_one_sbatch_call(specs: list[dict[str, str]]) -> None:
    names = naming.run_names("tiny", specs, ["model"])
    assert len(set(names)) == NUMBER
    assert all(re.fullmatch(r"\d{4,}_tiny\+mod=[A-Za-z0-9._,@-]*", name) and len(name) <= 200 for name in names)
    context = SubmissionContext("/r/26-01-01-tiny", "token", "/p")
    options = SlurmOptions("/p/s.sh", script_text="#!/bin/bash\n")
    submission = submit.plan_single_jobs(dict.fromkeys(names, 1), dict(zip(names, specs, strict=True)), options,
                                         context)
    for name, call in zip(names, submission.calls, strict=True):
        assert call.command == ["sbatch", "--parsable", "--chdir=/p", f"--job-name={name}",
                                f"--output={context.batch}/{name}/%j.out", f"--comment={call.comment}", "/p/s.sh",
                                f"{context.batch}/{name}/spec.yaml"]


def test_option_values_are_one_argument(texts: list[str]) -> None:
    options = {f"option-{chr(97 + index % 26)}": text for index, text in enumerate(texts)}
    arguments = client.option_arguments(options, "x.yaml")
    assert all(re.match(r"--option-[a-z]=", argument) for argument in arguments)
    for text in texts:
        assert client.option_arguments({"constraint": text}, "x.yaml") == [f"--constraint={text}"]
        if not re.fullmatch(r"[a-z][a-z0-9_-]*", text):
            with pytest.raises(JobSpecError):
                client.option_arguments({text: 1}, "x.yaml")


def test_external_program_gets_each_value_within_one_argument(texts: list[str]) -> None:
    for text in texts:
        arguments = command_template.fill_command(["prog", "{args}", "--at={folder}"], {"model": text, "base_lr": 0.1},
                                           "/r/a b")
        assert arguments == ["prog", f"--model={text}", "--base_lr=0.1", "--at=/r/a b"]


def test_files_stay_in_the_batch_and_no_shell_is_called(
        specs: list[dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project, record = tmp_path / "p r", tmp_path / "record"
    (project / "bin").mkdir(parents=True)
    (project / "bin" / "sbatch").write_text(RECORDER)
    (project / "bin" / "sbatch").chmod(0o755)
    monkeypatch.chdir(project)
    monkeypatch.setenv("PATH", f"{project / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("RECORD", str(record))
    sampled = random.Random(2).sample(specs, 1000)
    names = naming.run_names("tiny", sampled, ["model"])
    path = project / "$(touch pwned) %j"
    assert batch_folder.create(str(path), "job_details: {}", names, grid.spec_texts(sampled))
    options = SlurmOptions("s.sh", {"constraint": sampled[0]["model"]}, script_text="#!/bin/bash\n")
    submission = submit.plan_single_jobs(dict.fromkeys(names, 1), dict(zip(names, sampled, strict=True)), options,
                                         SubmissionContext(str(path), "token", str(project)))
    for call in submission.calls:
        assert client.submit(call.command, 1) == "1"
    executed = [[*line.split("\0")] for line in record.read_bytes().decode().removesuffix("\0\0").split("\0\0")]
    assert executed == [call.command[1:] for call in submission.calls]
    assert [run_folder.read_spec(path / name / "spec.yaml") for name in names] == sampled
    assert sorted(entry.name for entry in project.iterdir()) == sorted(["bin", path.name])
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["p r", "record"]
    assert len(list(path.iterdir())) == 1002
