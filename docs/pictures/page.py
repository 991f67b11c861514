"""The pictures of the page in docs/gallery.md: Chromium shows the report on the batch that `make pictures` trains."""
from __future__ import annotations

import base64
import io
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from docs.pictures.draw import with_palette
from src.analysis.report import write_report
from src.errors import UserError, exits_on_user_error
from src.io import files
from tests.analysis.chromium import Tab, chromium

_FOLDER = os.path.dirname(__file__)
_COLORS = 96  # a palette: a third of the bytes
_PAUSE = 2.0  # seconds for the last chart


class View(NamedTuple):
    """One picture. script: what is clicked, as JavaScript; width, height: of the window, in CSS pixels."""

    script: str
    width: int
    height: int
    is_dark: bool = False
    scale: float = 1.0


_BEST = "gridiron.store.runs.value.indexOf(Math.max(...gridiron.store.runs.value))"
VIEWS = {
    "report": View("", 1280, 1250),
    "report-selection": View(
        "gridiron.store.filter('model~lenet val/last/accuracy>0.15'); gridiron.store.set({sort: '-value'});"
        "gridiron.store.select(gridiron.overview.order().slice(0, 5));"
        "document.getElementById('charts').scrollIntoView()", 1280, 900, is_dark=True),
    "report-run": View(f"gridiron.store.open({_BEST})", 1280, 1000),
    "report-compare": View(
        "const of = value => gridiron.toRanges([...gridiron.store.column('averaging').entries()]"
        ".filter(([, other]) => other === value).map(([run]) => run));"
        "gridiron.store.set({view: 'compare', a: of(null), b: of('poly_8')})", 1280, 1000, is_dark=True),
    "report-phone": View("", 390, 844, scale=1.5),
}


def take(tab: Tab, report: str, view: View) -> bytes:
    """Return a view of a report as a PNG."""
    tab.resize(view.width, view.height, view.scale)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if view.is_dark else "light"}
    tab.call("Emulation.setEmulatedMedia", features=[scheme])
    tab.open(report)
    tab.wait("window.gridiron && gridiron.ready === true")
    tab.js(f"{{ {view.script} }}")
    tab.wait("gridiron.charts.idle().then(() => true)")
    time.sleep(_PAUSE)
    picture = base64.b64decode(tab.call("Page.captureScreenshot", format="png")["data"])
    return with_palette(io.BytesIO(picture), _COLORS)


@exits_on_user_error
def main(batch: str) -> None:
    """Take all pictures of the report on a batch, into this folder."""
    program = shutil.which("chromium")
    if not program:
        raise UserError("chromium is required for the pictures of the page")
    with tempfile.TemporaryDirectory() as folder, chromium(program, Path(folder, "profile")) as tab:
        report = write_report(batch, Path(folder, "report.html"))
        for name, view in VIEWS.items():
            files.write_atomic(os.path.join(_FOLDER, f"{name}.png"), take(tab, report, view), sync=False)
            print(f"docs/pictures/{name}.png")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
