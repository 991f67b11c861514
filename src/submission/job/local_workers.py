"""Run a grid on this machine without Slurm: start workers, follow their output, stop them cleanly."""
from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence

from src import run_folder
from src.errors import one_line
from src.io import files, machine
from src.submission.batch import task_files
from src.submission.batch.task_files import NO_STACKS, Stacks, Tasks, WorkerGroup
from src.submission.spec.job_spec import AUTO
from src.submission.system.process import environment_outside_slurm
from src.submission.system.signals import Waker

_GRACE = 30.0  # seconds that workers have to end after Ctrl-C: their runs record the end


def default_workers() -> int:
    """Return half of the CPUs that this process may use."""
    return max(1, machine.allotted_cpus() // 2)


def run(batch: str, token: str, groups: Sequence[WorkerGroup], entry: str, on_end: Callable[[str, int], None],
        slots: int | str = 1, gpus: Sequence[str] = (), stacks: Stacks = NO_STACKS,
        is_search: bool = False) -> bool:
    """Start the workers of all groups and wait for them. Return False if Ctrl-C or TERM stopped them.

    entry: the script that a worker executes. slots: runs at a time in each worker, or AUTO. gpus: that the runs are
    pinned to. stacks: the runs that are trained at once. on_end: called with the name and exit code of each run as it
    ends. is_search: the workers also start further trials of a search.
    """
    workers = sum(group.workers for group in groups)
    submissions = os.path.join(os.path.abspath(batch), run_folder.SUBMISSIONS)
    commands = []
    divided = stacks.divide(group.tickets for group in groups)
    for number, (group, positions) in enumerate(zip(groups, divided, strict=True)):
        path = os.path.join(submissions, task_files.file_name(token, number, len(groups)))
        task_files.write(path, Tasks(task_files.WORKER, os.path.abspath(batch), group.tickets,
                                     task_files.fixed_slots(slots), workers, list(gpus), stacks=positions,
                                     stack_size=stacks.size, is_search=is_search, is_auto=slots == AUTO))
        commands += [[sys.executable, entry, path]] * group.workers
    environment = environment_outside_slurm()
    processes: list[subprocess.Popen[bytes]] = []
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)  # KeyboardInterrupt
    try:
        with open(files.open_for_append(os.path.join(submissions, f"{token}.workers.log")), "ab") as log:
            # each in a session of its own: Ctrl-C reaches this process alone, which stops them
            for number, command in enumerate(commands):
                processes.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
                                                  env={**environment, "GRIDIRON_WORKER": str(number)},
                                                  start_new_session=True))
            _follow(processes, on_end)  # the log stays open: it shows `cancel` that this process is of this batch
        return True
    except KeyboardInterrupt:
        _stop(processes)
        return False
    except BaseException:
        _stop(processes)
        raise
    finally:
        signal.signal(signal.SIGTERM, previous)
        for process in processes:
            if process.stdout:
                process.stdout.close()


def _follow(processes: list[subprocess.Popen[bytes]], on_end: Callable[[str, int], None]) -> None:
    """Read the lines `ended CODE NAME` of the workers until all have closed their output."""
    outputs = {process.stdout.fileno(): b"" for process in processes if process.stdout}
    with Waker() as waker:  # Ctrl-C wakes it in any thread, also if it arrives just before the wait
        while outputs:
            for descriptor in waker.wait(None, *outputs):
                chunk = os.read(descriptor, 65536)
                *lines, outputs[descriptor] = (outputs[descriptor] + chunk).split(b"\n")
                if not chunk:
                    del outputs[descriptor]
                for line in lines:
                    word, _, rest = line.decode(errors="replace").partition(" ")
                    code, _, name = rest.partition(" ")
                    if word == "ended" and name:
                        on_end(one_line(name), int(code))
    for process in processes:
        process.wait()


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Have the workers end their runs; at a second Ctrl-C, or after the grace period, kill their runs."""
    # a worker that receives a second TERM kills its runs
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
        try:
            for process in processes:
                process.send_signal(number)
            for process in processes:
                process.wait(_GRACE)
            return
        except (KeyboardInterrupt, subprocess.TimeoutExpired):
            continue
