"""The browser code of the charts: complete, in the package, and found without importing it."""
from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from src.analysis.page.write import library
from src.errors import ResultsError


def test_text_is_bokeh_with_its_plotting_interface() -> None:
    script = library()
    assert "Bokeh" in script and "Plotting" in script and script.endswith("\n")
    assert 1_000_000 < len(script) < 2_000_000


def test_bokeh_is_not_imported() -> None:
    program = "import sys; from src.analysis.page.write import library; library(); print('bokeh' in sys.modules)"
    process = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert process.stdout == "False\n"


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ResultsError, match=r"need the package bokeh; python -m pip install -r requirements\.lock"):
        library()
