"""The live page in a browser: it follows the files, keeps what the user has chosen, and sends notes."""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from src import notes, run_folder
from src.analysis.page import write
from tests.analysis.chromium import Tab
from tests.analysis.conftest import tab
from tests.analysis.make_batch import DIGITS, make_run
from tests.dashboard.test_server import Running, append_epochs, batch, running, status

__all__ = ["batch", "running", "status", "tab"]  # fixtures

STORE = "gridiron.store"


@pytest.fixture
def page(running: Running, tab: Tab) -> Iterator[Tab]:
    """The page in a browser that was given its address."""
    running.server.page, running.server.policy = write.page(None), write.policy()
    tab.events.clear()
    tab.call("Page.navigate", url=running.server.address)
    tab.wait(f"window.gridiron && {STORE} && {STORE}.count === 3")
    assert tab.js("location.search") == "" and running.server.guard.token not in tab.js("document.cookie")
    yield tab
    assert tab.complaints() == []
    tab.call("Page.navigate", url="about:blank")


def test_page_follows_the_files(page: Tab, batch: str) -> None:
    page.js(f"{STORE}.set({{filter: 'base_lr=0.5'}})")
    page.js(f"{STORE}.select([2])")
    append_epochs(batch, 2, 5)
    page.wait(f"{STORE}.curve('val/last/accuracy', 2).epoch.length === 5")
    Path(append_epochs(batch, 2, 6), run_folder.DONE).write_text("completed\n")
    page.wait(f"{STORE}.runs.state[2] === 'done' && {STORE}.curve('val/last/accuracy', 2).epoch.length === 6")
    make_run(batch, 1000, {**DIGITS, "base_lr": 0.7}, end=None)
    page.wait(f"{STORE}.count === 4")
    assert page.js(f"[...{STORE}.selected].join()") == "2"
    assert page.js(f"{STORE}.settings.filter") == "base_lr=0.5"


def test_note_of_the_page_is_stored(page: Tab, batch: str) -> None:
    answer = page.js("gridiron.live.note(0, '<b>0.5</b> is best').then(answer => answer.notes[0].text)")
    assert answer == "<b>0.5</b> is best" == notes.read(batch)[0].text
    page.wait(f"{STORE}.document.batches[0].notes.length === 1")
