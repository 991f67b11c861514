"""Kill workers of searches: what this project, Optuna and NePS make of it.

Each tool runs 30 trials of one second by four workers. Ten times, a random process is killed by KILL and replaced, as
Slurm requeues a job. A trial saves its state after each of its ten epochs, and continues from it if it is started again
in its folder. `python -m benchmarks.search_kills PYTHON 3` does so three times; PYTHON is that of an environment with
neural-pipeline-search (-: without NePS). W&B's agents are left out, because they need a server.
"""
from __future__ import annotations

import collections
import contextlib
import functools
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from benchmarks import project

TRIALS, EPOCHS, WORKERS, KILLS = 30, 10, 4, 10
PATIENCE = 90.0  # seconds without a new epoch after which a search is given up

TRIAL = """\
import os, sys, time


def train(x, folder):
    state = os.path.join(folder, "state")
    epoch = int(open(state).read()) if os.path.exists(state) else 0
    log(f"start {x} {epoch}")
    while epoch < EPOCHS:
        time.sleep(0.1)
        epoch += 1
        with open(state + ".new", "w") as file:
            file.write(str(epoch))
        os.replace(state + ".new", state)
        log(f"epoch {x} {epoch}")
    log(f"end {x} {epoch}")
    return (x - 0.3)**2


def log(line):
    handle = os.open(os.environ["KILL_TEST_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, f"{line} {os.getpid()}\\n".encode())
""".replace("EPOCHS", str(EPOCHS))

OPTUNA = """\
import os, sys
import optuna
from optuna.storages import JournalStorage, RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.storages.journal import JournalFileBackend
from optuna.study import MaxTrialsCallback
from optuna.trial import TrialState
from trial import train

optuna.logging.set_verbosity(optuna.logging.ERROR)
storage = JournalStorage(JournalFileBackend("journal.log")) if sys.argv[1] == "journal" else RDBStorage(
    "sqlite:///study.db", heartbeat_interval=2, grace_period=5,
    heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(max_retry=5))
study = optuna.create_study(storage=storage, study_name="s", load_if_exists=True)


def objective(trial):
    number = RetryHeartbeatStaleTrialCallback.retried_trial_number(study.trials[trial.number])
    folder = f"trial-{trial.number if number is None else number}"
    os.makedirs(folder, exist_ok=True)
    return train(trial.suggest_float("x", 0, 1), folder)


done = (TrialState.COMPLETE, )
study.optimize(objective, callbacks=[MaxTrialsCallback(TRIALS, states=done)])
""".replace("TRIALS", str(TRIALS))

NEPS = """\
import logging
import neps
from trial import train

logging.disable(logging.WARNING)


class Space(neps.PipelineSpace):
    x = neps.Float(0, 1)


neps.run(lambda x, pipeline_directory: train(x, str(pipeline_directory)), Space(), root_directory="neps",
         total_evaluations_to_spend=TRIALS, optimizer="random_search")
""".replace("TRIALS", str(TRIALS))

TRAIN = """\
import os, sys

from src.submission.job import attempt
from trial import train


def run(spec, folder, check):
    loss = train(spec["base_lr"], folder)
    with open(os.path.join(folder, "stats.csv"), "w") as file:
        file.write(f"epoch,loss\\n1,{loss}\\n")
    return "completed"


if __name__ == "__main__":
    sys.exit(attempt.main(sys.argv[1:], train=run, warm_up=lambda specs: None))
"""
JOB_SPEC = f"""\
job_details:
  name: kills
  output_dir: results
  metric: loss
  search: {{method: tpe, trials: {TRIALS}, parallel: {WORKERS}}}
parameters: {{base_lr: !uniform [0, 1], train_length: 1}}
"""


class Outcome(NamedTuple):
    """The result of a search.

    started: configurations; finished: of those; again: epochs that were trained more than once; ended: whether all
    processes ended by themselves
    """

    started: int
    finished: int
    again: int
    seconds: float
    ended: bool


class Tool(NamedTuple):
    """A tool. worker: the command of a process that takes part; again: the one that replaces a killed process;
    processes: how many of them are started.
    """

    name: str
    worker: Sequence[str]
    again: Sequence[str]
    processes: int = WORKERS


def main(neps: str = "-", rounds: int = 3) -> None:
    """Print a table of the sums over some rounds. neps: a Python that has NePS, or `-`."""
    tools = [gridiron, journal, sqlite, *([] if neps == "-" else [functools.partial(neps_of, neps)])]
    columns = ("tool", "configurations started", "finished", "never finished", "epochs trained again",
               "seconds of a search", "searches that ended")
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    for prepare in tools:
        outcomes = []
        for seed in range(rounds):
            with tempfile.TemporaryDirectory() as folder:
                (Path(folder) / "trial.py").write_text(TRIAL)
                tool = prepare(Path(folder))
                outcomes.append(hunt(Path(folder), tool, seed))
        started, finished, again = (sum(outcome[index] for outcome in outcomes) for index in range(3))
        seconds = sum(outcome.seconds for outcome in outcomes) / rounds
        print(f"| {tool.name} | {started} | {finished} | {started - finished} | {again} | {seconds:.0f} | "
              f"{sum(outcome.ended for outcome in outcomes)} of {rounds} |", flush=True)


def gridiron(folder: Path) -> Tool:
    project.make(folder)
    (folder / "train.py").write_text(TRAIN)
    (folder / "job.yaml").write_text(JOB_SPEC)
    command = [sys.executable, "submit_multiple.py", "job.yaml", "-y", "--local", "--workers", str(WORKERS)]
    return Tool("this project", command, [*command, "-r"], 1)


def journal(folder: Path) -> Tool:
    return _scripted(folder, f"Optuna {version('optuna')}, file of a journal", sys.executable, OPTUNA, "journal")


def sqlite(folder: Path) -> Tool:
    return _scripted(folder, f"Optuna {version('optuna')}, sqlite with heartbeats", sys.executable, OPTUNA, "sqlite")


def neps_of(python: str, folder: Path) -> Tool:
    code = "from importlib.metadata import version; print(version('neural-pipeline-search'))"
    found = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    return _scripted(folder, f"NePS {found}", python, NEPS)


def _scripted(folder: Path, name: str, python: str, text: str, *arguments: str) -> Tool:
    (folder / "worker.py").write_text(text)
    command = [python, "worker.py", *arguments]
    return Tool(name, command, command)


def hunt(folder: Path, tool: Tool, seed: int) -> Outcome:
    """Run a search, and kill and replace KILLS of its processes."""
    generator, log, start = random.Random(seed), folder / "events.log", time.monotonic()
    environment = {**os.environ, "KILL_TEST_LOG": str(log), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}

    def begin(command: Sequence[str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL,
                                stderr=subprocess.DEVNULL, start_new_session=True)
    running = [begin(tool.worker) for _ in range(tool.processes)]
    kills, again = 0, 0
    while running and not is_silent(log, start):
        time.sleep(generator.uniform(0.4, 1.2))
        victims = processes_of(log) if log.exists() and kills < KILLS else []
        if victims:
            os.kill(generator.choice(victims), signal.SIGKILL)
            kills += 1
        ended = [process for process in running if process.poll() is not None]
        running = [process for process in running if process not in ended]
        for process in ended:
            if process.returncode and again < 2 * KILLS:
                running.append(begin(tool.again))
                again += 1
    for pid in processes_of(log):
        os.kill(pid, signal.SIGKILL)
    for process in running:
        process.kill()
        process.wait()
    return count(log.read_text().splitlines() if log.exists() else [], time.monotonic() - start, not running)


def is_silent(log: Path, start: float) -> bool:
    """Whether no trial has done anything for PATIENCE seconds."""
    latest = log.stat().st_mtime if log.exists() else time.time() - (time.monotonic() - start)
    return time.time() - latest > PATIENCE


def processes_of(log: Path) -> list[int]:
    """Return the workers and trials of a search, by their environment."""
    found, wanted = [], f"KILL_TEST_LOG={log}".encode()
    for entry in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            words = Path("/proc", entry, "cmdline").read_bytes()
            if wanted in Path("/proc", entry, "environ").read_bytes().split(b"\0") and b"submit_multiple" not in words:
                found.append(int(entry))
    return found


def count(lines: list[str], seconds: float, ended: bool) -> Outcome:
    """Return the outcome of the events `start|epoch|end CONFIGURATION EPOCH PID`."""
    events = [line.split() for line in lines]
    started = {configuration for kind, configuration, *_ in events if kind == "start"}
    finished = {configuration for kind, configuration, *_ in events if kind == "end"}
    epochs = collections.Counter((event[1], event[2]) for event in events if event[0] == "epoch")
    return Outcome(len(started), len(finished), sum(epochs.values()) - len(epochs), seconds, ended)


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(int, sys.argv[2:]))
