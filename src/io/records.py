"""Check JSON records that other people may have written: fields whose value is not of their form count as missing."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Form = Callable[[Any], bool]
Forms = Mapping[str, Form]

_MAX_TEXT = 10_000  # characters that are kept of a text, such as an error
_MAX_NUMBER = 2**53
_MAX_TIME = 2**37  # unix seconds: the year 6325


def fields(record: Any, forms: Forms) -> dict[str, Any]:
    """Return the fields of a record, without those that are not of their form; empty if it is no mapping.

    Fields without a form are those of a newer version, and are kept. Long texts are cut.
    """
    if not isinstance(record, dict):
        return {}
    return {key: value[:_MAX_TEXT] if isinstance(value, str) else value for key, value in record.items()
            if key not in forms or forms[key](value)}


def is_text(value: Any) -> bool:
    return isinstance(value, str)


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number, as a time is."""
    return type(value) in (int, float) and abs(value) < _MAX_NUMBER


def is_time(value: Any) -> bool:
    """Return whether a value is a time that can be shown as a date, in unix seconds."""
    return type(value) in (int, float) and 0 <= value < _MAX_TIME


def is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < _MAX_NUMBER


def is_name(value: Any) -> bool:
    """Return whether a value is the name of a file or folder: one path component, so that it cannot lead elsewhere."""
    return isinstance(value, str) and value not in ("", ".", "..") and "/" not in value and "\0" not in value


def is_token(value: Any) -> bool:
    """Return whether a value can be the token of a submission, which names files and folders."""
    return is_name(value) and value[0] != "." and value.replace(".", "").replace("-", "").replace("_", "").isalnum()


def optional(form: Form) -> Form:
    """Return the form of a field that may also be null."""
    return lambda value: value is None or form(value)


def list_of(form: Form) -> Form:
    return lambda value: isinstance(value, list) and all(map(form, value))


def mapping_of(names: Form, values: Form) -> Form:
    return lambda value: isinstance(value, dict) and all(map(names, value)) and all(map(values, value.values()))


def is_mapping(value: Any) -> bool:
    return isinstance(value, dict)


# of a process: see src/submission/system/process.py
IDENTITY: Forms = {"host": is_text, "boot_id": is_text, "pid_space": is_text, "pid": is_count,
                   "pid_start": optional(is_count), "slurm_job": optional(is_text), "restart": is_count,
                   "time": is_time}
# of what a start of a run used: numbers of CPUs and GPUs; peaks in bytes, of its processes and of one GPU; means of the
# cores in use, and of the percent of the time in which its GPUs were busy; processes, or runs of a stack, if several
USED: Forms = {"cpus": is_count, "gpus": is_count, "processes": is_count,
               **dict.fromkeys(("memory", "gpu_memory", "cpu", "gpu"), optional(is_number)), "stacked": is_count}
# of a start of a run: see src/submission/job/attempt.py
ATTEMPT: Forms = {"who": is_mapping, "start": is_time, "end": optional(is_time), "how": optional(is_text),
                  "error": optional(is_text), "host": optional(is_text), "node": optional(is_text),
                  "slurm_job": optional(is_text), "started_by": optional(is_text), "code": optional(is_token),
                  "pause_after": optional(is_count), "used": is_mapping, "yielded": lambda value: value is True}


def identity(record: Any) -> dict[str, Any]:
    """Return the identity of a process, without fields that are not of their form."""
    return fields(record, IDENTITY)


def attempt(record: Any) -> dict[str, Any]:
    """Return the record of an attempt, without fields that are not of their form."""
    checked = fields(record, ATTEMPT)
    for name, forms in (("who", IDENTITY), ("used", USED)):
        if name in checked:
            checked[name] = fields(checked[name], forms)
    return checked
