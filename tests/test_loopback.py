"""What to type to reach a server on the loopback interface of another machine."""
from __future__ import annotations

from src.loopback import connection_instructions


def test_tunnel_goes_through_the_login_node() -> None:
    slurm = {"SLURM_JOB_ID": "12", "SLURM_SUBMIT_HOST": "login1"}
    text = connection_instructions("JupyterLab", 4711, "/home/me/x.url", "me", "node3", slurm)
    assert "\n  ssh -N -J me@login1 -L 4711:127.0.0.1:4711 me@node3\n" in text
    assert "\n  /home/me/x.url\n" in text
    assert text.endswith("scancel 12")
    here = connection_instructions("JupyterLab", 4711, "/home/me/x.url", "me", "desk", {})
    assert "\n  ssh -N -L 4711:127.0.0.1:4711 me@desk\n" in here
    assert "scancel" not in here and "login" not in here
