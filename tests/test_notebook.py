"""The notebook and the plots of the gallery, on the results of a real grid, from any working directory."""
from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import nbclient
import nbformat
import pandas as pd
import pytest
from jupyter_client import AsyncKernelManager

from docs.pictures.draw import PICTURES, small_png
from src.analysis.plotting import plots
from src.analysis.reading.results import read_experiments
from tests.analysis.figures import assert_nothing_is_cut_off
from tests.analysis.make_batch import make_batch
from tests.conftest import ROOT

NOTEBOOK = ROOT / "notebooks" / "view_results.ipynb"
DRAWN = [path for path in sorted((ROOT / "docs" / "pictures").glob("*.png"))
         if path.stem.partition("-")[0] not in ("report", "search", "watch")]


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A batch of 32 small runs of digits, trained here: two models, rates, momenta and averagings, two seeds each."""
    results = tmp_path_factory.mktemp("digits")
    sets = ["model=[linear, tiny/lenet]", "base_lr=[0.0625, 0.125]", "momentum=[0.5, 0.9]",
            "seed_training=[0, 1]", "train_length=3", "metrics=[[tests.confusion:confusion_matrix]]",
            "system_metrics=0.1"]
    options = ["--local", "--workers", "2", "-y", "--output-dir", str(results)]
    done = subprocess.run([sys.executable, "submit_multiple.py", "jobs/digits-quickstart.yaml", *options,
                           *(word for one in sets for word in ("--set", one))], cwd=ROOT, capture_output=True,
                          text=True, timeout=240, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    batch, = results.iterdir()
    return str(batch)


@pytest.fixture(scope="module")
def digits_df(digits: str) -> pd.DataFrame:
    return read_experiments(digits)


def run(notebook: nbformat.NotebookNode, folder: Path) -> list[nbformat.NotebookNode]:
    """The outputs of all cells of the notebook, run in `folder`."""
    with tempfile.TemporaryDirectory() as sockets:  # that only this user can reach
        kernel = AsyncKernelManager(kernel_name="python3", transport="ipc", ip=f"{sockets}/kernel")
        resources = {"metadata": {"path": str(folder)}}
        client = nbclient.NotebookClient(notebook, km=kernel, timeout=300, resources=resources)
        client.owns_km = True  # so that it ends the kernel
        client.execute()
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def read(batches: str | None, save_to: Path | None = None) -> nbformat.NotebookNode:
    """The notebook, with its parameters set."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    cell = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    cell.source = f"batches = {batches!r}\nsave_to = {save_to and str(save_to)!r}"
    return notebook


def pictures(outputs: list[nbformat.NotebookNode]) -> int:
    return sum("image/png" in output.get("data", {}) for output in outputs)


def test_notebook_shows_and_saves_every_plot_of_a_real_grid(digits: str, tmp_path: Path) -> None:
    notebook = read(digits, tmp_path)
    outputs = run(notebook, NOTEBOOK.parent)
    assert "32 runs of " in outputs[0]["text"]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    calls = re.findall(r'^picture\("([\w-]+)", plots\.(\w+)', "\n".join(cell.source for cell in notebook.cells), re.M)
    shown = {draw for _, draw in calls}
    assert shown == {name for name in plots.__all__ if is_picture(name)}, "each function of plots has a cell"
    assert pictures(outputs) == len(calls)
    (page,) = (output["data"]["text/html"] for output in outputs if "srcdoc=" in output.get("data", {}).get(
        "text/html", ""))
    assert len(page) < 8_100_000 and "sandbox=" in page
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.{kind}" for name, _ in calls
                                                          for kind in ("png", "pdf")}


def test_notebook_prints_why_a_plot_is_not_possible(tmp_path: Path) -> None:
    outputs = run(read(make_batch(tmp_path)), NOTEBOOK.parent)
    said = "".join(output["text"] for output in outputs if output.get("name") == "stdout")
    assert "no run has measured system/memory; `system_metrics: 5` in the job spec" in said
    assert "this run has no arrays; set metrics" in said
    assert pictures(outputs) == 12
    assert not [output for output in outputs if output.get("name") == "stderr"]


def test_notebook_finds_project_and_newest_batch_from_elsewhere(tmp_path: Path,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    project = tmp_path / "a fork"
    (project / "notebooks").mkdir(parents=True)
    (project / "results").mkdir()
    (project / "src").symlink_to(NOTEBOOK.parent.parent / "src")
    make_batch(project / "results")
    monkeypatch.setenv("JPY_SESSION_NAME", str(project / "notebooks" / NOTEBOOK.name))
    notebook = read(None)
    del notebook.cells[7:]  # what follows the reading
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert "12 runs of 26-11-20-digits" in run(notebook, elsewhere)[-1]["text"]


def test_notebook_makes_the_results_of_the_demo_if_there_are_none(tmp_path: Path,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    project = tmp_path / "fork"
    project.mkdir()
    (project / "notebooks").mkdir()
    for name in ("src", "tests", "jobs"):
        (project / name).symlink_to(ROOT / name)
    (project / "submit_multiple.py").write_text("""\
import os, sys
from tests.analysis.make_batch import make_batch
assert os.path.isfile(sys.argv[1]) and "--yes" in sys.argv, sys.argv
os.makedirs(sys.argv[-1])
make_batch(sys.argv[-1], name="26-11-20-digits-quickstart")
""")
    monkeypatch.setenv("JPY_SESSION_NAME", str(project / "notebooks" / NOTEBOOK.name))
    monkeypatch.setenv("PYTHONPATH", str(project))
    notebook = read(None)
    del notebook.cells[7:]
    printed = "".join(output["text"] for output in run(notebook, project))
    assert "No results yet: training the 24 small models of the demo" in printed and "Done." in printed
    assert "12 runs of 26-11-20-digits-quickstart" in printed


def test_notebook_is_committed_without_outputs() -> None:
    cells = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    assert cells
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)
    assert max(cell.source.count("\n") for cell in cells) < 20, "short cells"


def is_picture(name: str) -> bool:
    return getattr(getattr(plots, name), "__annotations__", {}).get("return") == "Figure"


def test_gallery_shows_each_plot() -> None:
    gallery = (ROOT / "docs" / "gallery.md").read_text("utf-8")
    assert {path.stem for path in DRAWN} == set(PICTURES), "make pictures draws them"
    for path in DRAWN:
        assert f"(pictures/{path.name})" in gallery
        assert path.stat().st_size < 60_000
    for name in filter(is_picture, plots.__all__):
        assert f"`plots.{name}`" in gallery and name in {path.stem.partition("-")[0] for path in DRAWN}, name


@pytest.mark.parametrize("name", PICTURES)
def test_gallery_plots_are_drawn_from_a_real_grid(name: str, digits_df: pd.DataFrame) -> None:
    figure = PICTURES[name](digits_df)
    assert_nothing_is_cut_off(figure)
    assert small_png(figure).startswith(b"\x89PNG")
