"""Start a run once: claim it, record the attempt, train or run its program, record how it ended."""
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

from src import config, logs, run_folder
from src.archive import run_files
from src.errors import BatchError, UserError, exception_line, exits_on_user_error, one_line
from src.io import files, slurm_environment, yaml_io
from src.monitoring import gpu_idle, worker_cell
from src.monitoring.gpu_idle import IdleNow, Limits
from src.run_folder import RunFolder
from src.submission.batch import claims, heartbeat, journal
from src.submission.batch.claims import RunDeleted, Superseded
from src.submission.batch.task_files import Tasks
from src.submission.job import container, external_program, ranks, requeue, worker, worker_child
from src.submission.spec import command_template
from src.submission.system import process
from src.submission.system.signals import STOP_SIGNALS, Stopped, signals
from src.submission.usage.resource_meter import ResourceMeter

Train = Callable[[dict[str, Any], str | None, Callable[[], None]], str]
WarmUp = Callable[[list[dict[str, Any]]], None]

USAGE = """usage: python train.py [--fresh] SPEC [SPEC …]

SPEC is a spec.yaml in a run folder (runs there), a config.yaml of an earlier run (repeats it in a new folder beside
it), any YAML file of `key: value` lines (runs in its output_dir, or writes nothing if it has none), or a task file that
submit_multiple.py wrote (a worker). An interrupted run resumes from its last resume checkpoint. --fresh starts it from
the beginning, even if it has ended, and moves its files into a folder `before-N` inside its own. Exit code: 0 ended, 1
failed, 2 user error, 75 saved a resume checkpoint and needs another start (in Slurm, it has requested one)."""


def main(argv: Sequence[str], train: Train, warm_up: WarmUp, run_stack: worker.RunStack | None = None) -> int:
    """Run what each path names, one after another, even if one fails. Return the last exit code that is not 0, or 0.

    run_stack: trains several runs of a task file at once; None trains each by itself.
    """
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if argv else 2
    ticket = int(os.environ.pop("GRIDIRON_TICKET", "0")) or None  # of sbatch; child processes do not inherit it
    code, fresh = 0, "--fresh" in argv
    for path in argv:
        if path != "--fresh":
            code = _run_path(path, train, warm_up, run_stack, ticket, fresh) or code
    return code


@exits_on_user_error
def _run_path(path: str, train: Train, warm_up: WarmUp, run_stack: worker.RunStack | None, ticket: int | None,
              fresh: bool) -> int:
    if request := container.requested_container(path, ticket):
        return _run_in_container(request, path, ticket, fresh)
    if path.endswith(run_folder.TASKS_SUFFIX):
        return worker.run_tasks(path, train, warm_up, run_spec, run_stack, _make_worker)
    return run_spec(path, train, ticket, fresh=fresh) or 0


def _make_worker(path: str, tasks: Tasks, *arguments: Any) -> worker.Worker | None:
    """Return the worker of a search, or one that decides how many runs run at a time; None for an ordinary worker."""
    if tasks.is_search:
        from src.submission.job.search_worker import SearchWorker  # few workers have a search

        return SearchWorker(path, tasks, *arguments)
    if tasks.is_auto:
        from src.submission.job.auto_worker import AutoWorker

        return AutoWorker(path, tasks, *arguments)
    return None


def _run_in_container(request: container.ContainerRequest, path: str, ticket: int | None, fresh: bool) -> int:
    """Call train.py again inside a container, where it claims its run. If that cannot start, the attempt has failed."""
    from src.submission.job import container_host  # few runs have a container

    arguments = [*(["--fresh"] if fresh else []), path]
    successor = requeue.successor_command(request.batch, request.name, path, request.ticket)
    try:
        return container_host.run_in_container(request.container, request.batch, arguments, ticket, successor)
    except UserError as error:
        if request.name and process.rank() == 0:
            with contextlib.suppress(UserError):
                folder = os.path.join(request.batch, request.name)
                if attempt := Attempt.begin(folder, request.ticket, in_worker=True):
                    attempt.fail(one_line(str(error)))
        raise


def run_spec(path: str, train: Train, ticket: int | None = None, in_worker: bool = False,
             owns_job: bool = True, fresh: bool = False, pause_after: int | None = None) -> int | None:
    """Run one spec to its end, once. Return the exit code; None if the run has ended, or another process claimed it.

    ticket: of this submission; None reads it from the batch's journals.
    in_worker: the run is from a task file; once it is claimed, output goes to the run's folder.
    owns_job: the Slurm job runs nothing else at the same time, so that it may be requeued for this run.
    fresh: move aside what the run has written, and start from the beginning.
    pause_after: epoch after which the run pauses, as a trial of a search does at a rung.
    """
    if process.world_size() > 1 and os.path.basename(path) != run_folder.SPEC:
        raise BatchError(f"{process.world_size()} processes were started, and they need a run folder to coordinate in",
                         where=path, hint="pass the spec.yaml of a run folder, or start one process")
    folder, spec = _prepare_folder(path, run_folder.read_spec(path))
    if folder is None:
        train(spec, None, lambda: None)
        return 0
    if not fresh and (end := RunFolder.read(folder).ended):
        print(f"{folder}: this run has ended already ({end}); nothing to do")
        return None
    if process.rank():
        return _follow_first(folder, spec, train, in_worker, owns_job)
    # block signals until there is an attempt that can record them
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        attempt = _begin_or_announce(folder, ticket, in_worker, pause_after)
        if attempt is None:
            return None
        if in_worker:
            worker_child.redirect_output(folder)
        if fresh:
            print(f"{folder}: moved the files of earlier starts to {run_folder.set_aside(folder)}/")
        return attempt.run(spec, train, owns_job)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def _follow_first(folder: str, spec: dict[str, Any], train: Train, in_worker: bool, owns_job: bool) -> int | None:
    """Take part in the attempt of the first process of this start. None if that process did not begin one."""
    begun = ranks.wait_for_attempt(folder)
    if begun is None:
        print(f"{folder}: the first of {process.world_size()} processes did not start this run; exiting")
        return None
    if in_worker:
        worker_child.redirect_output(folder)
    return Attempt(folder, *begun).run(spec, train, owns_job)


def _begin_or_announce(folder: str, ticket: int | None, in_worker: bool, pause_after: int | None) -> Attempt | None:
    """Begin an attempt; if there is none, announce that to the other processes of this start."""
    attempt = None
    try:
        attempt = Attempt.begin(folder, ticket, in_worker, pause_after)
    finally:
        if attempt is None:
            ranks.announce_no_attempt(folder)
    return attempt


def _prepare_folder(path: str, spec: dict[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """Create the run folder of a spec file if it is missing. Return it, or None without an output_dir, and the spec.

    BatchError if the folder holds a run with other parameters.
    """
    name = os.path.basename(path)
    if name == run_folder.SPEC:
        folder = os.path.dirname(os.path.abspath(path))
        if "output_dir" in spec and process.rank() == 0:
            print(f"note: {path}: output_dir is not used, as a {run_folder.SPEC} runs in its own folder, {folder}; "
                  "to use it, give the file another name")
        return folder, spec
    spec.pop("facts", None)
    config.check_parameters(spec, path)  # before torch is loaded or a folder created
    output_dir = spec.get("output_dir")
    if output_dir is None:
        return None, spec
    folder = os.path.abspath(files.expand_path(output_dir, "output_dir"))
    if name == run_folder.CONFIG:
        own_folder = os.path.dirname(os.path.abspath(path))  # of a run that was moved, output_dir is where it was
        folder = run_folder.free_repeat_name(own_folder if run_folder.is_run_folder(own_folder) else folder)
    is_archived = run_files.is_archived(folder)
    if not is_archived:
        with files.report_os_errors(folder, "give another output_dir"):
            files.make_folder(folder)
    spec = {key: value for key, value in spec.items() if key != "output_dir"}
    spec_path = os.path.join(folder, run_folder.SPEC)
    if is_archived or not files.create_exclusive(spec_path, yaml_io.dump_flat(spec)):
        earlier = run_folder.read_spec(spec_path)
        if earlier != spec:
            changed = sorted(key for key in {*spec, *earlier} if spec.get(key) != earlier.get(key))
            raise BatchError(f"the run in {folder} has other parameters ({', '.join(changed)})", where=path,
                             hint="give another output_dir, or remove that folder")
    print(f"run folder {folder}", flush=True)
    return folder, spec


class Attempt:
    """One start of a run that this process, or the first process of the same start, has claimed.

    Only the first process writes the attempt's record; in the others the methods that record do nothing.
    """

    def __init__(self, folder: str, ticket: int, number: int, pause_after: int | None = None) -> None:
        self.folder, self.ticket, self.number, self._pause_after = folder, ticket, number, pause_after
        self._is_external, self._max_requeues = False, config.Config.max_requeues
        self.classify_stop = requeue.classify_stop
        self.meter: ResourceMeter | None = None  # of the training or program, once it has started
        self._record = {"ticket": ticket, "number": number, "who": process.identity(), "start": time.time(),
                        "host": os.uname().nodename, "node": slurm_environment.node_name(),
                        "slurm_job": slurm_environment.job_id(), "started_by": ranks.start_id(),
                        "code": journal.code_token(*os.path.split(folder), ticket), "end": None, "how": None,
                        "error": None, **({} if pause_after is None else {"pause_after": pause_after})}

    @classmethod
    def begin(cls, folder: str, ticket: int | None = None, in_worker: bool = False,
              pause_after: int | None = None) -> Attempt | None:
        """Claim the run and record the start. None if another process has it: this one must leave the run alone.

        pause_after: as for run_spec. BatchError if a user starts a run that is running.
        """
        files.reject_foreign_link(os.path.dirname(folder))
        files.reject_foreign_link(folder)
        claimed = claims.claim(folder, ticket, in_worker)
        if claimed is None:
            return None
        # the new claim makes a network file system list the folder anew, with the end that another process recorded
        if in_worker and RunFolder.read(folder).ended:
            return None
        attempt = cls(folder, *claimed, pause_after)
        if claims.create_attempt(folder, *claimed, attempt._record):
            return attempt
        print(f"{folder}: run already claimed by another process; exiting")
        return None

    def check_current(self) -> None:
        """Raise Superseded or RunDeleted unless this is the last attempt. Called before every row, checkpoint and
        `done`.
        """
        claims.check_current(self.folder, self.ticket, self.number)

    def idle_limits(self) -> Limits:
        """Return when the GPU of this run counts as idle, as it was submitted."""
        batch, name = os.path.split(self.folder)
        plans = journal.plans_with_mapping("idle_gpu", batch)
        return gpu_idle.read_limits(journal.plan_of(plans, name, self.ticket).get("idle_gpu")) or Limits()

    def record_idle(self, idle: IdleNow | None) -> None:
        """Record that the run's GPU idles, for `status` and `watch`, and send a message; None: it no longer does."""
        path = os.path.join(self.folder, run_folder.GPU_IDLE)
        with contextlib.suppress(OSError, UserError):
            if idle is None:
                os.unlink(path)
                return
            is_new = not os.path.exists(path)
            files.write_json(path, {**idle._asdict(), "ticket": self.ticket, "number": self.number}, sync=False)
            if is_new:
                logs.append(self.folder, f"warning: {idle.line()}")
                from src.submission.status import notify

                notify.notify_idle(self.folder, self.ticket)

    @property
    def record_path(self) -> str:
        """The path of the attempt's record."""
        return os.path.join(self.folder, run_folder.attempt_name(self.ticket, self.number))

    def run(self, spec: dict[str, Any], train: Train, owns_job: bool = True) -> int:
        """Train, or run the external program, and record the end. Return the exit code. owns_job: as for run_spec."""
        process.set_title(os.path.basename(self.folder))
        self._is_external = "COMMAND" in spec

        def execute() -> str:
            signals.listen()
            self.check_current()  # a late Slurm job stops here if a later ticket has the run
            if process.rank():
                return self._execute(spec, train)
            self.meter = ResourceMeter(self.record_idle, self.idle_limits, has_loop=not self._is_external)
            with heartbeat.beating([self.record_path], self.meter.sample):
                return self._execute(spec, train)

        return self.settle(spec, execute, owns_job)

    def settle(self, spec: dict[str, Any], execute: Callable[[], str], owns_job: bool = True) -> int:
        """Call a function that trains the run, and record the end. Return the exit code. owns_job: as for run_spec.

        execute: returns how the run ended, or raises what ended it. A UserError is recorded, and raised again.
        """
        if not self._is_external:
            self._max_requeues = spec.get("max_requeues", self._max_requeues)
        try:
            return self._settle(execute, owns_job)
        except Superseded as superseded:
            print(superseded, file=sys.stderr)
            return 0
        except RunDeleted as deleted:
            print(f"error: {deleted}; nothing more is written", file=sys.stderr)
            return 1

    def _settle(self, execute: Callable[[], str], owns_job: bool) -> int:
        try:
            how = execute()
            self.check_current()
            if how == run_folder.REQUEUED:
                return self._request_restart(owns_job)
            if how == run_folder.PAUSED:
                self._close(how)
                return 0
            self._complete(how)
            return 0
        except (Superseded, RunDeleted):
            raise
        except Stopped as stopped:
            return self._record_stop(stopped, owns_job)
        except BaseException as error:
            if worker_cell.has_others() and worker_child.is_out_of_memory(error):
                return self._yield(f"out of memory beside other runs: {exception_line(error)}")
            if isinstance(error, UserError):
                self.fail(one_line(str(error)))
                raise
            return self._record_failure(error)

    def _execute(self, spec: dict[str, Any], train: Train) -> str:
        if not self._is_external:
            return train(spec, self.folder, self.check_current)
        if process.rank():
            print("the first process starts the external program; this one exits")
            return run_folder.COMPLETED
        return external_program.run(spec, self.folder, self.check_current, signals.time_is_short, self._pause_after)

    def _complete(self, how: str) -> None:
        """Record that the run has ended. Signals to stop are ignored from here on."""
        with signals.ignore_stops():
            if process.rank() == 0:
                with files.atomic_writer(os.path.join(self.folder, run_folder.DONE)) as file:
                    file.write(f"{how}\n".encode())
                    self.check_current()  # this host has changed the folder: a network file system lists it anew
                run_folder.remove_resume_checkpoints(self.folder)
            self._close(how)

    def _record_failure(self, error: BaseException) -> int:
        """Record and print an error of the training or program. Return the exit code."""
        if isinstance(error, command_template.CommandFailed):
            self.fail(str(error))
            print(f"error: {self.folder}: {error}", file=sys.stderr)
        elif files.is_disk_full(error):
            self.fail(f"disk full: {error}")
            print(f"error: {self.folder}: disk full; the last resume checkpoint is kept. Make room, then "
                  "`python submit_multiple.py -r BATCH` resumes from it", file=sys.stderr)
        else:
            self.fail(exception_line(error))
            traceback.print_exception(error)
        return 1

    def _record_stop(self, stopped: Stopped, owns_job: bool) -> int:
        """Record a stop, or request another start if Slurm preempted the job and will not restart it. Return the exit
        code.
        """
        if process.rank():
            return 0  # as in _request_restart; the first process records the end
        how, why = run_folder.CANCELLED, str(stopped)
        if stopped.number == signal.SIGTERM:
            how, why = self.classify_stop(not self._is_external, signals.warned)
        if how == run_folder.REQUEUED:
            return self._request_restart(owns_job, "preempted", run_folder.PREEMPTED)
        self._close_with_error(how, why)
        return 1

    def _request_restart(self, owns_job: bool, reason: str = "time limit near",
                         how_if_refused: str = run_folder.TIMEOUT) -> int:
        """Request another start of the run. Return 75, or 1 if it has reached max_requeues.

        A worker requests one start for all of its runs (owns_job is False). how_if_refused: how the attempt ended if
        the run is not started again.
        """
        for number in STOP_SIGNALS:  # requeueing sends TERM, and everything is written
            signal.signal(number, signal.SIG_IGN)
        if process.rank():
            return 0  # on any other code srun would end all processes, and the first one requests the start
        if worker_cell.is_to_yield():
            return self._yield("its worker has asked it to save itself for other runs")
        requeues = claims.requeue_count(self.folder, self.ticket)
        if requeues >= self._max_requeues:
            self._close_with_error(how_if_refused, f"{reason}, and {requeues} requeues are the maximum of one "
                                   "submission (max_requeues); -r resumes it")
            return 1
        self._close(run_folder.REQUEUED)
        step = run_folder.newest_resume_step(self.folder)
        saved = reason if step is None else f"{reason}: saved at step {step}"
        if not owns_job and slurm_environment.job_id():
            logs.append(self.folder, f"{saved}, continues in another worker")
            return external_program.SAVED
        try:
            how = requeue.requeue_run(self.folder, self.ticket)
        except requeue.RequeueRefused as refused:
            self._close_with_error(how_if_refused, f"{reason}; {refused}")
        else:
            logs.append(self.folder, f"{saved}, back in the queue")
            print(f"{self.folder}: {saved}: {how}", flush=True)
        return external_program.SAVED

    def _yield(self, reason: str) -> int:
        """End this start because its worker runs too many at a time; the worker starts the run again. Return 75."""
        self._record[claims.YIELDED] = True
        self._close(run_folder.REQUEUED, reason)
        logs.append(self.folder, f"{reason}; continues later in the same worker")
        return external_program.SAVED

    def fail(self, error: str) -> None:
        """Record that the attempt has failed. Superseded if a later one has the run, and may have caused the error."""
        self._close(run_folder.FAILED, error)

    def _close_with_error(self, how: str, error: str) -> None:
        self._close(how, error)
        print(f"error: {self.folder}: {error}", file=sys.stderr)

    def _close(self, how: str, error: str | None = None) -> None:
        """Record the end. Without the record (a full disk), status relies on the process or Slurm job."""
        if process.rank():
            if how == run_folder.FAILED and error:
                ranks.record_failure(self.folder, error)
            return
        if how == run_folder.FAILED and process.world_size() > 1:
            error = ranks.read_failure(self.folder) or error
        self._record.update(end=time.time(), how=how, error=error)
        if self.meter:
            self._record["used"] = self.meter.use()
            self.record_idle(None)
        text = json.dumps(self._record) + "\n"
        try:
            try:
                # after an end `done` is synced
                with files.atomic_writer(self.record_path, sync=how not in run_folder.ENDS) as file:
                    file.write(text.encode())
                    if how == run_folder.FAILED:
                        self.check_current()  # this host has changed the folder: a network file system lists it anew
            except OSError:
                files.overwrite(self.record_path, text)
        except OSError as failure:
            print(f"error: {self.record_path}: {failure.strerror}: the end of this attempt is not recorded ({how})",
                  file=sys.stderr)
        if how in (run_folder.FAILED, run_folder.TIMEOUT) and slurm_environment.job_id():
            from src.submission.status import notify

            notify.notify_failure(self.folder, self.ticket)
