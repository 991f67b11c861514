"""Reproduce a run: restore its code from the commit and the stored changes, and start it."""
from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

from src import run_folder
from src.errors import BatchError, shell_command
from src.submission.batch import journal, provenance
from src.submission.system import process


@dataclass(frozen=True)
class Steps:
    """The commands that reproduce a run.

    folder: their working directory
    commands: in order, pairs of environment variables and argument list
    notes: what cannot be restored, one sentence each
    """

    folder: str
    commands: list[tuple[dict[str, str], list[str]]]
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Format the steps as shell commands, the notes first as comments."""
        return [f"# {note}" for note in self.notes] + [shell_command("cd", self.folder)] + [
            _shell_line(*command) for command in self.commands]

    def run(self) -> int:
        """Execute the commands. Return the exit code of the first that fails, or 0."""
        for variables, arguments in self.commands:
            print(_shell_line(variables, arguments), flush=True)
            done = subprocess.run(arguments, cwd=self.folder, check=False,
                                  env={**process.environment_outside_slurm(), **variables})
            if done.returncode:
                return done.returncode
        return 0


def plan_steps(run: str) -> Steps:
    """Plan the steps that repeat a run in a new folder beside it, with the code that its last start was submitted with.

    run: path of the run folder. BatchError if that code is unknown.
    """
    run = os.path.abspath(run)
    folder = _code_folder(run)
    record = provenance.read_record(folder)
    facts = _facts(run)
    notes = _notes(record, facts)
    variables = {"GRIDIRON_THREADS": str(facts["threads"])} if facts.get("threads") else {}
    start = [sys.executable, "train.py", os.path.join(run, run_folder.CONFIG)]
    if record["snapshot"]:
        start[1] = os.path.join(folder, run_folder.SNAPSHOT, start[1])
        return Steps(os.path.join(folder, run_folder.SNAPSHOT), [(variables, start)], notes)
    if record["commit"] is None:
        raise BatchError(f"its code was not in a git commit ({record['git']})", where=run,
                         hint="job_details.snapshot: true stores the code itself")
    tree = _free_name(os.path.join(os.path.dirname(folder), f"tree-{record['commit'][:10]}"))
    project = os.path.normpath(os.path.join(tree, record["prefix"]))
    commands = [["git", "worktree", "add", "--detach", tree, record["commit"]]]
    if os.path.exists(diff := os.path.join(folder, run_folder.DIFF)):
        commands.append(["git", "-C", project, "apply", "--binary", diff])
    if os.path.isdir(untracked := os.path.join(folder, run_folder.UNTRACKED)):
        commands.append(["cp", "-R", f"{untracked}/.", project])
    start[1] = os.path.join(project, start[1])
    sent_from = (record.get("sent_from") or {}).get("project")  # has the history, if it is on this machine
    home = sent_from if sent_from and os.path.isdir(sent_from) else record["project"]
    return Steps(home, [*(({}, arguments) for arguments in commands), (variables, start)], notes)


def _shell_line(variables: dict[str, str], arguments: list[str]) -> str:
    return " ".join([*(f"{key}={value}" for key, value in variables.items()), shell_command(*arguments)])


def _code_folder(run: str) -> str:
    """Return the folder in code/ of the submission that the run's last start belongs to."""
    batch, name = os.path.split(run)
    attempt = run_folder.RunFolder.read(run).last_attempt() or {}
    plans = [plan for plan in journal.read_history(batch).all_plans() if plan.get("code") and name in plan["tickets"]]
    plans = [plan for plan in plans if plan["tickets"][name] == attempt.get("ticket")] or plans
    if not plans:
        raise BatchError("no record of the code that this run was submitted from", where=run,
                         hint=f"`python train.py {os.path.join(run, run_folder.CONFIG)}` repeats it with the "
                         "current code")
    return os.path.join(batch, run_folder.CODE, plans[-1]["code"])


def _facts(run: str) -> dict[str, Any]:
    """Return the facts that the run recorded when it started. BatchError if it never started, or is not of train.py."""
    spec = run_folder.read_spec(os.path.join(run, run_folder.SPEC))
    if "COMMAND" in spec:
        raise BatchError("this is a run of an external program, which `reproduce` cannot repeat", where=run,
                         hint="its commit and diff are in the batch's code/")
    if not os.path.exists(config := os.path.join(run, run_folder.CONFIG)):
        raise BatchError(f"this run has no {run_folder.CONFIG}: it never started", where=run, hint="submit it first")
    return run_folder.read_spec(config).get("facts") or {}


def _notes(record: dict[str, Any], facts: dict[str, Any]) -> list[str]:
    """List what differs between then and now, and what was not stored."""
    notes = []
    if facts.get("commit") and record["commit"] and facts["commit"] != record["commit"]:
        notes.append(f"submitted at commit {record['commit'][:10]}, started at {facts['commit'][:10]}: the code "
                     "changed in between, and this is the submitted one (job_details.snapshot: true prevents that)")
    if facts.get("container"):
        notes.append(f"it ran in the container {facts['container']}; this repeats it without the container")
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
