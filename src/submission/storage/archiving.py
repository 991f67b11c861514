"""Archive ended runs of a batch, and bring them back: at any instant a run is in its folder, in the archive, or both.

Of each run, in this order:

    pack       the files are written to a new volume, which is synced and compared with the files byte by byte
    publish    the volume gets its number: the run is in both places, and its folder counts
    claim      the next ticket is claimed (claims.py): nobody starts the run from here on
    move       the folder is renamed to a hidden name: the archive counts
    compare    the files are still those that were packed; if not, the folder is renamed back
    remove     the hidden folder is deleted

A run that failed may be submitted again at that time: after the claim, the journals are read, and a newer ticket keeps
the folder. A submission writes its tickets to a journal, brings back archived runs among them (`restore_submitted`),
and calls sbatch or starts a worker, in this order. So one of the two sees the other, and no start lacks its folder.

Trials of a search have no tickets in journals: its workers choose them. They are archived without a `done` file only if
the search is over, which is read again after the claim. An extension writes the new number of trials, with which the
search is not over, then brings back all trials that may continue, and starts workers, in this order.

One process at a time does this in a batch (archive_lock.py).
`_recover` finishes what a crash left. To bring a run back, its folder is written under a hidden name, synced and
renamed; then its name is added to the removed ones of the archive.
"""
from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from src import run_folder
from src.archive import contents, run_files, writer
from src.archive.writer import Entry, NotPackable
from src.errors import BatchError
from src.io import deletion
from src.run_folder import RunFolder
from src.search import definition, summary
from src.submission.batch import claims, heartbeat, journal
from src.submission.storage import archive_lock
from src.submission.system import process

# suffixes of the hidden names of a folder whose run is in the archive, and of one that is being brought back
_MOVED, _RESTORING = "archived", "unarchived"
_HIDDEN = re.compile(r"\.(?P<run>.+)~(?P<pid>\d+)~[0-9a-f]{12}@(?P<host>.+)\.(?:archived|unarchived)\Z")
_UNPUBLISHED = re.compile(r"\.new\.zip\.(?P<host>.+)\.(?P<pid>\d+)\.[0-9a-f]{12}\.tmp\Z")
_ABANDONED_SECONDS = 86400.0  # after which the process of another machine that made a hidden folder counts as dead
_THREADS = 16
_SUBMITTED = "it was submitted or claimed again"
_SEARCH_CONTINUES = "its search is not over, and may continue it"
_CHANGED = "its files changed while it was packed"
_PARTIAL_CLAIM = re.compile(r"\.claim-\d+\..+\.tmp\Z")
_CHECKPOINT = re.compile(r"(?:.*/)?(?:best_checkpoint|checkpoint-\d+|resume-\d+)\.pt\Z")


class Archived(NamedTuple):
    """The result of `archive`. runs: those whose folder is gone; left: the reason why others have theirs, by name."""

    runs: list[str]
    left: dict[str, str]


def archive(batch: str, tickets: Mapping[str, int], failed: Collection[str] = (), drop_checkpoints: bool = False
            ) -> Archived:
    """Move runs that have ended into the archive of their batch.

    tickets: the newest ticket of each run. failed: those of them that have ended without a `done` file, by their state;
    of a search that is over, also paused ones.
    drop_checkpoints: delete the checkpoints of runs that ended well instead of packing them.
    BatchError if the archive cannot be written; then no folder was removed.
    """
    with archive_lock.held(batch):
        return _archive(batch, tickets, failed, drop_checkpoints)


def _archive(batch: str, tickets: Mapping[str, int], failed: Collection[str], drop_checkpoints: bool) -> Archived:
    _recover(batch)
    now, may_continue = heartbeat.file_system_time(batch), summary.may_continue(batch)
    packed: dict[str, list[Entry]] = {}
    left: dict[str, str] = {}
    for name, ticket in tickets.items():
        try:
            if name in failed and may_continue:
                raise NotPackable(_SEARCH_CONTINUES)
            packed[name] = _list(batch, name, ticket, now, name in failed, drop_checkpoints)
        except NotPackable as reason:
            left[name] = str(reason)
        except FileNotFoundError:  # archived, deleted or moved a moment ago
            continue
    existing = contents.of_batch(batch)
    new = {name: entries for name, entries in packed.items() if not (existing and (run := existing.runs.get(name)) and (
        writer.is_same(run.volume, name, os.path.join(batch, name), entries)))}
    changed = new.keys() - writer.publish_runs(batch, new) if new else ()
    left |= dict.fromkeys(changed, _CHANGED)
    archived = []
    claimed = {name: _claim(batch, name, tickets[name]) for name in packed if name not in changed}
    newest = {name: ticket.number for name, ticket in journal.read_history(batch).tickets.items()}
    extended = {*failed} if summary.may_continue(batch) else set()
    for name, own in claimed.items():
        if own and (newest.get(name, 0) > tickets[name] or name in extended):
            _release(os.path.join(batch, name), own)
            left[name] = _SEARCH_CONTINUES if name in extended else _SUBMITTED
        elif problem := _remove(batch, name, own, packed[name], drop_checkpoints and name not in failed):
            left[name] = problem
        else:
            archived.append(name)
    writer.merge_volumes(batch)
    return Archived(archived, left)


def _list(batch: str, name: str, ticket: int, now: float, has_failed: bool, drop_checkpoints: bool) -> list[Entry]:
    """List the files of a run that are packed. NotPackable if it may not have ended, or cannot be packed."""
    folder = os.path.join(batch, name)
    if os.path.islink(folder):
        raise NotPackable("its folder is a link")
    run = RunFolder.read(folder)
    if not os.path.exists(run.file(run_folder.SPEC)):
        raise FileNotFoundError(folder)
    own = _own_claims(run, ticket)
    if problem := _sign_of_life(run, ticket, own, has_failed):
        raise NotPackable(problem)
    entries = _entries(folder, own, drop_checkpoints and not has_failed)
    attempt = run.last_attempt() or {}
    # Slurm writes to the output of a job for a while after its process has ended
    has_gone = not attempt.get("slurm_job") and process.is_alive(attempt.get("who", {})) is False
    if not has_gone and max(
            entry.time_ns for entry in entries if not stat.S_ISDIR(entry.mode)) / 1e9 > now - heartbeat.TIMEOUT:
        raise NotPackable("its files changed less than two minutes ago")
    return entries


def _own_claims(run: RunFolder, ticket: int) -> set[str]:
    """Return the claims of processes that archived the run and were interrupted. ticket: the newest in the journals."""
    return {run_folder.claim_name(number) for number in run.claims
            if number > ticket and claims.is_claim_to_archive(run, number)}


def _sign_of_life(run: RunFolder, ticket: int, own: Collection[str], has_failed: bool) -> str | None:
    """Return why a run may not have ended; None if it has.

    ticket: the newest one in the journals; own: claims that do not run it.
    """
    attempt = run.last_attempt() or {}
    newest = max([number for number in run.claims if run_folder.claim_name(number) not in own], default=0)
    if run.ended is None and not has_failed:
        return "it has not ended"
    if run.ended is None and not attempt:
        return "it has not started"
    is_paused = attempt.get("how") == run_folder.PAUSED
    if run.ended is None and (attempt.get("how") == run_folder.REQUEUED or is_paused and not definition.is_search(
            os.path.dirname(run.path))):
        return "another start of it was requested"
    if max(newest, ticket) > attempt.get("ticket", newest):
        return _SUBMITTED
    if process.is_alive(attempt.get("who", {})):
        return "its process has not ended yet"
    return None


def _entries(folder: str, own: Collection[str], drop_checkpoints: bool) -> list[Entry]:
    """List the files of a run. own: claims that are left out, as are those that were not completed."""
    return writer.list_entries(folder, lambda path: path in own or bool(_PARTIAL_CLAIM.match(path)) or (
        drop_checkpoints and bool(_CHECKPOINT.match(path))))


def _claim(batch: str, name: str, ticket: int) -> set[str] | None:
    """Claim a run, so that nobody starts it. Return the claims of this process, and of those that were interrupted as
    they archived it; None if another process has claimed it, and nothing if its folder is gone.

    ticket: the newest one in the journals.
    """
    folder = os.path.join(batch, name)
    try:
        run = RunFolder.read(folder)
        claim = claims.claim_to_archive(folder, max(ticket, *run.claims, 0))
    except FileNotFoundError:
        return set()
    return None if claim is None else {claim, *_own_claims(run, ticket)}


def _release(folder: str, own: Iterable[str]) -> None:
    """Remove claims to archive a run."""
    for claim in own:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(folder, claim))


def _remove(batch: str, name: str, own: Collection[str] | None, entries: list[Entry], drop_checkpoints: bool
            ) -> str | None:
    """Remove the folder of a run whose files, `entries`, are in the archive. Return why it was kept; None otherwise.

    own: the result of `_claim`.
    """
    if own is None:
        return "another process has claimed it"
    folder = os.path.join(batch, name)
    hidden = _hidden_path(folder, _MOVED)
    try:
        identity = deletion.folder_id(folder)
        os.rename(folder, hidden)
    except FileNotFoundError:
        return None  # another process has archived or deleted it
    # brought back, if this process was suspended so long that another one took the lock
    is_kept = (existing := contents.of_batch(batch)) is not None and name in existing.runs
    if not is_kept or not _has_only(hidden, entries, own, drop_checkpoints):
        _release(hidden, own)
        os.rename(hidden, folder)
        return _CHANGED
    # first: who opened the folder before it was renamed, and lists it now, sees without it that files are missing
    with deletion.folder_descriptor(hidden) as descriptor, contextlib.suppress(FileNotFoundError):
        os.unlink(run_folder.SPEC, dir_fd=descriptor)
    deletion.remove_tree(hidden, identity)
    return None


def _has_only(folder: str, entries: Iterable[Entry], own: Collection[str], drop_checkpoints: bool) -> bool:
    """Return whether a folder has no file that is not among the entries, or differs from them."""
    expected = {entry.path: entry for entry in entries}
    try:
        # the time of the run folder is that of the claim
        return all(expected.get(entry.path) == entry or stat.S_ISDIR(entry.mode) and entry.path in expected
                   for entry in _entries(folder, own, drop_checkpoints))
    except NotPackable:
        return False


def _hidden_path(folder: str, suffix: str) -> str:
    """Return a hidden name beside a run folder, which no other process uses."""
    batch, name = os.path.split(folder)
    return os.path.join(batch, f".{name}~{os.getpid()}~{os.urandom(6).hex()}@{os.uname().nodename}.{suffix}")


def _recover(batch: str) -> None:
    """Finish or undo what processes that died have left: hidden folders and unpublished volumes."""
    for path, _ in _abandoned(os.path.join(batch, contents.FOLDER), _UNPUBLISHED):
        os.unlink(path)
    for path, match in _abandoned(batch, _HIDDEN):
        folder = os.path.join(batch, match["run"])
        if path.endswith(f".{_RESTORING}") or _is_in_archive(batch, path, match["run"]):
            deletion.remove_tree(path, deletion.folder_id(path))
        elif not os.path.lexists(folder):
            os.rename(path, folder)


def _abandoned(folder: str, pattern: re.Pattern[str]) -> Iterator[tuple[str, re.Match[str]]]:
    """Yield the hidden files or folders of dead processes."""
    for entry in os.listdir(folder) if os.path.isdir(folder) else ():
        if match := pattern.match(entry):
            path = os.path.join(folder, entry)
            with contextlib.suppress(FileNotFoundError):  # its process has just completed it
                is_dead = not os.path.exists(f"/proc/{match['pid']}") if match["host"] == os.uname().nodename else (
                    os.lstat(path).st_ctime < time.time() - _ABANDONED_SECONDS)
                if is_dead and not os.path.islink(path):
                    yield path, match


def _is_in_archive(batch: str, hidden: str, name: str) -> bool:
    """Return whether all files of a hidden folder, of which some may have been removed, are in the archive."""
    existing = contents.of_batch(batch)
    run = existing.runs.get(name) if existing else None
    if run is None:
        return False
    own = _own_claims(RunFolder.read(hidden), -1)
    entries = [Entry(path, member.mode, member.size, member.time_ns) for path, member in run.members.items()]
    # checkpoints may have been dropped: without them in the archive, those of this folder are not wanted
    return _has_only(hidden, entries, own, not any(map(_CHECKPOINT.match, run.members)))


def unarchive(batch: str, names: Iterable[str] | None = None) -> list[str]:
    """Bring runs back from the archive of their batch: all, or those named. Return their names, in order.

    BatchError if there is not enough space, or something is in the place of a folder.
    """
    with archive_lock.held(batch):
        return _unarchive(batch, names)


def _unarchive(batch: str, names: Iterable[str] | None) -> list[str]:
    _recover(batch)
    archive_of_batch = contents.of_batch(batch)
    runs = archive_of_batch.runs if archive_of_batch else {}
    selected = [runs[name] for name in (runs if names is None else names) if name in runs]
    restored = [run for run in selected if run_files.is_archived(os.path.join(batch, run.name))]
    size, free = sum(member.size for run in restored for member in run.members.values()), shutil.disk_usage(batch).free
    if size > free:
        raise BatchError(f"its files take {size / 2**20:,.0f} MiB, and {free / 2**20:,.0f} MiB are free", where=batch,
                         hint="free some space, or bring back single runs")
    with ThreadPoolExecutor(_THREADS) as pool:  # most of the time is spent waiting for the disk
        list(pool.map(lambda run: writer.restore(run, folder := os.path.join(batch, run.name), _hidden_path(
            folder, _RESTORING)), restored))
    writer.remove_runs(batch, [run.name for run in selected])
    writer.merge_volumes(batch)
    return [run.name for run in restored]


def restore_submitted(batch: str, names: Iterable[str]) -> list[str]:
    """Bring back those of the runs that are archived. Call it once the journals have their tickets, before any start.

    Return their names. BatchError if another process archives runs of this batch at this moment.
    """
    archived = [name for name in names if run_files.is_archived(os.path.join(batch, name))]
    if archived or archive_lock.exists(batch):
        return unarchive(batch, archived)
    return []


def forget(batch: str, names: Iterable[str]) -> None:
    """Remove runs from the archive of their batch."""
    with archive_lock.held(batch):
        writer.remove_runs(batch, names)
