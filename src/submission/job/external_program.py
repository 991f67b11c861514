"""Run a program other than train.py for a grid point: an argument list, never a shell."""
from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from src import logs, run_folder, stats_csv
from src.code import code_state, program_files
from src.config import NOT_PARAMETERS
from src.errors import one_line
from src.io import files, slurm_environment, yaml_io
from src.io.secrets import redact_json, secret_values
from src.submission.spec.command_template import SWEEP_CONFIG, CommandFailed, fill_command
from src.submission.system import process

RUN_FOLDER = "GRIDIRON_RUN_FOLDER"  # environment variable of the program: its run folder
SAVED = 75  # exit status of a program that has saved its state and requests another start
_CHECK_INTERVAL = 10.0  # seconds between checks whether the run still belongs to this attempt
_POLL_INTERVAL = 1.0  # seconds between checks whether the time limit is near
_PIPE_DELAY = 0.5  # seconds in which srun writes what it has received to the log
_TAIL_LINES = 200  # of the output, among which the error is searched for


def write_parameters(command: list[str], spec: dict[str, Any], folder: str) -> None:
    """Write the files of parameters that a command refers to."""
    parameters = {key: value for key, value in spec.items() if key not in NOT_PARAMETERS}
    if "${args_json_file}" in command:
        files.write_atomic(os.path.join(folder, run_folder.ARGUMENTS), json.dumps(parameters))
    if any(SWEEP_CONFIG in word for word in command):
        config = {"wandb_version": 1, **{key: {"value": value} for key, value in parameters.items()}}
        files.write_atomic(os.path.join(folder, run_folder.SWEEP_CONFIG), yaml_io.dump_flat(config))


def gather_facts(command: list[str], folder: str, words: Collection[str] = ()) -> dict[str, Any]:
    """Return the facts of this start of a program: where it runs, its command, and the code. Secrets are redacted.

    words: of the command in the spec
    """
    project, environment = code_state.project_folder(), os.environ
    names = program_files.files_of_command(command, project, folder)
    facts = {"host": os.uname().nodename, "slurm_job": slurm_environment.job_id(), "python": platform.python_version(),
             "commit": code_state.commit(Path(project)), "command": command,
             "scripts": _hash_files(names, project, words)}
    if image := environment.get("SINGULARITY_CONTAINER"):
        facts["container"] = image
    token = (run_folder.RunFolder.read(folder).last_attempt() or {}).get("code")
    code_folder = os.path.join(os.path.dirname(folder), run_folder.CODE, str(token))
    started = code_state.compare_all(code_folder, project) if token else None
    if started and started.changed:  # then there may be new files too
        from src.submission.batch import provenance

        sources = provenance.snapshot_sources(provenance.inspect_code(project))
        started = code_state.compare_all(code_folder, project, sources)
        if started:
            used = names or filter(code_state.is_executable, started.changed)
            started = started._replace(changed=[name for name in used if name in started.changed])
    redacted: dict[str, Any] = redact_json({**facts, **(started.facts() if started else {})},
                                           secret_values(environment))
    return redacted


def _hash_files(names: list[str], project: str, words: Collection[str]) -> dict[str, str]:
    """Return the SHA-256 of each file that a command runs.

    names: relative to the project, or as the command names them. A file has its whole path as its name if that is
    among the words.
    """
    hashes = {}
    for name in names:
        path = os.path.join(project, name)
        if digest := code_state.file_hash(path):
            hashes[path if path in words else name] = digest
    return hashes


def run(spec: dict[str, Any], folder: str, check: Callable[[], None],
        time_is_short: Callable[[], bool] = lambda: False, pause_after: int | None = None) -> str:
    """Run the spec's COMMAND to its end, in its CWD or the current folder, which is the project's. Return how it ended.

    After exit status 0 that is completed; after 75 paused if stats.csv has the epoch `pause_after`, otherwise
    requeued. CommandFailed, with the error that the program printed, for any other exit status.

    check: as in train; if it raises, the program is ended. time_is_short: once it returns True, send USR1 to the
    program if it handles that signal. pause_after: send USR1 once its stats.csv has this epoch, and do not start it if
    the file has it already.
    """
    command, working_dir = resolve_command(spec, folder)
    environment = _environment(folder, working_dir)
    check()
    if _has_reached(folder, pause_after):
        return run_folder.PAUSED  # the previous start was killed before it recorded that, or a listing was out of date
    write_parameters(spec["COMMAND"], spec, folder)
    facts, start = gather_facts(command, folder, spec["COMMAND"]), time.monotonic()
    files.write_json(os.path.join(folder, run_folder.FACTS), facts, sync=False)
    output = _output_positions(folder)
    try:
        program = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment, cwd=working_dir)
    except OSError as error:
        raise CommandFailed(f"{command[0]}: {error.strerror}") from None
    try:
        code = _wait(program, check, lambda: time_is_short() or _has_reached(folder, pause_after))
    except BaseException:
        program.terminate()  # Slurm signals it too, a worker only this process
        try:
            program.wait(timeout=10)
        except subprocess.TimeoutExpired:
            program.kill()
            program.wait()
        raise
    facts["duration"] = round(time.monotonic() - start, 3)
    files.write_json(os.path.join(folder, run_folder.FACTS), facts, sync=False)
    if code == SAVED:
        return run_folder.PAUSED if _has_reached(folder, pause_after) else run_folder.REQUEUED
    if code != 0:
        raise CommandFailed(_describe_failure(os.path.basename(command[0]), code, output))
    return run_folder.COMPLETED


def _has_reached(folder: str, epoch: int | None) -> bool:
    """Return whether a program has written this epoch, or a later one, to its stats.csv. False without an epoch."""
    return epoch is not None and max(stats_csv.read(folder).epochs, default=0) >= epoch


def _environment(folder: str, working_dir: str | None) -> dict[str, str]:
    """Return the environment of a program, in which it can import the project from another working directory.

    CommandFailed if there is no such directory.
    """
    environment = {**os.environ, RUN_FOLDER: folder}
    if working_dir:
        if not os.path.isdir(working_dir):
            raise CommandFailed(f"cwd {working_dir}: no such folder")
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (os.getcwd(), os.environ.get("PYTHONPATH"))))
    return environment


def resolve_command(spec: Mapping[str, Any], folder: str) -> tuple[list[str], str | None]:
    """Return the command of a run, and the absolute path of its CWD; None without one.

    In a CWD, files of the project that the command names get their absolute paths. CommandFailed as in fill_command.
    """
    if "CWD" not in spec:
        return fill_command(spec["COMMAND"], spec, folder), None
    cwd = os.path.abspath(fill_command([files.expand_path(spec["CWD"], "cwd")], spec, folder)[0])
    words = [_absolute(word, position == 0) for position, word in enumerate(spec["COMMAND"])]
    return fill_command(words, spec, folder), cwd


def _absolute(word: str, is_program: bool) -> str:
    """Return the absolute path of a file or folder of the project that a command names, any other word unchanged.

    A program's name without a slash is searched on the PATH.
    """
    is_path = os.path.exists(word) and (os.path.dirname(word) or not is_program)
    return os.path.abspath(word) if is_path else word


def _describe_failure(name: str, code: int, output: dict[str, int]) -> str:
    """Return the error that a program printed, and its exit status.

    If a signal killed it, return only the signal, since its last line is about its progress; after SIGABRT the last
    line is the error.
    """
    error = _printed_error(output) if code > 0 or code == -signal.SIGABRT else ""
    if error:
        return f"{one_line(error)} ({f'signal {-code}' if code < 0 else f'exit status {code}'})"
    return f"{name} was {process.killed_by(-code)}" if code < 0 else f"{name} ended with exit status {code}"


def _output_positions(folder: str) -> dict[str, int]:
    """Return the files that this process's stderr and stdout are written to, and the size of each.

    If they are not files, srun may write them to the log of the Slurm job. On a terminal there are none.
    """
    paths, seen = [], set()
    for descriptor in (2, 1):
        details = os.fstat(descriptor)
        if stat.S_ISREG(details.st_mode) and (details.st_dev, details.st_ino) not in seen:
            seen.add((details.st_dev, details.st_ino))
            paths.append(f"/proc/self/fd/{descriptor}")
    job = slurm_environment.job_id()
    if not paths and job:
        paths = [os.path.join(folder, run_folder.slurm_log_name(job))]
    return {path: os.path.getsize(path) for path in paths if os.path.isfile(path)}


def _printed_error(output: dict[str, int]) -> str:
    """Return the error in what was written to the files since; empty if there is none."""
    if any(not path.startswith("/proc/") for path in output):
        time.sleep(_PIPE_DELAY)
    for path, start in output.items():
        with contextlib.suppress(OSError):
            if error := logs.last_error(logs.tail(path, _TAIL_LINES, start=start)):
                return error
    return ""


def _wait(program: subprocess.Popen[bytes], check: Callable[[], None], should_save: Callable[[], bool]) -> int:
    """Wait for the program, and check the attempt. Return its exit code.

    should_save: once it returns True, warn the program by USR1, once.
    """
    is_warned, last_check = False, time.monotonic()
    while True:
        try:
            return program.wait(_POLL_INTERVAL)
        except subprocess.TimeoutExpired:
            if not is_warned and should_save() and process.handles_signal(program.pid, signal.SIGUSR1):
                program.send_signal(signal.SIGUSR1)
                is_warned = True
            if time.monotonic() - last_check >= _CHECK_INTERVAL:
                last_check = time.monotonic()
                check()
