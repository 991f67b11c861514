"""What the checks are made from: the answers of sbatch."""
from __future__ import annotations

import os

import pytest

from src.submission.doctor import probes
from src.submission.slurm import client


@pytest.mark.parametrize(("warning", "refusal"), [
    (None, ""), ("sbatch: error: Required node not available (down, drained or reserved)", ""),
    ("sbatch: error: Use --cpus, not --mem",
     "submit_x.sh: sbatch: error: Use --cpus, not --mem; change its #SBATCH lines, then run doctor again")])
def test_script_that_a_plugin_refuses_is_not_ok(warning: str | None, refusal: str,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    """A site's own submit plugin prints texts that are not known; nodes that are down delay jobs only."""
    monkeypatch.setattr(client, "validate", lambda command: client.Validation(warning=warning))
    assert probes._refusal("/project/submit_x.sh") == refusal


def test_scripts_are_checked_with_the_options_that_this_shell_gives_to_a_submission(
        monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise they would be checked on the cluster of this machine, whichever a submission goes to."""
    commands: list[list[str]] = []
    monkeypatch.setattr(client, "validate", lambda command: (commands.append(command), client.Validation())[1])
    for name in [name for name in os.environ if name.startswith(("SBATCH_", "SLURM_"))]:
        monkeypatch.delenv(name)
    assert probes._refusal("/project/submit_x.sh") == ""
    monkeypatch.setenv("SLURM_CLUSTERS", "c2")
    monkeypatch.setenv("SBATCH_TIMELIMIT", "30")
    assert probes._refusal("/project/submit_x.sh") == ""
    assert [[word for word in command if word.startswith(("--clusters", "--time"))] for command in commands] == [
        [], ["--clusters=c2", "--time=30"]]
