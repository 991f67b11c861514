"""Probes of `experiments.py doctor`: collect facts of a machine at the same time, each with a timeout."""
from __future__ import annotations

import contextlib
import glob
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from src.errors import SlurmError, one_line
from src.io import download, files, packed_copy, slurm_environment
from src.submission.doctor import checks
from src.submission.doctor.checks import CommandResult, Finding, FolderFacts
from src.submission.packing import pack
from src.submission.slurm import client, sbatch_errors, sbatch_messages

TIMEOUT = 20.0  # seconds for each probe
_TORCH_TIMEOUT = 180.0  # seconds; to load torch from a slow disk takes long
_JOIN_MARGIN = 5.0  # seconds for a probe that timed out to return
_WITH_ACTIVATED_PYTHON = 'set -euo pipefail; source ./activate.sh; exec python -c "$1"'
_DESCRIBE_PYTHON = """\
import json, sys
facts = {"version": ".".join(map(str, sys.version_info[:3])), "executable": sys.executable, "packages": {}}
try:
    from importlib.metadata import distributions
    facts["packages"] = {package.metadata["Name"] or "": package.version for package in distributions()}
finally:
    print(json.dumps(facts))
"""
_DESCRIBE_TORCH = "import torch; print(torch.__version__, torch.cuda.device_count())"


def examine(project: str, results: str = "results", deep: bool = False, seconds: float = TIMEOUT) -> list[Finding]:
    """Run all checks of this machine for the project in the folder `project`.

    deep: also import torch; seconds: the timeout of each probe.
    """
    folders = _folders(project, results)
    answers = run_concurrently(_probes(project, results, folders, deep, seconds),
                               (_TORCH_TIMEOUT if deep else seconds) + _JOIN_MARGIN)
    timed_out = CommandResult(None, timed_out=True)
    python, squeue, sacct, smi = (answers[name] or timed_out for name in ("python", "squeue", "sacct", "smi"))
    jobs = _parse_json(python.stdout) if python.exit_code == 0 else None
    prefix, _, executable = packed_copy.environment()
    is_same = jobs is not None and os.path.realpath(os.path.dirname(jobs["executable"])) == os.path.realpath(
        os.path.dirname(executable))
    missing = checks.missing_commands(filter(shutil.which, checks.missing_commands(())))
    can_validate = squeue.exit_code == 0 and "sbatch" not in missing
    folder_facts = {name: answers[f"folder {name}"] for name in folders}
    return [
        *checks.check_python(sys.version_info[:3], sys.executable, jobs, python, is_same),
        *([_package_finding(project, jobs)] if jobs else []),
        *checks.check_packed(pack.packed_folder(os.path.realpath(prefix)), answers["packed"]),
        *checks.check_slurm(missing, squeue, sacct),
        *checks.require_usable_script(_script_findings(project, can_validate, seconds)),
        checks.check_gpus(smi, (answers["torch"] or timed_out) if deep else None),
        *(checks.check_folder(facts, name) for name, facts in folder_facts.items()),
        checks.check_quotas(answers["quota"] or []), checks.check_clock(folder_facts.values()),
        checks.check_internet(answers["internet"], answers["cached"] or 0)]


def _probes(project: str, results: str, folders: Mapping[str, str], deep: bool,
            seconds: float) -> dict[str, Callable[[], Any]]:
    """The probes by name."""
    activated = ["bash", "-c", _WITH_ACTIVATED_PYTHON, "doctor"]
    probes: dict[str, Callable[[], Any]] = {
        "python": partial(run_command, [*activated, _DESCRIBE_PYTHON], seconds, project,
                          {**os.environ, "GRIDIRON_PACKED": "off"}),
        "packed": partial(pack.state, os.path.realpath(packed_copy.environment()[0])),
        "squeue": partial(run_command, ["squeue", "--all", "--noheader", f"--user={os.getuid()}"], seconds,
                          environment=slurm_environment.for_queries()),
        "sacct": partial(run_command, ["sacct", "--allocations", "--noheader"], seconds,
                         environment=slurm_environment.for_queries()),
        "smi": partial(run_command, ["nvidia-smi", "--query-gpu=name,memory.total,driver_version",
                                     "--format=csv,noheader"], seconds),
        "quota": lambda: [run_command(["quota", "-w", "-p"], seconds),
                          run_command(["lfs", "quota", "-q", "-u", str(os.getuid()), results], seconds, project)],
        "internet": lambda: download.unreachable_reason(os.environ.get("HF_ENDPOINT") or "https://huggingface.co"),
        "cached": lambda: len(glob.glob(os.path.join(glob.escape(_hub_cache()), "hub", "*--*"))),
        **{f"folder {name}": partial(inspect_folder, name, path) for name, path in folders.items()}}
    if deep:
        probes["torch"] = partial(run_command, [*activated, _DESCRIBE_TORCH], _TORCH_TIMEOUT, project)
    return probes


def run_concurrently(probes: Mapping[str, Callable[[], Any]], seconds: float) -> dict[str, Any]:
    """Run functions in threads, and return their results by name; None after the timeout or an OSError.

    A disk that hangs blocks only its own thread, which does not keep this process from exiting.
    """
    results: dict[str, Any] = dict.fromkeys(probes)

    def run(name: str, probe: Callable[[], Any]) -> None:
        with contextlib.suppress(OSError):
            results[name] = probe()

    threads = [threading.Thread(target=run, args=item, daemon=True) for item in probes.items()]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return dict(results)


def run_command(command: Sequence[str], seconds: float, folder: str | None = None,
                environment: Mapping[str, str] | None = None) -> CommandResult:
    """Run a command; after the timeout, kill it and all that it started."""
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   cwd=folder, env=environment, text=True, errors="replace", start_new_session=True)
    except OSError:
        return CommandResult(None)
    with process:
        try:
            stdout, stderr = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            return CommandResult(None, timed_out=True)
    lines = [line for line in stderr.splitlines() if line.strip()]
    return CommandResult(process.returncode, stdout, one_line(lines[-1].strip()) if lines else "")


def inspect_folder(name: str, path: str) -> FolderFacts:
    """Return the space of a folder, and whether a file can be written to it; of its parent if it does not exist yet."""
    path = os.path.abspath(path)
    if os.path.islink(path) and not os.path.exists(path):
        return FolderFacts(name, path, False, problem=f"a link to {os.path.realpath(path)}, which does not exist")
    exists = os.path.isdir(path)
    folder = path
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    disk = os.statvfs(folder)
    free_bytes, free_files = disk.f_bavail * disk.f_frsize, disk.f_favail if disk.f_files else None
    try:
        with tempfile.NamedTemporaryFile(prefix=".gridiron-doctor-", dir=folder) as file:
            before = time.time()
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
            offset = os.stat(file.name).st_mtime - before
    except OSError as error:
        return FolderFacts(name, path, exists, free_bytes, free_files, f"cannot be written: {error.strerror}")
    if offset > 0:  # without the duration of the write, which may be long on a slow disk
        offset = max(0.0, offset - (time.time() - before))
    return FolderFacts(name, path, exists, free_bytes, free_files, clock_offset=offset)


def _folders(project: str, results: str) -> dict[str, str]:
    """The folders that runs and downloads write to, by name."""
    return {"results": os.path.join(project, results), "data": os.path.join(project, "data"),
            "home": os.path.expanduser("~"), "hub cache": _hub_cache(),
            "torch cache": os.environ.get("TORCH_HOME") or os.path.join(_cache_home(), "torch")}


def _cache_home() -> str:
    return os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")


def _hub_cache() -> str:
    return os.environ.get("HF_HOME") or os.path.join(_cache_home(), "huggingface")


def _script_findings(project: str, can_validate: bool, seconds: float) -> list[Finding]:
    """Check the submit scripts of the project. can_validate: sbatch is asked about them."""
    names = sorted(glob.glob("submit_*.sh", root_dir=glob.escape(project)))
    probes = {name: partial(_refusal, os.path.join(project, name)) for name in names} if can_validate else {}
    refusals = run_concurrently(probes, seconds)
    return [checks.check_script(name, files.read_text(os.path.join(project, name)) or "", refusals.get(name))
            for name in names]


def _refusal(path: str) -> str:
    """Return why Slurm would not accept a script; empty if it would, perhaps once nodes are available again.

    The options and clusters of this shell, such as SBATCH_PARTITION, override the script, as in a submission.
    """
    try:
        options = client.option_arguments(slurm_environment.sbatch_defaults(), "environment")
        warning = client.validate(client.sbatch_command("doctor", os.devnull, "", options, path, os.devnull,
                                                        os.path.dirname(path))).warning
        if warning and sbatch_messages.classify(warning) == sbatch_messages.UNKNOWN:  # such as of a site's own plugin
            return f"{os.path.basename(path)}: {warning}; change its #SBATCH lines, then run doctor again"
    except client.SbatchError as error:
        return str(sbatch_errors.explain(error, os.path.basename(path), "run doctor again"))
    except SlurmError as error:
        return str(error)
    return ""


def _parse_json(text: str) -> dict[str, Any] | None:
    """The mapping on the last line of an output; activate.sh may print a greeting above it."""
    value = files.parse_json((text.splitlines() or [""])[-1])
    return value if isinstance(value, dict) else None


def _package_finding(project: str, jobs: Mapping[str, Any]) -> Finding:
    """Compare the packages of the Python of jobs with those that the project requires."""
    import tomllib

    try:
        settings = tomllib.loads(files.read_text(os.path.join(project, "pyproject.toml")) or "")
    except tomllib.TOMLDecodeError:
        settings = {}
    required = checks.package_names(settings.get("project", {}).get("dependencies", []))
    pinned = checks.pinned_versions(files.read_text(os.path.join(project, "requirements.lock")) or "")
    return checks.check_packages(pinned, required, jobs["packages"], jobs["executable"])
