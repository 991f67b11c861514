"""Results of another machine brought beside those here: by rsync, again for what is new; notes and sites are merged"""
from __future__ import annotations

import dataclasses
import json
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from src import notes, run_folder
from src.errors import JobSpecError, RemoteError
from src.io import files, yaml_io
from src.submission.batch import batch_folder, sync_markers
from src.submission.remote import hosts, ssh
from src.submission.remote.ssh import Remote
from src.submission.system.terminal import count

# hidden files are half written, or caches of that machine
_NEVER, _LARGE = (".*",), ("*.pt", "*.safetensors", "snapshot/")
# what tells batches from one another and says who has which run: a few small files, looked at before the others come
_HOMES = (f"/*/{run_folder.SUBMISSIONS}/", f"/*/{run_folder.CANARY}/{run_folder.SUBMISSIONS}/")
_BOOKS = ("/*/", f"/*/{run_folder.JOB_SPEC}", f"/*/{run_folder.NOTES}", f"/*/{run_folder.CANARY}/", *_HOMES,
          *(f"{home}*.jsonl" for home in _HOMES))
# and what of it comes by those alone: journals that are written meanwhile have no mark yet
_APART = (f"/*/{run_folder.NOTES}", *(f"{home}*.jsonl" for home in _HOMES),
          *(home + run_folder.sync_marker_name("*") for home in _HOMES))
_COPY = ("--archive", "--compress")


@dataclasses.dataclass(frozen=True)
class Download:
    """batches: by name, those that came; told: why others did not; ours: those that were submitted here anyway."""

    batches: list[str]
    skipped: list[str]
    submitted_here: list[str]


def download_from_host(source: str, into: str, project: str, checkpoints: bool = False) -> Download:
    """`sync` from HOST, whose results are where hosts.toml says, or HOST:FOLDER. RemoteError if it cannot be reached.

    project: the folder of this project here.
    """
    name, _, given = source.partition(":")
    host = hosts.find_host(name, project)
    if given:
        host = dataclasses.replace(host, folder=given.removeprefix("~/"))
    far = ssh.connect(host, known_hosts=hosts.read_hosts(project))
    folder = "" if given else remote_results_folder(far)
    fetched = download_batches(far, folder, into, checkpoints)
    told: dict[str, dict[str, Any]] = {}
    if not given:
        try:
            told = _states_there(far, folder, into, fetched.batches)
        except RemoteError as error:  # all files are here; what lives there is unknown then
            print(f"note: {error}")
    _date(into, fetched.batches, host.name, told)
    return fetched


def remote_results_folder(far: Remote) -> str:
    """The folder of its batches, with `~` and variables as that machine knows them."""
    folder = far.host.output_dir or "results"
    if "$" not in folder and folder[0] != "~":
        return folder
    expand = "import os, sys; print(os.path.expanduser(os.path.expandvars(sys.argv[1])))"
    return far.read_output(["python", "-c", expand, folder]).rstrip("\n")


def download_batches(far: Remote, folder: str, into: str, checkpoints: bool = False) -> Download:
    """Bring the batches in a folder of another machine into a folder here; nothing is deleted, and what is newer here
    stays. Cut off at any instant, the same again goes on. RemoteError if the connection is lost for good.
    """
    books = os.path.join(into, f".from-{far.host.name}")
    os.makedirs(books, exist_ok=True)
    far.rsync(*_COPY, "--checksum", "--delete", "--prune-empty-dirs", *(f"--exclude={pattern}" for pattern in _NEVER),
              *(f"--include={pattern}" for pattern in _BOOKS), "--exclude=*", "--", _inside(far.rsync_path(folder)),
              _inside(books), living=True)
    found = Download([], [], [])
    for name in sorted(map(os.path.basename, batch_folder.all_batches(books))):
        here, there = os.path.join(into, name), os.path.join(books, name)
        theirs = _journals(there) - (_journals(here) - _marked(here))
        if _journals(there) and not theirs:
            found.submitted_here.append(name)
        elif why := find_conflict(here, there, far.host.name, theirs):
            found.skipped.append(f"{here}: {why}")
        else:
            found.batches.append(name)
            _mark(here, there, far.host.name, theirs)  # before their runs come, which nobody here shall begin
    canaries = [f"/{_pattern(name)}/{run_folder.CANARY}/" for name in found.batches
                if _keeps_canaries(os.path.join(into, name), os.path.join(books, name))]
    left_out = (*_NEVER, *(() if checkpoints else _LARGE), *_APART, *canaries)
    far.rsync(*_COPY, "--update", "--partial-dir=.partial", "--info=progress2", "--human-readable",
              *(f"--exclude={pattern}" for pattern in left_out),
              *(f"--include=/{_pattern(name)}/" for name in found.batches), "--exclude=/*/", "--",
              _inside(far.rsync_path(folder)), _inside(into), living=True, show=True)
    for name in found.batches:
        notes.merge(os.path.join(into, name), os.path.join(books, name))
    return found


def find_conflict(here: str, there: str, host: str, theirs: frozenset[str]) -> str | None:
    """Why a batch here and one of the same name there cannot be one; None if they can, or there is none here.

    theirs: the journals that are not this machine's own.
    """
    if not run_folder.is_batch_folder(here):
        return None
    if gone := sync_markers.read_host(here, host).journals - _journals(there):
        return (f"not fetched: it was made anew on {host} since it was fetched ({sorted(gone)[0]} is gone there); move "
                "this copy away and sync again")
    others = _journals(here) - theirs - sync_markers.read_host(here, host).journals
    if not others:
        return None
    ours = [plan for token in sorted(others) if (plan := _plan(here, token))]
    new = [plan for token in sorted(theirs) if (plan := _plan(there, token))]
    if differing := _differences(here, there) + [
            word for plan in new[:1] for first in ours[:1]
            for word in batch_folder.differences(_asked(first), _asked(plan))]:
        return (f"not fetched: the one on {host} was made from another job spec ({'; '.join(differing[:3])}); --into "
                "another folder keeps them apart")
    both = {name for plan in ours for name in plan["tickets"]} & {name for plan in new for name in plan["tickets"]}
    if both:
        return (f"not fetched: {count(len(both), 'run')} of it, {min(both)} first, were submitted both on {host} "
                "and elsewhere; --into another folder keeps them apart (sites that share a batch submit with --shard)")
    return None


def _states_there(far: Remote, folder: str, into: str, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What that machine says of the batches that have runs that have not ended. RemoteError if it says nothing."""
    going = [name for name in names if _has_open_runs(os.path.join(into, name))]
    if not going:
        return {}
    words = far.read_output(["python", "experiments.py", "status", "--json",
                             *(os.path.join(folder, name) for name in going)])
    try:
        return {os.path.basename(found["batch"]): found for found in json.loads(words)}
    except (ValueError, KeyError, TypeError):
        raise RemoteError("its `experiments.py status --json` is not understood", where=far.host.name,
                          hint="is the project there as new as this one?") from None


def _date(into: str, names: Iterable[str], host: str, told: Mapping[str, Mapping[str, Any]]) -> None:
    """Mark the batches as fetched whole, now, with what was told of their runs."""
    for name in names:
        path = os.path.join(into, name)
        for place, kind in ((path, "runs"), (os.path.join(path, run_folder.CANARY), "canaries")):
            mark = sync_markers.read_host(place, host)
            if mark.journals or kind == "runs":
                states = {row["run"]: (row["state"], row["why"]) for row in told.get(name, {}).get(kind, ())}
                sync_markers.write(place, mark._replace(time=time.time(), states=states))


def _has_open_runs(path: str) -> bool:
    return any(not os.path.exists(os.path.join(path, name, run_folder.DONE)) for name in run_folder.run_names(path))


def _mark(here: str, there: str, host: str, theirs: frozenset[str]) -> None:
    """Bring these journals of the batch, and those of its canaries, and say before whose they are."""
    canaries = frozenset() if _keeps_canaries(here, there) else _journals(os.path.join(there, run_folder.CANARY))
    for place, tokens in ((here, theirs), (os.path.join(here, run_folder.CANARY), canaries)):
        if tokens or place == here:
            sync_markers.write(place, sync_markers.read_host(place, host)._replace(journals=tokens))
        for token in tokens:
            name = os.path.join(run_folder.SUBMISSIONS, f"{token}.jsonl")
            text = files.read_text(os.path.join(there, os.path.relpath(place, here), name)) or ""
            if text != files.read_text(os.path.join(place, name)):
                files.write_atomic(os.path.join(place, name), text)


def _keeps_canaries(here: str, there: str) -> bool:
    """Whether the canaries there stay there: those of two sites have the same names, and a site trusts its own alone.
    """
    tried = _journals(os.path.join(here, run_folder.CANARY)) - _journals(os.path.join(there, run_folder.CANARY))
    return bool(tried or _journals(here) - _marked(here) - _journals(there))


def _journals(path: str) -> frozenset[str]:
    """The tokens of a batch's submissions."""
    folder = os.path.join(path, run_folder.SUBMISSIONS)
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return frozenset(name.removesuffix(".jsonl") for name in names if name.endswith(".jsonl"))


def _marked(path: str) -> frozenset[str]:
    """Those of them that came from other machines, whichever."""
    folder = os.path.join(path, run_folder.SUBMISSIONS)
    found = sync_markers.read_all(folder, os.listdir(folder) if os.path.isdir(folder) else [])
    return frozenset().union(*(copy.journals for copy in found))


def _plan(path: str, token: str) -> dict[str, Any] | None:
    """The plan of a submission."""
    records = files.read_json_lines(os.path.join(path, run_folder.SUBMISSIONS, f"{token}.jsonl"))
    return next((record for record in records if isinstance(record, dict) and record.get("kind") == "plan"
                 and isinstance(record.get("tickets"), dict)), None)


def _asked(plan: dict[str, Any]) -> dict[str, Any]:
    """What a submission asked for beside its job spec, whichever part of it; what was not given is left out."""
    return {key: value for key, value in (plan.get("identity") or {}).items() if key != "shard" and value is not None}


def _differences(here: str, there: str) -> list[str]:
    """What differs between the job specs of two batches."""
    paths = [os.path.join(path, run_folder.JOB_SPEC) for path in (here, there)]
    if files.read_text(paths[0]) == files.read_text(paths[1]):
        return []
    try:
        return batch_folder.differences(*map(yaml_io.load_file, paths))
    except JobSpecError as error:
        return [error.what]


def _inside(path: str) -> str:
    """A folder as rsync takes it for what is in it."""
    return f"{path.rstrip('/')}/"


def _pattern(name: str) -> str:
    """A name as a pattern of rsync that nothing else matches; a backslash is special only beside other signs."""
    return re.sub(r"([*?[\\])", r"\\\1", name) if re.search(r"[*?[]", name) else name


def summary_lines(fetched: Download, into: str) -> Iterable[str]:
    """What a sync says beside its totals."""
    yield from fetched.skipped
    for name in fetched.submitted_here:
        yield f"{os.path.join(into, name)}: submitted from here, and left as it is"
