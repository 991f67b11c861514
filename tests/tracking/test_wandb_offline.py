"""W&B itself, offline: what it leaves in the run folder, read by its own reader."""
from __future__ import annotations

import json
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import experiments
from src import run_folder
from src.archive import writer
from src.tracking import mlflow_run, trackers, wandb_tracker
from tests.tracking.test_mlflow import make_batch
from tests.training.toys import make_toy, train_toy

pytest.importorskip("wandb")
KEY = "0123456789abcdef0123456789abcdef01234567"


def records(path: Path) -> list[Any]:
    """All that is in a file of W&B, which is a log in LevelDB's format: blocks of 32 KiB, in which each fragment has a
    checksum (4 bytes), a length (2) and a kind (1: whole, 2: first, 3: middle, 4: last), after a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    data, at, payload, found = path.read_bytes(), 7, b"", []
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        length, kind = int.from_bytes(data[at + 4:at + 6], "little"), data[at + 6]
        if at + 7 + length > len(data):  # being written
            break
        payload += data[at + 7:at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(payload)
            found.append(record)
            payload = b""
    return found


def test_address_of_the_git_remote_is_not_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B itself would store it, with a token in its query."""
    address, user = "https://host.org/x.git?private_token=q7-planted-q7", ["-c", "user.name=n", "-c", "user.email=e@x"]
    for arguments in (["init", "--quiet"], ["remote", "add", "origin", address],
                      [*user, "commit", "--quiet", "--allow-empty", "-m", "1"]):
        subprocess.run(["git", "-C", tmp_path, *arguments], check=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trackers, "_SHORT_TIMEOUT", 60.0)
    for name, value in (("WANDB_MODE", "offline"), ("WANDB_API_KEY", KEY), ("WANDB_SILENT", "true")):
        monkeypatch.setenv(name, value)
    folder = make_batch(tmp_path / "results") / "000_tracked"
    folder.mkdir()
    (folder / "spec.yaml").write_text("base_lr: 0.1\n")
    train_toy(make_toy(wandb=True, wandb_project_name="p"), str(folder))
    wait_for_end(*folder.glob("wandb/offline-run-*/run-*.wandb"))
    stored = [path.read_bytes() for path in (folder / "wandb").rglob("*") if path.is_file()]
    assert stored and not any(b"host.org" in data for data in stored)


def wait_for_end(path: Path) -> None:
    """Wait until W&B's own process has written the end of a file, which it does after finish() has returned."""
    deadline = time.monotonic() + 300
    while not any(record.WhichOneof("record_type") == "exit" for record in records(path)):
        assert time.monotonic() < deadline, "the end of the file is missing"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a batch, trained offline."""
    folder = make_batch(tmp_path_factory.mktemp("results")) / "000_tracked+bas_lr=0.1+mom=0.9"
    folder.mkdir()
    (folder / "spec.yaml").write_text('base_lr: 0.1\nTAGS: ["adam", "mine"]\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trackers, "_SHORT_TIMEOUT", 60.0)  # a busy machine is no failure
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_API_KEY", KEY)
        patch.setenv("WANDB_SILENT", "true")
        train_toy(make_toy(wandb=True, wandb_project_name="p", wandb_tags=["mine"], log_steps=3), str(folder))
    wait_for_end(*folder.glob("wandb/offline-run-*/run-*.wandb"))
    return folder


def test_offline_run_is_complete(offline: Path) -> None:
    assert "WARNING" not in (offline / "training.log").read_text()
    path, = offline.glob("wandb/offline-run-*/run-*.wandb")
    assert path.name == f"run-{run_folder.identity(offline)}.wandb"
    found = records(path)
    run, = (record.run for record in found if record.WhichOneof("record_type") == "run")
    assert (run.run_id, run.run_group) == (run_folder.identity(offline), offline.parent.name)
    assert (run.display_name, run.project) == (offline.name, "p")
    assert sorted(run.tags) == ["adam", "bas_lr=0.1", "mine", "mom=0.9"]
    rows = [{item.nested_key[0] if item.nested_key else item.key: json.loads(item.value_json)
             for item in record.history.item} for record in found if record.WhichOneof("record_type") == "history"]
    assert [row["_step"] for row in rows] == [3, 4, 6, 8, 9, 12]
    steps = mlflow_run.read_rows(str(offline), "steps.csv")
    assert [(row["_step"], row["steps/loss"]) for row in rows if "steps/loss" in row] == [
        (row["step"], pytest.approx(row["loss"])) for row in steps]
    rows = [row for row in rows if "train/loss" in row]
    assert [row["_step"] for row in rows] == [4, 8, 12]  # the last is a row of steps.csv too
    header, *lines = [line.split(",") for line in (offline / "stats.csv").read_text().splitlines()]
    told = [float(line[header.index("train/loss")]) for line in lines]
    assert [row["train/loss"] for row in rows] == pytest.approx(told)
    summary: dict[str, Any] = {}
    for record in found:
        if record.WhichOneof("record_type") == "summary":
            summary |= {item.nested_key[0] if item.nested_key else item.key: json.loads(item.value_json)
                        for item in record.summary.update}
    assert summary["end"] == "completed"
    best = max(float(line[header.index("test/last/accuracy")]) for line in lines)
    assert summary["best/test/last/accuracy"] == pytest.approx(best)


def test_key_is_not_in_any_file(offline: Path) -> None:
    for path in offline.rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes(), path


class _Refuses(BaseHTTPRequestHandler):
    """A server that knows no key."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(401)
        self.end_headers()
        self.wfile.write(b'{"errors": [{"message": "permission denied"}]}')

    do_GET = do_POST

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """It is where W&B's server is said to be, and nobody's own settings and keys are at hand."""
    served = ThreadingHTTPServer(("127.0.0.1", 0), _Refuses)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{served.server_port}")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "online")
    yield
    served.shutdown()
    served.server_close()


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(("key", "words"), [(None, "No API key configured"), (KEY, "permission denied")])
def test_sync_reports_runs_that_were_not_sent(offline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                          key: str | None, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`wandb sync` itself, whose exit code is 0 when the server refuses."""
    monkeypatch.chdir(tmp_path)
    (monkeypatch.setenv("WANDB_API_KEY", key) if key else monkeypatch.delenv("WANDB_API_KEY", raising=False))
    assert experiments.main(["sync-wandb", str(offline.parent)]) == 1
    said = capsys.readouterr().out
    assert words in said and said.endswith("0 runs sent, 1 failed\n") and KEY not in said
    assert list(tmp_path.iterdir()) == []  # it leaves nothing where one stands


@pytest.mark.usefixtures("server")
def test_sync_fails_fast_without_network(offline: Path, monkeypatch: pytest.MonkeyPatch,
                                            capsys: pytest.CaptureFixture[str]) -> None:
    """`wandb sync` would try for hours."""
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert experiments.main(["sync-wandb", str(offline.parent)]) == 2
    assert "http://127.0.0.1:9 does not answer ([Errno 111] Connection refused): nothing is sent" in (
        capsys.readouterr().err)


@pytest.mark.usefixtures("server")
def test_sync_sends_each_run_once(offline: Path, monkeypatch: pytest.MonkeyPatch,
                                   capsys: pytest.CaptureFixture[str]) -> None:
    """`wandb sync` for each offline run, until it has left its mark."""
    fake = offline.parent / "fake"
    (fake / "wandb").mkdir(parents=True)
    (fake / "wandb" / "__init__.py").write_text("")
    (fake / "wandb" / "__main__.py").write_text(
        "import glob, os, sys\nassert sys.argv[1] == 'sync'\n"
        "if os.path.exists(os.environ['FAIL']): sys.exit('no network')\n"
        "open(glob.glob(sys.argv[2] + '/*.wandb')[0] + '.synced', 'w').close()\n")
    monkeypatch.setenv("PYTHONPATH", str(fake))
    monkeypatch.setenv("FAIL", str(fake))
    words = ["sync-wandb", str(offline.parent)]
    assert experiments.main(words) == 1
    assert capsys.readouterr().out.endswith(": failed: no network\n0 runs sent, 1 failed\n")
    monkeypatch.setenv("FAIL", str(fake / "none"))
    assert experiments.main(words) == 0
    assert capsys.readouterr().out.endswith(": sent\n1 run sent\n")
    assert experiments.main(words) == 0
    assert capsys.readouterr().out == "0 runs sent\n"
    assert list(wandb_tracker.sync([str(offline.parent)])) == []


def test_sync_names_the_command_for_archived_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    batch = tmp_path / "26-11-20-a b"
    runs = ["000_sent", "001_half"]
    for name in runs:
        for offline in ("offline-run-1", "offline-run-2"):
            (batch / name / "wandb" / offline).mkdir(parents=True)
            (batch / name / "wandb" / offline / "run.wandb").write_text("")
        (batch / name / "wandb" / "offline-run-1" / "run.wandb.synced").write_text("")
        (batch / name / "spec.yaml").write_text("base_lr: 1\n")
    (batch / "job.yaml").write_text("job_details: {name: a b}\n")
    (batch / "000_sent" / "wandb" / "offline-run-2" / "run.wandb.synced").write_text("")
    writer.publish_runs(str(batch), {name: writer.list_entries(str(batch / name)) for name in runs})
    for name in runs:
        shutil.rmtree(batch / name)
    assert experiments.main(["sync-wandb", str(batch)]) == 1
    command = f"python experiments.py unarchive '{batch}/001_half'"
    assert capsys.readouterr().out == (f"{batch}/001_half: failed: archived: `{command}` first\n"
                                       "0 runs sent, 1 failed\n")
