"""Messages about a batch, as a receiver on this machine gets them."""
from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import experiments
from src.errors import JobSpecError
from src.submission import notify
from src.submission.notify import Notices, Notify
from tests.fake_slurm.fixture import FakeSlurm, fake_slurm
from tests.submission.conftest import Project, project
from tests.submission.test_job_spec import with_details

__all__ = ["fake_slurm", "project"]  # fixtures
pytest.importorskip("apprise")

KEY = "a-key-of-the-receiver"


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, str]]]:
    """What a server on this machine gets, whose address is in $GRIDIRON_NOTIFY."""
    got: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("GRIDIRON_NOTIFY", f"json://127.0.0.1:{server.server_port}/{KEY}")
    yield got
    server.shutdown()
    server.server_close()


def want_messages(project: Project, batch_sizes: str = "[8, 13]", notify: str = "true") -> None:
    project.write_spec(batch_sizes)
    project.spec.write_text(project.spec.read_text().replace("sults}", f"sults, notify: {notify}}}"))


def test_a_failure_and_the_end_are_told_once(project: Project, received: list[dict[str, str]]) -> None:
    want_messages(project)
    assert project.submit(project.spec, "--local", "-y") == 1
    first, last = received
    assert first["title"] == f"{project.batch.name}: a run failed"
    assert last["title"] == f"{project.batch.name} has ended"
    lines = last["message"].splitlines()
    assert lines[0] == "4 runs: 2 done, 2 failed"
    assert any("RuntimeError: unlucky" in line for line in lines)
    assert lines[-1] == f"python submit_multiple.py -r 're sults/{project.batch.name}'"


def test_a_retry_tells_again_and_needs_no_job_spec(project: Project, received: list[dict[str, str]]) -> None:
    want_messages(project)
    project.submit(project.spec, "--local", "-y")
    received.clear()
    (project.batch / "mended").touch()
    for run in project.runs():
        (run / "stats.csv").write_text("epoch,val/last/accuracy\n1,0.5\n2,0.75\n")
    assert project.submit("-r", project.batch, "-y") == 0
    only, = received
    assert only["title"].endswith("has ended")
    assert only["message"].splitlines() == [
        "4 runs: 4 done", f"best: 0.75 val/last/accuracy of {project.runs()[0].name}"]


def test_the_breaker_is_told(project: Project, received: list[dict[str, str]]) -> None:
    want_messages(project, "[13]")
    project.spec.write_text(project.spec.read_text().replace("[0.1, 1]", "[1, 2, 3, 4, 5, 6, 7, 8]"))
    assert project.submit(project.spec, "--local", "--workers", "1", "-y", "--max-failures", "2") == 2
    assert len(received) == 1 and received[0]["title"].endswith("a run failed")


def test_many_runs_send_few_messages(project: Project, received: list[dict[str, str]]) -> None:
    want_messages(project, "range(13, 15)")
    project.submit(project.spec, "--local", "-y")
    notices = Notices(Notify(), str(project.batch), "other")
    for _ in range(500):
        notices.run_ended(True)
    notices.send("ended")
    assert len(received) == 2 + 2  # of two submissions


def test_a_digest_comes_when_it_is_time(project: Project, received: list[dict[str, str]],
                                        monkeypatch: pytest.MonkeyPatch) -> None:
    want_messages(project, "[8]", "{digest: 2}")
    project.submit(project.spec, "--local", "-y")
    received.clear()
    now = [0.0]
    monkeypatch.setattr(notify.time, "monotonic", lambda: now[0])
    notices = Notices(Notify(digest=2), str(project.batch), "other")
    for hour in range(9):
        now[0] = hour * 3600 + 1
        notices.run_ended(False)
    assert [message["title"] for message in received] == [f"{project.batch.name} goes on"] * 4


def test_with_slurm_small_jobs_send_them(project: Project, received: list[dict[str, str]], fake_slurm: FakeSlurm
                                         ) -> None:
    """One waits for a failure, one for the end; both in the partition of the runs."""
    want_messages(project)
    (project.folder / "s.sh").write_text(f"#!/bin/bash\nexec {sys.executable} train.py \"$@\"\n")
    (project.folder / "activate.sh").write_text(f"PATH={os.path.dirname(sys.executable)}:$PATH\n")
    (project.folder / "experiments.py").write_text(
        "import os, sys\nsys.path.insert(0, os.environ['GRIDIRON_TEST_ROOT'])\nsys.argv[0] = 'experiments.py'\n"
        "import importlib.util as u\ns = u.spec_from_file_location('e', os.environ['GRIDIRON_TEST_ROOT'] + "
        "'/experiments.py')\nm = u.module_from_spec(s)\ns.loader.exec_module(m)\nsys.exit(m.main(sys.argv[1:]))\n")
    assert project.submit(project.spec, "-s", "s.sh", "-y", "--sbatch", "account=root") == 0
    words = [call.argv for call in fake_slurm.calls("sbatch")][-2:]
    jobs = fake_slurm.jobs("PENDING")[:4]
    assert f"--dependency={'?'.join(f'afternotok:{job}' for job in jobs)}" in words[0]
    assert f"--dependency=afterany:{':'.join(jobs)}" in words[1]
    assert all("--account=root" in line for line in words)
    fake_slurm.run_all()
    assert sorted(message["title"].split(maxsplit=1)[1] for message in received) == ["a run failed", "has ended"]
    assert all("2 failed" in message["message"] for message in received if "ended" in message["title"])


def test_the_address_is_nowhere(project: Project, received: list[dict[str, str]], capfd: pytest.CaptureFixture[str]
                                ) -> None:
    want_messages(project)
    project.submit(project.spec, "--local", "-y")
    assert received
    assert KEY not in "".join(capfd.readouterr())
    for path in project.folder.rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes(), path


@pytest.mark.parametrize("address", ["json://127.0.0.1:9/x", "nonsense://x"])
def test_a_receiver_that_is_away_costs_a_line(project: Project, monkeypatch: pytest.MonkeyPatch, address: str,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("MY_CHANNEL", address)
    want_messages(project, "[8]", "$MY_CHANNEL")
    assert project.submit(project.spec, "--local", "-y") == 0
    assert "note: a message could not be sent to every address of notify" in capsys.readouterr().err


def test_without_apprise_a_line_says_so(project: Project, received: list[dict[str, str]],
                                        monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "apprise", None)
    want_messages(project, "[8]")
    assert project.submit(project.spec, "--local", "-y") == 0
    assert "apprise is not installed" in capsys.readouterr().err


def test_a_batch_without_messages_and_one_by_hand(project: Project, received: list[dict[str, str]],
                                                  capsys: pytest.CaptureFixture[str]) -> None:
    assert project.submit(project.spec, "--local", "-y") == 0
    assert experiments.main(["notify", str(project.batch)]) == 2
    assert "asks for no messages" in capsys.readouterr().err
    want_messages(project, "[9]")
    assert project.submit(project.spec, "--local", "-y", "-o") == 0
    assert experiments.main(["notify", str(project.batch)]) == 0
    assert received[-1]["title"].endswith("goes on")


def test_addresses_come_from_where_nobody_else_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRIDIRON_NOTIFY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(JobSpecError, match=r"no addresses in ~/.gridiron-notify; write them into"):
        Notify().addresses()
    (tmp_path / ".gridiron-notify").write_text("slack://a/b/c\nmailto://me:x@example.org\n")
    os.chmod(tmp_path / ".gridiron-notify", 0o644)
    with pytest.raises(JobSpecError, match="others can read this file"):
        Notify().addresses()
    os.chmod(tmp_path / ".gridiron-notify", 0o600)
    assert Notify().addresses() == ["slack://a/b/c", "mailto://me:x@example.org"]
    with pytest.raises(JobSpecError, match=r"no addresses in \$NONE; export NONE"):
        Notify("$NONE").addresses()


def test_what_a_job_spec_may_say() -> None:
    assert with_details("notify: true").notify == Notify()
    assert with_details("notify: false").notify is None
    assert with_details("notify: $SLACK").notify == Notify("$SLACK")
    assert with_details("notify: {to: ~/x, digest: 6}").notify == Notify("~/x", 6)
    for wrong, message in (("'slack://a/b'", "an address is a key"), ("{digest: 0}", "says nothing"),
                           ("{too: x}", "says nothing"), ("3", "says nothing")):
        with pytest.raises(JobSpecError, match=message):
            with_details(f"notify: {wrong}")


def test_missing_addresses_are_told_before_anything_is_written(project: Project, monkeypatch: pytest.MonkeyPatch,
                                                               capsys: pytest.CaptureFixture[str]) -> None:
    want_messages(project, "[8]", "$NOT_SET")
    assert project.submit(project.spec, "--local", "-y") == 2
    assert "there are no addresses in $NOT_SET" in capsys.readouterr().err
    assert not project.results.exists()
