"""Provenance: the code that a batch was submitted from, stored in its code/ with diff, packages and command."""
from __future__ import annotations

import contextlib
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from src import run_folder
from src.code import code_state
from src.errors import BatchError, listed
from src.frozen import Frozen, field
from src.io import files
from src.io.secrets import is_secret_file, public_url, redact, redact_json, secret_values
from src.submission.system import process
from src.submission.system.terminal import count

_GIT_TIMEOUT = 60.0  # seconds; enough for a slow disk
_MAX_DIFF = 20 * 2**20  # bytes; a larger diff is not stored
_MAX_FILE = 2**20  # bytes; a larger untracked file is not stored
_MAX_UNTRACKED = 10 * 2**20  # bytes of all untracked files together
_SOURCE_SUFFIXES = frozenset(
    ".py .pyi .pyx .sh .bash .yaml .yml .toml .cfg .ini .txt .md .ipynb .json .c .cc .cpp .cu .cuh .h .hpp .rs .jl .r "
    ".m .lua .html .css .js".split())
_EXCLUDED_FOLDERS = frozenset(("__pycache__", "data", "results", "node_modules"))


class Code(Frozen):
    """The state of the project's code in git.

    project: its folder
    commit: None outside git; `git_error` is the reason
    branch, remote: None if there is none
    prefix: the project's folder within its repository
    changed: tracked files that differ from the commit
    untracked: files that git neither tracks nor ignores
    unpushed: number of commits that no remote has; None if there is no remote
    git_error: why the commit is unknown
    upload_folder: folder with the record and diff of the machine that uploaded the project; None if none did
    files: the uploaded files
    sent_from: host and project of that machine
    """

    project: str
    commit: str | None = None
    branch: str | None = None
    remote: str | None = None
    prefix: str = ""
    changed: list[str] = field(default_factory=list)
    untracked: list[str] = field(default_factory=list)
    unpushed: int | None = None
    git_error: str | None = None
    upload_folder: str | None = None
    files: list[str] = field(default_factory=list)
    sent_from: dict[str, str] | None = None

    @property
    def uncommitted(self) -> list[str]:
        return [*self.changed, *self.untracked]

    def line(self) -> str:
        """Describe the state, as `1a2b3c4 on main, 3 uncommitted files, 2 unpushed commits`."""
        if self.commit is None:
            return f"unknown commit: {self.git_error}"
        parts = [f"{self.commit[:10]}{f' on {self.branch}' if self.branch else ''}"]
        if self.uncommitted:
            parts.append(count(len(self.uncommitted), "uncommitted file"))
        if self.unpushed is None:
            parts.append("no remote to push to")
        elif self.unpushed:
            parts.append(count(self.unpushed, "unpushed commit"))
        return ", ".join(parts)

    def require_clean(self) -> None:
        """Raise BatchError unless everything is committed and pushed."""
        if self.commit is None or self.uncommitted or self.unpushed is None or self.unpushed:
            examples = listed(self.uncommitted, 3)
            raise BatchError(f"the code is not clean: {self.line()}{f' ({examples})' if examples else ''}",
                             where=self.project, hint="commit and push, or omit --require-clean")


class _GitError(Exception):
    """git is missing or has failed; the message is its first line."""


def _git(project: str, *arguments: str) -> bytes:
    try:
        done = subprocess.run(["git", "-C", project, *arguments], capture_output=True, stdin=subprocess.DEVNULL,
                              check=False, timeout=_GIT_TIMEOUT,
                              env={**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"})
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _GitError(f"git {arguments[0]}: {type(error).__name__}") from None
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise _GitError(lines[0] if lines else f"git {arguments[0]} failed")
    return done.stdout


def _names(output: bytes) -> list[str]:
    """Split a list of names that end in NUL."""
    return [os.fsdecode(name) for name in output.split(b"\0") if name]


def inspect_code(project: str) -> Code:
    """Return the state of the project's code, by git; of an uploaded project, by the record of the other machine."""
    if (folder := os.environ.get(process.DETACHED_COMMAND)) and (record := files.read_json(
            os.path.join(folder, run_folder.CODE_RECORD))):
        return Code(**{**record, "project": project, "upload_folder": folder})
    try:
        commit = _git(project, "rev-parse", "--verify", "--quiet", "HEAD").decode().strip()
        branch = _git(project, "rev-parse", "--abbrev-ref", "HEAD").decode().strip()
        prefix = os.fsdecode(_git(project, "rev-parse", "--show-prefix").rstrip(b"\n"))
        changed = _names(_git(project, "diff", "--name-only", "--relative", "-z", "HEAD", "--", "."))
        untracked = _names(_git(project, "ls-files", "--others", "--exclude-standard", "--directory", "-z", "--", "."))
        remotes = _git(project, "remote").decode().split()
        unpushed = int(_git(project, "rev-list", "--count", "HEAD", "--not", "--remotes")) if remotes else None
        remote = _git(project, "remote", "get-url", "origin" if "origin" in remotes else remotes[0]).decode(
            ).strip() if remotes else None
    except _GitError as error:
        return Code(project, git_error=str(error) or "no commit yet")
    return Code(project, commit, None if branch == "HEAD" else branch, remote and public_url(remote), prefix,
                changed, untracked, unpushed)


def portable_record(code: Code, uploaded: Sequence[str]) -> dict[str, Any]:
    """Return what another machine needs to know of the code that is uploaded to it without the history.

    JSON values: the fields of Code, and `diff` in base64. Secrets are redacted.
    """
    import base64

    secrets = secret_values(os.environ)
    diff = base64.b64encode(redact(_diff(code), secrets)).decode() if code.changed else None
    return redact_json({**vars(code), "files": list(uploaded), "diff": diff, "untracked": _all_untracked(code),
                        "sent_from": {"host": platform.node(), "project": code.project}}, secrets)


def project_files(project: str) -> list[str] | None:
    """List the files that git tracks, also in submodules, and those that it neither tracks nor ignores.

    None outside git. BatchError if git fails inside a repository.
    """
    try:
        return _names(_git(project, "ls-files", "--recurse-submodules", "-z", "--", ".") + _git(
            project, "ls-files", "--others", "--exclude-standard", "-z", "--", "."))
    except _GitError as error:
        if os.path.lexists(os.path.join(project, ".git")):
            raise BatchError(f"cannot list the project's files: {error}", where=project) from None
        return None


def has_commit(project: str, commit: str) -> bool:
    """Return whether the repository of a project has a commit."""
    try:
        _git(project, "cat-file", "-e", f"{commit}^{{commit}}")
    except _GitError:
        return False
    return True


def names_outside_commit(project: str, commit: str) -> list[str]:
    """List what lies at the top of a project and not in a commit, such as data and .venv; empty if git fails."""
    try:
        tracked = _names(_git(project, "ls-tree", "--name-only", "-z", commit))
        return sorted({*os.listdir(project)} - {*tracked, ".git", "__pycache__"})
    except (_GitError, OSError):
        return []


def _all_untracked(code: Code) -> list[str]:
    if code.commit is None or not code.untracked or code.upload_folder:
        return code.untracked
    return _names(_git(code.project, "ls-files", "--others", "--exclude-standard", "-z", "--", "."))


def installed_packages() -> list[str]:
    """List the packages of this Python as `name==version`, sorted; read from folder names, which is fast."""
    packages = set()
    for folder in sys.path:
        with contextlib.suppress(OSError):
            for entry in os.listdir(folder or "."):
                stem, dot, kind = entry.rpartition(".")
                if dot and kind in ("dist-info", "egg-info") and "-" in stem:
                    name, version = stem.split("-")[:2]
                    packages.add(f"{name}=={version}")
    return sorted(packages, key=str.lower)


def write_record(folder: str, code: Code, argv: Sequence[str], slurm: Mapping[str, Any] | None,
                 snapshot: bool = False) -> None:
    """Create `folder` and store in it everything that identifies what is submitted. Secrets in it are redacted.

    Only this user can read the folder and its parent, since no list of secrets is complete.

    argv: of the command. slurm: script and options; None without Slurm. snapshot: copy the sources too.
    """
    secrets = secret_values(os.environ)
    os.makedirs(os.path.dirname(folder), mode=0o700, exist_ok=True)
    os.mkdir(folder, 0o700)
    left_out: dict[str, str] = {}
    if code.changed:
        diff = _diff(code)
        left_out |= {f"the value of ${name} in the diff": "it looks like a secret" for secret, name in secrets.items()
                     if os.fsencode(secret) in diff}
        if redact(diff, ()) != diff:
            left_out["values in the diff"] = "they have the shape of tokens, keys or passwords"
        if len(diff) > _MAX_DIFF:
            left_out["the diff"] = f"{len(diff) / 2**20:.0f} MiB"
        else:
            files.write_atomic(os.path.join(folder, run_folder.DIFF), redact(diff, secrets), sync=False)
    for name, data in _untracked(code, left_out):
        path = os.path.join(folder, run_folder.UNTRACKED, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        files.write_atomic(path, redact(data, secrets), sync=False)
        os.chmod(path, os.stat(os.path.join(code.project, name)).st_mode & 0o777 | 0o600)
    files.write_atomic(os.path.join(folder, run_folder.ENVIRONMENT),
                       "".join(f"{line}\n" for line in installed_packages()), sync=False)
    sources = snapshot_sources(code)
    code_state.write_manifest(folder, code.project, sources)
    if snapshot:
        _copy_sources(code, sources, os.path.join(folder, run_folder.SNAPSHOT), secrets)
    files.write_json(os.path.join(folder, run_folder.CODE_RECORD), redact_json({
        "time": time.time(), "commit": code.commit, "branch": code.branch, "remote": code.remote,
        "dirty": bool(code.uncommitted), "changed": code.changed, "untracked": code.untracked,
        "unpushed": code.unpushed, "left_out": left_out, "git": code.git_error, "prefix": code.prefix,
        "project": code.project, "snapshot": snapshot, "host": platform.node(), "python": platform.python_version(),
        "executable": sys.executable, "command_line": list(argv), "slurm": slurm,
        "sent_from": code.sent_from}, secrets), sync=False)


def _diff(code: Code) -> bytes:
    if code.upload_folder:
        try:
            with open(os.path.join(code.upload_folder, run_folder.DIFF), "rb") as file:
                return file.read()
        except FileNotFoundError:
            return b""
    try:
        return _git(code.project, "diff", "--binary", "--relative", "--no-ext-diff", "--no-textconv", "--no-color",
                    "HEAD", "--", ".")
    except _GitError as error:
        raise BatchError(f"cannot store the diff: {error}", where=code.project) from None


def _untracked(code: Code, left_out: dict[str, str]) -> Iterator[tuple[str, bytes]]:
    """Yield the untracked source files and their contents; those not stored are added to `left_out`."""
    if code.commit is None or not code.untracked:
        return
    total = 0
    for name in _all_untracked(code):
        path = os.path.join(code.project, name)
        if os.path.splitext(name)[1].lower() not in _SOURCE_SUFFIXES or not os.path.isfile(path) or _in_batch(path):
            continue
        size = os.path.getsize(path)
        if is_secret_file(name):
            left_out[name] = "its name suggests a secret"
        elif os.path.islink(path) or size > _MAX_FILE or total + size > _MAX_UNTRACKED:
            left_out[name] = "a symbolic link" if os.path.islink(path) else f"{size / 2**20:.1f} MiB"
        else:
            total += size
            with open(path, "rb") as file:
                yield name, file.read()


def _in_batch(path: str) -> bool:
    """Return whether a file belongs to a batch inside the project."""
    while (parent := os.path.dirname(path)) != path:
        if run_folder.is_batch_folder(parent) and os.path.isdir(os.path.join(parent, run_folder.SUBMISSIONS)):
            return True
        path = parent
    return False


def snapshot_sources(code: Code) -> list[str]:
    """List the files of a snapshot: those that git tracks, and untracked sources; without git, all sources."""
    if code.upload_folder:
        return [name for name in code.files if os.path.lexists(os.path.join(code.project, name))]
    if code.commit is not None:
        tracked = _names(_git(code.project, "ls-files", "-z", "--", "."))
        existing = [name for name in tracked if os.path.lexists(path := os.path.join(code.project, name))
                    and (os.path.islink(path) or os.path.isfile(path))]
        return existing + [name for name, _ in _untracked(code, {})]
    sources = []
    for folder, subfolders, names in os.walk(code.project):
        subfolders[:] = sorted(name for name in subfolders if name[0] != "." and name not in _EXCLUDED_FOLDERS
                               and not run_folder.is_batch_folder(os.path.join(folder, name)))
        sources += [os.path.relpath(os.path.join(folder, name), code.project) for name in names
                    if os.path.splitext(name)[1].lower() in _SOURCE_SUFFIXES]
    return sources


def _copy_sources(code: Code, sources: Sequence[str], target: str, secrets: Mapping[str, str]) -> None:
    """Copy the sources, and link everything else that lies beside them, such as data and .venv.

    BatchError if a source contains a secret, which would be stored with the results.
    """
    for name in sources:
        source, copy = os.path.join(code.project, name), os.path.join(target, name)
        os.makedirs(os.path.dirname(copy), exist_ok=True)
        if not os.path.islink(source):
            with open(source, "rb") as file:
                data = file.read()
            if variable := next((name for secret, name in secrets.items() if os.fsencode(secret) in data), None):
                raise BatchError(f"this file contains the value of ${variable}, which a snapshot would store",
                                 where=source, hint="have it read the variable instead")
        shutil.copy2(source, copy, follow_symlinks=False)
    for name in os.listdir(code.project):
        if name not in (".git", "__pycache__") and not os.path.lexists(os.path.join(target, name)):
            os.symlink(os.path.join(os.path.realpath(code.project), name), os.path.join(target, name))
    if code.commit:
        files.write_atomic(os.path.join(target, run_folder.COMMIT), code.commit + "\n", sync=False)


def read_record(folder: str) -> dict[str, Any]:
    """Read what write_record stored in a folder. BatchError if there is nothing."""
    record = files.read_json(os.path.join(folder, run_folder.CODE_RECORD))
    if not isinstance(record, dict):
        raise BatchError("no record of the code that this batch was submitted from", where=folder,
                         hint="`facts` in the config.yaml of a run has the commit at which the run started")
    return record
