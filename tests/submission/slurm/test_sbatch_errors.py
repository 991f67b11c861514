"""Errors of sbatch are explained: their kind, the accepted values, and the next command."""
from __future__ import annotations

from pathlib import Path

import pytest

from src.submission.slurm import client, sbatch_errors

NODE = "8 CPUs with 64000 MB and gpu:2"
PERMANENT = "sbatch will never accept it as it is"
LEFT = "`again` goes on"


def explanation(kind: str, message: str) -> str:
    text = str(sbatch_errors.explain(client.SbatchError(kind, message), "3 of 9 submitted", LEFT))
    assert text.startswith(f"3 of 9 submitted: {message}; " if message.startswith("sbatch:") else
                           f"3 of 9 submitted: sbatch: {message}; ")
    assert text.endswith(LEFT)
    return text


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The output of Slurm's commands, by a part of the command."""
    output_by_command = {"id -un": "me\n"}
    monkeypatch.setattr(client, "query", lambda command: next(
        (text for message, text in output_by_command.items() if message in " ".join(command)), None))
    return output_by_command


@pytest.mark.parametrize(("kind", "message", "expected"), [
    ("ambiguous", "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation",
     "may have accepted the job"),
    ("unavailable", "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)",
     "does not answer, or is not ready, so the job was n"),
    ("unavailable", "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying",
     "whole cluster is full"),
    ("limit", "sbatch: error: QOSMaxSubmitJobPerUserLimit", "sacctmgr show qos"),
    ("limit", "sbatch: error: AssocMaxSubmitJobLimit", "--wait waits for room"),
    ("permanent", "sbatch: unrecognized option '--memm=3'", "sbatch --help"),
    ("permanent", "sbatch: error: Batch script is empty!", "fix the script or the options"),
    ("unknown", "sbatch: error: something new", "calling it again did not help; after removing the cause, `again`"),
    ("unavailable", "sbatch: error: Required partition not available (inactive or drain)", "`sinfo` lists others"),
    ("permanent", "sbatch: error: fetch_config: DNS SRV lookup failed sbatch: fatal: Could not establish a "
     "configuration source", "run here with --local"),
])
def test_each_kind_of_error_is_explained(kind: str, message: str, expected: str, answers: dict[str, str]) -> None:
    assert expected in explanation(kind, message)


@pytest.mark.parametrize(("message", "command", "answer", "allowed"), [
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
def test_explanation_lists_the_accepted_values(message: str, command: str, answer: str, allowed: str, answers: dict[str,
                                               str]) -> None:
    assert allowed not in explanation("permanent", message)  # Slurm says nothing
    answers[command] = answer
    text = explanation("permanent", message)
    assert allowed in text
    assert PERMANENT in text


@pytest.mark.parametrize(("option", "message", "expected"), [
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
def test_errors_of_a_real_slurm_are_explained(option: str, message: str, expected: str, tmp_path: Path) -> None:
    check_error(option, "#!/bin/sh\n", message, expected, tmp_path)


@pytest.mark.parametrize(("script", "message", "expected"), [
    ("#!/bin/sh\r\ntrue\r\n", "DOS line breaks", "sed -i"),
    ("true\n", "This does not look like a batch script", "begin the script with"),
])
@pytest.mark.usefixtures("slurm")
def test_scripts_that_a_real_slurm_rejects_are_rejected(script: str, message: str, expected: str,
                                                        tmp_path: Path) -> None:
    check_error("--mem=1", script, message, expected, tmp_path)


def check_error(option: str, script: str, message: str, expected: str, folder: Path) -> None:
    """Check the message of sbatch and the explanation, both when a job is validated and when it is submitted."""
    (folder / "s.sh").write_text(script, newline="")
    command = ["sbatch", "--parsable", "--chdir=/", option, str(folder / "s.sh"), "spec"]
    for call in (client.submit, client.validate):
        with pytest.raises(client.SbatchError) as refusal:
            call(command)  # type: ignore[operator]
        assert refusal.value.kind == "permanent"
        text = explanation("permanent", refusal.value.message)
        assert expected in text
        assert PERMANENT in text
        if call is client.submit:
            assert message in text


def test_missing_sbatch_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(client.SlurmError, match="no Slurm"):
        client.require_sbatch()
    assert client.query(["sinfo"]) is None
