"""The page in a frame of a notebook: drawn, isolated, bounded."""
from __future__ import annotations

from pathlib import Path

import pytest

from src.analysis.page import notebook
from src.errors import ResultsError
from tests.analysis.chromium import Tab
from tests.analysis.page.make_document import make_results


def test_frame_draws_the_page_in_isolation(tab: Tab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results, _ = make_results(24, 6)
    path = tmp_path / "notebook.html"
    path.write_text(f"<!doctype html><title>notebook</title>{notebook.frame(results)._repr_html_()}")
    tab.open(str(path))
    (frame,) = (info["targetId"] for info in tab.call("Target.getTargets")["targetInfos"] if info["type"] == "iframe")
    monkeypatch.setattr(tab, "_session", tab.call("Target.attachToTarget", targetId=frame, flatten=True)["sessionId"])
    tab.call("Log.enable")
    tab.wait("document.querySelector('.chart.mounted .chart-figure')")
    assert tab.js("gridiron.store.count") == 24
    tab.js("gridiron.store.select([1, 2])")  # the address of a frame cannot be changed
    assert tab.js("gridiron.store.selected.size") == 2
    assert tab.js("(() => { try { return parent.document.title; } catch { return 'isolated'; } })()") == "isolated"
    assert tab.complaints() == []


def test_curves_are_sampled_until_the_page_is_small_enough() -> None:
    results, _ = make_results(200, 60)
    whole = notebook.frame(results)
    assert whole.height == 900
    smaller = notebook.frame(results, most=len(whole.page) - 20_000)
    assert len(smaller.page) < len(whole.page)
    with pytest.raises(ResultsError, match=r"the page of 200 runs has .* MB: too much for a notebook; allowed: 0.1 MB"):
        notebook.frame(results, most=100_000)
