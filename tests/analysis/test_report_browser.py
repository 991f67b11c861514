"""The report of 2,000 runs in a real browser: its size, its table on a phone, its filter; it loads nothing."""
from __future__ import annotations

import os
from pathlib import Path

import pytest

from src.analysis.report import write_report
from tests.analysis.chromium import Tab
from tests.analysis.make_batch import DIGITS, curves, grid, make_empty_batch, make_run

RUNS = 2000
FILTERED = RUNS // 20  # those of a model and a rate


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    batch = make_empty_batch(tmp_path_factory.mktemp("report"))
    axes = {"model": ["linear", "tiny/lenet"], "base_lr": [2.0**power for power in range(-9, 1)],
            "seed_model": range(RUNS // 20)}
    for index, spec in enumerate(grid(axes, **DIGITS)):
        crashed = index % 500 == 499
        make_run(batch, index, spec, stats=curves(spec, 2, index), end=None if crashed else "completed",
                 error="Traceback\nRuntimeError: no memory" if crashed else None)
    return write_report(batch)


def test_report_of_2000_runs_on_a_phone(tab: Tab, report: str) -> None:
    assert os.path.getsize(report) < 6 * 2**20
    tab.resize(390, 844, scale=2)
    tab.open(report)
    tab.wait("window.gridiron && gridiron.ready === true")
    assert tab.js("document.getElementById('shown').textContent") == "2,000 runs"
    assert tab.js("document.documentElement.scrollWidth") <= 390  # wide tables scroll in themselves, never the page
    assert "RuntimeError: no memory" in tab.js("document.getElementById('failures').innerText")
    tab.js("gridiron.store.filter('\"TINY-lenet+bas=0.25\" end=completed')")
    assert tab.js("document.getElementById('shown').textContent") == f"{FILTERED} of 2,000 runs"
    tab.js("gridiron.store.open(1999)")
    assert "RuntimeError: no memory" in tab.wait("!document.getElementById('run').innerText.includes('Loading') "
                                                 "&& document.getElementById('run').innerText")
    assert sum(event["request"]["url"].startswith("file:") for event in tab.of("Network.requestWillBeSent")) == 1
    assert tab.complaints() == []


def test_browser_detects_requests_and_errors(tab: Tab, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<img src='http://127.0.0.1:9/x.png'><script>console.error('here'); missing()</script>")
    tab.open(str(page))
    assert any(event["request"]["url"].startswith("http:") for event in tab.of("Network.requestWillBeSent"))
    assert len(tab.complaints()) >= 2
