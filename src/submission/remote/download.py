"""Download batches of a remote machine by rsync, incrementally; notes and the parts of several sites are merged."""
from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from src import notes, run_folder
from src.archive import run_files
from src.errors import JobSpecError, RemoteError
from src.io import deletion, files, yaml_io
from src.submission.batch import batch_folder, sync_markers
from src.submission.remote import hosts, ssh, staging
from src.submission.remote.ssh import Remote
from src.submission.system.terminal import count

# hidden files are incomplete, or caches of that machine
_NEVER, _LARGE = (".*",), ("*.pt", "*.safetensors", "snapshot/")
# The index of a results folder: few small files that identify the batches and their submissions, downloaded first.
_SUBMISSIONS = (f"/*/{run_folder.SUBMISSIONS}/", f"/*/{run_folder.CANARY}/{run_folder.SUBMISSIONS}/")
_INDEX = ("/*/", f"/*/{run_folder.JOB_SPEC}", f"/*/{run_folder.NOTES}", f"/*/{run_folder.CANARY}/", *_SUBMISSIONS,
          *(f"{folder}*.jsonl" for folder in _SUBMISSIONS))
# Files of the index that are not downloaded again with the batches. A journal that was written after the index was made
# is in no sync marker, so that its runs would count as submitted on this machine.
_ONLY_IN_INDEX = (f"/*/{run_folder.NOTES}", *(f"{folder}*.jsonl" for folder in _SUBMISSIONS),
                  *(folder + run_folder.sync_marker_name("*") for folder in _SUBMISSIONS))
_STAGING = ".staging"  # in the index: files that are not checked yet
_KINDS = ("runs", "canaries")  # keys of the JSON of `experiments.py status`
_States = Mapping[str, Mapping[str, Mapping[str, tuple[str, str]]]]  # of runs: by batch, kind and run


class Download(NamedTuple):
    """The result of a download.

    batches: names of the downloaded batches;
    skipped: sentences about the others;
    submitted_here: names of those that were submitted on this machine.
    """

    batches: list[str]
    skipped: list[str]
    submitted_here: list[str]


def download_from_host(source: str, into: str, project: str, checkpoints: bool = False) -> Download:
    """Download the batches of HOST, from the folder in hosts.toml, or of HOST:FOLDER. RemoteError if that fails.

    project: the project's local folder;
    checkpoints: also model checkpoints and snapshots.
    """
    name, _, source_folder = source.partition(":")
    host = hosts.find_host(name, project)
    if source_folder:
        host = host._replace(folder=source_folder.removeprefix("~/"))
    remote = ssh.connect(host, known_hosts=hosts.read_hosts(project))
    folder = "" if source_folder else remote_results_folder(remote)
    download = download_batches(remote, folder, into, checkpoints)
    states: _States = {}
    if not source_folder:
        try:
            states = _remote_states(remote, folder, into, download.batches)
        except RemoteError as error:  # all files are here; only the states of unfinished runs are unknown
            print(f"note: {error}")
    _store_states(into, download.batches, host.name, states)
    return download


def remote_results_folder(remote: Remote) -> str:
    """Return the folder of the remote machine's batches, with `~` and variables expanded there."""
    folder = remote.host.output_dir or "results"
    if "$" not in folder and folder[0] != "~":
        return folder
    expand = "import os, sys; print(os.path.expanduser(os.path.expandvars(sys.argv[1])))"
    return remote.read_output(["python", "-c", expand, folder]).rstrip("\n")


def download_batches(remote: Remote, folder: str, into: str, checkpoints: bool = False) -> Download:
    """Download the batches of a remote folder into a local one. RemoteError if the connection is lost for good.

    Nothing is deleted, and newer local files remain. After an interruption at any time, a repetition continues.
    """
    files.make_folder(into)
    with staging.private_path(os.path.join(into, f".from-{remote.host.name}")) as index:
        return _download_into(remote, folder, into, index, checkpoints)


def _download_into(remote: Remote, folder: str, into: str, index: str, checkpoints: bool) -> Download:
    """Download the index, and then the batches by way of a staging folder in it."""
    remote.rsync(*staging.OPTIONS, "--checksum", "--delete", "--prune-empty-dirs",
                 *(f"--exclude={pattern}" for pattern in _NEVER),
                 *(f"--include={pattern}" for pattern in _INDEX), "--exclude=*", "--",
                 _contents(remote.rsync_path(folder)), _contents(index), living=True)
    download = Download([], [], [])
    for name in sorted(map(os.path.basename, batch_folder.all_batches(index))):
        local_batch, remote_batch = os.path.join(into, name), os.path.join(index, name)
        if not staging.is_plain(name):
            download.skipped.append(f"{name!r} on {remote.host.name}: skipped: not a name of a batch")
            continue
        remote_journals = _journals(remote_batch) - (_journals(local_batch) - _synced_journals(local_batch))
        if _journals(remote_batch) and not remote_journals:
            download.submitted_here.append(name)
        elif reason := find_conflict(local_batch, remote_batch, remote.host.name, remote_journals):
            download.skipped.append(f"{local_batch}: {reason}")
        else:
            download.batches.append(name)
            # before the runs arrive, so that nobody here starts them
            _store_journals(local_batch, remote_batch, remote.host.name, remote_journals)
    canaries = [f"/{_escape_pattern(name)}/{run_folder.CANARY}/" for name in download.batches
                if _leaves_canaries(os.path.join(into, name), os.path.join(index, name))]
    excluded = (*_NEVER, *(() if checkpoints else _LARGE), *_ONLY_IN_INDEX, *canaries)
    staged = os.path.join(index, _STAGING)
    try:
        remote.rsync(*staging.OPTIONS, f"--compare-dest={os.path.abspath(into)}", "--partial-dir=.partial",
                     "--info=progress2", "--human-readable", *(f"--exclude={pattern}" for pattern in excluded),
                     *(f"--include=/{_escape_pattern(name)}/" for name in download.batches), "--exclude=/*/", "--",
                     _contents(remote.rsync_path(folder)), _contents(staged), living=True, show=True)
    finally:  # after an error, what has arrived
        refused = staging.merge(staged, into, download.batches, _is_only_in_index) if os.path.isdir(staged) else []
    deletion.remove_tree(staged)
    download.skipped.extend(f"{os.path.join(into, path)!r}: skipped: its name or kind is not allowed, or a "
                            "link is there" for path in refused)
    for name in download.batches:
        notes.merge(os.path.join(into, name), os.path.join(index, name))
    return download


def _is_only_in_index(path: str) -> bool:
    """Return whether a file below the results is stored from the index: notes, journals and sync markers."""
    _, *folders, name = path.split("/")
    if folders in ([run_folder.SUBMISSIONS], [run_folder.CANARY, run_folder.SUBMISSIONS]):
        return name.endswith(".jsonl") or run_folder.is_sync_marker(name)
    return not folders and name == run_folder.NOTES


def find_conflict(local_batch: str, remote_batch: str, host: str, remote_journals: frozenset[str]) -> str | None:
    """Return why a local batch and a remote one of the same name cannot be merged; None if they can.

    remote_journals: those that were not written on this machine.
    """
    if os.path.islink(local_batch):
        return "skipped: it is a symbolic link here; download it into another folder with --into"
    if not run_folder.is_batch_folder(local_batch):
        return None
    if missing := sync_markers.read_host(local_batch, host).journals - _journals(remote_batch):
        return (f"skipped: it was replaced on {host} since its download (submission {sorted(missing)[0]} is missing "
                "there); move the local copy away and sync again")
    other_journals = _journals(local_batch) - remote_journals - sync_markers.read_host(local_batch, host).journals
    if not other_journals:
        return None
    local_plans = [plan for token in sorted(other_journals) if (plan := _read_plan(local_batch, token))]
    remote_plans = [plan for token in sorted(remote_journals) if (plan := _read_plan(remote_batch, token))]
    if differences := _job_spec_differences(local_batch, remote_batch) + [
            difference for remote_plan in remote_plans[:1] for local_plan in local_plans[:1]
            for difference in batch_folder.differences(_identity(local_plan), _identity(remote_plan))]:
        return (f"skipped: the one on {host} was made from another job spec ({'; '.join(differences[:3])}); "
                "download it into another folder with --into")
    both = {name for plan in local_plans for name in plan["tickets"]} & {
        name for plan in remote_plans for name in plan["tickets"]}
    if both:
        return (f"skipped: {count(len(both), 'run')} of it, {min(both)} first, were submitted both on {host} "
                "and elsewhere; use --into another folder (sites that share a batch submit with --shard)")
    return None


def _remote_states(remote: Remote, folder: str, into: str, names: Sequence[str]) -> _States:
    """Return the remote machine's status of those batches that have unfinished runs, by name."""
    unfinished = [name for name in names if _has_unfinished_runs(os.path.join(into, name))]
    if not unfinished:
        return {}
    output = remote.read_output(["python", "experiments.py", "status", "--json",
                                 *(os.path.join(folder, name) for name in unfinished)])
    try:
        return {os.path.basename(status["batch"]): {kind: _run_states(status.get(kind, [])) for kind in _KINDS}
                for status in json.loads(output)}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise RemoteError("its `experiments.py status --json` cannot be parsed", where=remote.host.name,
                          hint="check that the project there is as new as this one") from None


def _store_states(into: str, names: Iterable[str], host: str, states: _States) -> None:
    """Record that the batches were downloaded completely now, with the states of their runs there."""
    for name in names:
        path = os.path.join(into, name)
        for folder, kind in zip((path, os.path.join(path, run_folder.CANARY)), _KINDS, strict=True):
            marker = sync_markers.read_host(folder, host)
            if marker.journals or kind == _KINDS[0]:
                run_states = states.get(name, {}).get(kind, {})
                sync_markers.write(folder, marker._replace(time=time.time(), states=run_states))


def _run_states(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, str]]:
    """Return state and reason of each run in the JSON of `status`. KeyError or TypeError if it has another form."""
    run_states = {row["run"]: (row["state"], row["why"]) for row in rows}
    if not all(isinstance(text, str) for name, pair in run_states.items() for text in (name, *pair)):
        raise TypeError
    return run_states


def _has_unfinished_runs(path: str) -> bool:
    return any(not run_files.exists(os.path.join(path, name), run_folder.DONE) for name in run_folder.run_names(path))


def _store_journals(local_batch: str, remote_batch: str, host: str, remote_journals: frozenset[str]) -> None:
    """Copy these journals of the batch, and those of its canaries, after recording which host they are from."""
    canaries = frozenset() if _leaves_canaries(local_batch, remote_batch) else _journals(
        os.path.join(remote_batch, run_folder.CANARY))
    for folder, tokens in ((local_batch, remote_journals), (os.path.join(local_batch, run_folder.CANARY), canaries)):
        if tokens or folder == local_batch:
            sync_markers.write(folder, sync_markers.read_host(folder, host)._replace(journals=tokens))
        for token in tokens:
            name = os.path.join(run_folder.SUBMISSIONS, f"{token}.jsonl")
            text = files.read_text(os.path.join(remote_batch, os.path.relpath(folder, local_batch), name)) or ""
            if text != files.read_text(os.path.join(folder, name)):
                files.write_atomic(os.path.join(folder, name), text)


def _leaves_canaries(local_batch: str, remote_batch: str) -> bool:
    """Return whether the remote canaries are left there: those of two sites have equal names, and each uses its own."""
    local_canaries = _journals(os.path.join(local_batch, run_folder.CANARY)) - _journals(
        os.path.join(remote_batch, run_folder.CANARY))
    return bool(local_canaries or _journals(local_batch) - _synced_journals(local_batch) - _journals(remote_batch))


def _journals(path: str) -> frozenset[str]:
    """Return the tokens of a batch's submissions."""
    names = files.list_folder(os.path.join(path, run_folder.SUBMISSIONS))
    return frozenset(name.removesuffix(".jsonl") for name in names
                     if name.endswith(".jsonl") and staging.is_plain(name))


def _synced_journals(path: str) -> frozenset[str]:
    """Return the tokens of the submissions that are from other machines."""
    folder = os.path.join(path, run_folder.SUBMISSIONS)
    markers = sync_markers.read_all(folder, files.list_folder(folder))
    return frozenset().union(*(marker.journals for marker in markers))


def _read_plan(path: str, token: str) -> dict[str, Any] | None:
    """Return the plan in a submission's journal."""
    records = files.read_json_lines(os.path.join(path, run_folder.SUBMISSIONS, f"{token}.jsonl"))
    return next((record for record in records if isinstance(record, dict) and record.get("kind") == "plan"
                 and isinstance(record.get("tickets"), dict)), None)


def _identity(plan: dict[str, Any]) -> dict[str, Any]:
    """Return the grid options of a plan, which all parts of a batch share; options that were not given are omitted."""
    identity = plan.get("identity")
    return {key: value for key, value in identity.items() if key != "shard" and value is not None} if isinstance(
        identity, dict) else {}


def _job_spec_differences(local_batch: str, remote_batch: str) -> list[str]:
    paths = [os.path.join(path, run_folder.JOB_SPEC) for path in (local_batch, remote_batch)]
    if files.read_text(paths[0]) == files.read_text(paths[1]):
        return []
    try:
        return batch_folder.differences(*map(yaml_io.load_file, paths))
    except JobSpecError as error:
        return [error.what]


def _contents(path: str) -> str:
    """Return a folder's path in the form in which rsync copies its contents."""
    return f"{path.rstrip('/')}/"


def _escape_pattern(name: str) -> str:
    """Return a pattern of rsync that matches only this name; a backslash is special only beside wildcards."""
    return re.sub(r"([*?[\\])", r"\\\1", name) if re.search(r"[*?[]", name) else name


def summary_lines(download: Download, into: str) -> Iterable[str]:
    """Yield lines about the batches that were not downloaded."""
    yield from download.skipped
    for name in download.submitted_here:
        yield f"{os.path.join(into, name)}: submitted from here, left unchanged"
