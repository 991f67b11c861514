"""Carries a plan out: writes the batch, calls sbatch or starts local workers, and says what to type next."""
from __future__ import annotations

import argparse
import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from src import run_folder
from src.errors import BatchError, shell_command
from src.io import files
from src.submission.batch import batch_folder, provenance, task_files
from src.submission.batch.journal import LOCAL, SLURM, Journal
from src.submission.batch.task_files import WorkerGroup
from src.submission.planning.modes import local_teams, wants_canaries
from src.submission.planning.plan import refuse_if_alive
from src.submission.planning.planner import retry_command
from src.submission.slurm import submit
from src.submission.slurm.submit import SlurmOptions, Submission
from src.submission.spec import grid
from src.submission.status import retry_policy, states
from src.submission.status.observe import observe
from src.submission.system import terminal
from src.submission.system.terminal import count

if TYPE_CHECKING:
    from src.submission.planning.canary import Waits
    from src.submission.planning.work import Extension, Work
    from src.submission.status.notify import Notifier


def plan_record(work: Work, token: str, mode: str, slurm_options: SlurmOptions | None, submission: Submission | None,
                options: argparse.Namespace, argv: Sequence[str]) -> dict[str, Any]:
    """What the journal keeps of a plan: its tickets, and all that repeats this submission."""
    details: dict[str, Any] = {
        "project": work.start_in, "script": slurm_options.script, "sbatch": dict(slurm_options.batch),
        "shape": dict(slurm_options.shape),
        "command_line": dict(slurm_options.command_line)} if slurm_options else {}
    if submission:
        details["units"] = submission.units
    if (wanted := wants_canaries(options, work)) or options.canary is not None:
        details["canary"] = wanted
    if work.container:
        details["container"] = vars(work.container)
    if work.first:
        details["canaries"] = work.first.record(submission.tickets if submission else work.plan.tickets)
    identity = work.history.first_plan().get("identity") if work.history.plans else work.identity
    return {"mode": mode, "tickets": submission.tickets if submission else work.plan.tickets,
            "argv": list(argv), "identity": identity, "code": token, "snapshot": work.snapshot is not None,
            "notify": work.notify and vars(work.notify), **details}


def write(work: Work, token: str, record: dict[str, Any], submission: Submission | None,
          slurm_options: SlurmOptions | None) -> Journal:
    """Make the batch with its plan in it, or the run folders that it lacks and then the plan; then the task files."""
    if work.overwrites:
        observation, = observe([work.overwrites])  # things may have changed while we asked
        refuse_if_alive(observation, "overwrite this batch")
    texts = grid.spec_texts(work.specs)

    def write_plan(folder: str) -> None:
        write_books(folder)
        Journal(folder, token).record_plan(**record)

    def write_books(folder: str) -> None:
        if slurm_options and slurm_options.script_text:
            files.write_atomic(os.path.join(folder, run_folder.SUBMISSIONS, token + run_folder.SCRIPT_SUFFIX),
                               slurm_options.script_text)
        if work.first and work.first.plan.tickets:
            from src.submission.planning import canary

            canary.write(work.first, folder, token, record["mode"], record.get("container"))
        slurm = None if slurm_options is None else {
            "script": slurm_options.script, "options": {**slurm_options.batch, **slurm_options.command_line},
            "shape": dict(slurm_options.shape)}
        provenance.write_record(os.path.join(folder, run_folder.CODE, token), provenance.inspect_code(work.project),
                                record["argv"],
                         slurm, work.snapshot is not None)

    if work.extension:
        _extend(work, work.extension, write_books, lambda folder: Journal(folder, token).record_plan(**record))
    elif not work.new:
        batch_folder.repair_specs(work.path, work.names, texts)
        write_plan(work.path)
    elif not batch_folder.create(work.path, work.job_text, work.names, texts, write_plan, work.overwrites):
        raise BatchError("another process made this batch a moment ago", where=work.path,
                         hint="the same command again continues it")
    for path, listed in (submission.tasks if submission else {}).items():
        task_files.write(path, listed)
    return Journal(work.path, token)


def _extend(work: Work, extension: Extension, write_books: Callable[[str], None],
            write_plan: Callable[[str], None]) -> None:
    """Make the batch a larger one. BatchError if another process has done so meanwhile."""
    from src.submission.planning import extend

    points = dict(zip(work.names, work.specs, strict=True))
    there = [name for name in points if name not in extension.new]
    made = [name for name in points if name in extension.new]
    batch_folder.repair_specs(work.path, there, grid.spec_texts([points[name] for name in there]))
    write_books(work.path)
    if not extend.join(work.path, extension, work.job_text, made, grid.spec_texts([points[name] for name in made]),
                       write_plan):
        raise BatchError("another process extended this batch a moment ago", where=work.path,
                         hint="the same command again adds what is new now")


def start(work: Work, mode: str, slurm_options: SlurmOptions | None, book: Journal,
          submission: Submission | None, options: argparse.Namespace) -> int:
    """Submit to Slurm or run here, what the journal says."""
    try:
        if not work.plan.tickets:
            print(f"nothing is new to submit; {work.path}/{run_folder.JOB_SPEC} holds the job spec as it is now")
            return 0
        if mode == LOCAL:
            return _run_here(work, book.token, options)
        if mode == SLURM and submission and slurm_options:
            return _run_on_slurm(work, book, submission, slurm_options, options)
        print(f"wrote {count(len(work.names), 'run folder')} in {work.path}")
        way = ("--local",) if options.local else () if slurm_options else ("-s", "SCRIPT")
        print(_next_steps((retry_command(work.path, *way), "runs them" if options.local else "submits them")))
        return 0
    finally:
        book.record_end()


def _next_steps(*steps: tuple[str, str]) -> str:
    """Commands and what they do, aligned, a line each."""
    return "\n".join(terminal.table(steps, indent="  "))


def _run_on_slurm(work: Work, book: Journal, submission: Submission, slurm_options: SlurmOptions,
                 options: argparse.Namespace) -> int:
    """The calls of sbatch, and what to type next. 0 if all were submitted, 3 at --max-queued, 130 after Ctrl-C."""
    from src.submission.slurm import queue_limits
    from src.submission.slurm.circuit_breaker import CircuitBreaker

    jobs: list[str] = []
    again, total = retry_command(work.path), count(len(submission.calls), "Slurm job")
    waits = None
    room = queue_limits.QueueLimiter(work.path, options.max_queued, options.wait)
    breaker = CircuitBreaker(work.path, options.max_failures)
    try:
        with _stop_is_told(_notices(work, book.token)):
            if work.first:
                from src.submission.planning import canary

                waits = canary.Waits(work.first)
                waits.submit(canary.submission_of(work.first, slurm_options, book.token, work.start_in), again, room)
            with terminal.Progress(len(submission.calls), "submitted") as progress:
                for job in submit.submit_all(submission, book, again, room, breaker,
                                             waits.filled_in if waits else None):
                    jobs.append(job)
                    progress.step()
    except KeyboardInterrupt:
        print(f"\nstopped; {len(jobs)} of {total} submitted, and they stay submitted")
        cancel = shell_command("python", "experiments.py", "cancel", work.path)
        print(_next_steps((again, "submits the rest"), (cancel, "cancels what was submitted")))
        return 130
    except queue_limits.QueueFull:
        print(f"{len(jobs)} of {total} submitted: {options.max_queued} of this batch are queued, as --max-queued "
              "allows; the same command goes on, --wait does so by itself")
        return 3
    finally:  # what was submitted runs, however this ends
        _have_messages_sent(work, book.token, jobs, submission, slurm_options)
    _tell_what_is_submitted(work, waits, jobs, submission)
    return 0


def _tell_what_is_submitted(work: Work, waits: Waits | None, jobs: list[str], submission: Submission) -> None:
    """The Slurm jobs, and what to type next. BatchError if runs are held back, as a canary has failed."""
    again = retry_command(work.path)
    if waits and waits.held:
        total = count(len(submission.calls), "Slurm job")
        raise BatchError(f"{len(waits.held)} of {total} not submitted, {waits.held[0]} first: the canary has failed "
                         "meanwhile", where=work.path, hint=f"`{again}` tries it again; `"
                         f"{shell_command('python', 'experiments.py', 'status', work.path)}` says why it failed")
    if waits and waits.submitted:
        print(f"canaries: Slurm job{'s' if len(waits.submitted) > 1 else ''} {', '.join(waits.submitted)}")
    span = jobs[0] if len(jobs) == 1 else f"{jobs[0]} to {jobs[-1]}"
    print(f"submitted {count(len(submission.tickets), 'run')}: Slurm job{'s' if len(jobs) > 1 else ''} {span}")
    print(_next_steps(("squeue --me", "what Slurm has queued and running"),
                     (shell_command("python", "experiments.py", "status", work.path), "how far each run is"),
                     (again, "submits again what failed")))


def _run_here(work: Work, token: str, options: argparse.Namespace) -> int:
    """Run the plan by local workers, with one progress bar. 0 if all runs ended, 1 if one failed, 130 after Ctrl-C."""
    from src.submission.slurm.circuit_breaker import CircuitBreaker

    run = functools.partial(_run_by_workers, work.start_in, token, options.slots or 1, _pinned(options.gpus))
    notices, breaker = _notices(work, token), CircuitBreaker(work.path, options.max_failures)

    def told(name: str, code: int) -> None:
        if notices:
            notices.run_ended(code not in (0, 75))
        breaker.record_end(name)

    again = retry_command(work.path, "--local")
    held = _try_canaries(work, options, run, again)
    finished = held is not None
    if finished:
        with _stop_is_told(notices):
            finished = run(work.path, local_teams(options, work), "runs", told)
    if not finished:
        print("stopped; what was finished is kept")
        print(_next_steps((again, "goes on")))
        return 130
    if notices:
        notices.send("ended")
    log = os.path.join(work.path, run_folder.SUBMISSIONS, f"{token}.workers.log")
    return max(_tell_how_it_ended(work, log, again), int(bool(held)))


def _run_by_workers(project: str, token: str, slots: int, pinned: list[str], path: str, teams: Sequence[WorkerGroup],
                    noun: str, told: Callable[[str, int], None] = lambda name, code: None) -> bool:
    """Run what the teams have of the batch at `path`; whether all of it ended. told: of each run's exit status."""
    from src.submission.job import local_workers

    with terminal.Progress(sum(len(team.tickets) for team in teams), noun) as progress:
        def on_end(name: str, code: int) -> None:
            progress.step(failed=code != 0)
            told(name, code)

        return local_workers.run(path, token, teams, os.path.join(project, "train.py"), on_end, slots, pinned)


def _pinned(asked: str | None) -> list[str]:
    """The GPUs that --gpus asks for."""
    if not asked:
        return []
    from src.submission.system import gpus

    pinned, busy = gpus.choose_gpus(asked)
    print("\n".join([*busy, f"GPUs       {', '.join(pinned)}"]))
    return pinned


def _try_canaries(work: Work, options: argparse.Namespace, run: Callable[..., bool], again: str) -> list[str] | None:
    """Run the canaries that this submission needs: a line for each that holds runs back, which leave the plan. None if
    the user has stopped them; BatchError if no run is left.
    """
    if not work.first or not work.first.plan.tickets:
        return []
    from src.submission.planning import canary

    most = sum(team.workers for team in local_teams(options, work))
    if not run(work.first.path, task_files.worker_groups(work.first.plan.tickets, work.first.specs, most), "canaries"):
        return None
    held = canary.leave_out_held(work.first, work.plan)
    print("".join(f"{line}\n" for line in held), end="")
    if not work.plan.tickets:
        raise BatchError("no run was begun: every canary failed", where=work.path,
                         hint=f"when that is mended, `{again}` tries them again")
    return held


@contextlib.contextmanager
def _stop_is_told(notices: Notifier | None) -> Iterator[None]:
    """What stops a submission for good is sent as a message, too, if messages are wanted."""
    try:
        yield
    except BatchError as error:
        if notices:
            notices.send("failed", error.what)
        raise


def _have_messages_sent(work: Work, token: str, jobs: list[str], submission: Submission, options: SlurmOptions
                        ) -> None:
    if work.notify and jobs:
        from src.submission.status import notify  # few batches want messages

        asked = submit.requested_options(submission.calls[0], options)
        if words := notify.submit_notify_jobs(work.notify, work.path, token, jobs, work.project, asked):
            print(words, file=sys.stderr)


def _notices(work: Work, token: str) -> Notifier | None:
    if work.notify is None:
        return None
    from src.submission.status import notify

    return notify.Notifier(work.notify, work.path, token)


def _tell_how_it_ended(work: Work, log: str, again: str) -> int:
    """What the runs of a local batch have come to, and what to type next. 0 if all ended, 1 if not.

    log: what the workers printed; again: the command that goes on. BatchError if some runs never began.
    """
    observation, = observe([work.path])
    left = {name: state for name in work.plan.tickets
            if (state := observation.runs[name].state.name) not in retry_policy.ENDED_WELL}
    untouched = [name for name, state in left.items() if state in (states.NEW, states.PENDING)]
    failed = [name for name, state in left.items() if state not in (states.RUNNING, states.UNKNOWN)]
    if untouched:
        raise BatchError(f"the workers ended before {count(len(untouched), 'run')} began", where=log,
                         hint=f"read that file; then `{again}`")
    steps = [(shell_command("python", "experiments.py", "status", work.path), "shows each run"),
             (shell_command("python", "experiments.py", "report", work.path), "makes a page with pictures")]
    if failed:
        print(f"{count(len(failed), 'run')} failed")
        steps = [(shell_command("python", "experiments.py", "logs", os.path.join(work.path, failed[0])), "says why"),
                 (again, "runs what failed again"), *steps]
    if len(left) > len(failed):
        print(f"{count(len(left) - len(failed), 'run')} still running in other processes")
    print(_next_steps(*steps))
    return 1 if left else 0
