"""The report of 2,000 runs in a real browser: renders, filters, sorts, loads nothing, logs no error."""
from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from src.analysis.report import write_report
from tests.analysis.chromium import Tab, chromium
from tests.analysis.make_batch import DIGITS, curves, grid, make_empty_batch, make_run

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
RUNS = 2000
FILTERED = RUNS // 20  # those of a model and a rate
pytestmark = pytest.mark.skipif(PROGRAM is None and "CI" not in os.environ, reason="there is no Chromium here")


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    folder = tmp_path_factory.mktemp("browser")
    batch = make_empty_batch(folder)
    axes = {"model": ["linear", "tiny/lenet"], "base_lr": [2.0**power for power in range(-9, 1)],
            "seed_model": range(RUNS // 20)}
    for index, spec in enumerate(grid(axes, **DIGITS)):
        crashed = index % 500 == 499
        make_run(batch, index, spec, stats=curves(spec, 2, index), end=None if crashed else "completed",
                 error="Traceback\nRuntimeError: no memory" if crashed else None)
    path = write_report(batch)
    assert os.path.getsize(path) < 8 * 2**20
    assert PROGRAM is not None, "CI needs Chromium"
    with chromium(PROGRAM, folder / "profile") as opened:
        opened.call("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=2, mobile=True)
        opened.open(path)
        yield opened


def test_report_renders_on_a_phone(tab: Tab) -> None:
    assert tab.js("document.querySelectorAll('#runs tbody tr').length") == RUNS
    assert tab.js("[...document.images].every(image => image.complete && image.naturalWidth > 100)")
    assert tab.js("document.images.length") >= 3
    # wide tables scroll in themselves, never the page
    assert tab.js("document.documentElement.scrollWidth") <= 390
    assert tab.js("Math.round(document.querySelector('h1').getBoundingClientRect().width)") <= 390
    assert tab.js("document.body.innerText.includes('RuntimeError: no memory')")


def test_report_filters_runs(tab: Tab) -> None:
    shown = "[...document.querySelectorAll('#runs tbody tr')].filter(row => row.offsetParent !== null).length"
    type_in = """(words => { const input = document.querySelector('[data-filter=runs]'); input.value = words;
                 input.dispatchEvent(new Event('input')); })"""
    tab.js(f"{type_in}('TINY-lenet+bas=0.25 completed')")
    assert tab.js(shown) == FILTERED
    assert tab.js("document.querySelector('[data-count=runs]').textContent") == f"{FILTERED} of {RUNS} runs."
    tab.js(f"{type_in}('no such words')")
    assert tab.js(shown) == 0
    tab.js(f"{type_in}('')")
    assert tab.js(shown) == RUNS


def test_report_sorts_runs(tab: Tab) -> None:
    tab.js("document.querySelector('#runs').scrollIntoView()")
    names = tab.js("[...document.querySelectorAll('#runs thead th')].map(head => head.textContent)")
    column = next(position for position, name in enumerate(names) if "val" in name and "accuracy" in name)
    cells = f"[...document.querySelectorAll('#runs tbody tr')].map(row => row.cells[{column}].dataset.value)"
    click = f"document.querySelectorAll('#runs thead button')[{column}].click()"
    before = sorted(map(float, filter(None, tab.js(cells))))
    tab.js(click)
    assert list(map(float, filter(None, tab.js(cells)))) == before
    tab.js(click)
    assert list(map(float, filter(None, tab.js(cells)))) == before[::-1]
    assert tab.js(f"document.querySelectorAll('#runs thead th')[{column}].getAttribute('aria-sort')") == "descending"


def test_report_loads_nothing_and_logs_no_error(tab: Tab) -> None:
    tab.js("window.scrollTo(0, document.body.scrollHeight)")
    urls = [event["request"]["url"] for event in tab.of("Network.requestWillBeSent")]
    assert [url for url in urls if not url.startswith(("file:", "data:"))] == []
    assert sum(url.startswith("file:") for url in urls) == 1
    assert tab.of("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded") == []


def test_browser_detects_requests_and_errors(tab: Tab, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<img src='http://127.0.0.1:9/x.png'><script>console.error('here'); missing()</script>")
    tab.events.clear()
    tab.open(str(page))
    assert any(event["request"]["url"].startswith("http:") for event in tab.of("Network.requestWillBeSent"))
    assert tab.of("Runtime.consoleAPICalled") and tab.of("Runtime.exceptionThrown")
