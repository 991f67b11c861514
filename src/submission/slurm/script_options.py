"""Check the #SBATCH lines of a submit script against what the submission requests: nothing is overridden silently."""
from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from src.errors import JobSpecError
from src.submission.slurm import directives
from src.submission.slurm.directives import Option
from src.submission.system.terminal import format_duration

# Options of a script that no option of the command line takes back, and what to use instead
_REFUSED = {"array": "--array submits job arrays of runs", "test-only": "-d shows what would be submitted",
            "wait": "`python experiments.py wait BATCH` waits for the runs"}
# Options that the submission sets itself, and where their value comes from
_OVERRIDDEN = {"job-name": "the job has the name of its run", "output": "the output is in the run's folder",
               "chdir": "the job starts in the project's folder", "comment": "it identifies the job in the queue"}
_GPU_COUNTS = ("gpus", "gpus-per-node")
_DEFAULT_LEAD = 60  # seconds from the signal of --signal to the time limit, if the option names none
_MAX_LEAD_SHARE = 1 / 5  # of the time limit
_RESOLUTION = 60  # seconds: Slurm may send the signal so much earlier


@lru_cache(maxsize=16)
def _options(script_text: str) -> tuple[Option, ...]:
    return tuple(directives.parse_script(script_text))


def check(script: str, script_text: str, requested: Mapping[str, Any], is_generated: bool = False) -> None:
    """Check the options of a script. JobSpecError that names the line of one that cannot be used.

    requested: options of sbatch beside those of the script; is_generated: the script is made from resources.
    """
    values = {name.replace("_", "-"): value for name, value in requested.items()}
    for option in _options(script_text):
        where = "job_details.resources" if is_generated else f"{script}, line {option.line}"
        if refused := directives.abbreviated(option.name, _REFUSED):
            raise JobSpecError(f"a submit script cannot have the option --{refused}" + (
                "" if option.name == refused else f", which --{option.name} abbreviates"), where=where,
                hint=f"delete it; {_REFUSED[refused]}")
        value = values.get(option.name, "")
        if (value is None or value is False) and option.name != "exclude":  # an empty exclude adds no bad nodes
            raise JobSpecError(f"{option.name} is {'null' if value is None else 'false'}, which cannot remove "
                               f"{_written(option)} of the script: sbatch reads it there", where=where,
                               hint=f"set `{option.name}: null` there" if is_generated else "delete it there")
        if beside := _other_gpu_option(option, values):
            raise JobSpecError(f"{beside}={values[beside]} and {_written(option)} of the script both request GPUs, "
                               "which Slurm may refuse", where=where, hint="use the option of the script, as --sbatch "
                               f"{option.name}={_same_form(option.name, values[beside])}, or delete it there")


@lru_cache(maxsize=64)
def scaled_signal(script_text: str, limit: str) -> str | None:
    """Return the value of the script's --signal with a lead of a fifth of the time limit; None if it has no such option
    or its lead is no longer than that.

    limit: the time limit that is requested beside the script; empty for that of the script.
    """
    options = {option.name: option.value for option in _options(script_text)}
    signal, seconds = options.get("signal") or "", directives.parse_time(limit or options.get("time") or "")
    lead = _lead(signal)
    if not seconds or lead is None or lead <= seconds * _MAX_LEAD_SHARE:
        return None
    return f"{signal.partition('@')[0]}@{max(1, int(seconds * _MAX_LEAD_SHARE))}"


def _lead(signal: str) -> int | None:
    """The seconds from a signal of --signal (`B:USR1@180`) to the time limit; None if it is not such a value."""
    name, at, lead = signal.partition("@")
    return int(lead) if lead.isdecimal() else _DEFAULT_LEAD if name and not at else None


def signal_notes(script_text: str, effective: Mapping[str, str], is_external: bool = False) -> list[str]:
    """Return lines about the signal before the time limit: a note if it is scaled, a warning if a third of the time is
    lost.

    effective: the options of the Slurm job, by long name; is_external: it runs an external program, which loses time
    only if it handles the signal.
    """
    lines = []
    signal, limit = effective.get("signal", ""), directives.parse_time(effective.get("time", ""))
    lead = _lead(signal)
    if not limit or lead is None:
        return []
    is_scaled = signal == scaled_signal(script_text, effective["time"])
    for option in _options(script_text):
        if option.name == "signal" and is_scaled:
            lines.append(f"line {option.line}, {_written(option)}, becomes --signal={signal}: "
                         f"a fifth of the time limit of {format_duration(limit)}")
    if not is_external and 3 * (lead + _RESOLUTION) >= limit:
        enough = _RESOLUTION / (1 / 3 - _MAX_LEAD_SHARE) if is_scaled else 3 * (lead + _RESOLUTION)
        rest = format_duration(max(0, limit - lead - _RESOLUTION))
        lines.append(f"warning: of the time limit of {format_duration(limit)}, runs may train for {rest}, since Slurm "
                     f"sends --signal={signal} up to a minute early; with more than {format_duration(enough)}, "
                     "less than a third is lost")
    return lines


def notes(script_text: str) -> list[str]:
    """Return a line for each option of a script that the submission overrides."""
    return [f"line {option.line}, {_written(option)}, is overridden: {_OVERRIDDEN[option.name]}"
            for option in _options(script_text) if option.name in _OVERRIDDEN]


def _written(option: Option) -> str:
    return f"--{option.name}" if option.value is None else f"--{option.name}={option.value}"


def _other_gpu_option(option: Option, values: Mapping[str, Any]) -> str | None:
    """The requested option that requests GPUs in another form than an option of the script; None if there is none."""
    if option.name == "gres" and "gpu" in (option.value or ""):
        return next((name for name in _GPU_COUNTS if values.get(name) not in (None, False)), None)
    if option.name in _GPU_COUNTS and "gpu" in str(values.get("gres")):
        return "gres"
    return None


def _same_form(name: str, value: Any) -> str:
    """A request for GPUs in the form of another option: 2 or a100:2 for gpus, gpu:2 or gpu:a100:2 for gres."""
    return f"gpu:{value}" if name == "gres" else str(value).removeprefix("gres/").removeprefix("gpu:")
