"""The names of the trials of a search."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from src.search.definition import Search
from src.submission.spec import naming


def name_run(search: Search) -> Callable[[int, Mapping[str, Any]], str]:
    """Return the function that names the run folder of a trial, by its number and its spec."""
    return lambda trial, spec: naming.run_names(search.name, [spec], search.varying, trial)[0]
