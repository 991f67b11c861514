"""Versions of the code in a batch: which runs started with which, by the hashes that submissions and starts record."""
from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from src import run_folder
from src.archive import run_files
from src.code import code_state, program_files
from src.io import files, records, yaml_io

_MAX_READ = 1000  # runs whose facts are read; of more, as many, evenly spaced
_MAX_NAMED = 3  # files in a line
_USER_CODE = re.compile(r"(?<![\w/.:])([A-Za-z_][\w.]*):[A-Za-z_]")  # module:name in a job spec

RunFiles = Mapping[str, str]  # the hash of each file that a run may execute, by its name in the project


class Version(NamedTuple):
    """A version of the code. runs: how many have it; files: the hashes of those files that differ between versions."""

    runs: int
    files: dict[str, str | None]


def versions(run_files: Iterable[RunFiles]) -> list[Version]:
    """Return the versions of the code that runs have, in the order of the runs. None: a run does not use that file."""
    items = [item for item in run_files if item]
    names = differing_files(items)
    counter = Counter(tuple(item.get(name) for name in names) for item in items)
    return [Version(number, dict(zip(names, hashes, strict=True))) for hashes, number in counter.items()]


def differing_files(run_files: Iterable[RunFiles]) -> list[str]:
    """Return the files of which runs have different contents."""
    hashes: dict[str, str] = {}
    differing: dict[str, None] = {}
    for item in run_files:
        for name, digest in item.items():
            if hashes.setdefault(name, digest) != digest:
                differing[name] = None
    return list(differing)


def line(batch_versions: Sequence[Version]) -> str:
    """Return `code: 2 versions in 13 runs (mine.py: 10 and 3 runs)`; empty for a single version."""
    if len(batch_versions) < 2:
        return ""
    parts = []
    for name in list(batch_versions[0].files)[:_MAX_NAMED]:
        numbers: Counter[str] = Counter()
        for version in batch_versions:
            if digest := version.files[name]:
                numbers[digest] += version.runs
        *first, last = [str(number) for number in numbers.values()]
        parts.append(f"{name}: {', '.join(first)} and {last} runs")
    more = len(batch_versions[0].files) - _MAX_NAMED
    parts += [f"{more} more file{'s' * (more > 1)}"] if more > 0 else []
    total = sum(version.runs for version in batch_versions)
    return f"code: {len(batch_versions)} versions in {total:,} runs ({'; '.join(parts)})"


def read_versions(batch: str, folders: Sequence[str], limit: int | None = _MAX_READ) -> list[Version]:
    """Return the versions of the code that the runs in `folders` started with; empty if the batch can have only one.

    limit: at most so many runs are read, evenly spaced.
    """
    submitted = _Submitted(batch)
    return versions(_read_all(submitted, _spaced(folders, limit))) if submitted.may_differ else []


def differences_from(project: str, batch: str, folders: Sequence[str]) -> tuple[list[str], int]:
    """Return the files of a project that differ from those of some runs' starts, and the number of these runs."""
    submitted = _Submitted(batch, project)
    limit = _MAX_READ if submitted.may_differ else 16  # where all have the same code, a few name all its files
    sample = _spaced(folders, limit)
    run_files = _read_all(submitted, sample)
    names = list(dict.fromkeys(name for item in run_files for name in item))
    now = {name: submitted.hash_now(project, name, run_files) for name in names}
    changed = [name for name in names if any(item.get(name, now[name]) != now[name] for item in run_files)]
    number = sum(any(item.get(name, now[name]) != now[name] for name in changed) for item in run_files)
    return changed, round(number * len(folders) / len(sample)) if sample else 0


def _spaced(folders: Sequence[str], limit: int | None) -> Sequence[str]:
    if limit is None or len(folders) <= limit:
        return folders
    return [folders[position * len(folders) // limit] for position in range(limit)]


def _read_all(submitted: _Submitted, folders: Iterable[str]) -> list[RunFiles]:
    return [submitted.files_of(facts) for facts in map(_read_facts, folders)]


def _read_facts(folder: str) -> dict[str, Any]:
    """Return the facts of a run; empty before its first start."""
    if facts := run_folder.read_facts(folder):
        return facts
    try:
        text = run_files.read_text(folder, run_folder.CONFIG) or ""
        # the last line, a mapping in JSON: YAML would take a hundred times as long
        value = files.parse_json(text[text.rfind("\nfacts: ") + len("\nfacts: "):]) if "\nfacts: " in text else {}
    except OSError:
        return {}
    return value if isinstance(value, dict) else {}


class _Submitted:
    """The code that a batch was submitted with, and what differed at the starts of its runs.

    may_differ: whether its runs can have started with more than one version.
    """

    def __init__(self, batch: str, project: str = files.PROJECT) -> None:
        self._batch, self._project = batch, project
        self._code_folders = [entry.path for entry in _folders(os.path.join(batch, run_folder.CODE))]
        self._started = [entry.path for folder in self._code_folders for entry in _folders(folder)
                         if entry.name.startswith(run_folder.started_code_name(""))]
        self.may_differ = code_state.may_have_versions(batch)
        self._by_id: dict[str, dict[str, str]] | None = None
        self._stats: dict[str, list[tuple[int, int, str]]] = {}

    def files_of(self, facts: Mapping[str, Any]) -> RunFiles:
        """Return the files that a run may execute, with their hashes, from its facts.

        A program of the user's own: its scripts, by SHA-256. train.py: itself, src/ and the modules that the job spec
        names, by the hashes of the submission.
        """
        scripts = facts.get("scripts")
        if isinstance(scripts, dict):
            return {name: digest for name, digest in scripts.items() if isinstance(digest, str)}
        code, changed = facts.get(code_state.CODE), facts.get(code_state.CHANGED)
        hashes = self._hashes_by_id().get(code, {}) if isinstance(code, str) else {}
        started = next((path for path in self._started
                        if os.path.basename(path) == run_folder.started_code_name(str(code))), None)
        if started and isinstance(changed, list):
            gone = [name for name in filter(records.is_text, changed)
                    if name in hashes and not os.path.exists(os.path.join(started, name))]
            return {**hashes, **dict.fromkeys(gone, code_state.GONE)}
        return hashes

    def hash_now(self, project: str, name: str, run_files: Iterable[RunFiles]) -> str:
        """Return the hash of a file of the project as it is now, of the kind that runs have of it."""
        path = os.path.join(project, name)
        if not os.path.isfile(path):
            return code_state.GONE
        if any(len(item.get(name, "")) == 64 for item in run_files):
            return code_state.file_hash(path) or code_state.GONE
        stat = os.stat(path)
        for size, time_ns, digest in self._stats.get(name, ()):
            if (size, time_ns) == (stat.st_size, stat.st_mtime_ns):
                return digest
        return _hash_file(path)

    def _hashes_by_id(self) -> dict[str, dict[str, str]]:
        """Return the hash of each file that train.py may execute, by the id of all code."""
        if self._by_id is None:
            self._by_id, own = {}, None
            for folder in self._code_folders:
                code, entries = code_state.read_manifest(folder)
                if own is None and entries:
                    own = set(self._own_files())
                entries = {name: entry for name, entry in entries.items() if own is not None and _is_used(name, own)}
                for name, (size, time_ns, digest) in entries.items():
                    self._stats.setdefault(name, []).append((size, time_ns, digest))
                hashes = {name: entry[2] for name, entry in entries.items()}
                self._by_id[code] = hashes
                for started in self._started:
                    if os.path.dirname(started) == folder:
                        self._by_id[os.path.basename(started).removeprefix(run_folder.started_code_name(""))] = {
                            **hashes, **{name: digest for name, digest in _hash_files(started).items()
                                         if own is not None and _is_used(name, own)}}
        return self._by_id

    def _own_files(self) -> list[str]:
        """Return the files of the modules that the job spec names, e.g. my_module:make."""
        try:
            text = files.read_text(os.path.join(self._batch, run_folder.JOB_SPEC), yaml_io.MAX_FILE) or ""
        except OSError:  # a pipe, or larger than a job spec can be
            text = ""
        return program_files.imported_files(dict.fromkeys(_USER_CODE.findall(text)), self._project)


def _is_used(name: str, own: set[str]) -> bool:
    """Return whether a run of train.py may execute a file."""
    return code_state.is_executable(name) and (name == "train.py" or name.startswith("src/") or name in own)


def _folders(path: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            return sorted((entry for entry in entries if records.is_token(entry.name)
                           and entry.is_dir(follow_symlinks=False)), key=lambda entry: entry.name)
    except OSError:
        return []


def _hash_files(folder: str) -> dict[str, str]:
    """Return the hash of each file in a folder, by its path in it."""
    return {os.path.relpath(path, folder): _hash_file(path)
            for parent, _, names in os.walk(folder) for name in names
            for path in [os.path.join(parent, name)] if not os.path.islink(path)}


def _hash_file(path: str) -> str:
    """Return the hash of a file; that of an empty one if it cannot be read, as a pipe."""
    try:
        return code_state.hash_of(files.read_bytes(path) or b"")
    except OSError:
        return code_state.hash_of(b"")
