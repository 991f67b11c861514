"""End with one line if this Python is too old for the project, or lacks its packages. Entry points import this first.

All that is imported before must be valid in Python 3.7.
"""
from __future__ import annotations

import importlib.util
import json
import os
import sys

_PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_MINIMUM = (3, 11)


def _problem() -> str:
    """Return what is wrong with this Python; empty if nothing is."""
    if sys.version_info < _MINIMUM:
        return "is older than {}.{}".format(*_MINIMUM)
    return "" if importlib.util.find_spec("yaml") else "lacks the project's packages"


def _end(problem: str) -> None:
    steps = ["`source .venv/bin/activate`"]
    if not os.path.exists(os.path.join(_PROJECT, ".venv", "bin", "python")):
        steps.insert(0, "`make environment`")
    error = "Python {}.{} {}".format(*sys.version_info[:2], problem)
    hint = "in {}, run {}".format(_PROJECT, ", then ".join(steps))
    if "--json" in sys.argv:
        print(json.dumps({"error": error, "where": sys.executable, "allowed": [], "hint": hint}))
    else:
        print(f"error: {sys.executable}: {error}; {hint}", file=sys.stderr)
    sys.exit(2)


if _problem():
    _end(_problem())
