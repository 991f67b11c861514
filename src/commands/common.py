"""Shared by several commands: the project's folder, arguments, the batches that were named, questions to the user."""
from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from src.errors import BatchError
from src.io import files
from src.submission.batch import batch_folder
from src.submission.status import run_lookup, states
from src.submission.status.observation import Observation
from src.submission.status.observe import SlurmView, observe
from src.submission.system.terminal import ask

ALL_BATCHES = "all under results/"  # without a BATCH
_MAX_PROGRESS = 200  # runs of a page whose remaining time is computed
PROJECT = files.PROJECT


def add_batches(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """Add the argument for one or more batches. default: which ones are meant without it; None: it is required."""
    parser.add_argument("batches", nargs="*" if default else "+", metavar="BATCH",
                        help=batch_folder.ACCEPTED_FORMS + (f" (default: {default})" if default else ""))


def add_batch(parser: argparse.ArgumentParser, name: str = "batch", metavar: str = "BATCH") -> None:
    """Add an argument for one batch."""
    parser.add_argument(name, metavar=metavar, help=batch_folder.ACCEPTED_FORMS)


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add the argument for one run, options.run_name."""
    parser.add_argument("run_name", metavar="RUN", help=run_lookup.ACCEPTED_FORMS)


def add_targets(parser: argparse.ArgumentParser) -> None:
    """Add the argument for batches and single runs, options.targets."""
    parser.add_argument("targets", nargs="+", metavar="BATCH|RUN",
                        help=f"{batch_folder.ACCEPTED_FORMS}; or {run_lookup.ACCEPTED_FORMS}")


def split_targets(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the folders of the batches among names of batches and runs, and the other names.

    A number is the index or the Slurm job of a run, never the name of a batch.
    """
    batches = {name: None if name.isdecimal() else batch_folder.named_batch(name) for name in names}
    return list(filter(None, batches.values())), [name for name, batch in batches.items() if not batch]


def add_yes(parser: argparse.ArgumentParser) -> None:
    """Add the option that answers the questions of a command."""
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")


def add_interval(parser: argparse.ArgumentParser) -> None:
    """Add the option for the time between queries of Slurm."""
    parser.add_argument("--interval", type=float, metavar="SECONDS", help="seconds between queries of Slurm (default: "
                        "30 in the first ten minutes, then 60)")


def observe_batches(paths: Sequence[str], slurm: SlurmView | None = None) -> list[Observation]:
    """Observe the named batches, or all batches of the results folder. BatchError if there is none.

    slurm: earlier answers of Slurm, as for observe.
    """
    results = batch_folder.results_folder()
    batches = [batch_folder.require_batch(path) for path in paths] or batch_folder.all_batches(results)
    if not batches:
        raise BatchError(f"no batch in {results}/", hint="submit one: `python submit_multiple.py "
                         "jobs/digits-quickstart.yaml --local`; or name a batch folder")
    return observe(batches, slurm)


def page_rows(observation: Observation) -> list[dict[str, Any]]:
    """Return the status of a batch's runs, as the page takes it: of running ones with their progress."""
    from src.submission.status import status

    running = [run for run in observation.runs.values() if run.state.name == states.RUNNING]
    progress = {row.run: {"epochs_done": row.epochs_done, "epochs": row.epochs, "left": row.left, "why": row.why}
                for row in status.rows(running[:_MAX_PROGRESS])}
    return [{"batch": observation.path, "run": run.name, "state": run.state.name, "why": run.state.why,
             "slurm_job": run.state.slurm_job, **_times(run.attempt or {}), **progress.get(run.name, {})}
            for run in observation.runs.values()]


def _times(attempt: Mapping[str, Any]) -> dict[str, float]:
    """The start of an attempt, and its end if it has ended; without those that are unknown."""
    times = {"started": attempt.get("start"), "ended": attempt.get("end") if attempt.get("how") else None}
    return {name: time for name, time in times.items() if time is not None}


def mebibytes(size: int) -> str:
    """Format a number of bytes: `1,234.5 MiB`."""
    return f"{size / 2**20:,.1f} MiB"


def confirm(question: str, nothing_done: str, options: argparse.Namespace) -> None:
    """Ask a yes/no question, without --yes. BatchError with `nothing_done` on any answer but yes, and with --json."""
    if options.json and not options.yes:
        raise BatchError(f"stopped: {nothing_done}", where="command line", hint="--json asks no question: add --yes")
    if not options.yes and ask(f"{question} [y/N] ").lower() not in ("y", "yes"):
        raise BatchError(f"stopped: {nothing_done}", hint="the answer was not y")
