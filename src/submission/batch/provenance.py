"""Provenance: what a batch was submitted from, kept in its code/: commit, diff, untracked sources, packages, command"""
from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from src import run_folder
from src.errors import BatchError
from src.io import files
from src.submission.system import process
from src.submission.system.secrets import redact, redact_json, secret_values
from src.submission.system.terminal import count

_GIT_SECONDS = 60.0  # that a git command may take, on a slow disk too
_MOST_DIFF = 20 * 2**20  # bytes of a diff that is kept
_MOST_OF_FILE = 2**20  # bytes of an untracked file that is kept
_MOST_UNTRACKED = 10 * 2**20  # and of all of them
_SOURCES = frozenset(".py .pyi .pyx .sh .bash .yaml .yml .toml .cfg .ini .txt .md .ipynb .json .c .cc .cpp .cu .cuh .h "
                     ".hpp .rs .jl .r .m .lua .html .css .js".split())
_NOT_SOURCES = frozenset(("__pycache__", "data", "results", "node_modules"))
_PRIVATE_FILE = re.compile(r"secret|credential|passw|api_?key|\.netrc|id_rsa", re.IGNORECASE)


@dataclass(frozen=True)
class Code:
    """The project as git knows it. commit: None outside git, and `words` says why; prefix: the project's folder in its
    repository; changed: tracked files that differ from the commit; untracked: those that git neither has nor ignores;
    unpushed: commits that no remote is known to have, None if there is no remote; carried: the folder with what another
    machine sent along with the project's files, where they have no history; files: those; sent_from: host and project
    there.
    """

    project: str
    commit: str | None = None
    branch: str | None = None
    remote: str | None = None
    prefix: str = ""
    changed: list[str] = field(default_factory=list)
    untracked: list[str] = field(default_factory=list)
    unpushed: int | None = None
    words: str | None = None
    carried: str | None = None
    files: list[str] = field(default_factory=list)
    sent_from: dict[str, str] | None = None

    @property
    def uncommitted(self) -> list[str]:
        return [*self.changed, *self.untracked]

    def line(self) -> str:
        """`1a2b3c4 on main, 3 uncommitted files, 2 unpushed commits`."""
        if self.commit is None:
            return f"its version is not known: {self.words}"
        parts = [f"{self.commit[:10]}{f' on {self.branch}' if self.branch else ''}"]
        if self.uncommitted:
            parts.append(count(len(self.uncommitted), "uncommitted file"))
        if self.unpushed is None:
            parts.append("no remote to push to")
        elif self.unpushed:
            parts.append(count(self.unpushed, "unpushed commit"))
        return ", ".join(parts)

    def require_clean(self) -> None:
        """BatchError unless the commit says all, and a remote has it."""
        if self.commit is None or self.uncommitted or self.unpushed is None or self.unpushed:
            some = ", ".join(self.uncommitted[:3]) + (", …" if len(self.uncommitted) > 3 else "")
            raise BatchError(f"the code is not clean: {self.line()}{f' ({some})' if some else ''}", where=self.project,
                             hint="commit and push it, or leave out --require-clean")


class _NoGit(Exception):
    """git is not there, or refuses: its first line."""


def _git(project: str, *words: str) -> bytes:
    try:
        done = subprocess.run(["git", "-C", project, *words], capture_output=True, stdin=subprocess.DEVNULL,
                              check=False, timeout=_GIT_SECONDS,
                              env={**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"})
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _NoGit(f"git {words[0]}: {type(error).__name__}") from None
    if done.returncode:
        raise _NoGit((done.stderr.decode(errors="replace").strip().splitlines() or [f"git {words[0]} failed"])[0])
    return done.stdout


def _names(output: bytes) -> list[str]:
    """Of a list of names that end in NUL."""
    return [os.fsdecode(name) for name in output.split(b"\0") if name]


def inspect_code(project: str) -> Code:
    """What git says of the project, by some calls of it that change nothing; of one that was sent here, what it said
    there."""
    if (folder := os.environ.get(process.DETACHED_COMMAND)) and (record := files.read_json(
            os.path.join(folder, run_folder.CODE_RECORD))):
        return Code(**{**record, "project": project, "carried": folder})
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
    except _NoGit as error:
        return Code(project, words=str(error) or "there is no commit yet")
    return Code(project, commit, None if branch == "HEAD" else branch, remote and strip_credentials(remote), prefix,
                changed,
                untracked, unpushed)


def portable_record(code: Code, sent: Sequence[str]) -> dict[str, Any]:
    """What a machine that is sent these files, without their history, has to know of the code: JSON values, as Code has
    them, and `diff` in base64. Values of variables that look like keys are left out."""
    import base64

    private = secret_values(os.environ)
    diff = base64.b64encode(redact(_diff(code), private)).decode() if code.changed else None
    return redact_json({**vars(code), "files": list(sent), "diff": diff, "untracked": _all_untracked(code),
                  "sent_from": {"host": platform.node(), "project": code.project}}, private)


def project_files(project: str) -> list[str] | None:
    """The files that git has, those of submodules too, and those that it neither has nor ignores. None outside of git.
    BatchError if it should know and does not say."""
    try:
        return _names(_git(project, "ls-files", "--recurse-submodules", "-z", "--", ".") + _git(
            project, "ls-files", "--others", "--exclude-standard", "-z", "--", "."))
    except _NoGit as error:
        if os.path.lexists(os.path.join(project, ".git")):
            raise BatchError(f"which files there are is not known: {error}", where=project) from None
        return None


def _all_untracked(code: Code) -> list[str]:
    if code.commit is None or not code.untracked or code.carried:
        return code.untracked
    return _names(_git(code.project, "ls-files", "--others", "--exclude-standard", "-z", "--", "."))


def strip_credentials(url: str) -> str:
    """A URL without the name and password, or token, in front of its host."""
    return re.sub(r"(?<=://)[^/@\s]*@", "", url)


def installed_packages() -> list[str]:
    """What is installed for this Python, as `name==version`, sorted; by the names of folders, as no file need be read.
    """
    found = set()
    for folder in sys.path:
        with contextlib.suppress(OSError):
            for entry in os.listdir(folder or "."):
                stem, dot, kind = entry.rpartition(".")
                if dot and kind in ("dist-info", "egg-info") and "-" in stem:
                    name, version = stem.split("-")[:2]
                    found.add(f"{name}=={version}")
    return sorted(found, key=str.lower)


def write_record(folder: str, code: Code, argv: Sequence[str], slurm: Mapping[str, Any] | None,
          snapshot: bool = False) -> None:
    """Keep in `folder`, which is made, all that tells what is submitted.

    argv: of the command; slurm: script and options, None without it; snapshot: keep the sources themselves too.
    Values of environment variables that look like keys are left out wherever they stand.
    """
    private = secret_values(os.environ)
    os.makedirs(folder)
    left_out: dict[str, str] = {}
    if code.changed:
        diff = _diff(code)
        left_out |= {f"the value of ${name} in the diff": "it looks like a key" for secret, name in private.items()
                     if os.fsencode(secret) in diff}
        if len(diff) > _MOST_DIFF:
            left_out["the diff"] = f"{len(diff) / 2**20:.0f} MiB"
        else:
            files.write_atomic(os.path.join(folder, run_folder.DIFF), redact(diff, private), sync=False)
    for name, data in _untracked(code, left_out):
        path = os.path.join(folder, run_folder.UNTRACKED, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        files.write_atomic(path, redact(data, private), sync=False)
        os.chmod(path, os.stat(os.path.join(code.project, name)).st_mode & 0o777 | 0o600)
    files.write_atomic(os.path.join(folder, run_folder.ENVIRONMENT),
                       "".join(f"{line}\n" for line in installed_packages()),
                       sync=False)
    if snapshot:
        _copy(code, os.path.join(folder, run_folder.SNAPSHOT), private)
    files.write_json(os.path.join(folder, run_folder.CODE_RECORD), redact_json({
        "time": time.time(), "commit": code.commit, "branch": code.branch, "remote": code.remote,
        "dirty": bool(code.uncommitted), "changed": code.changed, "untracked": code.untracked,
        "unpushed": code.unpushed, "left_out": left_out, "git": code.words, "prefix": code.prefix,
        "project": code.project, "snapshot": snapshot, "host": platform.node(), "python": platform.python_version(),
        "executable": sys.executable, "command_line": list(argv), "slurm": slurm,
        "sent_from": code.sent_from}, private), sync=False)


def _diff(code: Code) -> bytes:
    if code.carried:
        try:
            with open(os.path.join(code.carried, run_folder.DIFF), "rb") as file:
                return file.read()
        except FileNotFoundError:
            return b""
    try:
        return _git(code.project, "diff", "--binary", "--relative", "--no-ext-diff", "--no-textconv", "--no-color",
                    "HEAD", "--", ".")
    except _NoGit as error:
        raise BatchError(f"the diff cannot be kept: {error}", where=code.project) from None


def _untracked(code: Code, left_out: dict[str, str]) -> Iterator[tuple[str, bytes]]:
    """The untracked source files with their contents; `left_out` gets the others, and why. Batches are no sources."""
    if code.commit is None or not code.untracked:
        return
    total = 0
    for name in _all_untracked(code):
        path = os.path.join(code.project, name)
        if os.path.splitext(name)[1].lower() not in _SOURCES or not os.path.isfile(path) or _in_batch(path):
            continue
        size = os.path.getsize(path)
        if _PRIVATE_FILE.search(name):
            left_out[name] = "its name says that it is private"
        elif os.path.islink(path) or size > _MOST_OF_FILE or total + size > _MOST_UNTRACKED:
            left_out[name] = "a link" if os.path.islink(path) else f"{size / 2**20:.1f} MiB"
        else:
            total += size
            with open(path, "rb") as file:
                yield name, file.read()


def _in_batch(path: str) -> bool:
    """Whether a file lies in a batch that somebody keeps inside the project."""
    while (parent := os.path.dirname(path)) != path:
        if run_folder.is_batch_folder(parent) and os.path.isdir(os.path.join(parent, run_folder.SUBMISSIONS)):
            return True
        path = parent
    return False


def snapshot_sources(code: Code) -> list[str]:
    """The files that a snapshot takes: those that git has, and untracked sources; without git, all sources."""
    if code.carried:
        return [name for name in code.files if os.path.lexists(os.path.join(code.project, name))]
    if code.commit is not None:
        tracked = _names(_git(code.project, "ls-files", "-z", "--", "."))
        found = [name for name in tracked if os.path.lexists(path := os.path.join(code.project, name))
                 and (os.path.islink(path) or os.path.isfile(path))]
        return found + [name for name, _ in _untracked(code, {})]
    found = []
    for folder, inner, names in os.walk(code.project):
        inner[:] = sorted(name for name in inner if name[0] != "." and name not in _NOT_SOURCES
                          and not run_folder.is_batch_folder(os.path.join(folder, name)))
        found += [os.path.relpath(os.path.join(folder, name), code.project) for name in names
                  if os.path.splitext(name)[1].lower() in _SOURCES]
    return found


def _copy(code: Code, target: str, private: Mapping[str, str]) -> None:
    """A copy of the sources as they are, and links to all else that lies beside them, such as data and .venv.

    BatchError if a source has a secret in it, which would be kept with the results.
    """
    for name in snapshot_sources(code):
        source, copy = os.path.join(code.project, name), os.path.join(target, name)
        os.makedirs(os.path.dirname(copy), exist_ok=True)
        if not os.path.islink(source):
            with open(source, "rb") as file:
                data = file.read()
            if found := next((name for secret, name in private.items() if os.fsencode(secret) in data), None):
                raise BatchError(f"this file has the value of ${found} in it, and a snapshot would keep it",
                                 where=source, hint="read it from the environment there")
        shutil.copy2(source, copy, follow_symlinks=False)
    for name in os.listdir(code.project):
        if name not in (".git", "__pycache__") and not os.path.lexists(os.path.join(target, name)):
            os.symlink(os.path.join(os.path.realpath(code.project), name), os.path.join(target, name))
    if code.commit:
        files.write_atomic(os.path.join(target, run_folder.COMMIT), code.commit + "\n", sync=False)


def read_record(folder: str) -> dict[str, Any]:
    """What `write` recorded in a folder. BatchError if there is nothing."""
    record = files.read_json(os.path.join(folder, run_folder.CODE_RECORD))
    if not isinstance(record, dict):
        raise BatchError("what this batch was submitted from is not known", where=folder,
                         hint="only the facts in a run's config.yaml say which commit it began at")
    return record
