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

from src.analysis import lab
from src.analysis.lab import main
from src.io import private
from tests.conftest import ROOT, Slurm

OPEN = """
c.ServerApp.ip = '0.0.0.0'
c.ServerApp.port = 8888
c.ServerApp.token = c.ServerApp.password = c.IdentityProvider.token = ''
"""


def status(url: str, token: str = "") -> int:
    """The status of the server's answer; 0 while it does not listen."""
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


def check(output: Path) -> str:
    """The server whose output this is answers on the loopback interface, to the token alone, which is returned.

    The token is in a file that nobody else can read, in a folder that nobody else can open, and not in the output.
    """
    end = time.monotonic() + 300
    while not (result := re.search(r"ssh -N .*-L (\d+):127\.0\.0\.1:\1 \S+\n", output.read_text() if output.exists()
                                  else "")):
        assert time.monotonic() < end, "no tunnel line"
        time.sleep(0.1)
    path = Path(re.search(r"^  (/.*\.url)$", output.read_text(), re.MULTILINE)[1])  # type: ignore[index]
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    port, token = int(result[1]), re.search(r"token=(\w{48})", path.read_text())[1]  # type: ignore[index]
    assert path.read_text() == f"http://127.0.0.1:{port}/lab/tree/notebooks/view_results.ipynb?token={token}\n"
    url = f"http://127.0.0.1:{port}/api/status"
    while status(url, token) != 200:
        assert time.monotonic() < end, output.read_text()
        time.sleep(0.2)
    assert status(url) == status(url, "0" * 48) == 403
    assert listening(port) == {"0100007F"}, "127.0.0.1, and no other"
    assert token not in output.read_text()
    return token


@pytest.fixture
def open_to_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home whose configuration of Jupyter would let everybody in."""
    for name in ("jupyter_server_config.py", "jupyter_lab_config.py", "jupyter_config.py"):
        (tmp_path / ".jupyter").mkdir(exist_ok=True)
        (tmp_path / ".jupyter" / name).write_text(OPEN)
    for name in ("JUPYTER_TOKEN", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "SLURM_JOB_ID",
                 "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("word", ["--ip=0.0.0.0", "--ip", "--ServerApp.ip=*", "--NotebookApp.ip=0.0.0.0",
                                  "--IdentityProvider.token=", "--ServerApp.token=", "--ServerApp.password=",
                                  "--PasswordIdentityProvider.hashed_password=x", "--port=8888",
                                  "--ServerApp.ip+=x", "--config=/tmp/x.py", "--config", "--conf=/tmp/x.py",
                                  "--JupyterApp.config_file=x", "--ServerApp.allow_origin=*", "--notebook-dir=/",
                                  "--ServerApp.ip[0]=x", "-", "--ServerApp.cookie_secret=x"])
def test_options_that_expose_the_server_are_refused(word: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--allow-root", word]) == 2
    output = capfd.readouterr()
    assert output.err.startswith(f"error: {word}: JupyterLab listens on the loopback interface, with a token")
    assert output.out == ""


@pytest.mark.parametrize("word", ["--allow-root", "--debug", "-y", "--log-level=DEBUG", "--no-browser", "notebooks",
                                  "--ServerApp.shutdown_no_activity_timeout=600", "--LabApp.collaborative=True",
                                  "--MappingKernelManager.cull_idle_timeout=60"])
def test_other_options_are_passed_to_jupyterlab(word: str) -> None:
    assert not lab._is_reserved(word)


def test_configuration_files_cannot_expose_the_server(open_to_all: Path) -> None:
    output = open_to_all / "jupyter.out"
    words = [sys.executable, "-m", "src.analysis.lab", "--allow-root"]
    with output.open("w") as file, subprocess.Popen(words, cwd=ROOT, stdout=file, stderr=file) as server:
        try:
            token = check(output)
            assert token not in Path(f"/proc/{server.pid}/cmdline").read_text(), "`ps` shows it to all"
        finally:
            server.terminate()
            server.wait(30)
    assert os.listdir(open_to_all / ".local" / "state" / "gridiron") == [], "the address is removed at the end"


def test_token_is_not_written_through_a_link(open_to_all: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (open_to_all / "theirs").mkdir()
    (open_to_all / ".local" / "state").mkdir(parents=True)
    (open_to_all / ".local" / "state" / "gridiron").symlink_to(open_to_all / "theirs")
    assert main(["--allow-root"]) == 2
    assert "no private folder for the address" in capfd.readouterr().err
    assert os.listdir(open_to_all / "theirs") == []


def test_open_folder_of_this_user_is_made_private(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine").chmod(0o777)
    assert private.make_private_folder(str(tmp_path / "mine")) == str(tmp_path / "mine")
    assert (tmp_path / "mine").stat().st_mode & 0o777 == 0o700
    with pytest.raises(FileExistsError):
        private.write_secret(str(tmp_path / "mine"), "a token")


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
