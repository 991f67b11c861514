"""The file that a submit script names by --error, into which Slurm writes the errors of a job beside its output."""
from __future__ import annotations

import glob
import os
import re
from collections.abc import Mapping
from typing import Any

from src.io import files
from src.submission.slurm import directives


def pattern_of_plan(plan: Mapping[str, Any]) -> str | None:
    """Return --error of a submission's script or options, absolute and with Slurm's patterns; None if there is none."""
    if not plan.get("script"):
        return None
    options: dict[str, Any] = dict(directives.effective(files.read_text(plan["script"]) or ""))
    for layer in ("environment", "sbatch", "command_line"):
        options |= {str(key).replace("_", "-"): value for key, value in (plan.get(layer) or {}).items()}
    path = options.get("error")
    return os.path.join(plan.get("project") or "", str(path)) if path and path is not True else None


def expand(pattern: str, slurm_job: str) -> str:
    """Return the path of a job's file as a pattern for glob: what only Slurm can fill in becomes `*`."""
    array, underscore, task = slurm_job.partition(";")[0].partition("_")
    replacements = {"%%": "%", "%A": array, "%a": task or "*", "%j": "*" if underscore else array}
    parts = re.split(r"(%\d*[%A-Za-z])", pattern)
    return "".join(replacements.get(part, "*") if index % 2 else glob.escape(part) for index, part in enumerate(parts))
