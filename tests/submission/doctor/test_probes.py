"""What the checks are made from: the answers of sbatch."""
from __future__ import annotations

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
