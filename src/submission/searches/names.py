"""The names of the trials of a search."""
from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from src.search.definition import Search
from src.submission.spec import naming


def run_name(search: Search, trial: int, spec: Mapping[str, Any]) -> str:
    """Return the name of a trial's run folder."""
    return naming.run_names(search.name, [spec], search.varying, trial)[0]


def name_run(search: Search) -> Callable[[int, Mapping[str, Any]], str]:
    """Return the function that names the run of a trial."""
    return functools.partial(run_name, search)
