"""The state of a project's code: its commit, hashes of its files at submission, and what differs when a run starts."""
from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from src import run_folder
from src.errors import listed
from src.io import deletion, files, records
from src.io.secrets import redact, secret_values
from src.run_folder import RunFolder

if TYPE_CHECKING:
    from pathlib import Path

CODE, CHANGED, BEFORE = "code", "code_changed", "code_before"  # facts of a run
GONE = "gone"  # in place of the hash of a file that was removed
CODE_SUFFIXES = frozenset(
    ".py .pyi .pyx .sh .bash .c .cc .cpp .cu .cuh .h .hpp .rs .jl .r .m .lua .js".split())  # of what can be executed
DATA_SUFFIXES = frozenset(".yaml .yml .toml .cfg .ini .json".split())  # of settings that a program may read
_MAX_FILE = 2**20  # bytes; a larger file is not hashed
_JOB_SPECS = "jobs/"  # no code: a run reads its own copy


_FORMS: records.Forms = {"code": records.is_text, "files": records.mapping_of(
    lambda name: isinstance(name, str) and not os.path.isabs(name) and ".." not in name.split("/"),
    lambda entry: isinstance(entry, list) and len(entry) == 3 and isinstance(entry[2], str))}


class StartedCode(NamedTuple):
    """The code that a run started with.

    code: id of all files; equal code has equal ids
    changed: names of the files that differ from those at submission, are new, or are gone
    """

    code: str
    changed: list[str]

    def facts(self) -> dict[str, Any]:
        """Return the facts of the run."""
        return {CODE: self.code, CHANGED: self.changed}


class _Difference(NamedTuple):
    """A file that differs from the one at submission. content: None if it is gone."""

    content: bytes | None


def write_manifest(folder: str, project: str, names: Iterable[str]) -> None:
    """Write size, modification time and hash of the code among `names` of a project into a folder of code/."""
    entries: dict[str, list[Any]] = {}
    for name in sorted(filter(is_code, names)):
        path = os.path.join(project, name)
        with contextlib.suppress(OSError):  # it has just been removed, or is a broken link
            stat = os.stat(path)
            if stat.st_size <= _MAX_FILE and not is_job_spec(name, content := _read(path)):
                entries[name] = [stat.st_size, stat.st_mtime_ns, hash_of(content)]
    files.write_json(os.path.join(folder, run_folder.SOURCES), {
        "code": _code_id({name: entry[2] for name, entry in entries.items()}), "files": entries}, sync=False)


def compare_all(code_folder: str, project: str, more_names: Iterable[str] = ()) -> StartedCode | None:
    """Compare all code of a project with that at submission, and store what differs; None if that was not hashed.

    code_folder: of the submission. more_names: files of the project that may be new.
    """
    if not (entries := _entries(code_folder)):
        return None
    names = dict.fromkeys((*entries, *filter(is_code, more_names)))
    return _store(code_folder, {name: difference for name in names
                                if (difference := _difference(code_folder, project, name))})


def read_manifest(code_folder: str) -> tuple[str, dict[str, list[Any]]]:
    """Return the id of a submission's code, and size, modification time and hash of each file; empty if not hashed."""
    return _manifest(code_folder).get("code", ""), _entries(code_folder)


def may_have_versions(batch: str) -> bool:
    """Return whether the runs of a batch can have started with more than one version of the code."""
    number = 0
    with contextlib.suppress(OSError), os.scandir(os.path.join(batch, run_folder.CODE)) as submissions:
        for submission in submissions:
            names = os.listdir(submission.path) if submission.is_dir(follow_symlinks=False) else []
            number += bool(names) + sum(name.startswith(run_folder.started_code_name("")) for name in names)
    return number > 1


def changed_names(code_folder: str, project: str) -> list[str] | None:
    """Return the code of a project that differs from that at submission; None if that was not hashed."""
    if not (entries := _entries(code_folder)):
        return None
    return [name for name in entries if _difference(code_folder, project, name)]


def compare_loaded(code_folder: str, project: str) -> StartedCode | None:
    """Compare the modules that this process has loaded with the files at submission, and store those that differ; None
    if these were not hashed.

    A module is compared once per process: later edits do not change what was loaded. A worker calls this before it
    forks its runs.
    """
    if not _entries(code_folder):
        return None
    return _store(code_folder, {name: difference for name in _loaded_names(project)
                                if (difference := _loaded_difference(code_folder, project, name))})


def facts_of_start(folder: str | None) -> dict[str, Any]:
    """Return the facts about the code that this process trains a run with; empty if the submission did not hash it."""
    token = (RunFolder.read(folder).last_attempt() or {}).get("code") if folder else None
    if not folder or not token:
        return {}
    started = compare_loaded(os.path.join(os.path.dirname(folder), run_folder.CODE, token), project_folder())
    return started.facts() if started else {}


def facts_before(folder: str | None, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fact that earlier starts of a resumed run had other code, by the config that they left."""
    config = os.path.join(folder, run_folder.CONFIG) if folder else ""
    earlier = run_folder.read_spec(config).get("facts") if os.path.exists(config) else None
    if not isinstance(earlier, dict):
        return {}
    before = earlier.get(BEFORE)
    codes = [code for code in dict.fromkeys(filter(records.is_text, (
        *(before if isinstance(before, list) else ()), earlier.get(CODE)))) if code != facts.get(CODE)]
    return {BEFORE: codes} if codes else {}


def project_folder() -> str:
    """Return the folder of the script that this process executes: the project, or a snapshot of it."""
    return os.path.dirname(os.path.abspath(sys.argv[0]))


def change_message(names: Iterable[str]) -> str:
    """Return `code changed since submission: train.py, src/models/vgg.py and 2 more`."""
    return f"code changed since submission: {listed(list(names), 3)}"


def warnings(facts: Mapping[str, Any]) -> list[str]:
    """Return the line about its code in the log of a run."""
    return [*([change_message(facts[CHANGED])] if facts.get(CHANGED) else []),
            *(["earlier starts of this run had other code"] if facts.get(BEFORE) else [])]


def commit(root: Path) -> str | None:
    """Return the commit that is checked out at `root`, or that of a snapshot; None outside a git repository.

    It reads git's own files, since a subprocess would add 5 ms to each run.
    """
    if snapshot_commit := files.read_text(root / run_folder.COMMIT):
        return snapshot_commit.strip()
    git = root / ".git"
    if git.is_file():  # of a worktree: the file contains the path of its folder
        git = root / (files.read_text(git) or "").partition("gitdir:")[2].strip()
    head = (files.read_text(git / "HEAD") or "").strip()
    ref = head.removeprefix("ref: ")
    if ref == head:  # detached: HEAD is the commit
        return head or None
    common = git / (files.read_text(git / "commondir") or "").strip()
    loose = (files.read_text(common / ref) or "").strip()
    packed = (files.read_text(common / "packed-refs") or "").splitlines()
    return loose or next((line.split()[0] for line in packed if line.endswith(f" {ref}")), None)


def file_hash(path: str) -> str | None:
    """Return the SHA-256 of a file as hexadecimal digits, as sha256sum prints it; None if it cannot be read."""
    import hashlib  # as in hash_of

    try:
        return hashlib.sha256(files.read_bytes(path) or b"").hexdigest() if os.path.exists(path) else None
    except OSError:
        return None


def is_code(name: str) -> bool:
    """Return whether a file of a project is code, or settings that code may read, by its name."""
    return is_executable(name) or (
        os.path.splitext(name)[1].lower() in DATA_SUFFIXES and not name.startswith(_JOB_SPECS))


def is_executable(name: str) -> bool:
    """Return whether a file can be imported or executed, by its name."""
    return os.path.splitext(name)[1].lower() in CODE_SUFFIXES and not name.startswith(_JOB_SPECS)


def is_job_spec(name: str, content: bytes) -> bool:
    """Return whether a file is a job spec or a sweep file, which no run reads: YAML with one of their keys."""
    return name.endswith((".yaml", ".yml")) and any(
        line.partition(b":")[0].rstrip() in (b"job_details", b"parameters") for line in content.splitlines()
        if b":" in line)


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def hash_of(content: bytes) -> str:
    """Return the hash of the content of a file, as manifests record it."""
    import hashlib  # loads OpenSSL; a start with unchanged code does not need it

    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _code_id(hashes: Mapping[str, str]) -> str:
    text = "".join(f"{hashes[name]} {name}\n" for name in sorted(hashes))
    return hash_of(text.encode("utf-8", "surrogateescape"))[:16]


@functools.cache
def _manifest(code_folder: str) -> dict[str, Any]:
    value = records.fields(files.read_json(os.path.join(code_folder, run_folder.SOURCES)), _FORMS)
    return value if value.keys() >= _FORMS.keys() else {}


def _entries(code_folder: str) -> dict[str, list[Any]]:
    entries: dict[str, list[Any]] = _manifest(code_folder).get("files", {})
    return entries


def _loaded_names(project: str) -> Iterator[str]:
    """Yield the files of the project, relative to it, that modules of this process were loaded from."""
    prefix = os.path.join(project, "")
    for module in list(sys.modules.values()):
        # not getattr, which would load lazy modules; of some modules of torch, it is a name without a folder
        path = getattr(module, "__dict__", {}).get("__file__")
        if isinstance(path, str) and path.startswith(prefix) and "site-packages" not in path and is_code(
                name := path[len(prefix):]):
            yield name


def _difference(code_folder: str, project: str, name: str) -> _Difference | None:
    """Return the content of a file that differs from the one at submission; None if it is the same."""
    size, time_ns, submitted_hash = _entries(code_folder).get(name, (None, None, None))
    path = os.path.join(project, name)
    try:
        stat = os.stat(path)
        if (stat.st_size, stat.st_mtime_ns) == (size, time_ns):
            return None
        content = _read(path)
    except OSError:
        return _Difference(None)
    is_same = hash_of(content) == submitted_hash or submitted_hash is None and is_job_spec(name, content)
    return None if is_same else _Difference(content)


_loaded_difference = functools.cache(_difference)


def _store(code_folder: str, differences: Mapping[str, _Difference]) -> StartedCode:
    """Store the files that differ, once for all runs that start with this code."""
    if not differences:
        return StartedCode(_manifest(code_folder)["code"], [])
    hashes = {name: entry[2] for name, entry in _entries(code_folder).items()}
    for name, difference in differences.items():
        hashes[name] = GONE if difference.content is None else hash_of(difference.content)
    started = StartedCode(_code_id(hashes), sorted(differences))
    target = os.path.join(code_folder, run_folder.started_code_name(started.code))
    if not os.path.isdir(target):
        with contextlib.suppress(OSError):  # the run matters more than its record
            _write_files(target, {name: difference.content for name, difference in differences.items()})
    return started


def _write_files(target: str, contents: Mapping[str, bytes | None]) -> None:
    """Write files into a new folder, without secrets. The folder appears with all of them."""
    staging, secrets = files.temporary_path(target), secret_values(os.environ)
    files.make_folder(staging)
    try:
        for name, content in contents.items():
            if content is not None:
                path = os.path.join(staging, name)
                files.make_folder(os.path.dirname(path))
                files.write_atomic(path, redact(content, secrets), sync=False)
        os.rename(staging, target)
    except BaseException:
        deletion.remove_tree(staging)  # another run may have stored the same at the same time
        raise
