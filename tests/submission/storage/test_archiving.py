"""Archives lose nothing, at whatever operation a process dies, and change nothing that readers see."""
from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import pytest

from src import run_folder
from src.archive import contents, run_files, writer
from src.archive.volume import Volume
from src.errors import BatchError
from src.run_folder import RunFolder
from src.submission.batch import batch_folder, claims
from src.submission.batch.journal import Journal
from src.submission.job import attempt
from src.submission.storage import archive_lock, archiving
from src.submission.system import process
from tests.analysis.make_batch import make_batch
from tests.submission.conftest import project

__all__ = ["project"]  # fixture

fork = multiprocessing.get_context("fork")


def tree(folder: Path) -> dict[str, tuple[object, ...]]:
    """The bytes, mode and modification time of all that is below a folder, without its archive."""
    return {str(path.relative_to(folder)): (path.read_bytes() if path.is_file() else None, path.stat().st_mode,
                                            path.stat().st_mtime_ns)
            for path in sorted(folder.rglob("*")) if not {"archive", "submissions"} & {*path.relative_to(folder).parts}}


def end_long_ago(batch: Path) -> Path:
    for path in [*batch.rglob("*"), batch]:
        os.utime(path, ns=(10**18, 10**18 + len(path.name)))
    return batch


@pytest.fixture
def batch(tmp_path: Path) -> Path:
    """A batch of three runs that ended long ago; one has a checkpoint and an array."""
    batch = Path(make_batch(tmp_path, [{"base_lr": rate} for rate in (0.1, 0.2, 0.3)], epochs=2))
    run = batch / run_folder.run_names(batch)[0]
    (run / "arrays").mkdir()
    (run / "arrays" / "epoch-00001.npz").write_bytes(b"array")
    (run / "best_checkpoint.pt").write_bytes(bytes(2_000_000))
    (run / "best_checkpoint.pt").chmod(0o640)
    return end_long_ago(batch)


def archive(batch: Path, *names: str, failed: Collection[str] = (), drop_checkpoints: bool = False
            ) -> archiving.Archived:
    return archiving.archive(str(batch), dict.fromkeys(names or run_folder.run_names(batch), 0), failed,
                             drop_checkpoints)


def fail(run: Path) -> str:
    """Make a run one that failed long ago and can resume. Return its name."""
    (run / "done").unlink()
    (run / "resume-0000000010.pt").write_bytes(bytes(1_000))
    record = run / run_folder.attempt_name(0, 0)
    record.write_text(json.dumps({**json.loads(record.read_text()), "how": "failed", "error": "ValueError: mend me"}))
    end_long_ago(run)
    return run.name


def contents_of(batch: Path) -> dict[str, tuple[object, ...]]:
    """The content of all runs, as readers see it, except claims."""
    return {name: ({file for file in RunFolder.read(batch / name).names if "claim-" not in file}, *(
        run_files.read_bytes(batch / name, file) for file in (
            "spec.yaml", "config.yaml", "stats.csv", "done", "attempt-0-0.json", "arrays/epoch-00001.npz",
            "best_checkpoint.pt", "resume-0000000010.pt"))) for name in run_folder.run_names(batch)}


def test_runs_come_back_bit_for_bit(batch: Path) -> None:
    before, seen, names = tree(batch), contents_of(batch), run_folder.run_names(batch)
    assert archive(batch) == (names, {})
    assert [path.name for path in batch.iterdir() if path.name[0].isdigit()] == []
    assert os.listdir(batch / "archive") == ["1.zip"]
    assert contents_of(batch) == seen
    assert archiving.unarchive(str(batch), names[1:2]) == names[1:2]
    assert contents_of(batch) == seen
    assert archiving.unarchive(str(batch)) == [names[0], names[2]]
    assert tree(batch) == before and not (batch / "archive").exists()


def test_later_runs_are_added(batch: Path) -> None:
    seen, names = contents_of(batch), run_folder.run_names(batch)
    for number, name in enumerate(names, 1):
        assert archive(batch, name).runs == [name]
        assert len(os.listdir(batch / "archive")) == number
    assert contents_of(batch) == seen
    assert archive(batch).runs == []


def test_checkpoints_can_be_dropped(batch: Path) -> None:
    seen, name = contents_of(batch), run_folder.run_names(batch)[0]
    archive(batch, drop_checkpoints=True)
    assert "best_checkpoint.pt" not in RunFolder.read(batch / name).names
    assert contents_of(batch)[name][1:-2] == seen[name][1:-2]


def test_runs_that_failed_are_archived_with_their_checkpoints(batch: Path) -> None:
    names = run_folder.run_names(batch)
    fail(batch / names[0])
    before, seen = tree(batch), contents_of(batch)
    assert archive(batch).left == {names[0]: "it has not ended"}, "its state was not observed"
    assert archive(batch, failed=names[:1], drop_checkpoints=True).runs == names[:1]
    assert contents_of(batch) == seen and not (batch / names[0]).exists()
    assert not claims.can_start(str(batch / names[0]), 0, "a job that was restarted")
    assert archiving.restore_submitted(str(batch), names) == names
    assert tree(batch) == before
    assert archiving.restore_submitted(str(batch), names) == []


@pytest.mark.parametrize(("how", "reason"), [
    (run_folder.REQUEUED, "another start"), (run_folder.PAUSED, "another start"), ("", "it has not started")])
def test_runs_that_another_start_continues_keep_their_folders(batch: Path, how: str, reason: str) -> None:
    name = fail(batch / run_folder.run_names(batch)[0])
    record = batch / name / run_folder.attempt_name(0, 0)
    if how:
        record.write_text(json.dumps({**json.loads(record.read_text()), "how": how}))
    else:
        record.unlink()
    end_long_ago(batch)
    assert reason in archive(batch, failed=[name]).left[name] and (batch / name).is_dir()


def test_a_run_that_is_submitted_meanwhile_keeps_its_folder(batch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A submission that read the batch before it was archived writes its ticket after the last look at the journals."""
    name, claim = fail(batch / run_folder.run_names(batch)[0]), claims.claim_to_archive

    def submit_first(folder: str, ticket: int) -> str | None:
        if folder.endswith(name):
            Journal(str(batch), "abcdef").record_plan("local", {name: 1})
        return claim(folder, ticket)

    monkeypatch.setattr(claims, "claim_to_archive", submit_first)
    assert archive(batch, failed=[name]).left == {name: "it was submitted or claimed again"}
    assert (batch / name).is_dir() and not list((batch / name).glob("claim*"))


def test_a_submission_waits_for_the_end_of_archiving(batch: Path) -> None:
    names = run_folder.run_names(batch)
    with archive_lock.held(str(batch)), pytest.raises(BatchError, match="changes this archive"):
        archiving.restore_submitted(str(batch), names)
    assert archiving.restore_submitted(str(batch), names) == [] and not (batch / "archive").exists()


def test_a_crash_at_any_operation_of_a_retry_loses_nothing(batch: Path, tmp_path: Path,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # takes most of the time
    names = run_folder.run_names(batch)
    fail(batch / names[0])
    before, seen = tree(batch / names[0]), contents_of(batch)
    archive(batch, failed=names[:1])
    start = shutil.copytree(batch, tmp_path / "start", symlinks=True)
    code, kill_at = 9, 0
    while code:
        shutil.rmtree(batch)
        shutil.copytree(start, batch, symlinks=True)
        code = exit_code(lambda: archiving.restore_submitted(str(batch), names[:1]), kill_at)
        assert contents_of(batch) == seen, kill_at
        archiving.restore_submitted(str(batch), names[:1])
        assert tree(batch / names[0]) == before and hidden(batch) == [], kill_at
        assert claims.claim(str(batch / names[0]), 1, in_worker=True) == (1, 0)
        assert [name for name in names if (batch / name).exists()] == names[:1]
        kill_at += 1
    assert kill_at > 10


# --- a crash at every operation


# functions that change files; a process that dies before a write to a file leaves less of a file that nobody reads yet
OPERATIONS = ("rename", "replace", "link", "unlink", "rmdir", "mkdir", "open", "fsync", "utime", "chmod", "fchmod")


class Killer:
    """Ends this process before its operation number `at`."""

    def __init__(self, at: int) -> None:
        self._left = at

    def patch(self) -> None:
        for name in OPERATIONS:
            self._patch(name, getattr(os, name))

    def _patch(self, name: str, function: Callable[..., object]) -> None:
        def counted(*arguments: object, **options: object) -> object:
            if name != "open" or isinstance(arguments[1], int) and arguments[1] & os.O_CREAT:
                self._left -= 1
                if self._left < 0:
                    os._exit(9)
            return function(*arguments, **options)

        setattr(os, name, counted)


def exit_code(function: Callable[[], object], kill_at: int = 10**9) -> int:
    """Call a function in a fork that is killed before its operation number `kill_at`. Return the exit code."""
    pid = os.fork()
    if pid == 0:
        code = 1
        with contextlib.suppress(BaseException):
            Killer(kill_at).patch()
            function()
            code = 0
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def hidden(batch: Path) -> list[str]:
    return [path.name for folder in (batch, batch / "archive") if folder.exists()
            for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("way", ["archive", "unarchive", "add", "merge", "failed"])
def test_a_crash_at_any_operation_loses_nothing(batch: Path, tmp_path: Path, way: str,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # takes most of the time
    shutil.rmtree(batch / run_folder.run_names(batch)[2])
    failed = [fail(batch / run_folder.run_names(batch)[0])] if way == "failed" else []
    names, before, seen = run_folder.run_names(batch), tree(batch), contents_of(batch)
    act: Callable[[], object] = lambda: archive(batch, failed=failed)  # noqa: E731
    if way not in ("archive", "failed"):
        archive(batch, *(names if way == "unarchive" else names[:1]))
    if way == "unarchive":
        act = lambda: archiving.unarchive(str(batch))  # noqa: E731
    if way == "merge":
        monkeypatch.setattr(writer, "MAX_VOLUMES", 1)
    start = shutil.copytree(batch, tmp_path / "start", symlinks=True)
    kill_at = 0
    while True:
        shutil.rmtree(batch)
        shutil.copytree(start, batch, symlinks=True)
        code = exit_code(act, kill_at)
        assert contents_of(batch) == seen, kill_at
        if code == 0:
            break
        assert code == 9
        result = act()  # the same command finishes it
        assert contents_of(batch) == seen and hidden(batch) == [], kill_at
        if way != "unarchive":
            assert [name for name in names if (batch / name).exists()] == [], (kill_at, result)
            archiving.unarchive(str(batch))
        assert not (batch / "archive").exists()
        files_before = {path: state for path, state in before.items() if state[0] is not None}
        assert {path: state for path, state in tree(batch).items() if state[0] is not None} == files_before, kill_at
        kill_at += 1
    assert kill_at > 20 and hidden(batch) == []


# --- other processes at the same time


def test_readers_see_every_run_at_any_moment(batch: Path) -> None:
    seen, stop = contents_of(batch), fork.Event()

    def read() -> None:
        reads = 0
        while not stop.is_set() or not reads:
            assert contents_of(batch) == seen
            reads += 1

    reader = fork.Process(target=read)
    reader.start()
    for _ in range(15):
        archive(batch)
        archiving.unarchive(str(batch), run_folder.run_names(batch)[:1])
        archiving.unarchive(str(batch))
    stop.set()
    reader.join()
    assert reader.exitcode == 0


@pytest.mark.parametrize("is_archived_again", [False, True])
@pytest.mark.parametrize("read", [
    lambda run: "done" in run_files.list_names(run), lambda run: run_files.list_folder(run, "arrays"),
    lambda run: "done" in run_files.file_sizes(run), lambda run: run_files.status(run, "done").st_size,
    lambda run: run_files.read_bytes(run, "done"), lambda run: run_files.open_binary(run, "done").read()],
    ids=["list_names", "list_folder", "file_sizes", "status", "read_bytes", "open_binary"])
def test_a_run_that_moves_while_it_is_looked_for_is_found(
        read: Callable[[Path], object], is_archived_again: bool, batch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, find = batch / run_folder.run_names(batch)[0], contents.find
    expected = read(run)
    archive(batch)

    def find_while_it_moves(folder: Path) -> contents.ArchivedRun | None:
        monkeypatch.setattr(contents, "find", find)  # it moves once
        archiving.unarchive(str(batch))
        found = find(folder)
        if is_archived_again:
            archive(batch)
        return found

    contents.clear_cache()  # as in a process that has not read this archive
    monkeypatch.setattr(contents, "find", find_while_it_moves)
    assert read(run) == expected and expected


def test_run_that_is_damaged_in_a_new_volume_keeps_its_folder(batch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, seen, names = tree(batch), contents_of(batch), run_folder.run_names(batch)

    def damaged(path: str) -> writer.Volume:
        data = bytearray(Path(path).read_bytes())
        content = re.search(rb"array(?!s)", data)  # of arrays/epoch-00001.npz
        assert content
        data[content.start()] ^= 1
        Path(path).write_bytes(data)
        return Volume(path)

    with monkeypatch.context() as patch:
        patch.setattr(writer, "Volume", damaged)
        assert archive(batch) == (names[1:], {names[0]: "its files changed while it was packed"})
    assert os.path.isdir(batch / names[0]) and contents_of(batch) == seen
    assert archive(batch).runs == names[:1] and contents_of(batch) == seen  # packed again
    archiving.unarchive(str(batch))
    assert tree(batch) == before


def test_a_folder_that_is_being_removed_shows_that_files_are_missing(batch: Path, monkeypatch: pytest.MonkeyPatch
                                                                      ) -> None:
    folders = []
    monkeypatch.setattr(archiving.deletion, "remove_tree", lambda path, identity: folders.append(os.listdir(path)))
    archive(batch)
    assert len(folders) == 3 and not any("spec.yaml" in names for names in folders)


def test_several_processes_archive_at_the_same_time(batch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, before = contents_of(batch), tree(batch)
    monkeypatch.setattr(writer, "MAX_VOLUMES", 2)

    def work(number: int) -> None:
        for round_ in range(8):
            with contextlib.suppress(BatchError):  # another one has the lock
                if (round_ + number) % 3:
                    archive(batch)
                else:
                    archiving.unarchive(str(batch), run_folder.run_names(batch)[number:])

    workers = [fork.Process(target=work, args=(number,)) for number in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert contents_of(batch) == seen
    archive(batch)
    archiving.unarchive(str(batch))
    assert hidden(batch) == []
    assert {path: state for path, state in tree(batch).items() if state[0] is not None} == {
        path: state for path, state in before.items() if state[0] is not None}


@pytest.fixture
def at_removal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[str], None]], None]]:
    """Sets a function that is called with the folder of a run before it is renamed to a hidden name, once."""
    rename = os.rename

    def install(act: Callable[[str], None]) -> None:
        def rename_after(source: str, target: str, **options: int) -> None:
            if str(target).endswith(".archived"):
                monkeypatch.setattr(os, "rename", rename)
                act(source)
            rename(source, target, **options)

        monkeypatch.setattr(os, "rename", rename_after)

    yield install
    monkeypatch.setattr(os, "rename", rename)


def test_a_start_by_hand_finds_the_claim(batch: Path, at_removal: Callable[..., None]) -> None:
    messages = []

    def start(folder: str) -> None:
        with pytest.raises(BatchError) as info:
            attempt.Attempt.begin(folder)
        messages.append(str(info.value))

    at_removal(start)
    archive(batch)
    assert "this run is being archived" in messages[0]
    with pytest.raises(BatchError, match="archived") as info:
        attempt.Attempt.begin(str(batch / run_folder.run_names(batch)[0]))
    assert info.value.hint and "unarchive" in info.value.hint


def test_a_run_that_is_claimed_first_keeps_its_folder(batch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, claim = run_folder.run_names(batch)[0], claims.claim_to_archive

    def claim_after_another(folder: str, ticket: int) -> str | None:
        if folder.endswith(name):
            (Path(folder) / run_folder.claim_name(ticket + 1)).write_text(json.dumps(process.identity()))
        return claim(folder, ticket)

    monkeypatch.setattr(claims, "claim_to_archive", claim_after_another)
    archived = archive(batch)
    assert archived.left == {name: "another process has claimed it"} and name not in archived.runs
    assert (batch / name / "claim-1").exists() and not run_files.is_archived(batch / name)
    monkeypatch.undo()
    assert archive(batch).left == {name: "it was submitted or claimed again"}


def test_a_run_that_changes_keeps_its_folder(batch: Path, at_removal: Callable[..., None]) -> None:
    names = run_folder.run_names(batch)

    def write(folder: str) -> None:
        with open(os.path.join(folder, "training.log"), "a") as file:
            file.write("a late line")

    at_removal(write)
    assert archive(batch).left == {names[0]: "its files changed while it was packed"}
    assert run_files.read_text(batch / names[0], "training.log") == "a late line"
    assert not list((batch / names[0]).glob("claim*"))
    end_long_ago(batch)
    assert archive(batch).runs == names[:1]
    assert run_files.read_text(batch / names[0], "training.log") == "a late line"


def test_a_superseded_attempt_of_an_archived_run_writes_nothing(batch: Path) -> None:
    folder = batch / run_folder.run_names(batch)[0]
    archive(batch)
    with pytest.raises(claims.RunDeleted):
        claims.check_current(str(folder), 0, 0)
    assert not folder.exists()


@pytest.mark.parametrize(("change", "reason"), [
    (lambda run: (run / "done").unlink(), "it has not ended"),
    (lambda run: (run / "claim-3").write_text("{}"), "it was submitted or claimed again"),
    (lambda run: (run / "attempt-0-1.json").write_text(json.dumps({"who": process.identity()})),
     "its process has not ended yet"),
    (lambda run: os.utime(run / "stats.csv"), "its files changed less than two minutes ago"),
    (lambda run: (run / "data").symlink_to("/tmp"), "a link that leads out of the run folder"),
    (lambda run: os.mkfifo(run / "pipe"), "no regular file"),
    (lambda run: (run / os.fsdecode(b"\xff")).write_text(""), "cannot be in a ZIP file"),
])
def test_runs_that_may_be_alive_or_cannot_be_packed_are_left_alone(batch: Path, change: Callable[[Path], object],
                                                                   reason: str) -> None:
    names = run_folder.run_names(batch)
    change(batch / names[1])
    if reason != "its files changed less than two minutes ago":
        for path in (batch / names[1]).iterdir():
            os.utime(path, ns=(10**18, 10**18), follow_symlinks=False)
    archived = archive(batch)
    assert archived.runs == [names[0], names[2]] and reason in archived.left[names[1]]
    assert (batch / names[1]).is_dir()


def test_a_late_listing_does_not_bring_a_run_back_empty(batch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On another node, the same command again may see neither the folder nor the archive that has just replaced it."""
    name, list_folder, listings = run_folder.run_names(batch)[0], os.listdir, {str(batch / "archive"): ["0.tmp"]}
    archive(batch)

    def list_late(path: str) -> list[str]:
        return listings.get(str(path)) or list_folder(path)

    def close(descriptor: int) -> None:  # of the file that makes the node list the folder anew
        listings.clear()
        os.fdopen(descriptor).close()

    monkeypatch.setattr(os, "listdir", list_late)
    monkeypatch.setattr(os, "close", close)
    contents.clear_cache()
    assert not run_files.is_archived(batch / name)
    assert batch_folder.repair_specs(str(batch), [name], ["base_lr: 0.1\n"]) == 0
    assert not (batch / name).exists() and run_files.is_archived(batch / name)


def test_too_little_space_is_noticed_first(batch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive(batch)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 0))
    with pytest.raises(BatchError, match="MiB are free"):
        archiving.unarchive(str(batch))
    assert len(run_files.archived_names(batch)) == 3


def test_something_in_the_place_of_a_folder_is_kept(batch: Path) -> None:
    name = run_folder.run_names(batch)[0]
    archive(batch)
    (batch / name).mkdir()
    (batch / name / "mine").write_text("")
    with pytest.raises(BatchError, match="in the place of the run's folder"):
        archiving.unarchive(str(batch))
    assert (batch / name / "mine").exists() and hidden(batch) == []
