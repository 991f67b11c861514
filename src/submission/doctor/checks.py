"""What a machine needs for this project, judged check by check from facts: what was found, and what to do about it"""
from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

OK, WARNING, ERROR = "ok", "warning", "error"
OLDEST_PYTHON = (3, 11)
_COMMANDS = ("sbatch", "squeue", "scancel", "scontrol", "sacct", "sinfo")
_LISTED = 5  # packages in a line
_SCARCE, _LITTLE = 2**30, 20 * 2**30  # bytes free on a disk: an error below the one, a warning below the other
_SKEW = 5.0  # seconds between two clocks that are worth a word


class Finding(NamedTuple):
    """One check: its name, a verdict, what was found, and what to do (empty if nothing is)."""

    check: str
    verdict: str
    found: str
    do: str = ""


class CommandResult(NamedTuple):
    """What came of a command. code: None if it is missing; late: it was ended after its time."""

    code: int | None
    out: str = ""
    words: str = ""  # of its standard error, on one line
    late: bool = False

    def told(self) -> str:
        """Why it is no answer."""
        if self.late:
            return "does not answer"
        return "is missing" if self.code is None else f"failed: {self.words or f'exit code {self.code}'}"


class FolderFacts(NamedTuple):
    """A folder that is written to. there: it exists; free: bytes, nodes: files that it may still take, both None where
    the disk does not say; refusal: why nothing can be written there; ahead: seconds that its disk's clock is."""

    name: str
    path: str
    there: bool = True
    free: int | None = None
    nodes: int | None = None
    refusal: str | None = None
    ahead: float = 0.0


def report_lines(findings: Sequence[Finding]) -> list[str]:
    """A line for each check, and one that counts them."""
    width = max((len(finding.check) for finding in findings), default=0)
    numbers = [(sum(finding.verdict == verdict for finding in findings), verdict) for verdict in (ERROR, WARNING, OK)]
    return [*(f"{finding.verdict:8} {finding.check:{width}}  {finding.found}{f'; {finding.do}' if finding.do else ''}"
              for finding in findings),
            ", ".join(f"{number} {verdict}{'s' * (number > 1 and verdict != OK)}" for number, verdict in numbers
                      if number)]


def as_json(findings: Iterable[Finding]) -> list[dict[str, str]]:
    """Return the findings as `doctor --json` prints them."""
    return [{"check": finding.check, "verdict": finding.verdict, "found": finding.found, "do": finding.do}
            for finding in findings]


def check_python(version: Sequence[int], executable: str, jobs: Mapping[str, Any] | None, said: CommandResult,
           same: bool) -> list[Finding]:
    """This Python, and the one that activate.sh gives to jobs: its version and executable, or None and what it said.
    same: both are of one environment."""
    found = [_python("python", version, executable)]
    if jobs is None:
        words = "activate.sh " + said.told() if said.code is not None or said.late else "bash is missing"
        return [*found, Finding("jobs", ERROR, words, "`make environment`, or edit activate.sh: jobs find their Python "
                                "there")]
    theirs = _python("jobs", [int(part) for part in re.findall(r"\d+", jobs["version"])], jobs["executable"])
    if theirs.verdict == OK and not same:
        theirs = theirs._replace(verdict=WARNING, found=f"{theirs.found}, another than this one",
                                 do="`source activate.sh` first, or edit it: what is tried here is not what jobs run")
    return [*found, theirs]


def _python(check: str, version: Sequence[int], executable: str) -> Finding:
    text = f"{'.'.join(map(str, version[:3]))}, {executable}"
    if tuple(version[:2]) >= OLDEST_PYTHON:
        return Finding(check, OK, text)
    return Finding(check, ERROR, text, f"make the environment with Python {'.'.join(map(str, OLDEST_PYTHON))} or newer")


def pinned_versions(lock: str) -> dict[str, str]:
    """The versions of requirements.lock by package, of those alone that every machine needs."""
    return {_same(match[1]): match[2] for match in re.finditer(r"^([\w.-]+)==([^\s;]+)\s*$", lock, re.MULTILINE)}


def package_names(requirements: Iterable[str]) -> set[str]:
    """The packages of requirements such as `torch~=2.14.1`."""
    return {_same(match[0]) for text in requirements if (match := re.match(r"[\w.-]+", text))}


def _same(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()


def check_packages(wanted: Mapping[str, str], needed: set[str], installed: Mapping[str, str], python: str) -> Finding:
    """wanted: pinned versions; needed: what the project cannot do without; installed: by whatever spelling."""
    there = {_same(name): version.partition("+")[0] for name, version in installed.items()}
    missing = [name for name in wanted if name not in there]
    others = [f"{name} {there[name]} ({version})" for name, version in wanted.items()
              if there.get(name, version) != version]
    if not wanted:
        return Finding("packages", WARNING, "no requirements.lock to compare with", "`make lock` writes it")
    if not missing and not others:
        return Finding("packages", OK, f"all {len(wanted)} as pinned")
    missing.sort(key=lambda name: name not in needed)
    told = [f"{len(items)} {what}: {', '.join(items[:_LISTED])}{' …' * (len(items) > _LISTED)}" for items, what in (
        (missing, "missing"), (others, "of another version than pinned")) if items]
    return Finding("packages", ERROR if needed & set(missing) else WARNING, "; ".join(told),
                   f"`{python} -m pip install -r requirements.lock`")


def check_slurm(missing: Sequence[str], squeue: CommandResult, sacct: CommandResult) -> list[Finding]:
    """missing: Slurm's commands that are not on the PATH; the rest: what they said when they were asked."""
    if "sbatch" in missing:
        return [Finding("slurm", WARNING, "sbatch is not on the PATH: no Slurm here", "--local runs without; else log "
                        "in to the cluster, or load its module in your ~/.bashrc")]
    if squeue.code != 0:
        return [Finding("slurm", ERROR, f"squeue {squeue.told()}", "the controller is away, or this machine belongs to "
                        "no cluster: `scontrol ping` tells; ask the cluster's people")]
    found = Finding("slurm", OK, "the controller answers")
    if missing:
        found = found._replace(verdict=WARNING, found=f"the controller answers, and {', '.join(missing)} "
                               f"{'is' if len(missing) == 1 else 'are'} not on the PATH",
                               do="ask the cluster's people for the whole of Slurm's commands")
    if sacct.code == 0:
        return [found, Finding("accounting", OK, "sacct answers")]
    return [found, Finding("accounting", WARNING, f"sacct {sacct.told()}", "states come from squeue and the runs' own "
                           "files then, and --efficiency has nothing to show")]


def missing_commands(there: Iterable[str]) -> list[str]:
    """Slurm's commands that we call, without those that are there."""
    return [name for name in _COMMANDS if name not in set(there)]


def check_script(name: str, text: str, refusal: str | None) -> Finding:
    """A submit script, as it is written. refusal: why Slurm would not take it, in one line; empty if it would, None if
    it was not asked."""
    commands = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    last = commands[-1].strip() if commands else ""
    if not text.startswith("#!"):
        return Finding(name, ERROR, "it does not name its interpreter", "begin it with the line `#!/bin/bash`")
    if "\r\n" in text:
        return Finding(name, ERROR, "it has DOS line breaks, which sbatch refuses", f"`sed -i 's/\\r$//' {name}`")
    if "train.py" in last and not re.search(r"\$[@*1]|\$\{[@*1]\}", last):
        return Finding(name, ERROR, "it hands nothing on to train.py", 'end it with `exec python train.py "$@"`')
    if not last.startswith("exec "):
        return Finding(name, WARNING, "its last line has no exec: the shell keeps Slurm's signals to itself, so that "
                       "runs cannot save themselves", 'end it with `exec python train.py "$@"`')
    if refusal:
        return Finding(name, WARNING, refusal)
    return Finding(name, OK, "as it should be" if refusal is None else "Slurm would take it")


def require_usable_script(found: Sequence[Finding]) -> list[Finding]:
    """The same; if not one of them can be used, nothing can be submitted, and that is an error."""
    usable = any(finding.verdict == OK for finding in found)
    return [finding if usable or finding.verdict != WARNING else finding._replace(verdict=ERROR) for finding in found]


def check_gpus(smi: CommandResult, torch: CommandResult | None) -> Finding:
    """smi: a line per GPU; torch: a number of GPUs that it sees after its version, if it was asked."""
    if smi.code is None and not smi.late:
        return Finding("gpu", OK, "none here, as on most login nodes (nvidia-smi is missing)")
    if smi.code != 0:
        return Finding("gpu", ERROR, f"nvidia-smi {smi.told()}", "the driver of this machine is broken: ask its people")
    there = [line.strip() for line in smi.out.splitlines() if line.strip()]
    text = f"{len(there)}: {'; '.join(dict.fromkeys(there))}" if there else "none"
    if torch is None:
        return Finding("gpu", OK, f"{text} (--deep asks torch too)")
    version, _, sees = torch.out.strip().rpartition(" ")
    if torch.code != 0 or not sees.isdecimal():
        return Finding("gpu", ERROR, f"{text}; torch {torch.told()}", "mend the packages first")
    if int(sees) < len(there):
        return Finding("gpu", ERROR, f"{text}; torch {version} sees {sees}", "the driver is older than what this torch "
                       "was built for (the `CUDA Version` that `nvidia-smi` shows), or torch is a build without CUDA")
    return Finding("gpu", OK, f"{text}; torch {version} sees {sees}")


def check_folder(found: FolderFacts | None, name: str) -> Finding:
    """A folder that is written to; None if its disk did not answer."""
    if found is None:
        return Finding(name, ERROR, "its disk does not answer", "wait, or use another: `findmnt` lists them")
    if found.refusal:
        return Finding(name, ERROR, f"{found.path}: {found.refusal}", f"{_MEND.get(name, 'mend its permissions')}")
    text = f"{found.path}: {'' if found.there else 'still to be made, '}can be written"
    if found.free is not None:
        text += f", {format_size(found.free)} free"
    if found.nodes is not None and found.nodes < 10_000:
        return Finding(name, WARNING, f"{text}, and room for {found.nodes} files", "remove files: each run takes ten")
    if found.free is not None and found.free < _LITTLE:
        return Finding(name, ERROR if found.free < _SCARCE else WARNING, text,
                       "make room (`python experiments.py clean`), or link it to a larger disk")
    return Finding(name, OK, text)


_MEND = {"results": "`results` may be a link to a folder of yours on a large disk",
         "data": "`data` may be a link to a folder of yours on a large disk",
         "hub cache": "export HF_HOME=FOLDER, one of yours on a large disk",
         "torch cache": "export TORCH_HOME=FOLDER, one of yours on a large disk"}


def check_clock(places: Iterable[FolderFacts | None]) -> Finding:
    """Whether the disks agree with this machine on what time it is."""
    worst = max((found for found in places if found), key=lambda found: abs(found.ahead), default=None)
    if worst is None or abs(worst.ahead) < _SKEW:
        return Finding("clock", OK, "this machine and its disks agree")
    return Finding("clock", WARNING, f"the disk of {worst.path} is {abs(worst.ahead):.0f} s "
                   f"{'ahead of' if worst.ahead > 0 else 'behind'} this machine", "times in tables are off by as much, "
                   "and who waits for another's download may think it dead: ask for NTP on both")


def check_quotas(said: Iterable[CommandResult]) -> Finding:
    """What `quota -w -p` and `lfs quota` print: rows of a file system, then used, soft and hard limit of blocks (KiB)
    and of files, each with a grace time. A used number with a star is over its limit."""
    heard, found = False, []
    for row in (line.split() for one in said for line in one.out.splitlines()):
        numbers = [word.rstrip("*") for word in row[1:]]
        if len(row) < 9 or not all(numbers[index].isdecimal() for index in (0, 1, 2, 4, 5, 6)):
            continue
        heard = True
        for used, soft, hard, what in ((row[1], *numbers[1:3], "space"), (row[5], *numbers[5:7], "files")):
            limit = int(soft) or int(hard)
            if limit and int(used.rstrip("*")) >= 0.9 * limit:
                share = int(used.rstrip("*")) / limit
                found.append((share, f"{row[0]}: {share:.0%} of its {what} used"))
    if not heard:
        return Finding("quota", OK, "none is told")
    if not found:
        return Finding("quota", OK, "all below 90 %")
    return Finding("quota", ERROR if max(found)[0] >= 1 else WARNING, ", ".join(text for _, text in sorted(
        found, reverse=True)), "make room (`python experiments.py clean`), or move caches and results to another disk")


def check_internet(reason: str | None, kept: int) -> Finding:
    """reason: why the hub cannot be reached; kept: models and data sets that the hub's cache has."""
    has = f"the hub's cache has {kept} repositor{'y' if kept == 1 else 'ies'}"
    if reason is None:
        return Finding("internet", OK, f"the hub can be reached; {has}")
    return Finding("internet", WARNING, f"{reason}; {has}", "fetch on a node with internet first: "
                   "`python experiments.py prefetch JOB_SPEC`")


def format_size(count: float) -> str:
    """`1.5 TiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} TiB"
