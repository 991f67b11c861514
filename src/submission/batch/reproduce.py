"""Repeating a run exactly: what brings its code back, from its commit and what was not committed, and starts it"""
from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

from src import run_folder
from src.errors import BatchError, to_type
from src.submission.batch import journal, provenance
from src.submission.system import process


@dataclass(frozen=True)
class Steps:
    """commands: argument lists, in order, each with the variables that are set for it; folder: where they are given;
    notes: what cannot be had as it was, a sentence each."""

    folder: str
    commands: list[tuple[dict[str, str], list[str]]]
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """As one would type them; the notes in front, as comments."""
        return [f"# {note}" for note in self.notes] + [to_type("cd", self.folder)] + [
            _typed(*command) for command in self.commands]

    def run(self) -> int:
        """Do them. The exit code of the first that fails, or 0."""
        for variables, words in self.commands:
            print(_typed(variables, words), flush=True)
            done = subprocess.run(words, cwd=self.folder, check=False,
                                  env={**process.environment_outside_slurm(), **variables})
            if done.returncode:
                return done.returncode
        return 0


def plan_steps(run: str) -> Steps:
    """What repeats the run in the folder `run`, in a new folder beside it, by the code that its last start was
    submitted with. BatchError if that is not known.
    """
    run = os.path.abspath(run)
    folder = _code_folder(run)
    record = provenance.read_record(folder)
    facts = _facts(run)
    notes = _notes(record, facts)
    variables = {"GRIDIRON_THREADS": str(facts["threads"])} if facts.get("threads") else {}
    begin = [sys.executable, "train.py", os.path.join(run, run_folder.CONFIG)]
    if record["snapshot"]:
        begin[1] = os.path.join(folder, run_folder.SNAPSHOT, begin[1])
        return Steps(os.path.join(folder, run_folder.SNAPSHOT), [(variables, begin)], notes)
    if record["commit"] is None:
        raise BatchError(f"its code was in no commit ({record['git']})", where=run,
                         hint="job_details.snapshot: true keeps the code itself")
    tree = _free_name(os.path.join(os.path.dirname(folder), f"tree-{record['commit'][:10]}"))
    project = os.path.normpath(os.path.join(tree, record["prefix"]))
    commands = [["git", "worktree", "add", "--detach", tree, record["commit"]]]
    if os.path.exists(diff := os.path.join(folder, run_folder.DIFF)):
        commands.append(["git", "-C", project, "apply", "--binary", diff])
    if os.path.isdir(untracked := os.path.join(folder, run_folder.UNTRACKED)):
        commands.append(["cp", "-R", f"{untracked}/.", project])
    begin[1] = os.path.join(project, begin[1])
    sent_from = (record.get("sent_from") or {}).get("project")  # which has the history, if that is this machine
    home = sent_from if sent_from and os.path.isdir(sent_from) else record["project"]
    return Steps(home, [*(({}, words) for words in commands), (variables, begin)], notes)


def _typed(variables: dict[str, str], words: list[str]) -> str:
    return " ".join([*(f"{key}={value}" for key, value in variables.items()), to_type(*words)])


def _code_folder(run: str) -> str:
    """The folder in code/ of the submission that the run's last start was of."""
    batch, name = os.path.split(run)
    attempt = run_folder.RunFolder.read(run).last_attempt() or {}
    plans = [plan for plan in journal.read_history(batch).all_plans() if plan.get("code") and name in plan["tickets"]]
    plans = [plan for plan in plans if plan["tickets"][name] == attempt.get("ticket")] or plans
    if not plans:
        raise BatchError("it is not known what this run was submitted from", where=run,
                         hint=f"`python train.py {os.path.join(run, run_folder.CONFIG)}` repeats it by today's code")
    return os.path.join(batch, run_folder.CODE, plans[-1]["code"])


def _facts(run: str) -> dict[str, Any]:
    """What the run found out when it started. BatchError if it never did, or if it is no run of train.py's."""
    spec = run_folder.read_spec(os.path.join(run, run_folder.SPEC))
    if "COMMAND" in spec:
        raise BatchError("a program of one's own ran this, and knows itself how to repeat it", where=run,
                         hint="its commit and diff are in the batch's code/")
    if not os.path.exists(config := os.path.join(run, run_folder.CONFIG)):
        raise BatchError(f"this run has no {run_folder.CONFIG}: it never began", where=run, hint="submit it first")
    return run_folder.read_spec(config).get("facts") or {}


def _notes(record: dict[str, Any], facts: dict[str, Any]) -> list[str]:
    """What differs between then and now, or was not kept."""
    notes = []
    if facts.get("commit") and record["commit"] and facts["commit"] != record["commit"]:
        notes.append(f"submitted at commit {record['commit'][:10]}, begun at {facts['commit'][:10]}: the code was "
                     "changed in between, and this is what was submitted (job_details.snapshot: true prevents that)")
    if facts.get("container"):
        notes.append(f"it ran in the container {facts['container']}, and this repeats it outside")
    notes += [f"{name} was not kept: {why}" for name, why in record["left_out"].items()]
    for fact, now in (("host", os.uname().nodename), ("python", ".".join(map(str, sys.version_info[:3])))):
        if facts.get(fact) not in (None, now):
            notes.append(f"{fact} was {facts[fact]} and is {now} here")
    return notes


def _free_name(path: str) -> str:
    number = 1
    while os.path.exists(f"{path}-{number}"):
        number += 1
    return f"{path}-{number}"
