"""ssh and rsync to a real sshd: what is quoted, what is told when something is missing, and what is tried again."""
from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from src.errors import RemoteError
from src.submission.remote import hosts, ssh
from tests.conftest import ROOT
from tests.sshd.fixture import Sshd, sshd

__all__ = ["sshd"]  # the fixture

NASTY = "a $HOME 'far' `touch x`; (1) \"2\" ~ * ä"


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """The project's folder on the other machine."""
    folder = tmp_path / "there" / NASTY
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def here(tmp_path: Path, there: Path, sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project's folder on this one, with a hosts.toml."""
    folder = tmp_path / "here" / NASTY
    folder.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path))
    sshd.write_hosts(folder, there)
    return folder


def reach(here: Path, create: tuple[str, ...] = ()) -> ssh.Remote:
    return ssh.connect(hosts.find_host("cluster", str(here)), create)


def test_arguments_arrive_unchanged(here: Path, there: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = [NASTY, "", "-x", "$(touch y)", "a\nb", "\\", "!!", "%h", "''"]
    cluster = reach(here)
    shown = cluster.read_output(["python", "-c", "import os, sys; print((os.getcwd(), sys.argv[1:]))", *words])
    assert shown == f"{(str(there), words)}\n"
    assert cluster.run(["python", "-c", "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"]) == 3
    assert capfd.readouterr() == ("out\n", "err\n")
    assert list(there.iterdir()) == []


def test_files_arrive_in_the_project_folder(here: Path, there: Path) -> None:
    (here / NASTY).write_text("x")
    cluster = reach(here)
    said = cluster.rsync("--times", "--itemize-changes", "--", str(here / NASTY), cluster.rsync_path())
    assert NASTY in said
    assert (there / NASTY).read_text() == "x"
    assert cluster.rsync("--times", "--itemize-changes", "--", str(here / NASTY), cluster.rsync_path()) == ""
    with pytest.raises(RemoteError, match="rsync failed: .*No such file"):
        cluster.rsync("--", str(here / "nothing"), cluster.rsync_path())


def test_setup_runs_before_python(here: Path, there: Path, sshd: Sshd) -> None:
    (there / "environment.sh").write_text("export HELLO='from there'\n")
    sshd.write_hosts(here, there, ("source ./environment.sh",))
    assert reach(here).read_output(["python", "-c", "import os; print(os.environ['HELLO'])"]) == "from there\n"
    sshd.write_hosts(here, there, ("source ./nothing.sh",))
    with pytest.raises(RemoteError, match=r"cluster: .*nothing\.sh"):
        reach(here).read_output(["python", "-c", "print()"])


def test_commands_share_one_connection(here: Path, sshd: Sshd) -> None:
    reach(here).close()
    wait_until(lambda: not sshd.sessions())
    first = reach(here)
    sessions = sshd.sessions()
    assert len(sessions) == 1
    first.read_output(["python", "-c", ""])
    reach(here).read_output(["python", "-c", ""])
    assert sshd.sessions() == sessions
    first.close()
    wait_until(lambda: not sshd.sessions())


def test_shared_connections_of_the_user_are_used(here: Path, there: Path, sshd: Sshd, tmp_path: Path) -> None:
    """As where a second factor was asked for once: the user has opened the connection, and ours open none."""
    reach(here).close()
    config = tmp_path / "config"
    config.write_text(f"ControlMaster auto\nControlPath {sshd.folder}/own-%C\n{sshd.config.read_text()}")
    text = (here / "hosts.toml").read_text()
    (here / "hosts.toml").write_text(text.replace(str(sshd.config), str(config)))
    subprocess.run(["ssh", "-F", config, "-MNf", "cluster"], check=True)
    sessions = sshd.sessions()
    cluster = reach(here)
    assert cluster.socket is None
    cluster.read_output(["python", "-c", ""])
    cluster.rsync("--", str(config), cluster.rsync_path())
    assert sshd.sessions() == sessions
    subprocess.run(["ssh", "-F", config, "-Oexit", "cluster"], check=True, capture_output=True)


def wait_until(condition: object) -> None:
    end = time.monotonic() + 20
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize(("text", "words"), [
    ("    HostName no-such-machine.invalid\n", ["ssh knows no machine 'cluster'", "allowed: cluster"]),
    ("    Port 1\n", ["'cluster' refuses the connection", "check that its sshd is running"]),
    ("    IdentityFile {folder}/other_key\n    IdentitiesOnly yes\n", ["'cluster' does not accept our key"]),
    ("    UserKnownHostsFile /dev/null\n", ["the host key of 'cluster' is unknown"])])
def test_failures_of_ssh_are_explained(text: str, words: list[str], here: Path, there: Path, sshd: Sshd,
                                     tmp_path: Path) -> None:
    rest = sshd.config.read_text()
    if "other_key" in text:
        rest = rest.replace(f"IdentityFile {sshd.folder}/user_key\n", "")
    config = tmp_path / "config"
    config.write_text(f"Host cluster\n{text.format(folder=sshd.folder)}{rest}")
    (here / "hosts.toml").write_text(f"[cluster]\noptions = ['-F', '{config}']\n")
    with pytest.raises(RemoteError) as error:
        ssh.connect(hosts.find_host("cluster", str(here)), known_hosts=hosts.read_hosts(str(here)))
    for word in words:
        assert word in str(error.value)


def test_missing_folder_or_rsync_is_reported(here: Path, there: Path, sshd: Sshd,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    sshd.write_hosts(here, there / "not" / "there")
    with pytest.raises(RemoteError, match="the folder .*not/there does not exist there"):
        reach(here)
    reach(here, create=("a b",))
    assert (there / "not" / "there" / "a b").is_dir()
    (there / "file").touch()
    sshd.write_hosts(here, there / "file" / "x")
    with pytest.raises(RemoteError, match="cannot be created there: .*Not a directory"):
        reach(here, create=("x",))
    monkeypatch.setattr(ssh, "login_shell_command", lambda script: f"PATH=/nowhere; {script}")
    with pytest.raises(RemoteError, match="rsync is not installed there"):
        reach(here)


def test_lost_connection_is_retried(here: Path, sshd: Sshd, tmp_path: Path) -> None:
    """The first try is cut in its midst; the second one finds the mark of the first."""
    cluster, mark = reach(here), tmp_path / "mark"
    script = ("import os, sys, time\nif not os.path.exists(sys.argv[1]):\n    open(sys.argv[1], 'w').close()\n"
              "    time.sleep(60)\nprint('again')")

    def cut() -> None:
        wait_until(mark.exists)
        sshd.drop_connections()

    thread = threading.Thread(target=cut)
    thread.start()
    assert cluster.read_output(["python", "-c", script, str(mark)]) == "again\n"
    thread.join()


def test_retries_are_limited(here: Path, sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(ssh.time, "sleep", pauses.append)
    cluster = reach(here)
    monkeypatch.setattr(ssh.Remote, "ssh_command", lambda *_: ["false"])

    def once() -> None:
        raise ssh.ConnectionLost("Connection reset by peer")

    with pytest.raises(RemoteError, match="3 of 60 done; the connection was lost, and 6 retries failed .Conn"):
        cluster.retry(once, lambda: "3 of 60 done")
    assert pauses == sorted(pauses) and len(pauses) == 6


def test_socket_is_in_a_private_folder(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of another user with our name, or a home folder with a long path, does not lock us out."""
    (tmp_path / "session").mkdir()
    (tmp_path / "session" / "gridiron").symlink_to(tmp_path)
    home = Path(tempfile.mkdtemp(prefix="gridiron-home-"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "session"))
    monkeypatch.setenv("XDG_STATE_HOME", str(home))
    cluster = reach(here)
    assert cluster.socket
    assert os.path.dirname(cluster.socket) == str(home / "gridiron")
    assert (home / "gridiron").stat().st_mode & 0o777 == 0o700
    cluster.close()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / ("long" * 20)))
    cluster = reach(here)
    assert cluster.socket is None
    assert cluster.read_output(["python", "-c", "print(1)"]) == "1\n"
    shutil.rmtree(home)


def test_shell_is_quoted_for_rsync() -> None:
    assert ssh.quote_for_rsync(["ssh", "-o", "it's \"x\""]) == "'ssh' '-o' 'it''s \"x\"'"


def test_shared_connection_does_not_hold_our_streams(here: Path) -> None:
    """The process of the shared connection must not hold the pipe of whoever reads what we print."""
    program = ("import sys; sys.path.insert(0, sys.argv[2])\nfrom src.submission.remote import hosts, ssh\n"
               "ssh.connect(hosts.find_host('cluster', sys.argv[1])); print('done')")
    reach(here).close()
    done = subprocess.run([sys.executable, "-c", program, str(here), str(ROOT)], capture_output=True, text=True,
                          timeout=300)
    assert (done.stdout, done.stderr) == ("done\n", "")
