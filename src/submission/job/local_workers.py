"""The same grid on this machine, without Slurm: starts workers, follows them, and stops them cleanly."""
from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence

from src import run_folder
from src.errors import one_line
from src.io import machine
from src.submission.batch import task_files
from src.submission.batch.task_files import Tasks, WorkerGroup
from src.submission.system.process import environment_outside_slurm
from src.submission.system.signals import Waker

_PATIENCE = 30.0  # seconds that workers have to end after Ctrl-C: their runs record the end


def default_workers() -> int:
    """Half of the CPUs that this process may use."""
    return max(1, machine.allotted_cpus() // 2)


def run(batch: str, token: str, teams: Sequence[WorkerGroup], entry: str, on_end: Callable[[str, int], None],
        slots: int = 1,
        gpus: Sequence[str] = ()) -> bool:
    """Run the tickets of all teams by their workers, processes of the entry script with `slots` runs at a time in each,
    pinned to `gpus`.

    True unless Ctrl-C (or TERM) stopped it. on_end: called with the name and exit code of each run as it ends.
    """
    workers = sum(team.workers for team in teams)
    submissions = os.path.join(os.path.abspath(batch), run_folder.SUBMISSIONS)
    commands = []
    for number, team in enumerate(teams):
        path = os.path.join(submissions, task_files.file_name(token, number, len(teams)))
        task_files.write(path, Tasks(task_files.WORKER, os.path.abspath(batch), team.tickets, slots, workers,
                                     list(gpus)))
        commands += [[sys.executable, entry, path]] * team.workers
    environment = environment_outside_slurm()
    processes: list[subprocess.Popen[bytes]] = []
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        with open(os.path.join(submissions, f"{token}.workers.log"), "ab") as log:
            # sessions of their own: Ctrl-C reaches this process alone, which stops them
            for number, command in enumerate(commands):
                processes.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
                                                  env={**environment, "GRIDIRON_WORKER": str(number)},
                                                  start_new_session=True))
        _follow(processes, on_end)
        return True
    except KeyboardInterrupt:
        _stop(processes)
        return False
    except BaseException:
        _stop(processes)
        raise
    finally:
        signal.signal(signal.SIGTERM, previous)
        for each in processes:
            if each.stdout:
                each.stdout.close()


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _follow(processes: list[subprocess.Popen[bytes]], on_end: Callable[[str, int], None]) -> None:
    """Read the workers' lines `ended CODE NAME` until all have closed their output."""
    outputs = {each.stdout.fileno(): b"" for each in processes if each.stdout}
    with Waker() as waker:  # Ctrl-C wakes it whichever thread takes the signal, and also just before it sleeps
        while outputs:
            for descriptor in waker.wait(None, *outputs):
                chunk = os.read(descriptor, 65536)
                *lines, outputs[descriptor] = (outputs[descriptor] + chunk).split(b"\n")
                if not chunk:
                    del outputs[descriptor]
                for line in lines:
                    word, _, tail = line.decode(errors="replace").partition(" ")
                    code, _, name = tail.partition(" ")
                    if word == "ended" and name:
                        on_end(one_line(name), int(code))
    for each in processes:
        each.wait()


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Have the workers end their runs; a second Ctrl-C has them kill their runs."""
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
        try:
            for each in processes:
                each.send_signal(number)
            for each in processes:
                each.wait(_PATIENCE)
            return
        except (KeyboardInterrupt, subprocess.TimeoutExpired):
            continue
