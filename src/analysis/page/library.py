"""The browser code that draws the charts of the page: BokehJS, as it comes with the Python package bokeh."""
from __future__ import annotations

import importlib.util
import os

from src.errors import ResultsError

_SCRIPTS = ("bokeh.min.js", "bokeh-api.min.js")


def text() -> str:
    """Return the script. It sets window.Bokeh, and loads and evaluates nothing else. ResultsError without bokeh."""
    spec = importlib.util.find_spec("bokeh")  # the folder is enough: importing the package is slow
    if spec is None or spec.origin is None:
        raise ResultsError("the charts of the page need the package bokeh",
                           hint="python -m pip install -r requirements.lock")
    folder = os.path.join(os.path.dirname(spec.origin), "server", "static", "js")
    return "".join(_read(os.path.join(folder, name)) for name in _SCRIPTS)


def _read(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read() + "\n"
