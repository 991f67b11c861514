"""The server of the live page: who gets in, what it answers, and that it follows the files."""
from __future__ import annotations

import base64
import gzip
import http.client
import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from src import notes, run_folder
from src.dashboard.live import Live
from src.dashboard.server import Server
from tests.analysis.make_batch import DIGITS, curves, grid, make_batch, make_run
from tests.analysis.page.make_document import HOSTILE

POLICY = "default-src 'none'; script-src 'sha256-abc'"


class Browser:
    """Requests to a server, with its cookie."""

    def __init__(self, server: Server) -> None:
        self.server, self.cookie = server, ""
        self.host = f"127.0.0.1:{server.port}"

    def request(self, path: str = "", method: str = "GET", headers: Mapping[str, str] | None = None,
                body: str | bytes | None = None, folder: str | None = None) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=300)
        all_headers = {"Host": self.host, **({"Cookie": self.cookie} if self.cookie else {}), **(headers or {})}
        connection.request(method, (self.server.guard.folder if folder is None else folder) + path, body, all_headers)
        answer = connection.getresponse()
        result = answer.status, dict(answer.getheaders()), answer.read()
        connection.close()
        return result

    def log_in(self) -> Browser:
        status, headers, _ = self.request(f"?token={self.server.guard.token}")
        assert (status, headers["Location"]) == (302, self.server.guard.folder)
        assert "HttpOnly" in headers["Set-Cookie"] and "SameSite=Strict" in headers["Set-Cookie"]
        assert f"Path={self.server.guard.folder}" in headers["Set-Cookie"]
        self.cookie = headers["Set-Cookie"].partition(";")[0]
        return self

    def json(self, path: str, **kwargs: Any) -> Any:
        status, _, body = self.request(path, **kwargs)
        assert status == 200, body
        return json.loads(body)

    def note(self, value: Any, **headers: str) -> tuple[int, Any]:
        sent = {"Content-Type": "application/json", "X-Gridiron": "1", **headers}
        status, _, body = self.request("note", "POST", sent, json.dumps(value))
        return status, json.loads(body)

    def wait_for(self, version: str, is_met: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first answer about changes that meets a condition; versions follow each other."""
        end = time.monotonic() + 300
        while True:
            assert time.monotonic() < end
            change = self.json(f"changes?since={version}")
            if is_met(change):
                return change  # type: ignore[no-any-return]
            version = change["version"]


class Running:
    """A server in a thread; `status` are the rows that it observes."""

    def __init__(self, batches: list[str], status: list[dict[str, Any]]) -> None:
        self.status = status
        self.submitted = list[str]()  # later
        self.live = Live(batches, lambda _: [dict(row) for row in self.status], dict, lambda: self.submitted)
        self.server = Server(self.live, 0, "<!doctype html>page", POLICY,
                             lambda batch, text: notes.add(batch, text, "1a2b3c"))
        self.thread = threading.Thread(target=self.server.run)


@pytest.fixture
def batch(tmp_path: Path) -> str:
    """Two runs that have ended, and one with two epochs that has not."""
    path = make_batch(tmp_path, grid({"base_lr": [0.1, 1.0]}, **DIGITS), epochs=3)
    make_run(path, 2, {**DIGITS, "base_lr": 0.5}, stats=curves({"base_lr": 0.5}, 2), end=None)
    return path


@pytest.fixture
def status() -> list[dict[str, Any]]:
    """The first rows that the server observes."""
    return []


@pytest.fixture
def running(batch: str, status: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    # handlers of signals can be set in the main thread alone
    monkeypatch.setattr("asyncio.unix_events._UnixSelectorEventLoop.add_signal_handler", lambda *_: None)
    run = Running([batch], status)
    run.thread.start()
    yield run
    run.server.stop()
    run.thread.join(120)
    assert not run.thread.is_alive()


@pytest.fixture
def browser(running: Running) -> Browser:
    return Browser(running.server).log_in()


def unpack(text: str, kind: str) -> list[float]:
    values: list[float] = np.frombuffer(base64.b64decode(text), f"<{kind}").tolist()
    return values


def append_epochs(batch: str, index: int, epochs: int) -> str:
    """Let the run go on to some epoch; its folder."""
    [folder] = Path(batch).glob(f"{index:03d}_*")
    (folder / run_folder.STATS).write_text(curves({"base_lr": 0.5}, epochs))
    return str(folder)


def test_page_is_served_with_its_policy(browser: Browser) -> None:
    status, headers, body = browser.request()
    assert (status, body) == (200, b"<!doctype html>page")
    assert headers["Content-Security-Policy"] == POLICY
    assert (headers["X-Content-Type-Options"], headers["X-Frame-Options"], headers["Referrer-Policy"],
            headers["Cache-Control"]) == ("nosniff", "DENY", "no-referrer", "no-store")
    assert "Server" not in headers and "Access-Control-Allow-Origin" not in headers


def test_requests_of_others_are_refused(browser: Browser) -> None:
    for headers in (
            {"Cookie": ""}, {"Cookie": "gridiron=wrong"}, {"Cookie": "gridiron="}, {"Host": "evil.example"},
            {"Host": "127.0.0.1.evil.example"}, {"Host": "localhost@evil.example"}, {"Host": "127.0.0.1:80:80"},
            {"Host": ""}, {"Origin": "http://evil.example"}, {"Origin": "null"}, {"Origin": "http://127.0.0.1:1"},
            {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}):
        for path in ("", "document", "changes?since=", "run?key=0:x", "curves?metric=x", "note", "nothing"):
            try:
                status, answer, body = browser.request(path, "POST" if path == "note" else "GET", headers,
                                                       "{}" if path == "note" else None)
            except ConnectionResetError:  # refused before its body was read
                assert path == "note"
                continue
            assert status in (400, 403) and "Set-Cookie" not in answer, (headers, path)
            assert status == 400 or answer["Content-Security-Policy"] == POLICY and json.loads(body).keys() == {"error"}
            assert "Access-Control-Allow-Origin" not in answer


def test_token_is_checked_with_the_host(running: Running) -> None:
    browser = Browser(running.server)
    token = running.server.guard.token
    for wrong in ("", "0" * 48, token[:-1], token.upper() + "é", "%ff%fe", f"{token}&token=x"):
        assert browser.request(f"?token={wrong.replace('é', '%C3%A9')}")[0] in (400, 403)
    for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
        assert browser.request(f"?token={token}", headers=headers)[0] == 403
    assert browser.request(f"?token={token}", folder="/")[0] == 403
    assert browser.request("document", headers={"Authorization": f"token {token}"})[0] == 403
    # through a tunnel the port, and the name of this machine, may be another one
    assert browser.request(f"?token={token}", headers={"Host": "localhost:9999"})[0] == 302


def test_other_methods_are_refused(browser: Browser) -> None:
    for method in ("HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "FOO", "post"):
        for path in ("", "document", "note"):
            status, headers, _ = browser.request(path, method)
            assert status in (400, 403, 405)
            assert not [name for name in headers if name.startswith("Access-Control")]


def test_other_addresses_do_not_exist(browser: Browser) -> None:
    for path in ("/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd", "/static/x", "/document/../../x",
                 "/%7f", "/document%00", "/%FF"):
        for folder in ("", browser.server.guard.folder.rstrip("/")):
            status, _, body = browser.request(path, folder=folder)
            assert status in (403, 404) and b"root:" not in body


def test_keys_of_no_run_are_refused(browser: Browser) -> None:
    browser.json("document")
    for key in ("", "0:nothing", "1:000", "../..", "0:../26-11-20-digits/000_digits+bas=0.1", "/etc/passwd",
                "0:000_digits+bas=0.1/../..", "__proto__", "0", "x" * 9000):
        status, _, body = browser.request(f"run?key={key.replace('+', '%2B')}")
        assert (status, json.loads(body)) == (404, {"error": "no run of these batches has this key"})


def test_large_requests_are_refused(browser: Browser) -> None:
    assert browser.note({"batch": 0, "text": "x" * 4001})[0] == 400
    with pytest.raises((OSError, http.client.HTTPException)):
        browser.request(f"changes?since={'x' * 20_000}")
    for headers in ({}, {"Transfer-Encoding": "chunked"}):
        try:
            status, _, _ = browser.request("note", "POST", {"X-Gridiron": "1", **headers}, "x" * 200_000)
        except (OSError, http.client.HTTPException):  # disconnected while it sent
            continue
        assert status in (400, 413)
    assert browser.request()[0] == 200


def test_slow_and_vanished_clients_harm_nobody(browser: Browser) -> None:
    address = ("127.0.0.1", browser.server.port)
    head = f"GET {browser.server.guard.folder}changes?since=x HTTP/1.1\r\nHost: {browser.host}\r\n"
    idle = [socket.create_connection(address) for _ in range(40)]
    for number, connection in enumerate(idle):
        connection.sendall((head if number % 2 else f"{head}Cookie: {browser.cookie}\r\n\r\n").encode())
    for connection in idle[::3]:
        connection.close()
    version = browser.json("document")["version"]
    threads = [threading.Thread(target=browser.json, args=[f"changes?since={version}"]) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert browser.json("document")["version"] == version
    append_epochs(str(browser.server.live.batches[0]), 2, 3)
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    for connection in idle:
        connection.close()


def test_document_is_sent_once(browser: Browser, batch: str) -> None:
    status, headers, body = browser.request("document", headers={"Accept-Encoding": "gzip"})
    built = json.loads(gzip.decompress(body))
    assert (status, headers["Content-Encoding"]) == (200, "gzip")
    assert built["live"] is True and built["runs"]["count"] == 3 and built["batches"][0]["path"] == batch
    assert built["version"] == headers["Etag"].strip('"')
    assert json.loads(browser.request("document")[2]) == built
    assert browser.request("document", headers={"If-None-Match": headers["Etag"]})[0] == 304


def test_new_epochs_are_sent_as_points(browser: Browser, batch: str) -> None:
    built = browser.json("document")
    run = built["runs"]["name"].index("002_digits+bas=0.5")
    append_epochs(batch, 2, 4)
    change = browser.wait_for(built["version"], lambda change: "runs" in change)
    assert change["runs"]["indices"] == [run] and change["runs"]["epochs"] == [4]
    [points] = change["curves"]
    assert (points["run"], points["after"], unpack(points["epoch"], "i4")) == (run, 2, [3, 4])
    assert set(points["of"]) == set(built["curves"]["metrics"])
    append_epochs(batch, 2, 6)
    newer = browser.wait_for(change["version"], lambda change: "runs" in change)
    assert unpack(newer["curves"][0]["epoch"], "i4") == [5, 6]
    # a browser that was away gets all of them
    assert unpack(browser.json(f"changes?since={built['version']}")["curves"][0]["epoch"], "i4") == [3, 4, 5, 6]


def test_rows_that_a_restart_dropped_are_replaced(browser: Browser, batch: str) -> None:
    built = browser.json("document")
    [folder] = Path(batch).glob("002_*")
    (folder / run_folder.STATS).write_text(curves({"base_lr": 0.7}, 1, seed=7))
    change = browser.wait_for(built["version"], lambda change: "curves" in change)
    assert (change["curves"][0]["after"], unpack(change["curves"][0]["epoch"], "i4")) == (-1, [1])


def test_end_of_a_run_changes_its_state_and_the_tables(browser: Browser, batch: str) -> None:
    built = browser.json("document")
    Path(append_epochs(batch, 2, 3), run_folder.DONE).write_text("completed\n")
    change = browser.wait_for(built["version"], lambda change: "done" in change.get("runs", {}).get("state", []))
    assert change["runs"]["end"] == ["completed"]
    tables = browser.wait_for(built["version"], lambda change: "batches" in change)
    assert "not ended" not in " ".join(tables["batches"][0]["best_runs"]["notes"])


RUNNING = {"run": "002_digits+bas=0.5", "state": "running", "why": HOSTILE, "slurm_job": "7"}


@pytest.fixture
def status_of_batch(batch: str, status: list[dict[str, Any]]) -> dict[str, Any]:
    """The only row that the server observes."""
    status.append({"batch": batch, **RUNNING})
    return status[0]


def test_states_come_from_the_status(status_of_batch: dict[str, Any], running: Running, browser: Browser,
                                     batch: str) -> None:
    row, change = status_of_batch, browser.json("document")
    run = change["runs"]["name"].index(row["run"])
    assert (change["runs"]["state"][run], change["runs"]["slurm_job"][run]) == ("running", "7")
    assert "\x1b" not in change["runs"]["why"][run]
    running.status = [row | {"state": "failed"}]
    Path(batch, row["run"], "claim-1").write_text("")  # files come and go when a run ends
    changed = browser.wait_for(change["version"], lambda change: "runs" in change)
    assert changed["runs"]["state"] == ["failed"]


def test_new_runs_and_parameters_reload_the_document(browser: Browser, batch: str) -> None:
    built = browser.json("document")
    make_run(batch, 3, {**DIGITS, "base_lr": 0.5, "batch_size": 16}, end=None)
    change = browser.wait_for(built["version"], lambda change: "reload" in change)
    assert "runs" not in change
    newer = browser.json("document")
    while "batch_size" not in newer["runs"]["parameters"]:  # the folder was read while it was made
        browser.wait_for(newer["version"], lambda change: "reload" in change)
        newer = browser.json("document")
    assert newer["runs"]["count"] == 4
    assert browser.json("changes?since=other-1")["reload"] is True
    for since in ("", "x", "-1", f"{newer['version']}0", "9" * 400, f"{newer['version'].partition('-')[0]}--1"):
        assert browser.json(f"changes?since={since}").get("reload") is True


def test_batch_that_is_deleted_leaves_the_page(browser: Browser, batch: str) -> None:
    version = browser.json("document")["version"]
    shutil.rmtree(batch)
    browser.wait_for(version, lambda change: "reload" in change)
    assert browser.json("document")["runs"]["count"] == 0


def test_notes_are_stored_and_sent(browser: Browser, batch: str) -> None:
    version = browser.json("document")["version"]
    text = f"base_lr 0.1 is best {HOSTILE} \ud800"
    status, answer = browser.note({"batch": 0, "text": f" {text} "})
    assert status == 200
    [note] = notes.read(batch)
    assert note.commit == "1a2b3c" and note.text.startswith("base_lr 0.1 is best \"><script>")
    assert answer["notes"] == [{"time": note.time, "commit": "1a2b3c", "text": note.text}]
    assert not set("\x1b\u202e\ud800") & set(note.text)
    change = browser.wait_for(version, lambda change: "batches" in change)
    assert change["batches"][0]["notes"] == answer["notes"]


def test_invalid_notes_are_refused(browser: Browser, batch: str) -> None:
    for value in ({}, [], 1, None, {"batch": 0}, {"batch": 1, "text": "x"}, {"batch": -1, "text": "x"},
                  {"batch": True, "text": "x"}, {"batch": "0", "text": "x"}, {"batch": 0, "text": " "},
                  {"batch": 0, "text": ["x"]}, {"batch": "../..", "text": "x"}):
        status, answer = browser.note(value)
        assert status == 400 and "a note" in answer["error"]
    assert notes.read(batch) == []


def test_notes_need_the_headers_of_the_page(browser: Browser, batch: str) -> None:
    for headers in ({"X-Gridiron": "0"}, {"Content-Type": "text/plain"},
                    {"Content-Type": "application/x-www-form-urlencoded"}, {"Origin": "http://evil.example"}):
        assert browser.note({"batch": 0, "text": "x"}, **headers)[0] == 403
    for body in (b"{", b"\xff", b"[" * 50_000):
        assert browser.request("note", "POST", {"Content-Type": "application/json", "X-Gridiron": "1"}, body)[0] == 400
    assert notes.read(batch) == []


def test_note_on_a_batch_that_cannot_be_written(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(batch: str, text: str) -> None:
        raise PermissionError(13, "Permission denied\r\nX-Evil: 1", batch)

    monkeypatch.setattr(running.server, "add_note", refuse)
    status, answer = Browser(running.server).log_in().note({"batch": 0, "text": "x"})
    assert status == 403 and answer["error"].startswith("the note cannot be stored: Permission denied")


def test_details_and_further_curves_are_sent_on_request(browser: Browser, batch: str) -> None:
    built = browser.json("document")
    key = built["runs"]["key"][1].replace("+", "%2B")
    found = browser.json(f"run?key={key}")
    assert found["different"] == {"base_lr": 1.0} and found["config"]["base_lr"] == 1.0
    assert found["command"].startswith(f"python experiments.py reproduce {batch}/001_")
    encoded = browser.json("curves?metric=train/loss")
    assert encoded["metrics"] == ["train/loss"] and len(unpack(encoded["grids"][0]["epoch"], "i4")) == 3 + 3 + 2
    for metric in ("nothing", "", "run", "epoch", "../x"):
        assert browser.request(f"curves?metric={metric}")[0] == 404


def test_nothing_is_read_while_no_browser_is_there(running: Running, batch: str,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    browser = Browser(running.server).log_in()
    version = browser.json("document")["version"]
    monkeypatch.setattr("src.dashboard.live._WATCHED_SECONDS", -1.0)
    running.live._last_request = 0.0
    end = time.monotonic() + 20
    while running.live._wake.is_set() or not running.live.is_asleep:
        assert time.monotonic() < end
        time.sleep(0.05)
    append_epochs(batch, 2, 5)
    time.sleep(0.2)
    assert running.live.published.version == version
    monkeypatch.setattr("src.dashboard.live._WATCHED_SECONDS", 60.0)
    assert browser.wait_for(version, lambda change: "runs" in change)["runs"]["epochs"] == [5]


def test_damaged_runs_are_left_out(running: Running, batch: str, capfd: pytest.CaptureFixture[str]) -> None:
    browser = Browser(running.server).log_in()
    version = browser.json("document")["version"]
    [folder] = Path(batch).glob("002_*")
    os.truncate(folder / run_folder.CONFIG, 0)
    (folder / "claim-1").write_text("")
    browser.wait_for(version, lambda change: "reload" in change)
    built = browser.json("document")
    assert built["runs"]["count"] == 2 and built["batches"][0]["skipped"]["rows"][0][1] == "config.yaml is empty"
    assert "warning" not in capfd.readouterr().err
