"""The job side: claims a run, records the attempt, runs it once, and says how it ended. Before torch is imported."""
from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from src import config, run_folder
from src.errors import BatchError, UserError, exits_on_user_error, one_line
from src.io import files, slurm_environment, yaml_io
from src.run_folder import RunFolder
from src.submission.batch import journal
from src.submission.job import container, external_program, ranks, requeue, worker
from src.submission.spec import command_template
from src.submission.system import process
from src.submission.system.signals import STOP_SIGNALS, Stopped, signals

Train = Callable[[dict[str, Any], str | None, Callable[[], None]], str]
WarmUp = Callable[[list[dict[str, Any]]], None]

USAGE = """usage: python train.py [--fresh] SPEC [SPEC …]

SPEC is a spec.yaml in a run folder (runs there), a config.yaml of an earlier run (repeats it in a new folder beside
it), any YAML file of `key: value` lines (runs in its output_dir, or writes nothing if it has none), or a task file that
submit_multiple.py made (a worker). A run that was interrupted goes on where it saved itself; with --fresh it begins
anew, also if it has ended, and what there was is kept in a folder `before-N` inside its own. Exit code: 0 ended, 1
crashed, 2 user error, 75 saved itself and wants another start (which it asked Slurm for)."""


class Superseded(Exception):
    """A later attempt has taken the run over: this one must not write any more."""


class RunDeleted(Exception):
    """The run's folder is gone: nothing can be written, and it must not be made again."""


def main(argv: Sequence[str], train: Train, warm_up: WarmUp) -> int:
    """Run what each path names, one after another, also when one fails. The last exit code that is not 0, or 0."""
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if argv else 2
    code, ticket, fresh = 0, _own_ticket(), "--fresh" in argv
    for path in argv:
        if path != "--fresh":
            code = _run_path(path, train, warm_up, ticket, fresh) or code
    return code


@exits_on_user_error
def _run_path(path: str, train: Train, warm_up: WarmUp, ticket: int | None, fresh: bool) -> int:
    if asked := container.requested_container(path, ticket):
        return _run_inside(asked, path, ticket, fresh)
    if path.endswith(run_folder.TASKS_SUFFIX):
        return worker.run_tasks(path, train, warm_up, run_spec)
    return run_spec(path, train, ticket, fresh=fresh) or 0


def _run_inside(asked: container.ContainerRequest, path: str, ticket: int | None, fresh: bool) -> int:
    """All of it once more in a container, where it claims its run. What keeps it from that is the attempt's failure."""
    from src.submission.job import container_host  # few runs have one

    try:
        return container_host.run_in_container(asked.container, asked.batch, [*(["--fresh"] if fresh else []), path],
                                               ticket)
    except UserError as error:
        if asked.name and process.rank() == 0:
            with contextlib.suppress(UserError):
                folder = os.path.join(asked.batch, asked.name)
                if attempt := Attempt.begin(folder, asked.ticket, in_worker=True):
                    attempt.fail(one_line(str(error)))
        raise


def _own_ticket() -> int | None:
    """The ticket that sbatch was given, taken out of the environment: it is not for what this process starts."""
    return int(os.environ.pop("GRIDIRON_TICKET", "0")) or None


def run_spec(path: str, train: Train, ticket: int | None = None, in_worker: bool = False,
             alone: bool = True, fresh: bool = False) -> int | None:
    """Run one spec to its end, once. The exit code; None if it has ended already or another process has it.

    ticket: of this submission; None takes it from the batch's journals. in_worker: the process got the run from a task
    file, and from the claim on what it prints goes to the run's folder. alone: the Slurm job has no other run at the
    same time, so that it may be requeued for this one. fresh: set aside what there is, and begin anew.
    """
    if process.world_size() > 1 and os.path.basename(path) != run_folder.SPEC:
        raise BatchError(f"{process.world_size()} processes were started for it, and only a run folder can tell them "
                         "what the first decides", where=path, hint="give the spec.yaml of a run folder, or start one")
    folder, spec = _resolve(path, run_folder.read_spec(path))
    if folder is None:
        train(spec, None, lambda: None)
        return 0
    if not fresh and (end := RunFolder.read(folder).ended):
        print(f"{folder}: this run has ended already ({end}); nothing to do")
        return None
    if process.rank():
        begun = ranks.wait_for_attempt(folder)
        if begun is None:
            print(f"{folder}: the first of {process.world_size()} processes does not run this run; this one leaves too")
            return None
        if in_worker:
            worker.redirect_output(folder)
        return Attempt(folder, *begun).run(spec, train, alone)
    # a signal between the claim and the record of its attempt waits until it can be recorded
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        attempt = _begin(folder, ticket, in_worker)
        if attempt is None:
            return None
        if in_worker:
            worker.redirect_output(folder)
        if fresh:
            print(f"{folder}: what there was is in {run_folder.set_aside(folder)}/")
        return attempt.run(spec, train, alone)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def _begin(folder: str, ticket: int | None, in_worker: bool) -> Attempt | None:
    """Attempt.begin, and word to the other processes of this start if it does not begin."""
    attempt = None
    try:
        attempt = Attempt.begin(folder, ticket, in_worker)
    finally:
        if attempt is None:
            ranks.announce_no_attempt(folder)
    return attempt


def _resolve(path: str, spec: dict[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """The run folder of a spec file, made if need be, and the spec that it runs."""
    name = os.path.basename(path)
    if name == run_folder.SPEC:
        return os.path.dirname(os.path.abspath(path)), spec
    spec.pop("facts", None)
    config.check_parameters(spec, path)  # before torch is loaded or a folder made
    output_dir = spec.get("output_dir")
    if output_dir is None:
        return None, spec
    folder = os.path.abspath(files.expand(output_dir, "output_dir"))
    if name == run_folder.CONFIG:
        folder = _free_name(folder)
    with files.refusals_told(folder, "give another output_dir"):
        os.makedirs(folder, exist_ok=True)
    spec = {key: value for key, value in spec.items() if key != "output_dir"}
    text = yaml_io.dump_flat(spec)
    if not files.create_exclusive(os.path.join(folder, run_folder.SPEC), text):
        there = run_folder.read_spec(os.path.join(folder, run_folder.SPEC))
        if there != spec:
            changed = sorted(key for key in {*spec, *there} if spec.get(key) != there.get(key))
            raise BatchError(f"the run in {folder} has other parameters ({', '.join(changed)})", where=path,
                             hint="give another output_dir, or remove that folder")
    return folder, spec


def _free_name(folder: str) -> str:
    number = 1
    while os.path.exists(f"{folder}-repeat-{number}"):
        number += 1
    return f"{folder}-repeat-{number}"


class Attempt:
    """One start of a run that this process has claimed, or the first of several of a start; only that writes."""

    def __init__(self, folder: str, ticket: int, number: int) -> None:
        self.folder, self.ticket, self.number = folder, ticket, number
        self._is_foreign, self._most_requeues = False, config.Config.max_requeues
        self._record = {"ticket": ticket, "number": number, "who": process.identity(), "start": time.time(),
                        "host": os.uname().nodename, "node": slurm_environment.node_name(),
                        "slurm_job": slurm_environment.job_id(), "started_by": ranks.start_id(), "end": None,
                        "how": None, "error": None}

    @classmethod
    def begin(cls, folder: str, ticket: int | None = None, in_worker: bool = False) -> Attempt | None:
        """Claim the run and record the start. None if another process has it: this one must leave it alone.

        BatchError if somebody starts by hand what is running.
        """
        claimed = _claim(folder, ticket, in_worker)
        if claimed is None:
            return None
        attempt = cls(folder, *claimed)
        if files.create_exclusive(attempt._path(), json.dumps(attempt._record) + "\n"):
            return attempt
        print(f"{folder}: another process took this run up a moment ago; this process has nothing to do")
        return None

    def _path(self) -> str:
        return os.path.join(self.folder, run_folder.attempt_name(self.ticket, self.number))

    def check(self) -> None:
        """Raise Superseded if a later attempt exists, or RunDeleted. Called before every row, checkpoint and `done`."""
        try:
            attempts = RunFolder.read(self.folder).attempts
        except FileNotFoundError:
            attempts = ()
        if (self.ticket, self.number) not in attempts:
            raise RunDeleted(f"{self.folder}: this run's folder, or this attempt's record in it, was deleted or moved")
        if attempts[-1] != (self.ticket, self.number):
            raise Superseded(f"{self.folder}: a later attempt has taken this run over")

    def run(self, spec: dict[str, Any], train: Train, alone: bool = True) -> int:
        """Train, or run the foreign program, and record the end. The exit code. alone: as for run_spec."""
        self._is_foreign = "COMMAND" in spec
        if not self._is_foreign:
            self._most_requeues = spec.get("max_requeues", self._most_requeues)
        try:
            signals.listen()
            self.check()  # a Slurm job that comes late finds that a later ticket has the run
            how = self._run(spec, train)
            self.check()
            if how == run_folder.REQUEUED:
                return self._go_on(alone)
            with signals.ignore_stops():  # the run is over
                if process.rank() == 0:
                    files.write_atomic(os.path.join(self.folder, run_folder.DONE), how + "\n")
                    run_folder.remove_resume_checkpoints(self.folder)
                self._close(how)
            return 0
        except Superseded as fenced:
            print(fenced, file=sys.stderr)
            return 0
        except Stopped as stopped:
            return self._stopped(stopped, alone)
        except RunDeleted as deleted:
            print(f"error: {deleted}; nothing more is written", file=sys.stderr)
            return 1
        except command_template.Failed as failed:
            self._close(run_folder.FAILED, str(failed))
            print(f"error: {self.folder}: {failed}", file=sys.stderr)
            return 1
        except UserError as error:
            self._close(run_folder.FAILED, one_line(str(error)))
            raise
        except BaseException as error:
            if files.is_full(error):
                self._close(run_folder.FAILED, f"disk full: {error}")
                print(f"error: {self.folder}: the disk is full, and the state that was saved last is kept; make room, "
                      "then `python submit_multiple.py -r BATCH` goes on from it", file=sys.stderr)
                return 1
            self._close(run_folder.FAILED, one_line(traceback.format_exception_only(error)[-1].strip())[:2000])
            traceback.print_exc()
            return 1

    def _run(self, spec: dict[str, Any], train: Train) -> str:
        if not self._is_foreign:
            return train(spec, self.folder, self.check)
        if process.rank():
            print("a foreign program is started once: the first process does, this one leaves")
            return run_folder.COMPLETED
        return external_program.run(spec, self.folder, self.check, signals.time_is_short)

    def _stopped(self, stopped: Stopped, alone: bool) -> int:
        """Record a stop, or ask for another start if Slurm preempted its job and does not start it again."""
        if process.rank():
            return 0  # as in _go_on; the first tells how it ends
        asked = stopped.number == signal.SIGTERM
        how = requeue.classify_stop(can_go_on=not self._is_foreign) if asked else run_folder.CANCELLED
        if how == run_folder.REQUEUED:
            return self._go_on(alone, "preempted", run_folder.PREEMPTED)
        self._close(run_folder.TIMEOUT if signals.warned and how == run_folder.CANCELLED else how, str(stopped))
        print(f"error: {self.folder}: {stopped}", file=sys.stderr)
        return 1

    def _go_on(self, alone: bool, why: str = "the time is up", otherwise: str = run_folder.TIMEOUT) -> int:
        """The run wants another start: ask for one. 75, or 1 if it had its most. A worker asks for all of its runs
        together (alone is False). why: it stops; otherwise: how the attempt ended if nobody starts the run again."""
        for number in STOP_SIGNALS:  # requeueing sends TERM, and all is written
            signal.signal(number, signal.SIG_IGN)
        if process.rank():
            return 0  # srun would end the first for any other, while that asks for another start
        requeues = self._requeues()
        if requeues >= self._most_requeues:
            self._refused(f"{why}, and it was started again {requeues} times, the most for one submission "
                          "(max_requeues); -r goes on", otherwise)
            return 1
        self._close(run_folder.REQUEUED)
        if not alone and slurm_environment.job_id():
            return external_program.SAVED
        try:
            print(f"{self.folder}: {why}: {requeue.requeue_run(self.folder, self.ticket)}", flush=True)
        except requeue.RequeueRefused as refused:
            self._refused(f"{why}; {refused}", otherwise)
        return external_program.SAVED

    def fail(self, words: str) -> None:
        """Record that it could not be begun."""
        self._close(run_folder.FAILED, words)

    def _refused(self, words: str, how: str) -> None:
        self._close(how, words)
        print(f"error: {self.folder}: {words}", file=sys.stderr)

    def _requeues(self) -> int:
        """How many attempts of this ticket asked for another start."""
        run = RunFolder.read(self.folder)
        records = (files.read_json(run.file(run_folder.attempt_name(*attempt))) or {} for attempt in run.attempts
                   if attempt[0] == self.ticket)
        return sum(record.get("how") == run_folder.REQUEUED for record in records)

    def _close(self, how: str, error: str | None = None) -> None:
        """Record the end. Without the record (a full disk), the state of the process or Slurm job must do."""
        if process.rank():
            if how == "failed" and error:
                ranks.record_failure(self.folder, error)
            return
        if how == "failed" and process.world_size() > 1:
            error = ranks.read_failure(self.folder) or error
        self._record.update(end=time.time(), how=how, error=error)
        text = json.dumps(self._record) + "\n"
        try:
            try:
                files.write_atomic(self._path(), text, sync=how not in run_folder.ENDS)  # of these, `done` is
            except OSError:
                files.overwrite(self._path(), text)
        except OSError as failure:
            print(f"error: {self._path()}: {failure.strerror}: the end of this attempt is not recorded ({how})",
                  file=sys.stderr)
        if how in (run_folder.FAILED, run_folder.TIMEOUT) and slurm_environment.job_id():
            from src.submission.status import notify

            notify.notify_failure(self.folder, self.ticket)


def _claim(folder: str, ticket: int | None, in_worker: bool) -> tuple[int, int] | None:
    """The ticket, and the attempt's number, under which this process may run the folder's run; None if it must not.

    Of processes that are given the same, the one that creates the attempt's record has the run.
    """
    by_hand = ticket is None and slurm_environment.job_id() is None
    if ticket is None:
        ticket = _newest_ticket(folder)
    me = process.identity()
    # not synced: the attempt's record, which follows at once, says the same and is
    claimed = files.create_exclusive(os.path.join(folder, run_folder.claim_name(ticket)), json.dumps(me) + "\n",
                                     sync=False)
    run = RunFolder.read(folder)
    mine = ticket, 1 + max((number for of, number in run.attempts if of == ticket), default=-1)
    if claimed:
        return mine
    attempt = run.last_attempt() or {}
    # who had it last under this ticket; a later ticket fences us anyway
    holder = attempt["who"] if attempt.get("ticket") == ticket and "who" in attempt else run.claim(ticket)
    if me["slurm_job"] and attempt.get("ticket") == ticket and attempt.get("how") == run_folder.REQUEUED:
        return mine
    if me["slurm_job"] and holder.get("slurm_job") == me["slurm_job"]:
        # the same Slurm job: started again after a requeue, or by a script that calls train.py twice
        ended = attempt.get("how") or not process.is_alive(holder)
        if me["restart"] > holder.get("restart", 0) or ended and not in_worker:
            return mine
    elif by_hand:
        if attempt.get("how") or process.is_alive(holder) is False:
            return _claim(folder, ticket + 1, in_worker=True)
        raise BatchError(f"this run is being run by {process.describe(holder)}", where=folder,
                         hint=f"`python experiments.py status {os.path.dirname(folder)}` shows how far it is")
    if not in_worker:  # workers meet at every run; a Slurm job has its log to itself
        print(f"{folder}: {process.describe(holder)} has this run; this process has nothing to do")
    return None


def _newest_ticket(folder: str) -> int:
    """The newest ticket of the run by its batch's journals and the claims in its folder; 1 before any."""
    batch, name = os.path.split(folder)
    ticket = journal.read_history(batch).tickets.get(name)
    return max(1, ticket.number if ticket else 0, *RunFolder.read(folder).claims)
