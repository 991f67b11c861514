"""submit_jupyter.sh: a real JupyterLab that only this node reaches, and only who knows the token."""
from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.conftest import ROOT


def answer(url: str) -> int:
    """The status of a request, that of an error too."""
    try:
        with urllib.request.urlopen(url, timeout=20) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


def listening(port: int) -> set[str]:
    """The addresses, as in /proc/net/tcp, at which something listens at a port."""
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()[1:]]
    return {cells[1].partition(":")[0] for cells in lines if cells[3] == "0A" and cells[1].endswith(f":{port:04X}")}


def test_loopback_token_and_tunnel(tmp_path: Path) -> None:
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    for name in ("python", "jupyter"):
        (tmp_path / ".venv" / "bin" / name).symlink_to(Path(sys.executable).parent / name)
    (tmp_path / "activate.sh").write_text((ROOT / "activate.sh").read_text())
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("JUPYTER", "SLURM"))}
    with open(tmp_path / "out", "w", encoding="utf-8") as out:
        process = subprocess.Popen(["bash", ROOT / "submit_jupyter.sh", "--allow-root"], cwd=tmp_path, stdout=out,
                                   stderr=out, env={**environment, "HOME": str(tmp_path), "SLURM_JOB_ID": "41",
                                                    "SLURM_SUBMIT_HOST": "login"})
    try:
        address = tmp_path / "jupyter-41.url"
        end = time.monotonic() + 120
        while "is running at" not in (text := (tmp_path / "out").read_text()):
            assert process.poll() is None and time.monotonic() < end, text
            time.sleep(0.1)
        port = int(re.search(r"ssh -N -J \S+@login -L 8899:127\.0\.0\.1:(\d+) \S+@\S+", text)[1])  # type: ignore[index]
        token = address.read_text().strip().partition("token=")[2]
        assert len(token) == 48 and stat.S_IMODE(address.stat().st_mode) == 0o600
        assert token not in text
        assert token not in Path("/proc", str(process.pid), "cmdline").read_text()
        assert listening(port) == {"0100007F"}
        assert answer(f"http://127.0.0.1:{port}/api/contents") == 403
        assert answer(f"http://127.0.0.1:{port}/api/contents?token={token}") == 200
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) is not None


@pytest.mark.parametrize("word", ["0.0.0.0", "--ip=*", "ServerApp.token=''"])
def test_nothing_opens_it_to_others(word: str) -> None:
    assert word not in (ROOT / "submit_jupyter.sh").read_text()
