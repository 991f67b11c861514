"""Reproduce a run: restore the code that it ran with, start it in a new folder, and compare the results."""
from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from src import run_folder, stats_csv
from src.archive import run_files
from src.code import code_state
from src.errors import BatchError, one_line, shell_command
from src.frozen import Frozen, field
from src.io import ownership, records
from src.run_folder import RunFolder
from src.submission.batch import journal, provenance
from src.submission.system import process
from src.submission.system.terminal import count

_MEASURED = re.compile(r"(.*[/_])?(timestamp|time|per_second)|system/.*")  # columns that differ between exact repeats
_COMMIT = re.compile(r"[0-9a-f]{40,64}")
_CODE_ID = re.compile(r"[0-9a-f]{8,64}")
_MAX_NOTE = 300  # characters
_PRINT_MEMBER = "import sys, zipfile; sys.stdout.buffer.write(zipfile.ZipFile(sys.argv[1]).read(sys.argv[2]))"


class Command(NamedTuple):
    """A command: its argument list, its working directory, and the environment variables that it gets.

    output: a file, not there yet, that gets what it prints; None for the terminal
    """

    arguments: list[str]
    folder: str
    variables: Mapping[str, str] = {}
    output: str | None = None

    def line(self) -> str:
        """Format the command for a shell that is in its folder."""
        return " ".join([*(f"{key}={shlex.quote(value)}" for key, value in self.variables.items()),
                         shell_command(*self.arguments), *([f"> {shlex.quote(self.output)}"] if self.output else [])])


class _Checkout(NamedTuple):
    """The commands that restore the code of a run.

    project: the folder with the code, in which a program of the user's own starts
    home: the folder in which train.py starts
    commands: restore the code; cleanup: remove it; tree: the git worktree, if there is one
    """

    project: str
    home: str
    commands: list[Command]
    cleanup: list[Command]
    tree: str | None = None


class Steps(Frozen):
    """The commands that reproduce a run.

    repeat: the folder of the new run
    commands: in order; cleanup: what follows them, also if one fails
    notes: what cannot be restored, one sentence each
    owner: name of the other user whose files the steps come from; None if they are this user's
    """

    repeat: str
    commands: list[Command]
    cleanup: list[Command]
    notes: list[str] = field(default_factory=list)
    tree: str | None = None
    owner: str | None = None

    def comments(self) -> list[str]:
        """Format the notes as comments of a shell, each on one line."""
        return [f"# {one_line(note)[:_MAX_NOTE]}" for note in self.notes]

    def lines(self) -> list[str]:
        """Format the steps as shell commands, the notes first as comments."""
        lines, folder = self.comments(), None
        for command in (*self.commands, *self.cleanup):
            if command.folder != folder:
                folder = command.folder
                lines.append(shell_command("cd", folder))
            lines.append(command.line())
        return lines

    def run(self) -> int:
        """Execute the commands. Return the exit code of the first that fails, or 0."""
        try:
            return next(filter(None, map(_execute, self.commands)), 0)
        finally:
            if self.tree and os.path.isdir(self.tree):
                for command in self.cleanup:
                    _execute(command)


def _execute(command: Command) -> int:
    print(command.line(), flush=True)
    with open(command.output, "xb") if command.output else contextlib.nullcontext() as output:
        return subprocess.run(command.arguments, cwd=command.folder, check=False, stdout=output,
                              env={**process.environment_outside_slurm(), **command.variables}).returncode


def plan_steps(run: str, project: str) -> Steps:
    """Plan the steps that repeat a run in a new folder beside it, with the code that its last start ran with.

    run: path of the run folder. project: the local one, for a batch whose project is not on this machine. BatchError if
    the code is unknown, or if a value in the records is not of its form.
    """
    run = _plain_path(os.path.abspath(run))
    spec = run_folder.read_spec(os.path.join(run, run_folder.SPEC))
    notes: list[str] = []
    is_own_program = "COMMAND" in spec
    folder = _code_folder(run)
    record = _checked(provenance.read_record(folder), _RECORD, os.path.join(folder, run_folder.CODE_RECORD))
    config = {} if is_own_program else _config(run)
    facts = run_folder.read_facts(run) if is_own_program else config.get("facts")
    facts = _checked(facts if isinstance(facts, dict) else {}, _FACTS, run)
    owner = ownership.other_owner(run_files.location(run), folder, *(os.path.join(run, name) for name in (
        run_folder.SPEC, run_folder.CONFIG)), os.path.join(folder, run_folder.CODE_RECORD))
    if owner:
        notes.append(f"these files belong to {owner}: read their code before you run it")
    if record["snapshot"]:
        snapshot = os.path.join(folder, run_folder.SNAPSHOT)
        checkout = _Checkout(snapshot, snapshot, [], [])
    elif record["commit"] is None:
        checkout, more_notes = _current_code(folder, record, run)
        notes += more_notes
    else:
        home = _repository(record, project)
        checkout, more_notes = _worktree(folder, record, facts, home, is_own_program)
        notes += more_notes
    repeat = run_folder.free_repeat_name(run)
    if is_own_program:
        start = [*_copy_spec(run, run_folder.SPEC, repeat, checkout), Command(
            [sys.executable, "train.py", os.path.join(repeat, run_folder.SPEC)], checkout.project)]
    else:
        start = _start(run, repeat, config, facts, checkout)
    return Steps(repeat, [*checkout.commands, *start], checkout.cleanup,
                 [*notes, *_notes(record, facts, spec.get("COMMAND", ()))], checkout.tree, owner)


def _plain_path(path: str) -> str:
    if not path.isprintable():
        raise BatchError("the path has control characters", where=path, hint="rename the folder")
    return path


def _checked(record: Mapping[str, Any], forms: Mapping[str, tuple[Any, records.Form]], where: str) -> dict[str, Any]:
    """Return a record whose missing fields have their default. BatchError if a field is not of its form."""
    checked = {**record, **{key: default for key, (default, _) in forms.items() if record.get(key) is None}}
    for key, (_, is_valid) in forms.items():
        if not is_valid(checked[key]):
            raise BatchError(f"invalid {key} {one_line(repr(checked[key]))[:80]}: the file is damaged, or was changed",
                             where=where, hint="the config.yaml of a run has its parameters, and `facts` its commit")
    return checked


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and os.path.isabs(value) and value.isprintable()


def _is_inside(path: Any) -> bool:
    """Return whether this is the relative path of a file or folder in a repository."""
    return isinstance(path, str) and path.isprintable() and not os.path.isabs(path) and ".." not in path.split("/")


_is_text = records.optional(records.is_text)
# Fields that become arguments of commands and paths: the value of a missing one, and what they may be. Other people can
# write these files, and the steps are printed for a shell.
_RECORD: dict[str, tuple[Any, records.Form]] = {
    "commit": (None, records.optional(lambda value: isinstance(value, str) and _COMMIT.fullmatch(value) is not None)),
    "git": (None, _is_text), "remote": (None, _is_text), "branch": (None, _is_text), "project": (None, _is_path),
    "prefix": ("", _is_inside), "snapshot": (False, lambda value: isinstance(value, bool)),
    "left_out": ({}, records.is_mapping),
    "sent_from": ({}, lambda value: isinstance(value, dict) and (not value or _is_path(value.get("project"))))}
_FACTS: dict[str, tuple[Any, records.Form]] = {
    "threads": (None, records.optional(lambda value: records.is_count(value) and value < 2**16)),
    "commit": (None, _is_text),
    code_state.CODE: (None, records.optional(
        lambda value: isinstance(value, str) and _CODE_ID.fullmatch(value) is not None)),
    code_state.CHANGED: ([], records.list_of(lambda name: _is_inside(name) and bool(name))),
    "scripts": ({}, records.mapping_of(records.is_text, records.is_text))}


def _code_folder(run: str) -> str:
    """Return the folder in code/ of the submission that the run's last start belongs to."""
    batch, name = os.path.split(run)
    attempt = RunFolder.read(run).last_attempt() or {}
    token = attempt.get("code") or journal.code_token(batch, name, attempt.get("ticket"))
    if token is None:
        raise BatchError("no record of the code that this batch was submitted from", where=run,
                         hint=f"`python train.py {os.path.join(run, run_folder.CONFIG)}` repeats it with the "
                         "current code")
    return os.path.join(batch, run_folder.CODE, token)


def _config(run: str) -> dict[str, Any]:
    """Return the config that the run recorded when it started. BatchError if it never started."""
    if not run_files.exists(run, run_folder.CONFIG):
        raise BatchError(f"this run has no {run_folder.CONFIG}: it never started", where=run, hint="submit it first")
    return run_folder.read_spec(os.path.join(run, run_folder.CONFIG))


def _repository(record: dict[str, Any], project: str) -> str:
    """Return a project on this machine with the commit: that of the submission, the one it was sent from, or `project`.

    BatchError if none has it.
    """
    sent_from = record["sent_from"].get("project")
    for folder in (sent_from, record["project"], project):
        if folder and provenance.has_commit(folder, record["commit"]):
            return str(folder)
    raise BatchError(f"its commit {record['commit'][:10]} is not in the repository on this machine", where=project,
                     hint=f"`git fetch {record['remote']} {record['branch'] or record['commit']}` may have it"
                     if record["remote"] else "fetch it from where the batch was submitted")


def _worktree(folder: str, record: dict[str, Any], facts: dict[str, Any], home: str,
              needs_links: bool) -> tuple[_Checkout, list[str]]:
    """Return how a worktree of the commit gets the changes of the submission, then those of the start, and notes.

    home: a project with the commit. needs_links: link what git ignores, such as data and .venv, since the program
    starts in the worktree.
    """
    tree = _free_name(os.path.join(os.path.dirname(folder), f"tree-{record['commit'][:10]}"))
    project = os.path.normpath(os.path.join(tree, record["prefix"]))
    commands = [["git", "worktree", "add", "--quiet", "--detach", tree, record["commit"]]]
    if os.path.exists(diff := os.path.join(folder, run_folder.DIFF)):
        commands.append(["git", "-C", project, "apply", "--binary", diff])
    if os.path.isdir(untracked := os.path.join(folder, run_folder.UNTRACKED)):
        commands.append(["cp", "-R", f"{untracked}/.", project])
    changes, notes = _changes_since_submission(folder, facts, project)
    stored_folders = untracked, _started_folder(folder, facts)
    if needs_links and (paths := _paths_outside_code(home, record["commit"], *stored_folders)):
        changes.append(["ln", "-s", *paths, project])
    return _Checkout(project, home, [Command(arguments, home) for arguments in [*commands, *changes]],
                     [Command(["git", "worktree", "remove", "--force", tree], home)], tree), notes


def _paths_outside_code(home: str, commit: str, *stored_folders: str) -> list[str]:
    """List what lies at the top of a project, but neither in a commit nor in folders of stored code."""
    stored = {name for folder in stored_folders if os.path.isdir(folder) for name in os.listdir(folder)}
    return [os.path.join(home, name) for name in provenance.names_outside_commit(home, commit) if name not in stored]


def _started_folder(folder: str, facts: dict[str, Any]) -> str:
    """Return the folder with the files that differed from the submission when the run started."""
    return os.path.join(folder, run_folder.started_code_name(str(facts.get(code_state.CODE))))


def _changes_since_submission(folder: str, facts: dict[str, Any], project: str) -> tuple[list[list[str]], list[str]]:
    """Return the commands that restore the files that had changed when the run started, and notes about them."""
    changed, stored = facts.get(code_state.CHANGED), _started_folder(folder, facts)
    if not changed:  # what differs is no code that the run is known to execute
        return [["cp", "-R", f"{stored}/.", project]] if os.path.isdir(stored) else [], []
    note = code_state.change_message(changed)
    if not os.path.isdir(stored):
        return [], [f"{note}; what ran was not stored, and this repeats what was submitted"]
    commands = [["cp", "-R", f"{stored}/.", project]]
    if gone := [os.path.join(project, name) for name in changed if not os.path.exists(os.path.join(stored, name))]:
        commands.append(["rm", "-f", "--", *gone])
    return commands, [f"{note}; this repeats what ran"]


def _current_code(folder: str, record: dict[str, Any], run: str) -> tuple[_Checkout, list[str]]:
    """Return code outside git as it is now, and a note whether it has changed. BatchError if that is unknown."""
    project = record["project"]
    changed = code_state.changed_names(folder, project)
    if changed is None:
        raise BatchError(f"its code was not in a git commit ({record['git']})", where=run,
                         hint="job_details.snapshot: true stores the code itself")
    state = f"now, and {count(len(changed), 'file')} changed: {', '.join(changed[:3])}" if changed else (
        "now: unchanged since the submission")
    return _Checkout(project, project, [], []), [f"its code was not in git; this uses {project} as it is {state}"]


def _start(run: str, repeat: str, config: dict[str, Any], facts: dict[str, Any], checkout: _Checkout) -> list[Command]:
    """Return the commands that start train.py with the config of a run."""
    path = os.path.join(run, run_folder.CONFIG)
    variables = {"GRIDIRON_THREADS": str(facts["threads"])} if facts.get("threads") else {}
    commands = []
    if run_files.is_archived(run):  # the code of that time may not read archives
        path = os.path.join(repeat, run_folder.SPEC)
        # of what Gridiron wrote, output_dir is one line, and facts the last key
        commands = [*_copy_spec(run, run_folder.CONFIG, repeat, checkout), Command(
            ["sed", "-i", "-e", "/^output_dir: /d", "-e", "/^facts:/,$d", path], checkout.home)]
    elif checkout.tree and not facts[code_state.CODE] and config.get("output_dir") != run:
        # the batch was moved, and code of that age writes to output_dir
        copy = os.path.join(checkout.project, run_folder.CONFIG)
        value = re.sub(r"[\\&|]", r"\\\g<0>", json.dumps(run))
        commands = [Command(["cp", path, copy], checkout.home), Command(
            ["sed", "-i", f"s|^output_dir: .*|output_dir: {value}|", copy], checkout.home)]
        path = copy
    start = [sys.executable, os.path.join(checkout.project, "train.py"), path]
    return [*commands, Command(start, checkout.home, variables)]


def _copy_spec(run: str, name: str, repeat: str, checkout: _Checkout) -> list[Command]:
    """Return the commands that make the folder of a repeat, with a file of the run, `name`, as its spec.

    A file of an archived run is read by Python's zipfile, so that nothing of the archive has to be brought back.
    """
    spec = os.path.join(repeat, run_folder.SPEC)
    if run_files.is_archived(run):
        member = f"{os.path.basename(run)}/{name}"
        copy = Command([sys.executable, "-c", _PRINT_MEMBER, run_files.location(run), member], checkout.home, {}, spec)
    else:
        copy = Command(["cp", os.path.join(run, name), spec], checkout.home)
    return [Command(["mkdir", repeat], checkout.home), copy]


def _notes(record: dict[str, Any], facts: dict[str, Any], command: Sequence[str]) -> list[str]:
    """List what differs between then and now, and what was not stored.

    command: of an external program, as in its spec. A script that it names by an absolute path is not restored.
    """
    notes = []
    if not facts[code_state.CODE] and facts["commit"] and record["commit"] not in (None, facts["commit"]):
        notes.append(f"submitted at commit {record['commit'][:10]}, started at {facts['commit'][:10]}: the code "
                     "changed in between, and this is the submitted one")
    if facts.get(code_state.BEFORE):
        notes.append("earlier starts of this run had other code; this repeats all of it with that of the last start")
    if facts.get("container"):
        notes.append(f"it ran in the container {facts['container']}; this repeats it without the container")
    notes += [f"{path} has changed since" for path, digest in facts["scripts"].items()
              if os.path.isabs(path) and path in command and code_state.file_hash(path) != digest]
    notes += [f"{name} was not stored: {reason}" for name, reason in record["left_out"].items()]
    for fact, current in (("host", os.uname().nodename), ("python", ".".join(map(str, sys.version_info[:3])))):
        if facts.get(fact) not in (None, current):
            notes.append(f"{fact} was {facts[fact]} and is {current} here")
    return notes


def _free_name(path: str) -> str:
    number = 1
    while os.path.exists(f"{path}-{number}"):
        number += 1
    return f"{path}-{number}"


def compare_results(run: str, repeat: str) -> tuple[bool, str]:
    """Return whether the stats of a repeat are those of the run, as far as both go, and a line about it.

    Columns that measure time or load are left out. The line names the first difference.
    """
    before, after = stats_csv.read(run), stats_csv.read(repeat)
    if not before.epochs or not after.epochs:
        folder = repeat if before.epochs else run
        return not before.epochs, f"nothing to compare: {folder} has no {run_folder.STATS} with rows"
    columns = [name for name in before.names if name in after.names and not _MEASURED.fullmatch(name)]
    for epoch, old_row, new_row in zip(before.epochs, before.rows, after.rows, strict=False):
        for name in columns:
            old, new = old_row[before.names.index(name)], new_row[after.names.index(name)]
            if not _is_same(old, new):
                return False, f"first difference: epoch {epoch}, {name}: {old} before, {new} now"
    epochs, more = len(before.epochs), len(after.epochs) - len(before.epochs)
    if more < 0:
        return False, f"first difference: the repeat has {len(after.epochs)} of {count(epochs, 'epoch')}"
    only = sorted(name for name in {*before.names} ^ {*after.names} if not _MEASURED.fullmatch(name))
    parts = [f"identical: {count(epochs, 'epoch')}, {count(len(columns), 'column')}"]
    parts += [f"the repeat has {count(more, 'more epoch')}"] if more else []
    parts += [f"only one has {', '.join(only)}"] if only else []
    return True, "; ".join(parts)


def _is_same(old: str, new: str) -> bool:
    numbers = stats_csv.to_number(old), stats_csv.to_number(new)
    return old == new or numbers[0] == numbers[1]
