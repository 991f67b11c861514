"""Submits the runs of a plan to Slurm: one sbatch each, every step in the journal before it is taken."""
from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from src import run_folder, yaml_io
from src.errors import JobSpecError
from src.submission import slurm
from src.submission.journal import Journal, comment


@dataclass(frozen=True)
class SlurmOptions:
    """How runs go to Slurm: the submit script and sbatch options, from the command line over the point over the batch.

    batch: job_details.sbatch; command_line: --sbatch.
    """

    script: str
    batch: Mapping[str, Any] = field(default_factory=dict)
    command_line: Mapping[str, Any] = field(default_factory=dict)

    def command(self, folder: str, spec: Mapping[str, Any], token: str, ticket: int, project: str) -> list[str]:
        """The sbatch call of one run. JobSpecError if an option cannot be used."""
        merged = {**self.batch, **(spec.get("SBATCH") or {}), **self.command_line}
        script = check_script(spec["SCRIPT"]) if spec.get("SCRIPT") else self.script
        return slurm.sbatch_command(folder, comment(token, os.path.basename(folder), ticket), script,
                                    slurm.option_list(merged, "sbatch options"), project)


def check_script(path: str) -> str:
    """The absolute path of a submit script. JobSpecError unless sbatch will take it for one."""
    text = yaml_io.read_user_file(path)
    if not text.startswith("#!"):
        raise JobSpecError("sbatch takes only scripts that name their interpreter", where=f"{path}, line 1",
                           hint="begin it with the line `#!/bin/bash`")
    if "\r\n" in text:
        raise JobSpecError("the script has DOS line breaks, which sbatch refuses", where=path,
                           hint=f"`sed -i 's/\\r$//' {path}` mends it")
    return os.path.abspath(path)


def try_all(commands: Mapping[str, Sequence[str]]) -> None:
    """Have sbatch try each set of options once, without a job. SlurmError in its words if it refuses one for good."""
    tried: set[tuple[str, ...]] = set()
    for name, command in commands.items():
        kind = tuple(word for word in command[:-1] if not word.startswith(("--job-name=", "--output=", "--comment=")))
        if kind not in tried:
            tried.add(kind)
            try:
                slurm.try_out(list(command))
            except slurm.Refusal as refusal:
                raise slurm.explain(refusal, name, "give the same command again; nothing was written or submitted"
                                    ) from None


def submit_all(commands: Mapping[str, Sequence[str]], tickets: Mapping[str, int], journal: Journal, again: str,
               on_submitted: Callable[[], None]) -> list[str]:
    """Call sbatch for each run, in order, and return the Slurm job ids.

    again: the command that goes on after a failure. SlurmError, with sbatch's words and how many were submitted, as
    soon as one is refused for good.
    """
    jobs: list[str] = []
    for name, command in commands.items():
        ticket = tickets[name]
        journal.sending(name, ticket)
        try:
            job = slurm.submit_patiently(list(command), ticket, [comment(journal.token, name, ticket)])
        except slurm.Refusal as refusal:
            if refusal.kind != "ambiguous":
                journal.refused(name, ticket, refusal.words)
            where = f"{len(jobs)} of {len(commands)} submitted, stopped at {name}"
            raise slurm.explain(refusal, where, f"`{again}` goes on where it stopped") from None
        journal.accepted(name, ticket, job)
        jobs.append(job)
        on_submitted()
    return jobs


def read_specs(batch: str, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The specs of runs that are on disk, by name."""
    return {name: run_folder.read_spec(os.path.join(batch, name, run_folder.SPEC)) for name in names}
