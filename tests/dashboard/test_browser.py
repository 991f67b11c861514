"""The live page in a browser: it follows the files, keeps what the user has chosen, and sends notes."""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from src import notes, run_folder
from src.analysis.page import write
from tests.analysis.chromium import Tab
from tests.analysis.conftest import tab
from tests.analysis.make_batch import DIGITS, curves, grid, make_batch, make_run
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


def test_page_shows_a_batch_that_is_submitted_later(page: Tab, running: Running, batch: str, tmp_path: Path) -> None:
    page.js(f"{STORE}.select([2])")
    key = page.js(f"{STORE}.runs.key[2]")
    later = make_batch(tmp_path, grid({"base_lr": [0.3]}, **DIGITS), "26-11-22-later", epochs=2)
    make_run(later, 1, {**DIGITS, "base_lr": 3.0}, stats=curves({"base_lr": 3.0}, 2), end=None)
    running.submitted.append(later)
    page.wait(f"{STORE}.count === 5")
    assert page.js(f"{STORE}.document.batches.map(batch => batch.name)") == [Path(batch).name, "26-11-22-later"]
    assert page.js(f"[...{STORE}.selected].map(run => {STORE}.runs.key[run])") == [key], "the same run stays selected"
    append_epochs(later, 1, 4)
    page.wait(f"{STORE}.curve('val/last/accuracy', 4).epoch.length === 4")


def test_note_of_the_page_is_stored(page: Tab, batch: str) -> None:
    answer = page.js("gridiron.live.note(0, '<b>0.5</b> is best').then(answer => answer.notes[0].text)")
    assert answer == "<b>0.5</b> is best" == notes.read(batch)[0].text
    page.wait(f"{STORE}.document.batches[0].notes.length === 1")
