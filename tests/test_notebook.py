"""The notebook runs from start to end on a batch as the demo makes it, from any working directory."""
from __future__ import annotations

import tempfile
from pathlib import Path

import nbclient
import nbformat
import pytest
from jupyter_client import AsyncKernelManager

from tests.analysis.make_batch import make_batch

NOTEBOOK = Path(__file__).parent.parent / "notebooks" / "view_results.ipynb"


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")


def run(notebook: nbformat.NotebookNode, folder: Path) -> list[nbformat.NotebookNode]:
    """The outputs of all cells of the notebook, run in `folder`."""
    with tempfile.TemporaryDirectory() as sockets:  # that only this user can reach
        kernel = AsyncKernelManager(kernel_name="python3", transport="ipc", ip=f"{sockets}/kernel")
        resources = {"metadata": {"path": str(folder)}}
        nbclient.NotebookClient(notebook, km=kernel, timeout=120, resources=resources).execute()
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def read(batches: str | None) -> nbformat.NotebookNode:
    """The notebook, with its parameter set."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    cell = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    cell.source = f"batches = {batches!r}"
    return notebook


def test_it_runs_from_start_to_end_and_shows_pictures(tmp_path: Path) -> None:
    outputs = run(read(make_batch(tmp_path)), NOTEBOOK.parent)
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 5
    assert "12 runs of 26-11-20-digits" in outputs[0]["text"]
    assert not [output for output in outputs if output.get("name") == "stderr"]


def test_it_finds_project_and_newest_batch_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tmp_path / "a fork"
    (project / "notebooks").mkdir(parents=True)
    (project / "results").mkdir()
    (project / "src").symlink_to(NOTEBOOK.parent.parent / "src")
    make_batch(project / "results")
    monkeypatch.setenv("JPY_SESSION_NAME", str(project / "notebooks" / NOTEBOOK.name))
    notebook = read(None)
    del notebook.cells[5:]  # what follows the reading
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert "12 runs of 26-11-20-digits" in run(notebook, elsewhere)[-1]["text"]


def test_it_is_committed_without_outputs() -> None:
    cells = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    assert cells
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)
