"""experiments.py dashboard: what it prints, how it ends, and that it shows what the report has."""
from __future__ import annotations

import argparse
import gzip
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any

import pytest

import experiments
from src import run_folder
from src.analysis.page import document
from src.analysis.reading.results import read_results
from src.commands import dashboard
from src.commands.common import page_rows
from src.submission.status.observation import Observation
from src.submission.status.observe import SlurmView, observe
from tests.analysis.make_batch import DIGITS, curves, grid, make_batch, make_run
from tests.conftest import ROOT


@pytest.fixture
def batch(tmp_path: Path) -> str:
    """Two runs that have ended, one that has failed, and one that has not started."""
    path = make_batch(tmp_path, grid({"base_lr": [0.1, 1.0]}, **DIGITS), epochs=3)
    failed = make_run(path, 2, {**DIGITS, "base_lr": 0.5}, stats=curves({"base_lr": 0.5}, 2), end=None,
                      error="Traceback …\nRuntimeError: no memory")
    Path(failed, run_folder.LOG).write_text("epoch 2\nRuntimeError: no memory\n")
    make_run(path, 3, {**DIGITS, "base_lr": 0.7}, config=None, stats=None, end=None)
    return path


@contextmanager
def started(*arguments: str, home: Path) -> Iterator[subprocess.Popen[str]]:
    """The command in a process of its own, which is stopped by Ctrl-C."""
    environment = {**os.environ, "XDG_STATE_HOME": str(home)}
    environment.pop("SLURM_JOB_ID", None)
    with subprocess.Popen([sys.executable, "experiments.py", "dashboard", *arguments], cwd=ROOT, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)


def fetch(address: str, path: str = "") -> bytes:
    """The answer to a browser that opens the address, and then a path of the page."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}),
                                         urllib.request.HTTPCookieProcessor(CookieJar()))
    opener.open(address, timeout=300).read()
    with opener.open(address.partition("?")[0] + path, timeout=300) as answer:
        content: bytes = answer.read()
    return content


def test_page_is_served_until_ctrl_c(batch: str, tmp_path: Path) -> None:
    with started(batch, "--json", home=tmp_path) as process:
        assert process.stdout and process.stderr
        printed = json.loads(process.stdout.readline())
        assert printed["batches"] == [batch]
        assert re.fullmatch(rf"ssh -N -L {printed['port']}:127\.0\.0\.1:{printed['port']} \S+@\S+", printed["tunnel"])
        file = Path(printed["address_file"])
        assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
        address = file.read_text().strip()
        token = address.partition("=")[2]
        assert token not in Path(f"/proc/{process.pid}/cmdline").read_text(), "`ps` shows it to all"
        assert b"<!doctype html>" in fetch(address)[:200].lower()
        assert json.loads(fetch(address, "document"))["runs"]["count"] == 4
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert (process.stdout.read(), process.stderr.read()) == ("", "")
    assert not file.exists(), "the address is removed at the end"


def test_token_is_printed_on_a_terminal_alone(batch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False, raising=False)
    server = dashboard._make_server([batch], argparse.Namespace(port=0, interval=None))
    printed = dashboard._instructions(server, "/home/me/dashboard-1.url")
    assert printed.startswith(f"Dashboard of {batch} on ") and "\n  /home/me/dashboard-1.url\n" in printed
    assert server.guard.token not in printed
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    printed = dashboard._instructions(server, "/home/me/dashboard-1.url")
    assert printed.startswith(f"Dashboard of {batch}:\n  {server.address}\nFrom another machine")
    assert f"ssh -N -L {server.port}:127.0.0.1:{server.port} " in printed


def test_invalid_ports_are_refused(batch: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert experiments.main(["dashboard", batch, "--port", "70000"]) == 2
    assert "invalid port 70000" in capsys.readouterr().err
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert experiments.main(["dashboard", batch, "--port", str(taken.getsockname()[1])]) == 2
    assert "cannot be used: Address already in use" in capsys.readouterr().err
    assert experiments.main(["dashboard", f"{batch}/nothing"]) == 2


def test_active_batches_are_shown_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                             capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("GRIDIRON_RESULTS", str(tmp_path / "results"))
    monkeypatch.chdir(tmp_path)
    assert experiments.main(["dashboard"]) == 2
    assert "no batch in" in capsys.readouterr().err
    for name in ("26-11-20-a", "26-11-21-b"):
        make_batch(tmp_path / "results", grid({"base_lr": [0.1]}, **DIGITS), name)
    assert dashboard._active_batches() == [str(tmp_path / "results" / "26-11-21-b")]


def test_batches_that_are_submitted_later_are_found(tmp_path: Path) -> None:
    specs = grid({"base_lr": [0.1]}, **DIGITS)
    old, again = (make_batch(tmp_path, specs, name) for name in ("26-11-20-a", "26-11-20-b"))
    submitted = dashboard.Submitted(str(tmp_path))
    assert submitted.find() == []
    new = make_batch(tmp_path, specs, "26-11-21-c")
    assert submitted.find() == [], "nothing has been submitted yet"
    for batch in (again, new):
        write_journal(batch)
    assert submitted.find() == [again, new]
    write_journal(old)
    assert submitted.find() == [old, again, new]


def write_journal(batch: str) -> None:
    """Let a batch look as after another submission."""
    folder = Path(batch, run_folder.SUBMISSIONS)
    folder.mkdir(exist_ok=True)
    (folder / f"20261130-120000-{len(list(folder.iterdir()))}.jsonl").touch()


def test_report_and_dashboard_have_the_same_document(batch: str) -> None:
    live = dashboard.make_live([batch], None)
    live.start()
    end = time.monotonic() + 300
    while not live.published.version:
        assert time.monotonic() < end
        time.sleep(0.05)
    live.stop()
    shown = json.loads(gzip.decompress(live.published.encoded()[1]))
    observations = observe([batch])
    rows = [row for observation in observations for row in page_rows(observation)]
    reported = json.loads(document.to_json(document.build(read_results([batch]), rows)))
    assert without_times(shown) == without_times(reported)
    assert shown["runs"]["state"] == ["done", "done", "new", "new"]


def without_times(built: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in built.items() if name not in ("live", "written", "version")}


def test_slurm_is_queried_as_by_watch(batch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    queries: list[tuple[bool, bool]] = []

    def observe_batches(batches: list[str], slurm: SlurmView, read_only: bool) -> list[Observation]:
        queries.append((slurm.is_due, read_only))
        slurm.was_queried = slurm.is_due
        return []

    monkeypatch.setattr("src.submission.status.observe.observe", observe_batches)
    status = dashboard._Status(None)
    for _ in range(3):
        assert status.rows([batch]) == []
    assert queries == [(True, True), (False, True), (False, True)], "the others read files alone"
    assert dashboard._Status(0.0).rows([]) == []
