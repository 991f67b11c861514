"""JupyterLab listens on the loopback interface only, always with a token; the tunnel command works."""
from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from src.analysis.lab import connection_instructions, main
from tests.conftest import ROOT, Slurm

OPEN = """
c.ServerApp.ip = '0.0.0.0'
c.ServerApp.port = 8888
c.ServerApp.token = c.ServerApp.password = c.IdentityProvider.token = ''
"""


def test_tunnel_goes_through_the_login_node() -> None:
    slurm = {"SLURM_JOB_ID": "12", "SLURM_SUBMIT_HOST": "login1"}
    text = connection_instructions(4711, "secret", "me", "node3", slurm)
    assert "\n  ssh -N -J me@login1 -L 4711:127.0.0.1:4711 me@node3\n" in text
    assert "\n  http://127.0.0.1:4711/lab/tree/notebooks/view_results.ipynb?token=secret\n" in text
    assert text.endswith("scancel 12")
    here = connection_instructions(4711, "secret", "me", "desk", {})
    assert "\n  ssh -N -L 4711:127.0.0.1:4711 me@desk\n" in here
    assert "scancel" not in here and "login" not in here


def status(url: str, token: str = "") -> int:
    """What the server answers to a question about itself; 0 while it does not listen."""
    request = urllib.request.Request(url, headers={"Authorization": f"token {token}"} if token else {})
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def listening(port: int) -> set[str]:
    """The addresses, as the kernel writes them, on which somebody listens at a port."""
    result = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        rows = Path(table).read_text().splitlines()[1:] if os.path.exists(table) else []
        for address, state in ((row.split()[1], row.split()[3]) for row in rows):
            if state == "0A" and int(address.partition(":")[2], 16) == port:
                result.add(address.partition(":")[0])
    return result


def check(output: Path) -> None:
    """The server that `output` tells of answers on the loopback, to the token alone."""
    end = time.monotonic() + 90
    while not (result := re.search(r"ssh -N .*-L (\d+):127\.0\.0\.1:\1 \S+\n", output.read_text() if output.exists()
                                  else "")):
        assert time.monotonic() < end, "no tunnel line"
        time.sleep(0.1)
    assert output.stat().st_mode & 0o077 == 0, "the token is for nobody else"
    port, token = int(result[1]), re.search(r"token=(\w{48})", output.read_text())[1]  # type: ignore[index]
    url = f"http://127.0.0.1:{port}/api/status"
    while status(url, token) != 200:
        assert time.monotonic() < end, output.read_text()
        time.sleep(0.2)
    assert status(url) == status(url, "0" * 48) == 403
    assert listening(port) == {"0100007F"}, "127.0.0.1, and no other"


@pytest.fixture
def open_to_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home whose configuration of Jupyter would let everybody in."""
    for name in ("jupyter_server_config.py", "jupyter_lab_config.py", "jupyter_config.py"):
        (tmp_path / ".jupyter").mkdir(exist_ok=True)
        (tmp_path / ".jupyter" / name).write_text(OPEN)
    for name in ("JUPYTER_TOKEN", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("word", ["--ip=0.0.0.0", "--ip", "--ServerApp.ip=*", "--NotebookApp.ip=0.0.0.0",
                                  "--IdentityProvider.token=", "--ServerApp.token=", "--ServerApp.password=",
                                  "--PasswordIdentityProvider.hashed_password=x", "--port=8888"])
def test_options_that_expose_the_server_are_refused(word: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--allow-root", word]) == 2
    output = capfd.readouterr()
    assert output.err.startswith(f"error: {word}: JupyterLab listens on the loopback interface, with a token")
    assert output.out == ""


def test_configuration_files_cannot_expose_the_server(open_to_all: Path) -> None:
    output = open_to_all / "jupyter.out"
    words = [sys.executable, "-m", "src.analysis.lab", "--allow-root"]
    with output.open("w") as file, subprocess.Popen(words, cwd=ROOT, stdout=file, stderr=file) as server:
        try:
            check(output)
            token = re.search(r"token=(\w+)", output.read_text())[1]  # type: ignore[index]
            assert token not in Path(f"/proc/{server.pid}/cmdline").read_text(), "`ps` shows it to all"
        finally:
            server.terminate()
            server.wait(30)


def test_notebook_runs_as_a_slurm_job(open_to_all: Path, slurm: Slurm) -> None:
    output = open_to_all / "jupyter.out"
    job = slurm.run("sbatch", "--parsable", f"--chdir={ROOT}", f"--output={output}", ROOT / "submit_jupyter.sh",
                    "--allow-root")
    try:
        check(output)
        assert f"or with: scancel {job}" in output.read_text()
    finally:
        slurm.run("scancel", job)
    assert slurm.wait(job) == "CANCELLED"
