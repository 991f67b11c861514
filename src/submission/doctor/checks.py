"""Checks of a machine: each judges facts that `probes.py` collected, and says what to do about a problem."""
from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from src.errors import listed

OK, WARNING, ERROR = "ok", "warning", "error"
MINIMUM_PYTHON = (3, 11)
_SLURM_COMMANDS = ("sbatch", "squeue", "scancel", "scontrol", "sacct", "sinfo")
_MAX_LISTED = 5  # packages in a line
_SPACE_ERROR, _SPACE_WARNING = 2**30, 20 * 2**30  # free bytes of a disk: less is an error, or a warning
_MIN_FILES = 10_000  # free inodes of a disk: fewer are a warning
_QUOTA_WARNING = 0.9  # share of a quota
_CLOCK_TOLERANCE = 5.0  # seconds between two clocks
_ADVICE_IF_READ_ONLY = {
    "results": "`results` may be a link to a folder of yours on a large disk",
    "data": "`data` may be a link to a folder of yours on a large disk",
    "hub cache": "export HF_HOME=FOLDER, one of yours on a large disk",
    "torch cache": "export TORCH_HOME=FOLDER, one of yours on a large disk"}


class Finding(NamedTuple):
    """The result of one check: OK, WARNING or ERROR, with a description, and advice if there is a problem."""

    check: str
    verdict: str
    result: str
    advice: str = ""


class CommandResult(NamedTuple):
    """The result of a command.

    exit_code: None if the command is missing or timed out;
    error: the last line of its standard error.
    """

    exit_code: int | None
    stdout: str = ""
    error: str = ""
    timed_out: bool = False

    def problem(self) -> str:
        """Return why there is no output, as the end of a sentence whose subject is the command."""
        if self.timed_out:
            return "does not answer"
        return "is missing" if self.exit_code is None else f"failed: {self.error or f'exit code {self.exit_code}'}"


class FolderFacts(NamedTuple):
    """A folder that is written to.

    free_bytes, free_files: that its disk has room for; None if the disk does not report it;
    problem: why nothing can be written to it;
    clock_offset: seconds that the clock of its disk is ahead of this machine's.
    """

    name: str
    path: str
    exists: bool = True
    free_bytes: int | None = None
    free_files: int | None = None
    problem: str | None = None
    clock_offset: float = 0.0


def report_lines(findings: Sequence[Finding]) -> list[str]:
    """Return a line for each finding, and one that counts them."""
    width = max((len(finding.check) for finding in findings), default=0)
    counts = [(sum(finding.verdict == verdict for finding in findings), verdict) for verdict in (ERROR, WARNING, OK)]
    return [*(f"{finding.verdict:8} {finding.check:{width}}  {finding.result}"
              f"{f'; {finding.advice}' if finding.advice else ''}" for finding in findings),
            ", ".join(f"{number} {verdict}{'s' * (number > 1 and verdict != OK)}" for number, verdict in counts
                      if number)]


def as_json(findings: Iterable[Finding]) -> list[dict[str, str]]:
    """Return the findings as `doctor --json` prints them."""
    return [{"check": finding.check, "verdict": finding.verdict, "found": finding.result, "do": finding.advice}
            for finding in findings]


def check_python(version: Sequence[int], executable: str, jobs: Mapping[str, Any] | None, probe: CommandResult,
                 is_same: bool) -> list[Finding]:
    """Check this Python and the one that activate.sh gives to jobs.

    jobs: version and executable of the latter; None if the probe found none;
    is_same: whether both are of the same environment.
    """
    finding = _python_finding("python", version, executable)
    if jobs is None:
        is_bash_missing = probe.exit_code is None and not probe.timed_out
        problem = "bash is missing" if is_bash_missing else f"activate.sh {probe.problem()}"
        return [finding, Finding("jobs", ERROR, problem, "`make environment`, or edit activate.sh, which selects the "
                                 "Python of jobs")]
    job_finding = _python_finding("jobs", [int(part) for part in re.findall(r"\d+", jobs["version"])],
                                  jobs["executable"])
    if job_finding.verdict == OK and not is_same:
        job_finding = Finding("jobs", WARNING, f"{job_finding.result}, another Python than this one",
                              "`source activate.sh` first, or edit it: otherwise jobs run in another environment than "
                              "your tests")
    return [finding, job_finding]


def _python_finding(check: str, version: Sequence[int], executable: str) -> Finding:
    text = f"{'.'.join(map(str, version[:3]))}, {executable}"
    if tuple(version[:2]) >= MINIMUM_PYTHON:
        return Finding(check, OK, text)
    return Finding(check, ERROR, text, "make the environment with Python "
                   f"{'.'.join(map(str, MINIMUM_PYTHON))} or newer")


def pinned_versions(lock: str) -> dict[str, str]:
    """Return the versions in a requirements.lock by package, without those that only some platforms need."""
    return {_normalized(match[1]): match[2] for match in re.finditer(r"^([\w.-]+)==([^\s;]+)\s*$", lock, re.MULTILINE)}


def package_names(requirements: Iterable[str]) -> set[str]:
    """Return the packages of requirements such as `torch~=2.14.1`."""
    return {_normalized(match[0]) for text in requirements if (match := re.match(r"[\w.-]+", text))}


def _normalized(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()


def check_packages(pinned: Mapping[str, str], required: set[str], installed: Mapping[str, str],
                   python: str) -> Finding:
    """Compare the installed packages, in any spelling, with the pinned versions.

    required: packages without which the project does not work; python: executable of the environment.
    """
    if not pinned:
        return Finding("packages", WARNING, "no requirements.lock to compare with", "`make lock` writes it")
    versions = {_normalized(name): version.partition("+")[0] for name, version in installed.items()}
    missing = sorted((name for name in pinned if name not in versions), key=lambda name: name not in required)
    different = [f"{name} {versions[name]} ({version})" for name, version in pinned.items()
                 if versions.get(name, version) != version]
    if not missing and not different:
        return Finding("packages", OK, f"all {len(pinned)} as pinned")
    parts = [f"{len(items)} {problem}: {listed(items, _MAX_LISTED)}"
             for items, problem in ((missing, "missing"), (different, "of another version than pinned")) if items]
    return Finding("packages", ERROR if required & set(missing) else WARNING, "; ".join(parts),
                   f"`{python} -m pip install -r requirements.lock`")


def missing_commands(available: Iterable[str]) -> list[str]:
    """Return the Slurm commands that the project calls, without the available ones."""
    available = set(available)
    return [name for name in _SLURM_COMMANDS if name not in available]


def check_slurm(missing: Sequence[str], squeue: CommandResult, sacct: CommandResult) -> list[Finding]:
    """Check the controller and the accounting. missing: Slurm commands that are not on the PATH."""
    if "sbatch" in missing:
        return [Finding("slurm", WARNING, "sbatch is not on the PATH: this machine has no Slurm", "use --local, log in "
                        "to the cluster, or load its Slurm module in your ~/.bashrc")]
    if squeue.exit_code != 0:
        return [Finding("slurm", ERROR, f"squeue {squeue.problem()}", "the controller is down, or this machine belongs "
                        "to no cluster: `scontrol ping` shows which; ask the cluster's administrators")]
    finding = Finding("slurm", OK, "the controller answers")
    if missing:
        finding = Finding("slurm", WARNING, f"the controller answers, but {', '.join(missing)} "
                          f"{'is' if len(missing) == 1 else 'are'} not on the PATH",
                          "ask the cluster's administrators for all of Slurm's commands")
    if sacct.exit_code == 0:
        return [finding, Finding("accounting", OK, "sacct answers")]
    return [finding, Finding("accounting", WARNING, f"sacct {sacct.problem()}", "states are then read from squeue and "
                             "the runs' files only, and --efficiency shows nothing")]


def check_script(name: str, text: str, refusal: str | None) -> Finding:
    """Check a submit script.

    refusal: why Slurm would not accept it, on one line; empty if it would; None if it was not asked.
    """
    commands = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    last = commands[-1].strip() if commands else ""
    if not text.startswith("#!"):
        return Finding(name, ERROR, "it does not name its interpreter", "begin it with the line `#!/bin/bash`")
    if "\r\n" in text:
        return Finding(name, ERROR, "it has DOS line breaks, which sbatch rejects", f"`sed -i 's/\\r$//' {name}`")
    if "train.py" in last and not re.search(r"\$[@*1]|\$\{[@*1]\}", last):
        return Finding(name, ERROR, "it passes no arguments to train.py", 'end it with `exec python train.py "$@"`')
    if not last.startswith("exec "):
        return Finding(name, WARNING, "its last line has no exec: the shell does not pass on Slurm's signals, so that "
                       "runs cannot save resume checkpoints", 'end it with `exec python train.py "$@"`')
    if refusal:
        return Finding(name, WARNING, refusal)
    return Finding(name, OK, "no problem found" if refusal is None else "Slurm would accept it")


def require_usable_script(findings: Sequence[Finding]) -> list[Finding]:
    """Turn warnings of scripts into errors if no script can be used, because then nothing can be submitted."""
    is_any_usable = any(finding.verdict == OK for finding in findings)
    return [finding if is_any_usable or finding.verdict != WARNING else finding._replace(verdict=ERROR)
            for finding in findings]


def check_gpus(smi: CommandResult, torch: CommandResult | None) -> Finding:
    """Check the GPUs. smi: a line per GPU; torch: its version and the number of GPUs it sees; None if not probed."""
    if smi.exit_code is None and not smi.timed_out:
        return Finding("gpu", OK, "none, as on most login nodes (nvidia-smi is missing)")
    if smi.exit_code != 0:
        return Finding("gpu", ERROR, f"nvidia-smi {smi.problem()}",
                       "the driver of this machine is broken: ask its administrators")
    gpus = [line.strip() for line in smi.stdout.splitlines() if line.strip()]
    text = f"{len(gpus)}: {'; '.join(dict.fromkeys(gpus))}" if gpus else "none"
    if torch is None:
        return Finding("gpu", OK, f"{text} (--deep checks torch too)")
    version, _, visible = torch.stdout.strip().rpartition(" ")
    if torch.exit_code != 0 or not visible.isdecimal():
        return Finding("gpu", ERROR, f"{text}; torch {torch.problem()}", "repair the packages first")
    if int(visible) < len(gpus):
        return Finding("gpu", ERROR, f"{text}; torch {version} sees {visible}", "the driver is older than this torch "
                       "requires (see `CUDA Version` in the output of `nvidia-smi`), or torch was built without CUDA")
    return Finding("gpu", OK, f"{text}; torch {version} sees {visible}")


def check_folder(facts: FolderFacts | None, name: str) -> Finding:
    """Check a folder that is written to. facts: None if its disk did not answer."""
    if facts is None:
        return Finding(name, ERROR, "its disk does not answer", "wait, or use another disk: `findmnt` lists them")
    if facts.problem:
        return Finding(name, ERROR, f"{facts.path}: {facts.problem}",
                       _ADVICE_IF_READ_ONLY.get(name, "fix its permissions"))
    text = f"{facts.path}: {'' if facts.exists else 'will be created, '}writable"
    if facts.free_bytes is not None:
        text += f", {format_size(facts.free_bytes)} free"
    if facts.free_files is not None and facts.free_files < _MIN_FILES:
        return Finding(name, WARNING, f"{text}, and room for {facts.free_files} files",
                       "remove files: each run needs ten")
    if facts.free_bytes is not None and facts.free_bytes < _SPACE_WARNING:
        return Finding(name, ERROR if facts.free_bytes < _SPACE_ERROR else WARNING, text,
                       "free space (`python experiments.py clean`), or link it to a larger disk")
    return Finding(name, OK, text)


def check_clock(folders: Iterable[FolderFacts | None]) -> Finding:
    """Check that the clocks of the disks agree with this machine's."""
    worst = max((facts for facts in folders if facts), key=lambda facts: abs(facts.clock_offset), default=None)
    if worst is None or abs(worst.clock_offset) < _CLOCK_TOLERANCE:
        return Finding("clock", OK, "this machine and its disks agree")
    return Finding("clock", WARNING, f"the disk of {worst.path} is {abs(worst.clock_offset):.0f} s "
                   f"{'ahead of' if worst.clock_offset > 0 else 'behind'} this machine", "times in tables differ by as "
                   "much, and a download by another process may be taken for dead: ask for NTP on both")


def check_quotas(results: Iterable[CommandResult]) -> Finding:
    """Check the output of `quota -w -p` and `lfs quota`.

    Its rows contain a file system, then used, soft limit, hard limit and grace time of blocks (KiB), and the same of
    files. A star follows a used number above its limit.
    """
    has_rows, exceeded = False, []
    for row in (line.split() for result in results for line in result.stdout.splitlines()):
        numbers = [word.rstrip("*") for word in row[1:]]
        if len(row) < 9 or not all(
                numbers[index].isdecimal() and len(numbers[index]) < 20 for index in (0, 1, 2, 4, 5, 6)):
            continue
        has_rows = True
        for used, soft, hard, unit in ((*numbers[:3], "space"), (*numbers[4:7], "files")):
            limit = int(soft) or int(hard)
            if limit and int(used) >= _QUOTA_WARNING * limit:
                exceeded.append((int(used) / limit, f"{row[0]}: {int(used) / limit:.0%} of its {unit} used"))
    if not has_rows:
        return Finding("quota", OK, "none reported")
    if not exceeded:
        return Finding("quota", OK, f"all below {_QUOTA_WARNING:.0%}")
    return Finding("quota", ERROR if max(exceeded)[0] >= 1 else WARNING,
                   ", ".join(text for _, text in sorted(exceeded, reverse=True)),
                   "free space (`python experiments.py clean`), or move caches and results to another disk")


def check_packed(folder: str, is_current: bool | None) -> list[Finding]:
    """Check the image of the environment. is_current: None if there is none."""
    if is_current is None:
        return []
    if is_current:
        return [Finding("packed", OK, f"jobs use the image in {folder}")]
    return [Finding("packed", WARNING, f"the image in {folder} is older than the environment, and jobs do not use it",
                    "`python experiments.py pack-env` packs the environment again")]


def check_internet(problem: str | None, cached: int) -> Finding:
    """Check the access to the hub. problem: why it cannot be reached; cached: repositories in its cache."""
    cache = f"the hub's cache has {cached} repositor{'y' if cached == 1 else 'ies'}"
    if problem is None:
        return Finding("internet", OK, f"the hub can be reached; {cache}")
    return Finding("internet", WARNING, f"{problem}; {cache}", "download on a node with internet access first: "
                   "`python experiments.py prefetch JOB_SPEC`")


def format_size(size: float) -> str:
    """Format a number of bytes, as `1.5 TiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.3g} TiB"
