"""End with one line if this Python is too old for the project, or lacks its packages. Entry points import this first.

All that is imported before must be valid in Python 3.7.
"""
from __future__ import annotations

import importlib.util
import os
import sys

_PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_MINIMUM = (3, 11)


def _problem() -> str:
    """Return what is wrong with this Python; empty if nothing is."""
    if sys.version_info < _MINIMUM:
        return "is older than {}.{}".format(*_MINIMUM)
    return "" if importlib.util.find_spec("yaml") else "lacks the project's packages"


if _problem():
    _steps = ["`source .venv/bin/activate`"]
    if not os.path.exists(os.path.join(_PROJECT, ".venv", "bin", "python")):
        _steps.insert(0, "`make environment`")
    print("error: Python {}.{} ({}) {}; in {}, run {}".format(
        *sys.version_info[:2], sys.executable, _problem(), _PROJECT, ", then ".join(_steps)), file=sys.stderr)
    sys.exit(2)
