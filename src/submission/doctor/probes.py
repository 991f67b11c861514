"""What `experiments.py doctor` looks at: every question asked at once, each bounded in time, and nothing changed"""
from __future__ import annotations

import contextlib
import glob
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from src.errors import SlurmError, one_line
from src.io import download, files
from src.submission.doctor import checks
from src.submission.doctor.checks import CommandResult, Finding, FolderFacts
from src.submission.slurm import client, sbatch_errors

SECONDS = 20.0  # for each answer; a torch that is loaded from a slow disk takes longer
_DEEP_SECONDS = 180.0
_ACTIVATED = 'set -euo pipefail; source ./activate.sh; exec python -c "$1"'
_PYTHON = """\
import json, sys
found = {"version": ".".join(map(str, sys.version_info[:3])), "executable": sys.executable, "packages": {}}
try:
    from importlib.metadata import distributions
    found["packages"] = {one.metadata["Name"] or "": one.version for one in distributions()}
finally:
    print(json.dumps(found))
"""
_TORCH = "import torch; print(torch.__version__, torch.cuda.device_count())"


def examine(project: str, results: str = "results", deep: bool = False, seconds: float = SECONDS) -> list[Finding]:
    """All checks of the machine that this runs on, for the project in the folder `project`."""
    scripts = sorted(glob.glob("submit_*.sh", root_dir=glob.escape(project)))
    commands = [name for name in checks.missing_commands(()) if shutil.which(name)]
    slow = _DEEP_SECONDS if deep else seconds
    places = _places(project, results)
    answers = run_concurrently({
        "jobs": lambda: run_command(["bash", "-c", _ACTIVATED, "doctor", _PYTHON], seconds, project),
        "torch": lambda: run_command(["bash", "-c", _ACTIVATED, "doctor", _TORCH], slow, project) if deep else None,
        "squeue": lambda: run_command(["squeue", "--me", "--noheader"], seconds),
        "sacct": lambda: run_command(["sacct", "--allocations", "--noheader"], seconds),
        "smi": lambda: run_command(["nvidia-smi", "--query-gpu=name,memory.total,driver_version",
                                     "--format=csv,noheader"], seconds),
        "quota": lambda: [run_command(["quota", "-w", "-p"], seconds),
                          run_command(["lfs", "quota", "-q", "-u", str(os.getuid()), results], seconds, project)],
        "internet": lambda: download.unreachable_reason(os.environ.get("HF_ENDPOINT") or "https://huggingface.co"),
        "kept": lambda: len(glob.glob(os.path.join(glob.escape(_hub_cache()), "hub", "*--*"))),
        **{f"place {name}": lambda name=name, path=path: inspect_folder(name, path)  # type: ignore[misc]
           for name, path in places.items()},
    }, slow + 5)
    late = CommandResult(None, late=True)
    queue: CommandResult = answers["squeue"] or late
    # a controller that is away would be told for each script again
    refused = run_concurrently({name: lambda name=name: _refusal(os.path.join(project, name))  # type: ignore[misc]
                           for name in scripts}, seconds) if queue.code == 0 and "sbatch" in commands else {}
    jobs_said: CommandResult = answers["jobs"] or late
    jobs = _json(jobs_said.out) if jobs_said.code == 0 else None
    disks = [answers[f"place {name}"] for name in places]
    return [
        *checks.check_python(sys.version_info[:3], sys.executable, jobs, jobs_said,
                              jobs is not None and os.path.realpath(
            os.path.dirname(jobs["executable"])) == os.path.realpath(os.path.dirname(sys.executable))),
        *([_packages(project, jobs)] if jobs else []),
        *checks.check_slurm(checks.missing_commands(commands), queue, answers["sacct"] or late),
        *checks.require_usable_script([
            checks.check_script(name, files.read_text(os.path.join(project, name)) or "", refused.get(name))
                         for name in scripts]),
        checks.check_gpus(answers["smi"] or late, (answers["torch"] or late) if deep else None),
        *(checks.check_folder(found, name) for name, found in zip(places, disks, strict=True)),
        checks.check_quotas(answers["quota"] or []), checks.check_clock(disks),
        checks.check_internet(answers["internet"], answers["kept"] or 0)]


def run_concurrently(questions: Mapping[str, Callable[[], Any]], seconds: float) -> dict[str, Any]:
    """The answers by name, asked side by side; None where there was none in time, or the system refused. A disk that
    hangs holds its own thread alone, which does not keep this process from ending."""
    answers: dict[str, Any] = dict.fromkeys(questions)

    def ask(name: str, question: Callable[[], Any]) -> None:
        with contextlib.suppress(OSError):
            answers[name] = question()

    threads = [threading.Thread(target=ask, args=item, daemon=True) for item in questions.items()]
    for thread in threads:
        thread.start()
    end = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    return dict(answers)


def run_command(command: Sequence[str], seconds: float, folder: str | None = None) -> CommandResult:
    """What comes of a command, which is killed with all that it started when its time is over."""
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   cwd=folder, text=True, errors="replace", start_new_session=True)
    except OSError:
        return CommandResult(None)
    with process:
        try:
            out, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            return CommandResult(None, late=True)
    words = [line for line in err.splitlines() if line.strip()]
    return CommandResult(process.returncode, out, one_line(words[-1].strip()) if words else "")


def inspect_folder(name: str, path: str) -> FolderFacts:
    """A folder, or where it is still to be made the one above it: its space, and whether a file can be written."""
    path = os.path.abspath(path)
    if os.path.islink(path) and not os.path.exists(path):
        return FolderFacts(name, path, False, refusal=f"a link to {os.path.realpath(path)}, which is not there")
    there = os.path.isdir(path)
    above = path
    while not os.path.isdir(above):
        above = os.path.dirname(above)
    disk = os.statvfs(above)
    free, nodes = disk.f_bavail * disk.f_frsize, disk.f_favail if disk.f_files else None
    try:
        with tempfile.NamedTemporaryFile(prefix=".gridiron-doctor-", dir=above) as file:
            before = time.time()
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
            ahead = os.stat(file.name).st_mtime - before
    except OSError as error:
        return FolderFacts(name, path, there, free, nodes, f"cannot be written: {error.strerror}")
    # between the two clocks lies the write itself, which a slow disk may take some time for
    return FolderFacts(name, path, there, free, nodes,
                       ahead=ahead if ahead < 0 else max(0.0, ahead - (time.time() - before)))


def _places(project: str, results: str) -> dict[str, str]:
    """The folders that runs and downloads write to, by what they are called here."""
    return {"results": os.path.join(project, results), "data": os.path.join(project, "data"),
            "home": os.path.expanduser("~"), "hub cache": _hub_cache(),
            "torch cache": os.environ.get("TORCH_HOME") or os.path.join(_caches(), "torch")}


def _caches() -> str:
    return os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")


def _hub_cache() -> str:
    return os.environ.get("HF_HOME") or os.path.join(_caches(), "huggingface")


def _refusal(path: str) -> str:
    """Why Slurm would not take a script, and what there is instead; empty if it would."""
    try:
        client.validate(client.sbatch_command("doctor", os.devnull, "", (), path, os.devnull, os.path.dirname(path)))
    except client.SbatchError as refusal:
        return str(sbatch_errors.explain(refusal, os.path.basename(path), "ask doctor again"))
    except SlurmError as error:
        return str(error)
    return ""


def _json(text: str) -> dict[str, Any] | None:
    """The last line of what a Python said; whatever activate.sh greets its users with stands above."""
    try:
        value = json.loads(text.splitlines()[-1])
    except (json.JSONDecodeError, IndexError):
        return None
    return value if isinstance(value, dict) else None


def _packages(project: str, jobs: Mapping[str, Any]) -> Finding:
    import tomllib

    try:
        asked = tomllib.loads(files.read_text(os.path.join(project, "pyproject.toml")) or "")
    except tomllib.TOMLDecodeError:
        asked = {}
    needed = checks.package_names(asked.get("project", {}).get("dependencies", []))
    wanted = checks.pinned_versions(files.read_text(os.path.join(project, "requirements.lock")) or "")
    return checks.check_packages(wanted, needed, jobs["packages"], jobs["executable"])
