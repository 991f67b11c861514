"""Ten thousand hostile names and values: none reaches a shell, none leaves the batch folder, each comes back equal."""
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
for word; do printf '%s\\0' "$word" >> "$RECORD"; done
printf '\\0' >> "$RECORD"
echo 1
"""


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Different strings, each of a few hostile pieces."""
    draw = random.Random(1)
    found: dict[str, None] = {}
    while len(found) < NUMBER:
        found["".join(draw.choices(PIECES, k=draw.randint(1, 6)))] = None
    return list(found)


@pytest.fixture(scope="module")
def specs(texts: list[str]) -> list[dict[str, str]]:
    return grid.expand_parameters({"model": texts, "optim_alg": "sgd"}, "x.yaml").specs


def test_names_of_job_specs_are_refused_or_safe(texts: list[str]) -> None:
    accepted = []
    for text in texts:
        try:
            accepted.append(job_spec.check_name(text, "x.yaml"))
        except JobSpecError:
            continue
    assert accepted
    assert all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+=,@-]{0,99}", name) and ".." not in name for name in accepted)


def test_each_run_has_a_safe_name_and_one_call_of_as_many_words(specs: list[dict[str, str]]) -> None:
    names = naming.run_names("tiny", specs, ["model"])
    assert len(set(names)) == NUMBER
    assert all(re.fullmatch(r"\d{4,}_tiny\+mod=[A-Za-z0-9._,@-]*", name) and len(name) <= 200 for name in names)
    place = SubmissionContext("/r/26-01-01-tiny", "token", "/p")
    options = SlurmOptions("/p/s.sh")
    made = submit.plan_single_jobs(dict.fromkeys(names, 1), dict(zip(names, specs, strict=True)), options, place)
    for name, call in zip(names, made.calls, strict=True):
        assert call.command == ["sbatch", "--parsable", "--chdir=/p", f"--job-name={name}",
                                f"--output={place.batch}/{name}/%j.out", f"--comment={call.comment}", "/p/s.sh",
                                f"{place.batch}/{name}/spec.yaml"]


def test_values_of_options_stay_one_word_of_their_option(texts: list[str]) -> None:
    options = {f"option-{chr(97 + index % 26)}": text for index, text in enumerate(texts)}
    words = client.option_arguments(options, "x.yaml")
    assert all(re.match(r"--option-[a-z]=", word) for word in words)
    for text in texts:
        assert client.option_arguments({"constraint": text}, "x.yaml") == [f"--constraint={text}"]
        if not re.fullmatch(r"[a-z][a-z0-9_-]*", text):
            with pytest.raises(JobSpecError):
                client.option_arguments({text: 1}, "x.yaml")


def test_a_foreign_program_gets_each_value_as_a_part_of_one_word(texts: list[str]) -> None:
    for text in texts:
        words = command_template.fill_command(["prog", "{args}", "--at={folder}"], {"model": text, "base_lr": 0.1},
                                           "/r/a b")
        assert words == ["prog", f"--model={text}", "--base_lr=0.1", "--at=/r/a b"]


def test_what_is_written_stays_in_the_batch_and_what_is_called_is_no_shell(
        specs: list[dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project, record = tmp_path / "p r", tmp_path / "record"
    (project / "bin").mkdir(parents=True)
    (project / "bin" / "sbatch").write_text(RECORDER)
    (project / "bin" / "sbatch").chmod(0o755)
    monkeypatch.chdir(project)
    monkeypatch.setenv("PATH", f"{project / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("RECORD", str(record))
    chosen = random.Random(2).sample(specs, 1000)
    names = naming.run_names("tiny", chosen, ["model"])
    path = project / "$(touch pwned) %j"
    assert batch_folder.create(str(path), "job_details: {}", names, grid.spec_texts(chosen))
    made = submit.plan_single_jobs(dict.fromkeys(names, 1), dict(zip(names, chosen, strict=True)), SlurmOptions(
        "s.sh", {"constraint": chosen[0]["model"]}), SubmissionContext(str(path), "token", str(project)))
    for call in made.calls:
        assert client.submit(call.command, 1) == "1"
    called = [[*words.split("\0")] for words in record.read_bytes().decode().removesuffix("\0\0").split("\0\0")]
    assert called == [call.command[1:] for call in made.calls]
    assert [run_folder.read_spec(path / name / "spec.yaml") for name in names] == chosen
    assert sorted(entry.name for entry in project.iterdir()) == sorted(["bin", path.name])
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["p r", "record"]
    assert len(list(path.iterdir())) == 1002
