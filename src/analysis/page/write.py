"""Write the page: one HTML file of scripts, the library of charts and a document; it loads nothing from the network."""
from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import html
import importlib.util
import os
from collections.abc import Mapping
from typing import Any

from src.analysis.page import document as page_document
from src.errors import ResultsError

_FOLDER = os.path.dirname(__file__)
_LIBRARY = ("bokeh.min.js", "bokeh-api.min.js")
# in the order in which they build on each other
_SCRIPTS = ("dom", "filter", "store", "table", "boxes", "sections", "run", "compare", "charts_library", "charts_core",
            "charts_curves", "charts_points", "charts_maps", "charts_search", "live", "toolbar", "overview", "page")


def page(document: Mapping[str, Any] | None) -> str:
    """Return the HTML of the page.

    document: as `document.build` returns it; None: the page requests it from the server that it came from.
    """
    title = "Gridiron" if document is None else document["title"]
    parts = {"policy": policy(), "title": title, "style": _read("page.css") + _read("charts.css"), "script": _script(),
             "document": _packed(page_document.to_json(dict(document))) if document is not None else "",
             "library": _packed_library()}
    pieces = _read("page.html").split("{{")  # a text that is filled in is not searched for further marks
    return pieces[0] + "".join(_fill(piece, parts) for piece in pieces[1:])


@functools.cache
def policy() -> str:
    """Return the Content-Security-Policy of the page: only our scripts run, and only its own server can be reached.

    Styles may be inline, because the library adds them to its charts.
    """
    scripts = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
                       for text in (_script(), library()))
    return (f"default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; img-src data: blob:; "
            "font-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'")


def _fill(piece: str, parts: Mapping[str, str]) -> str:
    """Replace the name that a piece of the template begins with by its part."""
    name, _, rest = piece.partition("}}")
    return (html.escape(parts[name]) if name in ("title", "policy") else parts[name]) + rest


@functools.cache
def _script() -> str:
    return "\n".join(_read("js", f"{name}.js") for name in _SCRIPTS)


def _packed(text: str) -> str:
    """Return text as base64 of gzip, which the page unpacks: a third of the size, and inert whatever it holds."""
    return base64.b64encode(gzip.compress(text.encode(), compresslevel=6, mtime=0)).decode()


@functools.cache
def _packed_library() -> str:
    return _packed(library())


def library() -> str:
    """Return the browser code that draws the charts: BokehJS, as it comes with the Python package bokeh.

    It sets window.Bokeh, and loads and evaluates nothing else. ResultsError without bokeh.
    """
    spec = importlib.util.find_spec("bokeh")  # the folder is enough: importing the package is slow
    if spec is None or spec.origin is None:
        raise ResultsError("the charts of the page need the package bokeh",
                           hint="python -m pip install -r requirements.lock")
    folder = os.path.join(os.path.dirname(spec.origin), "server", "static", "js")
    return "".join(f"{_read(folder, name)}\n" for name in _LIBRARY)


def _read(*names: str) -> str:
    with open(os.path.join(_FOLDER, *names), encoding="utf-8") as file:
        return file.read()
