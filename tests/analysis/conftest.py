"""A browser for the tests of pages."""
from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest

from tests.analysis.chromium import Tab, chromium


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    """A page of headless Chromium; the test is skipped where there is none."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        assert "CI" not in os.environ, "CI needs Chromium"
        pytest.skip("there is no Chromium here")
    with chromium(program, tmp_path_factory.mktemp("browser") / "profile") as opened:
        opened.call("Emulation.setFocusEmulationEnabled", enabled=True)
        opened.resize(1280, 900)
        yield opened
