from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from src.config import Config
from src.errors import DataError
from src.io import download
from src.pretrained import hub
from tests.conftest import ROOT
from tests.hub_server import Hub, hub_server

__all__ = ["hub_server"]  # the fixture


def start(program: str, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", program, *map(str, arguments)], cwd=ROOT, text=True,
                            env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


TOKENIZE = """
import sys
from src.pretrained import hub
from src.config import Config
from src.errors import exits_on_user_error
@exits_on_user_error
def main():
    print(hub.tokenizer(Config(model="hf/me/tiny", data_download=sys.argv[1] == "true"))("a film")["input_ids"])
sys.exit(main())
"""


def test_parallel_starts_fetch_once_and_then_nothing(hub_server: Hub, tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    environment = hub_server.environment(tmp_path / "cache")
    ran = [start(TOKENIZE, "true", **environment) for _ in range(2)]
    for one in ran:
        out, err = one.communicate(timeout=300)
        assert (one.returncode, out) == (0, "[2, 8, 9, 3]\n"), err
    assert hub_server.downloads == dict.fromkeys(("config.json", "tokenizer.json", "tokenizer_config.json"), 1)
    gone = {**environment, "HF_ENDPOINT": "http://127.0.0.1:1"}
    for data_download in ("true", "false"):
        out, err = start(TOKENIZE, data_download, **gone).communicate(timeout=300)
        assert out == "[2, 8, 9, 3]\n", err
    assert not list((tmp_path / "cache").rglob(".fetching*"))


def test_without_internet_a_line_at_once(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    environment = {"HF_HOME": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:1"}
    for data_download, extra, why in (("true", {}, "127.0.0.1 cannot be reached from .* .Connection refused"),
                                 ("false", {}, "data_download is false"),
                                 ("true", {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set")):
        ran = start(TOKENIZE, data_download, **environment, **extra)
        _, err = ran.communicate(timeout=300)
        assert ran.returncode == 2 and len(err.splitlines()) == 1
        assert re.match(rf"error: the model or tokenizer 'me/tiny' is not here, and {why}.*; download it on a machine "
                        "with internet: `python experiments.py prefetch` with your job spec", err), err


def test_a_host_that_swallows_packets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "CONNECT_TIMEOUT", 0.05)
    monkeypatch.setattr(download, "_connect", lambda *_: time.sleep(0.5))
    reason = f"far.example cannot be reached from {os.uname().nodename} (no answer within 0.05 s)"
    assert download.unreachable_reason("https://far.example/x") == reason


def test_a_proxy_is_what_must_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        monkeypatch.setenv("https_proxy", f"127.0.0.1:{listening.getsockname()[1]}")
        assert download.unreachable_reason("https://no-such-host.invalid/x") is None
        monkeypatch.setenv("no_proxy", "no-such-host.invalid")
        assert download.unreachable_reason("https://no-such-host.invalid/x")


FETCH = """
import pathlib, sys, urllib.request
from src.io import download
folder, url = pathlib.Path(sys.argv[1]), sys.argv[2]
def fetch():
    (folder / "it.part").write_bytes(urllib.request.urlopen(url + "/me/tiny/resolve/main/config.json").read())
    (folder / "it.part").replace(folder / "it")
    if len(sys.argv) > 3:
        raise SystemExit("left")
print(download.once(folder / "lock", "it", lambda: (folder / "it").exists() or None, fetch))
"""


def test_one_of_many_processes_fetches(hub_server: Hub, tmp_path: Path) -> None:
    ran = [start(FETCH, tmp_path, hub_server.url) for _ in range(4)]
    said = [one.communicate(timeout=300) for one in ran]
    assert [out for out, _ in said] == ["True\n"] * 4 and hub_server.downloads == {"config.json": 1}
    assert "waiting for another process that downloads it" in "".join(err for _, err in said)
    assert not (tmp_path / "lock").exists()


def test_who_fails_leaves_it_to_the_next(tmp_path: Path) -> None:
    def fail() -> None:
        raise DataError("no")

    with pytest.raises(DataError, match="no"):
        download.once(tmp_path / "lock", "it", lambda: None, fail)
    found: list[int] = []
    assert download.once(tmp_path / "lock", "it", lambda: found[0] if found else None, lambda: found.append(7)) == 7
    assert list(tmp_path.iterdir()) == []


def test_locks_of_the_dead_and_the_silent_are_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_HEARTBEAT_TIMEOUT", 0.5)
    ended = start("")
    ended.communicate(timeout=300)
    for owner in (f"{os.uname().nodename} {ended.pid} 1 1", "another-node 1 1 1", ""):
        (tmp_path / "lock").write_text(owner)
        found: list[int] = []
        assert download.once(tmp_path / "lock", "it", lambda: found[0] if found else None, lambda: found.append(7)) == 7  # noqa: B023
        assert list(tmp_path.iterdir()) == []


SLOW = """
import pathlib, sys, time
from src.io import download
download._HEARTBEAT_TIMEOUT, download._HEARTBEAT_INTERVAL, download._is_dead = 3, 0.1, lambda owner: False
made = pathlib.Path(sys.argv[1], "made")
def fetch():
    time.sleep(6)
    with made.open("a") as file:
        file.write("x")
download.once(sys.argv[1] + "/lock", "it", lambda: made.exists() or None, fetch)
"""


def test_who_beats_is_waited_for(tmp_path: Path) -> None:
    """However long it takes: here longer than the silence that is granted."""
    for one in [start(SLOW, tmp_path) for _ in range(2)]:
        assert "Traceback" not in one.communicate(timeout=300)[1] and one.returncode == 0
    assert (tmp_path / "made").read_text() == "x"


def test_a_lock_that_is_not_ours_is_put_back(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("a living one")
    download._break_lock(os.fspath(tmp_path / "lock"), "a dead one")
    assert (tmp_path / "lock").read_text() == "a living one" and len(list(tmp_path.iterdir())) == 1


def test_names_of_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE", str(tmp_path))
    config = Config(data_dir="/data")
    for name, path in (("./bert", "/data/bert"), ("a/b.csv", "/data/a/b.csv"), ("/x/y", "/x/y"),
                       ("$MINE/y", f"{tmp_path}/y"), ("bert", None), ("org/bert-base.v2", None)):
        assert hub.path_of(config, name) == (Path(path) if path else None)
