"""Commands that record, repeat and announce what came out: note, reproduce, notify."""
from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from src.commands.command_output import Output
from src.commands.common import PROJECT, add_batch, add_run
from src.errors import BatchError
from src.submission.batch import batch_folder
from src.submission.status import run_lookup

if TYPE_CHECKING:
    from src.commands import documents
    from src.notes import Note


def add_note(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=note)
    add_batch(parser)
    parser.add_argument("text", nargs="?", metavar="TEXT", help="the note, in quotes (default: print all notes)")


def add_reproduce(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=reproduce)
    add_run(parser)
    parser.add_argument("--run", action="store_true", dest="execute",
                        help="execute the steps, and compare the results; exit code 1 if they differ")
    parser.add_argument("--trust", action="store_true", help="with --run: execute code of another user")


def add_notify(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=notify)
    add_batch(parser)
    parser.add_argument("token", metavar="TOKEN", nargs="?", help="token of a submission (default: the last one)")
    parser.add_argument("kind", metavar="KIND", nargs="?", default="digest",
                        choices=["failed", "idle", "ended", "digest"], help="what the message is about (default: "
                        "digest, the progress)")


def note(options: argparse.Namespace) -> Output:
    """Append a note to the log of a batch, or print the log."""
    from src import notes

    path = batch_folder.require_batch(options.batch)
    if options.text is None:
        return _notes_output(notes.read(path))
    if not options.text.strip():
        raise BatchError("the note is empty", where=path, hint="write it in quotes")
    return _notes_output([notes.add(path, options.text.strip(), project_commit())])


def project_commit() -> str | None:
    """Return the commit of the project, as a note has it; None if it is unknown."""
    from src.submission.batch import provenance

    code = provenance.inspect_code(PROJECT)
    return code.commit and f"{code.commit[:10]}{' and uncommitted changes' if code.uncommitted else ''}"


def _notes_output(entries: Sequence[Note]) -> Output:
    document: list[documents.NoteDocument] = [
        {"time": entry.time, "commit": entry.commit, "text": entry.text} for entry in entries]
    return Output([entry.line() for entry in entries], document)


def reproduce(options: argparse.Namespace) -> Output:
    """Print the steps that repeat a run exactly, or execute them and compare. Return 1 if the results differ."""
    from src.submission.batch import reproduce as reproducing

    run = run_lookup.find_run(options.run_name, batch_folder.results_folder())
    steps = reproducing.plan_steps(run, PROJECT)
    if not options.execute:
        return Output(steps.lines(), {"steps": list(steps.lines())})
    if steps.owner and not options.trust:
        raise BatchError(f"this executes code of {steps.owner}", where=options.run_name, hint="read the files that "
                         "`reproduce` prints without --run; then add --trust")
    print("".join(f"{line}\n" for line in steps.comments()), end="", flush=True)
    exit_code = steps.run()
    document: documents.Steps = {"steps": list(steps.lines())}
    if exit_code:
        return Output([], document, exit_code)
    is_identical, line = reproducing.compare_results(run, steps.repeat)
    document |= {"identical": is_identical, "difference": line}
    return Output([line], document, int(not is_identical))


def notify(options: argparse.Namespace) -> Output:
    """Send a message about a batch. Return 1 if it could not be sent."""
    from src.submission.batch import journal
    from src.submission.spec.notify_spec import Notify
    from src.submission.status import notify as messages

    path = batch_folder.require_batch(options.batch)
    plans = journal.read_history(path).recorded_plans
    plan = next((plan for plan in reversed(plans) if plan.get("notify") and options.token in (None, plan.get("code"))),
                None)
    if plan is None:
        raise BatchError("this batch requests no messages", where=path, hint="set job_details.notify: true")
    settings = Notify(**plan["notify"])
    error = messages.run_notify_job(path, plan["code"], options.kind, settings) if options.token else messages.send(
        settings, path, plan["code"], options.kind)
    document: documents.Sent = {"sent": error is None, "error": error}
    return Output([error or "sent"], document, int(error is not None))
