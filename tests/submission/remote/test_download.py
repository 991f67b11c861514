"""Fetching results: by a real rsync, from folders here and from a real sshd; sites brought together, cut off, again."""
from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import pytest

import experiments
import submit_multiple
from src import notes, run_folder
from src.analysis.reading.results import read_results
from src.errors import RemoteError
from src.io import files
from src.submission.batch import sync_markers
from src.submission.batch.journal import SLURM, Journal
from src.submission.batch.shard import Shard
from src.submission.remote import download
from src.submission.remote.hosts import Host
from src.submission.remote.ssh import Remote
from src.submission.slurm import client
from src.submission.status import states, status
from src.submission.status.observe import observe
from tests.analysis.make_batch import DIGITS, make_batch
from tests.conftest import ROOT
from tests.sshd.fixture import Sshd, sshd
from tests.submission.conftest import Project, project

__all__ = ["project", "sshd"]  # the fixtures

pytestmark = pytest.mark.skipif(shutil.which("rsync") is None, reason="rsync is not installed here")

NAME = "26-11-20-digits"


class Site(Remote):
    """A "machine" that is a folder here: rsync goes there without ssh. told: what its status says, None: nothing;
    life: seconds after which an rsync is killed."""

    told: ClassVar[list[object] | None] = None
    life: ClassVar[float | None] = None

    def rsync_path(self, folder: str = "") -> str:
        return os.path.join(self.host.folder, folder)

    def rsync(self, *words: str, data: bytes = b"", show: bool = False, living: bool = False) -> str:
        process = subprocess.Popen(["rsync", *words], stdout=subprocess.DEVNULL, start_new_session=True)
        try:
            code = process.wait(type(self).life)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # all of it, as a machine that goes down
            process.wait()
            raise RemoteError("cut off") from None
        assert code == 0, words
        return ""

    def read_output(self, words: Sequence[str], data: bytes = b"") -> str:
        if self.told is None:
            raise RemoteError("it has no environment")
        return json.dumps(self.told)


@pytest.fixture
def sites(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The hosts `north`, `south` … have their projects in folders of a folder, which this is; we are in `home` of it,
    and no Slurm is asked."""
    def connect(host: Host, known_hosts: object = ()) -> Site:
        return Site(host if host.folder[0] == "/" else Host(host.name, host.name, str(tmp_path / host.name)), None)

    def no_slurm() -> client.Queue:
        raise AssertionError("what is on another machine is nothing for this one's Slurm")

    monkeypatch.setattr(download.ssh, "connect", connect)
    monkeypatch.setattr(client, "squeue", no_slurm)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    monkeypatch.setattr(Site, "told", None)
    monkeypatch.setattr(Site, "life", None)
    return tmp_path


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, but marks and hidden ones."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*"))
            if path.is_file() and not path.name.startswith("from-") and not any(
                part.startswith(".") for part in path.relative_to(folder).parts)}


def submitted(results: Path, tickets: dict[str, int], name: str = NAME, token: str = "261120-100000-abcdef",
              **identity: object) -> str:
    """A journal of a batch whose runs were given to Slurm."""
    book = Journal(str(results / name), token)
    book.record_plan(SLURM, tickets, identity={"overrides": {}, "command": None, **identity}, code=token)
    for unit in range(len(tickets)):
        book.record_job(unit, str(70 + unit))
    book.record_end()
    return token


def test_sync_downloads_from_a_host(sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                capfd: pytest.CaptureFixture[str]) -> None:
    there, here = tmp_path / "a $HOME 'far' `touch x`; (1)", tmp_path / "here"
    (there / "results").mkdir(parents=True)
    here.mkdir()
    batch = Path(make_batch(there / "results"))
    run = next(batch.glob("000_*"))
    (run / run_folder.BEST_CHECKPOINT).write_bytes(b"large")
    (run / ".half").write_text("x")
    sshd.write_hosts(here, there)
    monkeypatch.setattr("src.commands.results.PROJECT", str(here))
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert experiments.main(["sync", "cluster"]) == 0
    assert "results: 1 batch, 12 runs, 12 ended\n" in capfd.readouterr().out
    copy = here / "results" / batch.name / run.name
    assert sorted(os.listdir(copy)) == sorted({*os.listdir(run)} - {run_folder.BEST_CHECKPOINT, ".half"})
    with open(run / run_folder.STATS, "a", encoding="utf-8") as file:
        file.write("99\n")
    assert experiments.main(["sync", f"cluster:{there}/results", "--checkpoints"]) == 0
    assert (copy / run_folder.BEST_CHECKPOINT).exists() and (copy / run_folder.STATS).read_text().endswith("99\n")
    assert not (tmp_path / "x").exists() and not (there / "x").exists()
    capfd.readouterr()
    assert experiments.main(["sync", "cluster:no/such"]) == 2
    assert "the folder no/such does not exist there" in capfd.readouterr().err
    assert experiments.main(["sync", "-oProxyCommand=touch x"]) == 2
    assert "unknown host" in capfd.readouterr().err


def test_sync_continues_after_a_lost_connection(sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                        capfd: pytest.CaptureFixture[str]) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    (there / "results").mkdir(parents=True)
    here.mkdir()
    batch = Path(make_batch(there / "results"))
    for number in range(20):
        (batch / f"{number}.bin").write_bytes(os.urandom(2_000_000))
    sshd.write_hosts(here, there)
    monkeypatch.setattr("src.commands.results.PROJECT", str(here))
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(tmp_path))
    cuts = []

    def cut() -> None:
        while not list(here.glob(f"results/.from-cluster/.staging/{NAME}/*.bin")):
            time.sleep(0.002)
        cuts.append(sshd.drop_connections())

    thread = threading.Thread(target=cut)
    thread.start()
    assert experiments.main(["sync", "cluster"]) == 0
    thread.join()
    assert cuts[0] and "the connection was lost" in capfd.readouterr().err
    assert tree(here / "results") == tree(there / "results")


def test_batches_of_two_sites_are_merged(sites: Path, monkeypatch: pytest.MonkeyPatch,
                                         capsys: pytest.CaptureFixture[str]) -> None:
    """Each trains its shard by the real train.py; brought together, the batch is whole."""
    spec = sites / "x.yaml"
    parameters = {**DIGITS, "train_length": 1, "model": "linear", "base_lr": [0.1, 0.2, 0.3, 0.4, 0.5]}
    spec.write_text(json.dumps({"job_details": {"name": "digits"}, "parameters": parameters}))
    home = os.getcwd()
    monkeypatch.chdir(ROOT)
    for part, site in ((1, "north"), (2, "south")):
        assert submit_multiple.main([str(spec), "--local", "--workers", "1", "-y", "--shard", f"{part}/2", "--date",
                                     "26-11-20", "--output-dir", str(sites / site / "results")]) == 0
    monkeypatch.chdir(home)
    assert experiments.main(["note", str(sites / "north" / "results" / NAME), "of the north"]) == 0
    for site in ("north", "south", "north"):
        assert experiments.main(["sync", site]) == 0
    batch = Path("results", NAME)
    whole = {**tree(sites / "north" / "results" / NAME), **tree(sites / "south" / "results" / NAME)}
    assert tree(batch) == whole and len(list(batch.glob("submissions/*.jsonl"))) == 2
    assert len([name for name in whole if "claim-1" in name]) == 5
    assert [note.text for note in notes.read(str(batch))] == ["of the north"]
    observation, = observe([str(batch)])
    assert status.counts(observation) == {"done": 5}
    assert [run.host for run in observation.runs.values()] == [
        "north" if Shard(1, 2).contains(name) else "south" for name in observation.runs]
    results = read_results([str(batch)])
    assert sorted(results.config["base_lr"]) == [0.1, 0.2, 0.3, 0.4, 0.5] and not results.skipped
    capsys.readouterr()
    # and at a site itself: what it has, and what it may submit, stay the same
    monkeypatch.chdir(sites / "south")
    assert experiments.main(["sync", "north"]) == 0
    assert tree(Path("results", NAME)) == whole
    mine, other = (next(name for name in observation.runs if Shard(part, 2).contains(name)) for part in (2, 1))
    for name in (mine, other):
        Path("results", NAME, name, run_folder.DONE).unlink()
    assert submit_multiple.main(["-r", f"results/{NAME}", "--local", "-d"]) == 0
    out = capsys.readouterr().out
    assert "1 to submit, 4 left alone (" in out and mine in out and other not in out


def test_runs_of_another_machine_are_not_lost_here(sites: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there = sites / "north" / "results"
    batch = Path(make_batch(there))
    names = run_folder.run_names(batch)
    for name in names[:4]:
        (batch / name / run_folder.DONE).unlink()
        (batch / name / run_folder.attempt_name(0, 0)).unlink()
    files.write_json(batch / names[1] / run_folder.attempt_name(1, 0), {"how": "failed", "error": "ValueError: no"})
    submitted(there, dict.fromkeys(names, 1))

    def found() -> list[tuple[str, str]]:
        observation, = observe([f"results/{NAME}"])
        return [(run.state.name, run.state.why) for run in observation.runs.values()][:4]

    assert experiments.main(["sync", "north"]) == 0
    assert "note: it has no environment" in capsys.readouterr().out
    ended, = {states.FAILED} & {name for name, _ in found()}
    assert found()[1] == (ended, "ValueError: no")
    assert found()[0][0] == states.UNKNOWN and found()[0][1].startswith("perhaps running on north, as of ")
    Site.told = [{"batch": f"results/{NAME}", "runs": [
        {"run": names[0], "state": "running", "why": ""}, {"run": names[1], "state": "pending", "why": "again"},
        {"run": names[2], "state": "timeout", "why": "TIMEOUT"}, {"run": names[3], "state": "new", "why": ""}]}]
    assert experiments.main(["sync", "north"]) == 0
    assert [name for name, _ in found()] == ["unknown", "unknown", "timeout", "unknown"]
    assert [why.partition(" on")[0] for _, why in found()] == ["running", "pending", "TIMEOUT", "new"]
    capsys.readouterr()
    # nothing here begins, ends or waits for what is there
    for words, program in ((["-r", f"results/{NAME}", "--local"], submit_multiple), (
            ["cancel", "-y", f"results/{NAME}"], experiments), (["wait", f"results/{NAME}"], experiments)):
        assert program.main(words) == 2  # type: ignore[attr-defined]
        assert "--on north" in capsys.readouterr().err
    assert experiments.main(["logs", "-f", f"results/{NAME}/{names[0]}"]) == 0
    assert "state: unknown, running on north" in capsys.readouterr().out
    assert experiments.main(["status", f"results/{NAME}"]) == 0
    assert "running on north, as of" in capsys.readouterr().out


def test_submission_during_a_sync_waits_for_the_next_sync(sites: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = sites / "north" / "results"
    names = run_folder.run_names(make_batch(there))
    submitted(there, dict.fromkeys(names, 1))
    copy, number = Site.rsync, 0

    def meanwhile(self: Site, *words: str, **options: bool) -> str:
        nonlocal number
        said, number = copy(self, *words, **options), number + 1  # type: ignore[arg-type]
        if number == 1:  # the journals are here, and the runs still to come
            submitted(there, {names[0]: 2}, token="261120-120000-eeeeee")
            (there / "26-11-21-later" / "submissions").mkdir(parents=True)
            (there / "26-11-21-later" / names[1]).mkdir()
            submitted(there, {names[1]: 1}, name="26-11-21-later")
            (there / "26-11-21-later" / "job.yaml").write_text("job_details: {name: later}\n")
        return said

    monkeypatch.setattr(Site, "rsync", meanwhile)
    assert experiments.main(["sync", "north"]) == 0
    assert os.listdir("results") == [".from-north", NAME] or os.listdir("results") == [NAME, ".from-north"]
    assert {run.host for run in observe([f"results/{NAME}"])[0].runs.values()} == {"north"}
    assert experiments.main(["sync", "north"]) == 0
    for name in (NAME, "26-11-21-later"):
        observation, = observe([f"results/{name}"])
        assert {run.host for run in observation.runs.values()} == {"north"} and not observation.history.recorded_plans
    assert tree(Path("results")) == tree(there)


def test_newer_local_notes_and_files_remain(sites: Path) -> None:
    there = sites / "north" / "results"
    batch = Path(make_batch(there))
    submitted(there, dict.fromkeys(run_folder.run_names(batch), 1))
    notes.add(str(batch), "first, there", "c0ffee")
    assert experiments.main(["sync", "north"]) == 0
    here = Path("results", NAME)
    notes.add(str(here), "second, here", None)
    notes.add(str(batch), "third, there", None)
    (batch / "report.html").write_text("old")
    os.utime(batch / "report.html", (1e9, 1e9))
    (here / "report.html").write_text("new")
    for _ in range(2):
        assert experiments.main(["sync", "north"]) == 0
        assert [note.text for note in notes.read(str(here))] == ["first, there", "second, here", "third, there"]
    assert len(notes.read(str(batch))) == 2 and (here / "report.html").read_text() == "new"


def test_sync_is_repeatable_after_any_interruption(sites: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = sites / "north" / "results"
    batch = Path(make_batch(there))
    submitted(there, dict.fromkeys(run_folder.run_names(batch), 1))
    for number in range(6):
        (batch / run_folder.run_names(batch)[number] / "arrays").mkdir()
        (batch / run_folder.run_names(batch)[number] / "arrays" / "x.npz").write_bytes(os.urandom(3_000_000))
    start = time.monotonic()
    assert experiments.main(["sync", "north", "--into", "whole"]) == 0
    whole, wanted = time.monotonic() - start, tree(Path("whole"))
    assert wanted == tree(there)
    rng, cut = random.Random(1), 0
    for number in range(8):
        into = f"results {number}"
        for first in (True, False, False):
            Site.life = 0.02 if first else rng.uniform(0.02, 0.5 * whole)  # the first is sure to be too short
            cut += experiments.main(["sync", "north", "--into", into]) == 2
            found = tree(Path(into)) if os.path.isdir(into) else {}
            assert not any(wanted[name] != content for name, content in found.items()), "no file is torn"
            if run_folder.is_batch_folder(f"{into}/{NAME}"):
                assert all(run.host for run in observe([f"{into}/{NAME}"])[0].runs.values()), "nothing seems ours"
        Site.life = None
        assert experiments.main(["sync", "north", "--into", into]) == 0
        assert tree(Path(into)) == wanted
        assert not list(Path(into).rglob(".partial"))
    assert cut >= 8, "some were cut off"


def test_conflicting_batches_are_skipped(sites: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def remade(site: str, job: str, runs: slice, token: str, **identity: object) -> Path:
        there = sites / site / "results"
        shutil.rmtree(there, ignore_errors=True)
        batch = Path(make_batch(there))
        (batch / run_folder.JOB_SPEC).write_text(job)
        names = run_folder.run_names(batch)
        for name in set(names) - set(names[runs]):
            shutil.rmtree(batch / name)
        submitted(there, dict.fromkeys(names[runs], 1), token=token, **identity)
        return batch

    job = "job_details: {name: digits}\nparameters: {batch_size: [8, 32]}\n"
    remade("north", job, slice(0, None, 2), "261120-100000-aaaaaa", shard="1/2")
    assert experiments.main(["sync", "north"]) == 0
    before = tree(Path("results"))
    for changed, error in (
            ({"job": job.replace("32", "64")}, "another job spec (parameters.batch_size: [8, 32] -> [8, 64])"),
            ({"overrides": {"batch_size": 4}}, "another job spec (overrides.batch_size: nothing -> 4)"),
            ({"runs": slice(0, 5)}, "3 runs of it, 000_")):
        remade("south", **{"job": job, "runs": slice(1, None, 2),  # type: ignore[arg-type]
                           "token": "261120-100000-bbbbbb", "shard": "2/2", **changed})
        capsys.readouterr()
        assert experiments.main(["sync", "south"]) == 1
        assert f"results/{NAME}: skipped: " in (out := capsys.readouterr().out) and error in out
        assert tree(Path("results")) == before
    remade("south", job, slice(1, None, 2), "261120-100000-bbbbbb", shard="2/2")
    assert experiments.main(["sync", "south"]) == 0
    assert len(run_folder.run_names(f"results/{NAME}")) == 12
    remade("north", job, slice(0, None, 2), "261120-100000-cccccc", shard="1/2")  # as by -o
    assert experiments.main(["sync", "north"]) == 1
    assert "replaced on north since its download" in capsys.readouterr().out
    # what was submitted here is nobody else's, however it came there
    (sites / "west" / "results").mkdir(parents=True)
    shutil.copytree(Path("results", NAME), sites / "west" / "results" / NAME)
    for mark in Path("results", NAME).glob("submissions/from-*"):
        mark.unlink()
    capsys.readouterr()
    assert experiments.main(["sync", "west"]) == 0
    assert f"results/{NAME}: submitted from here, left unchanged" in capsys.readouterr().out
    assert not list(Path("results", NAME).glob("submissions/from-*"))


def test_a_site_submits_the_remaining_shard(project: Project, monkeypatch: pytest.MonkeyPatch, sites: Path,
                                            capsys: pytest.CaptureFixture[str]) -> None:
    project.spec.write_text(project.spec.read_text().replace("re sults", "results"))
    monkeypatch.chdir(project.folder)
    words = [project.spec, "--local", "-y", "--workers", "1", "--date", "26-11-20"]
    assert project.submit(*words, "--shard", "1/2", "--output-dir", sites / "north" / "results") == 0
    assert experiments.main(["sync", "north"]) == 0
    capsys.readouterr()
    assert project.submit(*words, "--shard", "1/2") == 0, "that part is another's"
    assert "nothing to submit" in capsys.readouterr().out
    assert project.submit(*words, "--shard", "2/2") == 0
    project.results = project.folder / "results"
    assert project.executed() == [1, 1, 1, 1]
    assert [bool(copy.journals) for copy in [sync_markers.read_host(str(project.batch), "north")]] == [True]
    capsys.readouterr()
    assert project.submit("-r", project.batch, "--local", "-y") == 0
    assert "nothing to submit" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "pattern"), [("26-11-20-x", "26-11-20-x"), ("a*[b]?", r"a\*\[b]\?"),
                                               ("a\\b", "a\\b"), ("a\\*", r"a\\\*")])
def test_names_are_escaped_in_patterns(name: str, pattern: str) -> None:
    assert download._escape_pattern(name) == pattern


def test_canaries_are_downloaded_where_nothing_was_submitted(sites: Path) -> None:
    """And stay away from a site of its own, which trusts those that it has tried itself."""
    there = sites / "north" / "results"
    batch = Path(make_batch(there))
    submitted(there, dict.fromkeys(run_folder.run_names(batch)[::2], 1), shard="1/2")
    (batch / "canary" / "first").mkdir(parents=True)
    (batch / "canary" / "first" / run_folder.SPEC).write_text("{}")
    (batch / "canary" / "submissions").mkdir()
    submitted(batch, {"first": 1}, name="canary", token="261120-100000-abcdef-canary")
    assert experiments.main(["sync", "north"]) == 0
    observation, = observe([f"results/{NAME}"])
    assert {name: (run.state.name, run.host) for name, run in observation.canaries.items()} == {
        "first": ("unknown", "north")}
    own = Path("own", NAME)
    (own / run_folder.SUBMISSIONS).mkdir(parents=True)
    shutil.copy(batch / run_folder.JOB_SPEC, own)
    submitted(Path("own"), {"001_x": 1}, token="261120-100000-ffffff", shard="2/2")
    assert experiments.main(["sync", "north", "--into", "own"]) == 0
    assert len(run_folder.run_names(own)) == 12 and not (own / "canary").exists()
