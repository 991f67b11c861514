"""Messages about a batch, as a receiver on this machine gets them."""
from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import experiments
from src.errors import JobSpecError
from src.io import yaml_io
from src.monitoring.gpu_idle import Limits
from src.submission.spec.notify_spec import Notify, parse_idle_gpu, parse_notify
from src.submission.status import notify
from src.submission.status.notify import Notifier
from tests.fake_slurm.fixture import FakeSlurm, fake_slurm
from tests.submission.conftest import Project, project
from tests.submission.spec.test_job_spec import with_details

__all__ = ["fake_slurm", "project"]  # fixtures
pytest.importorskip("apprise")

KEY = "a-key-of-the-receiver"


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, str]]]:
    """The messages to a server on this machine, whose address is in $GRIDIRON_NOTIFY."""
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


# the look-after program of a project whose code lies elsewhere
EXPERIMENTS = """\
import os, runpy, sys
sys.path.insert(0, os.environ["GRIDIRON_TEST_ROOT"])
sys.argv[0] = "experiments.py"
runpy.run_path(os.environ["GRIDIRON_TEST_ROOT"] + "/experiments.py", run_name="__main__")
"""


def for_slurm(project: Project) -> str:
    """The files that Slurm jobs of the project need; its submit script."""
    (project.folder / "activate.sh").write_text(f"PATH={os.path.dirname(sys.executable)}:$PATH\n")
    (project.folder / "experiments.py").write_text(EXPERIMENTS)
    (project.folder / "s.sh").write_text(f"#!/bin/bash\nexec {sys.executable} train.py \"$@\"\n")
    return "s.sh"


def titles(received: list[dict[str, str]]) -> list[str]:
    """The titles of the messages, without the name of the batch."""
    return [message["title"].partition(" ")[2] for message in received]


def test_failure_and_end_are_sent_once(project: Project, received: list[dict[str, str]]) -> None:
    want_messages(project)
    assert project.submit(project.spec, "--local", "-y") == 1
    first, last = received
    assert first["title"] == f"{project.batch.name}: a run failed"
    assert last["title"] == f"{project.batch.name} has ended"
    lines = last["message"].splitlines()
    assert lines[0] == "4 runs: 2 done, 2 failed"
    assert any("RuntimeError: unlucky" in line for line in lines)
    assert lines[-1] == f"python submit_multiple.py -r 're sults/{project.batch.name}'"


def test_retry_sends_messages_again_without_a_job_spec(project: Project, received: list[dict[str, str]]) -> None:
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


def test_message_is_sent_when_the_breaker_trips(project: Project, received: list[dict[str, str]]) -> None:
    want_messages(project, "[13]")
    project.spec.write_text(project.spec.read_text().replace("[0.1, 1]", "[1, 2, 3, 4, 5, 6, 7, 8]"))
    assert project.submit(project.spec, "--local", "--workers", "1", "-y", "--max-failures", "2") == 2
    assert len(received) == 1 and received[0]["title"].endswith("a run failed")


def test_many_runs_send_few_messages(project: Project, received: list[dict[str, str]]) -> None:
    want_messages(project, "range(13, 15)")
    project.submit(project.spec, "--local", "-y")
    notices = Notifier(Notify(), str(project.batch), "other")
    for _ in range(500):
        notices.run_ended(True)
    notices.send("ended")
    assert len(received) == 2 + 2  # of two submissions


def test_digest_is_sent_when_due(project: Project, received: list[dict[str, str]],
                                 monkeypatch: pytest.MonkeyPatch) -> None:
    want_messages(project, "[8]", "{digest: 2}")
    project.submit(project.spec, "--local", "-y")
    received.clear()
    now = [0.0]
    monkeypatch.setattr(notify.time, "monotonic", lambda: now[0])
    notices = Notifier(Notify(digest=2), str(project.batch), "other")
    for hour in range(9):
        now[0] = hour * 3600 + 1
        notices.run_ended(False)
    assert [message["title"] for message in received] == [f"{project.batch.name} continues"] * 4


def test_slurm_jobs_send_the_messages(project: Project, received: list[dict[str, str]], fake_slurm: FakeSlurm ) -> None:
    """One waits for a failure, one for the end; both in the partition of the runs."""
    want_messages(project)
    assert project.submit(project.spec, "-s", for_slurm(project), "-y", "--sbatch", "account=root") == 0
    words = [call.argv for call in fake_slurm.calls("sbatch")][-2:]
    jobs = fake_slurm.jobs("PENDING")[:4]
    assert f"--dependency={'?'.join(f'afternotok:{job}' for job in jobs)}" in words[0]
    assert f"--dependency=afterany:{':'.join(jobs)}" in words[1]
    assert all("--account=root" in line for line in words)
    fake_slurm.run_all()
    assert sorted(message["title"].split(maxsplit=1)[1] for message in received) == ["a run failed", "has ended"]
    assert all("2 failed" in message["message"] for message in received if "ended" in message["title"])


@pytest.mark.parametrize("way", [[], ["--array"], ["--workers", "1"]], ids=" ".join)
def test_failure_is_sent_while_other_runs_wait(project: Project, received: list[dict[str, str]], fake_slurm: FakeSlurm,
                                               way: list[str]) -> None:
    """By the run itself: of arrays and workers Slurm says nothing before their end. Not again by the next one."""
    want_messages(project, "[13, 18]")
    assert project.submit(project.spec, "-s", for_slurm(project), "-y", *way) == 0
    *jobs, _failed, _ended = fake_slurm.jobs("PENDING")
    fake_slurm.start(jobs[0])
    end = time.monotonic() + 300
    while not received:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert titles(received) == ["a run failed"] and "RuntimeError: unlucky" in received[0]["message"]
    (project.batch / "go").touch()
    for job in jobs[1:]:
        fake_slurm.start(job)
    for job in jobs:
        fake_slurm.wait(job)
    fake_slurm.run_all()
    assert titles(received) == ["a run failed", "has ended"]
    assert "2 done, 2 failed" in received[1]["message"]


@pytest.mark.parametrize("way", [[], ["--workers", "1"]], ids=" ".join)
def test_idle_gpu_is_announced_while_the_run_goes_on(way: list[str], project: Project, received: list[dict[str, str]],
                                                     fake_slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]) -> None:
    """The driver is a stand-in, whose GPU is 4 % busy; the run waits for a file."""
    want_messages(project, "[18]", "true, idle_gpu: {minutes: 0.02}")
    project.spec.write_text(project.spec.read_text().replace("[0.1, 1]", "1"))
    (project.folder / "pynvml.py").write_text("import sys\nfrom tests.fake_nvml import FakeNvml\n"
                                              "sys.modules[__name__] = FakeNvml()\nsys.modules[__name__].busy = 4.0\n")
    script = project.folder / for_slurm(project)
    script.write_text(script.read_text().replace("exec", "export CUDA_VISIBLE_DEVICES=0\nexec"))
    assert project.submit(project.spec, "-s", "s.sh", "-y", *way) == 0
    job, *_ = fake_slurm.jobs("PENDING")
    fake_slurm.start(job)
    end = time.monotonic() + 300
    while not received:
        assert time.monotonic() < end
        time.sleep(0.1)
    run, = project.runs()
    assert titles(received) == ["a run leaves its GPU idle"]
    warning = "GPU 4 % busy in the last 0 min: it waits, using 0.0"
    assert f"{run.name}: {warning}" in received[0]["message"]
    capsys.readouterr()
    assert experiments.main(["status", str(project.batch), "--json"]) == 0
    row, = json.loads(capsys.readouterr().out)[0]["runs"]
    assert row["gpu_idle"].startswith(warning) and row["why"] == row["gpu_idle"]
    assert experiments.main(["status", str(project.batch)]) == 0
    assert warning in capsys.readouterr().out
    (project.batch / "go").touch()
    fake_slurm.wait(job)
    assert not (run / "gpu-idle.json").exists()
    record = json.loads((run / "attempt-1-0.json").read_text())
    assert record["used"]["gpu"] == 4 and record["used"]["gpus"] == 1
    assert len(received) == 1


def test_idle_gpu_of_an_earlier_start_or_an_ended_run_is_not_shown(project: Project,
                                                                   capsys: pytest.CaptureFixture[str]) -> None:
    project.write_spec("[8]")
    assert project.submit(project.spec, "--local", "-y") == 0
    (project.runs()[0] / "gpu-idle.json").write_text(
        json.dumps({"busy": 4, "minutes": 15, "cause": "x", "ticket": 1, "number": 0}))
    capsys.readouterr()
    assert experiments.main(["status", str(project.batch), "--json"]) == 0
    assert all(row["gpu_idle"] == "" for row in json.loads(capsys.readouterr().out)[0]["runs"])


@pytest.mark.parametrize("value", ["5", "{below: -1}", "{minutes: 0}", "{percent: 1}", "[1]", "{below: x}", "1e9"])
def test_invalid_idle_gpu_names_what_is_allowed(value: str) -> None:
    with pytest.raises(JobSpecError, match="invalid idle_gpu") as error:
        parse_idle_gpu(yaml_io.load(value, "x"), "x.yaml")
    assert "{below: 10, minutes: 15}" in str(error.value)


def test_idle_gpu_may_be_off_or_changed() -> None:
    assert parse_idle_gpu(True, "") is None
    assert parse_idle_gpu(False, "") == Limits(0, 15)
    assert parse_idle_gpu({"minutes": 30}, "") == Limits(10, 30)


def test_end_is_sent_after_successors_have_ended(project: Project, received: list[dict[str, str]],
                                                 fake_slurm: FakeSlurm ) -> None:
    """The job that tells of it finds runs pending or running: another waits for these. A later submission tells."""
    want_messages(project, "[8]")
    assert project.submit(project.spec, "-s", for_slurm(project), "-y") == 0
    token, = (path.name.removesuffix(".jsonl") for path in (project.batch / "submissions").glob("*.jsonl"))
    assert experiments.main(["notify", str(project.batch), token, "ended"]) == 0
    assert received == []
    words, jobs = fake_slurm.calls("sbatch")[-1].argv, fake_slurm.jobs("PENDING")[:2]
    assert {f"--dependency=afterany:{':'.join(jobs)}", "--begin=now+1minutes"} <= set(words)
    assert words[-2:] == [token, "ended"]
    plan = project.batch / "submissions" / f"{token}.jsonl"
    first = json.loads(plan.read_text().splitlines()[0])
    (project.batch / "submissions" / "99.jsonl").write_text(json.dumps({**first, "code": "99"}) + "\n")
    for job in jobs:
        fake_slurm.set_state(job, "CANCELLED")
    assert experiments.main(["notify", str(project.batch), token, "ended"]) == 0
    assert received == []
    assert experiments.main(["notify", str(project.batch), "99", "ended"]) == 0
    assert titles(received) == ["has ended"]


@pytest.mark.usefixtures("received")
def test_interrupted_submission_submits_notify_jobs(project: Project, fake_slurm: FakeSlurm) -> None:
    """At --max-queued, as at a refusal or Ctrl-C: what was submitted runs all the same."""
    want_messages(project, "[8]")
    assert project.submit(project.spec, "-s", for_slurm(project), "-y", "--max-queued", "1") == 3
    job = fake_slurm.jobs("PENDING")[0]
    assert [word for call in fake_slurm.calls("sbatch") for word in call.argv if word.startswith("--dep")] == [
        f"--dependency=afternotok:{job}", f"--dependency=afterany:{job}"]


@pytest.mark.usefixtures("received")
def test_rejected_notify_jobs_are_a_note(project: Project, fake_slurm: FakeSlurm,
                                         capsys: pytest.CaptureFixture[str]) -> None:
    want_messages(project, "[8]")
    fake_slurm.set(MaxSubmitJobs=2)
    assert project.submit(project.spec, "-s", for_slurm(project), "-y") == 0
    out, error = capsys.readouterr()
    assert "submitted 2 runs" in out and "\nnote: not all messages will be sent: sbatch: error: AssocMaxSubmit" in error


def test_dependency_on_many_jobs_is_limited(project: Project, fake_slurm: FakeSlurm) -> None:
    """An argument of a command has an end, at 128 KiB."""
    (project.results / "x" / "submissions").mkdir(parents=True)
    jobs = [f"1{number:07d}" for number in range(20_000)]
    batch = str(project.results / "x")
    assert notify.submit_notify_jobs(Notify(), batch, "t", jobs, str(project.folder), {}) == ""
    failed, ended = (call.argv for call in fake_slurm.calls("sbatch"))
    assert max(map(len, failed + ended)) < 2**15
    assert any("=afternotok:10000000?" in word for word in failed)
    assert any(word.endswith(":10019999") for word in ended)


def test_address_is_written_nowhere(project: Project, received: list[dict[str, str]],
                                    capfd: pytest.CaptureFixture[str] ) -> None:
    want_messages(project)
    project.submit(project.spec, "--local", "-y")
    assert received
    assert KEY not in "".join(capfd.readouterr())
    for path in project.folder.rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes(), path


@pytest.mark.parametrize("address", ["json://127.0.0.1:9/x", "nonsense://x"])
def test_unreachable_receiver_is_a_note(project: Project, monkeypatch: pytest.MonkeyPatch, address: str,
                                        capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("MY_CHANNEL", address)
    want_messages(project, "[8]", "$MY_CHANNEL")
    assert project.submit(project.spec, "--local", "-y") == 0
    assert "note: a message could not be sent to every address of notify" in capsys.readouterr().err


def test_missing_apprise_is_a_note(project: Project, received: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch,
                                   capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "apprise", None)
    want_messages(project, "[8]")
    assert project.submit(project.spec, "--local", "-y") == 0
    assert "apprise is not installed" in capsys.readouterr().err


def test_message_is_sent_by_hand_also_without_notify(project: Project, received: list[dict[str, str]],
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    assert project.submit(project.spec, "--local", "-y") == 0
    assert experiments.main(["notify", str(project.batch)]) == 2
    assert "this batch requests no messages" in capsys.readouterr().err
    want_messages(project, "[9]")
    assert project.submit(project.spec, "--local", "-y", "-o") == 0
    assert experiments.main(["notify", str(project.batch)]) == 0
    assert received[-1]["title"].endswith("continues")


def test_addresses_come_from_a_private_file_or_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRIDIRON_NOTIFY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(JobSpecError, match=r"no addresses in ~/.gridiron-notify; write them to"):
        Notify().addresses()
    (tmp_path / ".gridiron-notify").write_text("slack://a/b/c\nmailto://me:x@example.org\n")
    os.chmod(tmp_path / ".gridiron-notify", 0o644)
    with pytest.raises(JobSpecError, match="other users can read this file"):
        Notify().addresses()
    os.chmod(tmp_path / ".gridiron-notify", 0o600)
    assert Notify().addresses() == ["slack://a/b/c", "mailto://me:x@example.org"]
    with pytest.raises(JobSpecError, match=r"no addresses in \$NONE; export NONE"):
        Notify("$NONE").addresses()


def test_invalid_notify_is_an_error() -> None:
    assert with_details("notify: true").notify == Notify()
    assert with_details("notify: false").notify is None
    assert with_details("notify: $SLACK").notify == Notify("$SLACK")
    assert with_details("notify: {to: ~/x, digest: 6}").notify == Notify("~/x", 6)
    for wrong, message in (("'slack://a/b'", "an address is a secret"), ("{digest: 0}", "invalid notify"),
                           ("{too: x}", "invalid notify"), ("3", "invalid notify")):
        with pytest.raises(JobSpecError, match=message):
            with_details(f"notify: {wrong}")


@pytest.mark.parametrize("address", ["slack://a/b", "mailto:user:password@host", "https://host/?token=x", "tgram:a/b"])
def test_address_in_a_job_spec_is_refused(address: str) -> None:
    for value in (address, {"to": address}):
        with pytest.raises(JobSpecError, match="an address is a secret, and job specs are stored with the results"):
            parse_notify(value, "x.yaml")


def test_missing_addresses_are_an_error_before_anything_is_written(project: Project, monkeypatch: pytest.MonkeyPatch,
                                                                   capsys: pytest.CaptureFixture[str]) -> None:
    want_messages(project, "[8]", "$NOT_SET")
    assert project.submit(project.spec, "--local", "-y") == 2
    assert "no addresses in $NOT_SET" in capsys.readouterr().err
    assert not project.results.exists()
