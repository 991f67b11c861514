"""Refusals in Slurm's own words: each says what it means, what there is instead, and what comes next."""
from __future__ import annotations

from pathlib import Path

import pytest

from src.submission.slurm import client, sbatch_errors

NODE = "8 CPUs with 64000 MB and gpu:2"
PERMANENT = "sbatch will never accept it as it is"
LEFT = "`again` goes on"


def told(kind: str, words: str) -> str:
    text = str(sbatch_errors.explain(client.SbatchError(kind, words), "3 of 9 submitted", LEFT))
    assert text.startswith(f"3 of 9 submitted: {words}; " if words.startswith("sbatch:") else
                           f"3 of 9 submitted: sbatch: {words}; ")
    assert text.endswith(LEFT)
    return text


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What Slurm's commands answer, by the words that they hold."""
    known = {"id -un": "me\n"}
    monkeypatch.setattr(client, "query", lambda command: next(
        (text for words, text in known.items() if words in " ".join(command)), None))
    return known


@pytest.mark.parametrize(("kind", "words", "expected"), [
    ("ambiguous", "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation",
     "may have accepted the job"),
    ("unavailable", "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)",
     "does not answer, and did not accept this job"),
    ("unavailable", "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying",
     "whole cluster is full"),
    ("limit", "sbatch: error: QOSMaxSubmitJobPerUserLimit", "sacctmgr show qos"),
    ("limit", "sbatch: error: AssocMaxSubmitJobLimit", "--wait waits for room"),
    ("permanent", "sbatch: unrecognized option '--memm=3'", "sbatch --help"),
    ("permanent", "sbatch: error: something new", "fix the script or the options"),
    ("permanent", "sbatch: error: fetch_config: DNS SRV lookup failed sbatch: fatal: Could not establish a "
     "configuration source", "run here with --local"),
])
def test_each_class_says_what_it_means(kind: str, words: str, expected: str, answers: dict[str, str]) -> None:
    assert expected in told(kind, words)


@pytest.mark.parametrize(("words", "command", "answer", "allowed"), [
    ("Invalid account or account/partition combination specified", "user=me format=account", "lab\nlab\nother\n",
     "allowed: lab, other;"),
    ("Invalid qos specification", "user=me format=qos", "normal,low\nhigh\n", "allowed: high, low, normal;"),
    ("Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)", "format=account,qos",
     "lab|normal\n", "allowed: lab|normal;"),
    ("Requested time limit is invalid (missing or exceeds some limit)", "%R:%l", "short:1:00:00\n",
     "allowed: short:1:00:00;"),
    ("Requested node configuration is not available", "%c|%m|%G",
     "8|64000|gpu:2(S:0)\n8|32000|gpu:2\n64+|16000|(null)\n", "allowed: 64 CPUs with 16000 MB, 8 CPUs with 64000 MB "
     "and gpu:2;"),
])
def test_what_there_is_instead(words: str, command: str, answer: str, allowed: str, answers: dict[str, str]) -> None:
    assert allowed not in told("permanent", words)  # Slurm says nothing
    answers[command] = answer
    text = told("permanent", words)
    assert allowed in text
    assert PERMANENT in text


@pytest.mark.parametrize(("option", "words", "expected"), [
    ("--partition=nope", "Invalid partition name specified", "allowed: cpu-killable, killable, owner;"),
    ("--constraint=nope", "Invalid feature specification",
     "allowed: a5000, geforce_rtx_2080, geforce_rtx_3090, tesla_v100;"),
    ("--gres=tape:1", "Invalid generic resource (gres) specification", "allowed: gpu:2;"),
    ("--gres=gpu:a100:1", "Requested node configuration is not available", f"allowed: {NODE};"),
    ("--mem=9999G", "Memory specification can not be satisfied", f"allowed: {NODE};"),
    ("--array=0-5000", "Invalid job array specification", "allowed: tasks below 1001;"),
    ("--time=soon", "Invalid --time specification", "man sbatch"),
    ("--memm=3", "unrecognized option '--memm=3'", "sbatch --help"),
])
@pytest.mark.usefixtures("slurm")
def test_what_a_real_slurm_refuses(option: str, words: str, expected: str, tmp_path: Path) -> None:
    refuse(option, "#!/bin/sh\n", words, expected, tmp_path)


@pytest.mark.parametrize(("script", "words", "expected"), [
    ("#!/bin/sh\r\ntrue\r\n", "DOS line breaks", "sed -i"),
    ("true\n", "This does not look like a batch script", "begin the script with"),
])
@pytest.mark.usefixtures("slurm")
def test_scripts_that_a_real_slurm_refuses(script: str, words: str, expected: str, tmp_path: Path) -> None:
    refuse("--mem=1", script, words, expected, tmp_path)


def refuse(option: str, script: str, words: str, expected: str, folder: Path) -> None:
    """Both when it is tried out and when it is submitted, sbatch says these words, and we what is expected."""
    (folder / "s.sh").write_text(script, newline="")
    command = ["sbatch", "--parsable", "--chdir=/", option, str(folder / "s.sh"), "spec"]
    for call in (client.submit, client.validate):
        with pytest.raises(client.SbatchError) as refusal:
            call(command)  # type: ignore[operator]
        assert refusal.value.kind == "permanent"
        text = told("permanent", refusal.value.message)
        assert expected in text
        assert PERMANENT in text
        if call is client.submit:
            assert words in text


def test_sbatch_is_there_or_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(client.SlurmError, match="no Slurm"):
        client.require_sbatch()
    assert client.query(["sinfo"]) is None
