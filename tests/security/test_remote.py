"""A hostile remote machine: what it sends by `sync` and `--on HOST` neither becomes a path here nor leads to one."""
from __future__ import annotations

import io
import json
import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

import experiments
import submit_multiple
from src import run_folder
from src.analysis.report import write_report
from src.errors import RemoteError
from src.submission.remote import frames, remote_server, staging
from src.submission.remote.frames import Frame
from src.submission.remote.output import FilteredCopy
from tests.analysis.make_batch import make_batch
from tests.security.conftest import Victim
from tests.sshd.fixture import Sshd, sshd
from tests.submission.conftest import Project, project
from tests.submission.remote.test_download import NAME, Site, sites, submitted
from tests.submission.remote.test_remote_command import far

__all__ = ["far", "project", "sites", "sshd"]  # the fixtures

CLIPBOARD = "\x1b]52;c;Y3VybCBldmlsLnNo\x07"  # sets the clipboard of the terminal


@pytest.fixture
def hostile(sites: Path, victim: Victim) -> Path:
    """A batch of the remote machine with everything that must not arrive here."""
    batch = Path(make_batch(sites / "north" / "results"))
    submitted(sites / "north" / "results", dict.fromkeys(run_folder.run_names(batch), 1))
    run = sorted(batch.glob("0*"))[0]
    (run / run_folder.LOG).symlink_to(victim.file)
    (run / run_folder.ARRAYS).symlink_to(victim.folder)
    os.mkfifo(run / "pipe.out")
    (run / "setuid").write_text("#!/bin/sh\n")
    (run / "setuid").chmod(0o6777)
    (batch / "open").mkdir()
    (batch / "open").chmod(0o2777)
    (batch / "open" / "file").write_text("x")
    (batch / f"name{CLIPBOARD}").write_text("x")
    (batch / "-rf").write_text("x")
    (batch / "line\nbreak").mkdir()
    (batch / "line\nbreak" / "file").write_text("x")
    return batch


@pytest.mark.skipif(not shutil.which("rsync"), reason="needs rsync")
def test_links_specials_and_modes_do_not_even_reach_the_staging_folder(hostile: Path, tmp_path: Path) -> None:
    """Before they are checked there."""
    subprocess.run(["rsync", *staging.OPTIONS, f"{hostile}/", tmp_path / "staging"], check=True, capture_output=True)
    copies = list((tmp_path / "staging").rglob("*"))
    assert len(copies) > 12
    assert not [path for path in copies if path.is_symlink() or not (path.is_file() or path.is_dir())]
    assert {stat.S_IMODE(path.stat().st_mode) for path in copies} == {0o644, 0o755}


def test_sync_brings_neither_links_nor_modes_nor_odd_names(hostile: Path, victim: Victim,
                                                           capsys: pytest.CaptureFixture[str]) -> None:
    previous = os.umask(0)
    try:
        for _ in range(2):
            assert experiments.main(["sync", "north"]) == 1  # what was left out is reported
    finally:
        os.umask(previous)
    out = capsys.readouterr().out
    assert "its name or kind is not allowed" in out
    assert "\x1b" not in out
    copies = list(Path("results", NAME).rglob("*"))
    assert not [path for path in copies if path.is_symlink() or not (path.is_file() or path.is_dir())]
    assert {stat.S_IMODE(path.stat().st_mode) for path in copies if path.is_file()} == {0o644}
    assert {stat.S_IMODE(path.stat().st_mode) for path in copies if path.is_dir()} == {0o755}
    assert (Path("results", NAME) / "open" / "file").exists()
    assert not [path for path in copies if not path.name.isprintable() or path.name.startswith("-")]
    assert len(run_folder.run_names(f"results/{NAME}")) == 13  # 12 runs and the folder `open`
    page = Path(write_report([f"results/{NAME}"])).read_text()
    assert "my key" not in page
    assert victim.is_intact()


def test_sync_does_not_write_through_links_of_an_earlier_sync(hostile: Path, victim: Victim,
                                                              capsys: pytest.CaptureFixture[str]) -> None:
    """Earlier versions downloaded links. They are left as they are, and nothing is written through them."""
    local = Path("results", NAME)
    assert experiments.main(["sync", "north"]) == 1
    first, second = sorted(path.name for path in local.glob("0*"))[:2]
    (local / second).rename("away")
    (local / second).symlink_to(victim.folder)
    (hostile / second / victim.file.name).write_text("the attacker's key\n")
    (local / "stats.txt").symlink_to(victim.file)
    (hostile / "stats.txt").write_text("overwritten\n")
    (hostile / first / "arrays").unlink()
    (hostile / first / "arrays").mkdir()
    (hostile / first / "arrays" / "resume-0000000001.pt").write_text("x")
    (local / first / "arrays").symlink_to(victim.folder)
    assert experiments.main(["sync", "north"]) == 1
    out = capsys.readouterr().out
    assert f"results/{NAME}/{second}'" in out
    assert f"results/{NAME}/{first}/arrays'" in out
    assert victim.is_intact()
    assert (victim.folder / "resume-0000000001.pt").read_text() == "a state of another project"


def test_sync_does_not_delete_below_a_planted_index(hostile: Path, victim: Victim,
                                                    capsys: pytest.CaptureFixture[str]) -> None:
    Path("results").mkdir()
    Path("results", ".from-north").symlink_to(victim.folder)
    assert experiments.main(["sync", "north"]) == 2
    assert "no private folder for the download" in capsys.readouterr().err
    assert victim.is_intact()


def test_batch_that_is_a_link_here_is_skipped(hostile: Path, victim: Victim,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    Path("results").mkdir()
    Path("results", NAME).symlink_to(victim.folder)
    assert experiments.main(["sync", "north"]) == 1
    assert f"results/{NAME}: skipped: it is a symbolic link here" in capsys.readouterr().out
    assert victim.is_intact()


def test_journals_of_a_remote_machine_are_never_taken_for_own_ones(sites: Path) -> None:
    """It hides a journal from the index, and sends it with the batch; or sends a marker of yet another machine."""
    batch = Path(make_batch(sites / "north" / "results"))
    names = run_folder.run_names(batch)
    submitted(sites / "north" / "results", dict.fromkeys(names, 1))
    (batch / run_folder.SUBMISSIONS / "from-south.json").write_text("{}")
    received: list[str] = []

    class Hostile(Site):
        def rsync(self, *words: str, data: bytes = b"", show: bool = False, living: bool = False) -> str:
            if show:  # the batches: it ignores what is excluded
                words = tuple(word for word in words if not word.startswith("--exclude=/*/"))
                submitted(sites / "north" / "results", {names[0]: 7}, token="261120-120000-eeeeee")
                received.append(words[-1])
            return super().rsync(*words, data=data, show=show, living=living)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.submission.remote.test_download.Site", Hostile)
        assert experiments.main(["sync", "north"]) == 0
    assert received
    assert sorted(os.listdir(Path("results", NAME, run_folder.SUBMISSIONS))) == [
        "261120-100000-abcdef.jsonl", "from-north.json"]


@pytest.mark.parametrize("answer", [
    3, {}, [3], [[]], [{"batch": 3}], [{"batch": f"x/{NAME}", "runs": 3}], [{"batch": f"x/{NAME}", "runs": [3]}],
    [{"batch": f"x/{NAME}", "runs": [{"run": [], "state": "new", "why": ""}]}],
    [{"batch": f"x/{NAME}", "runs": [{"run": "000", "state": {}, "why": ""}]}]])
def test_malformed_status_of_a_remote_machine_is_a_note(answer: object, sites: Path, monkeypatch: pytest.MonkeyPatch,
                                                        capsys: pytest.CaptureFixture[str]) -> None:
    batch = Path(make_batch(sites / "north" / "results"))
    (sorted(batch.glob("0*"))[0] / run_folder.DONE).unlink()
    submitted(sites / "north" / "results", dict.fromkeys(run_folder.run_names(batch), 1))
    monkeypatch.setattr(Site, "told", answer)
    assert experiments.main(["sync", "north"]) == 0
    out = capsys.readouterr().out
    assert "note: " in out or answer == {}


@pytest.mark.parametrize("kind", ["path", "folder", "several files", "link"])
def test_report_of_a_hostile_machine_does_not_choose_where_it_is_written(
        kind: str, far: Project, tmp_path: Path, victim: Victim, capfd: pytest.CaptureFixture[str]) -> None:
    sent = tmp_path / "x" / "26-11-29-mine" / "job.yaml"
    sent.parent.mkdir(parents=True)
    sent.write_text("job_details: {command: [evil]}\n")
    mine = Path("results", "26-11-29-mine")
    mine.mkdir(parents=True)
    (mine / "job.yaml").write_text("mine")
    if kind == "folder":
        sent = sent.parent
    elif kind == "several files":
        (sent.parent / "job2.yaml").write_text("x")
        sent = sent.parent / "job*"
    elif kind == "link":
        sent.unlink()
        sent.symlink_to(victim.file)
    (far.folder / "experiments.py").unlink()
    (far.folder / "experiments.py").write_text(f"print('report: {sent}')\n")
    code = experiments.main(["report", f"results/{NAME}", "--on", "cluster"])
    report = Path("results", f"{NAME}.report.html")
    assert (code, report.exists()) == ((0, True) if kind == "path" else (2, False)), capfd.readouterr()
    assert sorted(os.listdir("results")) == [*[report.name] * report.exists(), "26-11-29-mine"]
    assert (mine / "job.yaml").read_text() == "mine"
    assert os.listdir(mine) == ["job.yaml"]


FRAMES = [b"[]", b'"x"', b"3", b"null", b"{", b"\xff", b'{"out": 5}', b'{"out": ["x"]}', b'{"out": "\\ud800"}',
          b'{"done": [1]}', b'{"done": "abcd"}', b'{"done": [1, 2, 3, 4]}', b'{"done": [-1, 2, "runs", 0]}',
          b'{"done": [1e999, 2, "runs", 0]}', b'{"done": {"a": 1}}', b'{"ask": "x"}', b'{"ask": null}', b'{"ask": [1]}',
          b'{"exit": "0"}', b'{"exit": true}', b'{"exit": 256}', b'{"exit": -1}', b'{"exit": 1.5}',
          b'{"exit": ' + b"9" * 5000 + b"}", b"[" * 100_000, b'{"a":' * 100_000, b'{"done": [NaN, 1, "x", 2]}']


@pytest.mark.parametrize("line", FRAMES, ids=lambda line: line[:24].decode(errors="replace"))
def test_malformed_frames_are_one_error(line: bytes) -> None:
    with pytest.raises(RemoteError, match="cannot be parsed"):
        frames.parse(line, "cluster")


def test_frames_are_parsed() -> None:
    line = json.dumps({"out": "ä\udcff", "err": "", "done": [1, 2, "runs", 0], "ask": 0, "exit": 255}).encode()
    assert frames.parse(line, "x") == Frame({"out": b"\xc3\xa4\xff", "err": b""}, (1, 2, "runs", 0), 0, 255)
    assert frames.parse(b'{"done": null, "new": 1}', "x") == Frame()
    assert frames.parse(b'{"lost": true}', "x").is_lost


def test_lines_before_the_mark_are_skipped_and_endless_ones_refused() -> None:
    lines = frames.Lines("MARK", "cluster")
    assert lines.add(b"motd" * 1_000_000) == []
    assert lines.add(b"\nMARK\n{}\n{") == [b"{}"]
    assert lines.add(b"}\n") == [b"{}"]
    with pytest.raises(RemoteError, match="cannot be parsed"):
        lines.add(b"x" * (frames.MAX_BYTES + 1))


@pytest.mark.parametrize("answer", ["{}", "[]", '{"going": 3}', '{"going": "../x"}', '{"going": "x; y"}', "x",
                                    "[" * 9999])
def test_malformed_token_is_an_error(answer: str) -> None:
    with pytest.raises(RemoteError, match="cannot be parsed"):
        frames.parse_token(answer, "cluster")
    assert frames.parse_token('{"going": null}', "cluster") is None
    assert frames.parse_token('{"going": "261120-100000-abcdef"}', "cluster") == "261120-100000-abcdef"


def serve(project: Project, sshd: Sshd, folder: Path, frame: bytes) -> None:
    """Write a hosts.toml whose host answers every command with a frame."""
    (folder / "there").mkdir()
    (folder / "frame").write_bytes(f"\n{remote_server.MARK}\n".encode() + frame + b"\n")
    (folder / "python").write_text(f"#!/bin/sh\ncat '{folder}/frame'\nsleep 1\n")
    (folder / "python").chmod(0o755)
    sshd.write_hosts(project.folder, folder / "there")
    hosts = project.folder / "hosts.toml"
    hosts.write_text(re.sub("(?m)^python = .*$", f"python = '{folder}/python'", hosts.read_text()))


@pytest.mark.parametrize("frame", [b"[]", b'{"out": 5}', b'{"done": [1]}', b'{"ask": "x"}', b'{"exit": "0"}',
                                   b'{"out": "\\ud800"}', b"[" * 100_000, b'{"exit": ' + b"9" * 5000 + b"}"],
                         ids=["list", "number", "short", "text", "exit", "surrogate", "deep", "long number"])
def test_hostile_server_is_one_line_of_error(frame: bytes, project: Project, sshd: Sshd, tmp_path: Path,
                                             capfd: pytest.CaptureFixture[str]) -> None:
    serve(project, sshd, tmp_path, frame)
    assert submit_multiple.main([str(project.spec), "--local", "-y", "--on", "cluster"]) == 2
    err = capfd.readouterr().err
    assert "error: cluster: it sent an answer that cannot be parsed" in err
    assert "Traceback" not in err


def test_escape_sequences_of_a_remote_command_are_not_printed(project: Project, sshd: Sshd, tmp_path: Path,
                                                              capfd: pytest.CaptureFixture[str]) -> None:
    lines = [{"out": f"a{CLIPBOARD}b\n"}, {"err": "c\x1b[2Jd\n"}, {"done": [1, 2, CLIPBOARD, 0]}, {"exit": 0}]
    serve(project, sshd, tmp_path, "\n".join(map(json.dumps, lines)).encode())
    assert submit_multiple.main([str(project.spec), "--local", "-y", "--on", "cluster"]) == 0
    captured = capfd.readouterr()
    assert "ab\n" in captured.out
    assert "cd\n" in captured.err
    assert "\x1b" not in captured.out + captured.err


def test_output_of_a_hostile_machine_is_filtered(far: Project, capfd: pytest.CaptureFixture[str]) -> None:
    (far.folder / "experiments.py").unlink()
    (far.folder / "experiments.py").write_text(f"import sys\nprint({f'a{CLIPBOARD}b'!r})\n"
                                               f"print({f'c{CLIPBOARD}d'!r}, file=sys.stderr)\nsys.exit(3)\n")
    assert experiments.main(["status", "--on", "cluster"]) == 3
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("ab\n", "cd\n")
    assert experiments.main(["logs", "x", "--raw", "--on", "cluster"]) == 3
    assert CLIPBOARD in capfd.readouterr().out


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_screen_of_a_remote_watch_is_cleared_and_nothing_else_passes(size: int) -> None:
    """With a terminal there, as for `watch`; however its output arrives in parts."""
    data = f"\x1b[H\x1b[2Jä 12:00\r\x1b[2K[##]{CLIPBOARD}\x1b[8;31mred\x1b[?1003h\x1b[3J\x07\x08 \x08\x1b".encode()
    stream = io.StringIO()
    copy = FilteredCopy(stream, screen=True)
    for start in range(0, len(data), size):
        copy.write(data[start:start + size])
    copy.write(b"")
    text = stream.getvalue()
    assert text.startswith("\x1b[H\x1b[2Jä 12:00\r\x1b[2K[##]")
    assert re.sub(r"\x1b\[(?:H|2J|2K)", "", text).count("\x1b") == 0


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_live_screen_of_the_host_is_shown_and_left(size: int) -> None:
    """The sequences of `watch` are kept, however they arrive in parts; a host that goes away leaves our own screen."""
    screen = "\x1b[?1049h\x1b[?25l\x1b[2J\x1b[12;1H\x1b[1;31mfailed\x1b[0m\x1b[K"
    stream = io.StringIO()
    copy = FilteredCopy(stream, screen=True)
    data = f"{screen}{CLIPBOARD}\x1b[30;40mhidden".encode()
    for start in range(0, len(data), size):
        copy.write(data[start:start + size])
    copy.write(b"")
    copy.close()
    text = stream.getvalue()
    assert text.startswith(screen) and text.endswith("hidden\x1b[0m\x1b[?25h\x1b[?1049l")
    assert "\x1b[30" not in text and "\x1b]" not in text
