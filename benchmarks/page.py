"""The page of 2,000 and 10,000 runs x 50 epochs in headless Chromium: first view, interactions, size; the live page.

An interaction lasts until everything in view has been drawn again: all charts, or the table. Charts and rows that are
not in view are drawn when they come into view. What the reader types is filtered 30 ms after the last key.
"""
from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks import dashboard
from src.analysis.page import write
from tests.analysis.chromium import Tab, chromium
from tests.analysis.page.make_document import make_document

EPOCHS = 50
TURNS = 7
# the moment at which the table has rows and every chart in view is drawn
WATCH = """
(() => {
  const isInView = box => box.getBoundingClientRect().top < innerHeight && box.getBoundingClientRect().bottom > 0;
  const look = () => {
    const boxes = [...document.querySelectorAll(".chart")].filter(isInView);
    const isDrawn = box => !box.matches("[aria-busy=true]") && box.querySelector(".chart-overlay");
    if (window.gridiron?.store?.count && boxes.length && boxes.every(isDrawn)) window.firstView = performance.now();
    else requestAnimationFrame(look);
  };
  document.addEventListener("DOMContentLoaded", look);
})()
"""


class Interaction(NamedTuple):
    """An action of a reader, in JavaScript. view: what is in view; before: what the time does not include.

    {turn} is different each time.
    """

    name: str
    view: str
    action: str
    before: str = ""
    until: str = "drawn"


CHARTS, TABLE = ".chart.curves", "#runs"
# the charts of the first run are made, those of the next ones show other data
FIRST_RUN = Interaction("open the page of the first run, until its charts are drawn", TABLE, "store.open({turn} + 100)",
                        "store.set({view: 'runs', run: ''})")
INTERACTIONS = (
    Interaction("filter the runs, charts in view", CHARTS, "store.filter({turn} % 2 ? '' : 'base_lr>0.01')"),
    Interaction("brush: select 200 runs, charts in view", CHARTS,
                "store.select(Array.from({length: 200}, (_, at) => (7 * at + {turn}) % store.count))"),
    Interaction("zoom the curves", CHARTS, "zoom({turn})", "store.select([])"),
    Interaction("choose another metric", CHARTS,
                "store.set({metric: {turn} % 2 ? 'val/last/loss' : 'val/last/accuracy'})"),
    Interaction("sort the table", TABLE, "store.set({sort: {turn} % 2 ? '-base_lr' : 'base_lr'})"),
    Interaction("filter the runs, table in view", TABLE, "store.filter({turn} % 2 ? '' : 'base_lr>0.01')"),
    Interaction("select 200 runs, table in view", TABLE,
                "store.select(Array.from({length: 200}, (_, at) => (7 * at + {turn}) % store.count))"),
    Interaction("scroll the table", TABLE, "document.querySelector('.scroll').scrollTop += 500", "store.select([])"),
    Interaction("open the page of a run, until its text is shown", TABLE, "store.open({turn} + 100)",
                "store.set({view: 'runs', run: ''})", "shown"),
    Interaction("open the page of a run, until its charts are drawn", TABLE, "store.open({turn} + 100)",
                "store.set({view: 'runs', run: ''})"),
    Interaction("back to all runs", TABLE, "store.set({view: 'runs', run: ''})", "store.open({turn} + 200)"))
MEASURE = """
(async () => {
  const {store, charts} = gridiron, plot = document.querySelector(".chart.curves .chart-plot");
  const zoom = turn => plot.dispatchEvent(new KeyboardEvent("keydown", {key: turn % 2 ? "+" : "-"}));
  const shown = () => new Promise(done => requestAnimationFrame(() => setTimeout(done)));
  const isInView = box => { const {top, bottom} = box.getBoundingClientRect();
                            return box.checkVisibility() && top < innerHeight && bottom > 0; };
  const isDrawn = chart => chart.querySelector(".chart-figure > *, .chart-empty, .chart");
  const drawn = async () => {
    do await charts.idle();
    while (![...document.querySelectorAll(".chart")].filter(isInView).every(isDrawn));
  };
  BEFORE;
  await drawn();
  const start = performance.now();
  ACTION;
  await UNTIL();
  return performance.now() - start;
})()
"""


def measure(sizes: tuple[int, ...] = (2_000, 10_000)) -> list[tuple[str, float, float | None]]:
    """Return (label, value, limit). Without Chromium nothing is measured."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        return []
    return [*(row for runs in sizes for row in _measure(program, runs)), *dashboard.measure(program, WATCH)]


def _measure(program: str, runs: int) -> list[tuple[str, float, float | None]]:
    """Measure a page of so many runs; beyond 2,000 the limits are those of a page that is usable."""
    few = runs <= 2_000
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "page.html")
        document = make_document(runs, EPOCHS, seeds=5)
        start = time.perf_counter()
        path.write_text(write.page(document))
        rows: list[tuple[str, float, float | None]] = [
            (f"write the page of {runs:,} runs from its document, in s", time.perf_counter() - start, None),
            (f"size of the page of {runs:,} runs, in MB", path.stat().st_size / 1e6, 6.0 if few else 12.0)]
        views, firsts = [], []
        for turn in range(3):
            with chromium(program, Path(folder, f"profile-{turn}")) as tab:
                views.append(_first_view(tab, path))
                firsts.append(_times(tab, FIRST_RUN, 1)[0])
                times = _interactions(tab) if turn == 2 else {}
    rows.append((f"first view of {runs:,} runs, in s", statistics.median(views) / 1e3, 2.0 if few else 5.0))
    times = {FIRST_RUN.name: statistics.median(firsts), **times}
    return rows + [(f"{name} ({runs:,} runs), in ms", value, 100 if few else 500) for name, value in times.items()]


def _first_view(tab: Tab, path: Path) -> float:
    """Open the page. Return milliseconds until it shows the table and the charts in view."""
    tab.resize(1280, 900)
    tab.call("Page.addScriptToEvaluateOnNewDocument", source=WATCH)
    tab.open(str(path))
    return float(tab.js("new Promise(done => { const wait = () => window.firstView ? done(firstView) : "
                        "setTimeout(wait, 10); wait(); })"))


def _interactions(tab: Tab) -> dict[str, float]:
    """Return the median milliseconds of each interaction."""
    return {one.name: statistics.median(_times(tab, one, TURNS)) for one in INTERACTIONS}


def _times(tab: Tab, one: Interaction, turns: int) -> list[float]:
    """Return the milliseconds that an interaction takes each time."""
    tab.js("gridiron.store.set({view: 'runs', run: ''})")
    tab.js(f"document.querySelector('{one.view}').scrollIntoView({{block: 'start', behavior: 'instant'}})")
    tab.js("gridiron.charts.idle().then(() => new Promise(done => setTimeout(done, 500)))")
    program = MEASURE.replace("BEFORE", one.before).replace("ACTION", one.action).replace("UNTIL", one.until)
    return [float(tab.js(program.replace("{turn}", str(turn)))) for turn in range(turns)]


if __name__ == "__main__":
    for label, value, limit in measure():
        print(f"{label:70} {value:8.3g}" + (f"   (limit {limit:g})" if limit else ""))
