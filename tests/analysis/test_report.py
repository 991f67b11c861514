"""The HTML report: self-contained, escaped, with failures and their reasons."""
from __future__ import annotations

import base64
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from src import run_folder
from src.analysis.page import failures
from src.analysis.reading.results import read_results
from src.analysis.report import build_report, write_report
from src.errors import ResultsError
from src.submission.status import efficiency, retry_policy, states
from tests.analysis.make_batch import DIGITS, curves, grid, make_batch, make_empty_batch, make_run

EVIL = '"><script>alert(1)</script>'
TWO = grid({"base_lr": [0.1, 1.0]}, **DIGITS)
VOID = {"meta", "img", "input", "br", "link"}


class Page(HTMLParser):
    """Tags with their attributes, the text of each cell, and whether tags are closed in order."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.source = Path(path).read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.texts)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def assert_self_contained(page: Page) -> None:
    """Nothing is fetched: no link, and every source is in the file itself. One script, ours."""
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form")
        assert "href" not in attributes
        assert (attributes.get("src") or "data:").startswith("data:")
        assert not [name for name in attributes if name.startswith("on")]
    assert page.count("script") == 1
    assert not re.search(r"url\(|@import|https?://", page.source)


def test_report_on_a_grid_has_all_sections(tmp_path: Path) -> None:
    batch = make_batch(tmp_path)
    path = write_report(batch)
    assert path == f"{batch}/report.html"
    page = Page(path)
    assert_self_contained(page)
    for text in ("26-11-20-digits", "Varying parameters", "base_lr", "Best runs", "Learning curves", "val accuracy",
                 "Metric against each parameter", "12", "runs read", "completed"):
        assert text in page.text
    assert f"python experiments.py reproduce {batch}/011_digits+mod=tiny-lenet+bas=1.0+ave=poly_8 --run" in page.text
    assert page.count("img") == 2 + 3 + 3  # curves; model, base_lr and averaging; the pairs of these
    assert page.count("tr") >= 12 + 10
    assert "Failed" not in page.text and "Left out" not in page.text


def test_figures_are_svg_without_scripts(tmp_path: Path) -> None:
    page = Page(write_report(make_batch(tmp_path, TWO)))
    for _, attributes in (tag for tag in page.tags if tag[0] == "img"):
        head, _, data = str(attributes["src"]).partition(",")
        picture = base64.b64decode(data)
        assert head == "data:image/svg+xml;base64"
        assert b"</svg>" in picture and b"<script" not in picture
        assert attributes["alt"]


def test_all_texts_are_escaped(tmp_path: Path) -> None:
    batch = make_empty_batch(tmp_path, f"26-11-20-{EVIL.replace('/', '')}{{{{body}}}}")
    for index, spec in enumerate(TWO):
        make_run(batch, index, {**spec, "wandb_project_name": f"{EVIL}{index}"}, stats=curves(spec, 3, index))
    make_run(batch, 2, {}, end=None, error=f"Traceback\nValueError: {EVIL}")
    make_run(batch, 3, {}, config=f"a: [{EVIL}\n")
    page = Page(write_report(batch, status=[{"run": EVIL, "batch": batch, "state": EVIL, "why": EVIL}]))
    assert_self_contained(page)
    assert page.source.count("alert(1)") > 4
    assert EVIL not in page.source
    assert EVIL in page.text
    page = Page(write_report(batch))
    assert_self_contained(page)
    assert f"ValueError: {EVIL}" in page.text


def test_failed_and_skipped_runs_are_listed(tmp_path: Path) -> None:
    batch = make_batch(tmp_path, TWO)
    make_run(batch, 20, {}, stats="epoch,train/loss\n1,2.0\n", end=None, error="Traceback …\nRuntimeError: no memory")
    make_run(batch, 21, {}, config="# nothing\n", end=None)
    make_run(batch, 22, {}, end=run_folder.DIVERGED)
    text = Page(write_report(batch)).text
    for part in ("Failed runs (1)", "RuntimeError: no memory", "Left out (1)", "config.yaml is empty", "diverged"):
        assert part in text
    assert "Traceback" not in text


def test_failures_are_grouped_with_the_end_of_a_log(tmp_path: Path) -> None:
    batch = make_batch(tmp_path, TWO)
    folders = [make_run(batch, index, {}, end=None, error=f"RuntimeError: no memory for {index} MiB")
               for index in range(20, 60)]
    Path(folders[3], run_folder.LOCAL_LOG).write_text("  0%|\r 10%|   \nTraceback (most recent …):\n<b>RuntimeError")
    other = make_run(batch, 60, {}, end=None, error="ValueError: no")
    page = Page(write_report(batch))
    assert re.search("40 +failed: +RuntimeError: no memory for 20 MiB.* 1 +failed: +ValueError: no", page.text, re.S)
    assert "… and 30 more" in page.text and "No log" in page.text
    status = [{"run": os.path.basename(one), "batch": batch, "state": state, "why": "no"} for one, state in (
        (folders[3], "failed"), (other, "timeout"), (f"{batch}/070_x", "running"))]
    page = Page(write_report(batch, status=status))
    assert "10%|\nTraceback (most recent …):\n<b>RuntimeError" in page.text
    assert "Failed runs (2)" in page.text and "Not ended (1)" in page.text


def test_states_cover_those_of_status() -> None:
    assert {*failures.ACTIVE, *failures.ENDED} - {run_folder.COMPLETED} == set(states.ALL) - retry_policy.UNSUCCESSFUL


def test_used_and_requested_resources_are_shown(tmp_path: Path) -> None:
    batch = make_batch(tmp_path, TWO)
    assert "Resources" not in Page(write_report(batch, resources={batch: []})).text
    used = efficiency.Usage(jobs=2, memory=1 << 20, longest=600, cpu_used=600, cpu_allocated=1200,
                            requested_memory="8G", requested_time="60")
    text = Page(write_report(batch, resources={batch: used.resources()})).text
    for part in ("Resources used and requested", "1,024 MB", "8,192 MB", "12 %", "--sbatch mem=1300M", "50 %"):
        assert part in text


def test_heat_maps_of_the_parameters_with_the_most_values(tmp_path: Path) -> None:
    specs = grid({"base_lr": [0.1, 0.2, 0.3], "momentum": [0.0, 0.5, 0.8, 0.9], "model": ["linear", "tiny/lenet"],
                  "averaging": [None, "poly_8"]}, **DIGITS)
    page = Page(write_report(make_batch(tmp_path, specs, epochs=2)))
    alts = [attributes["alt"] for tag, attributes in page.tags if tag == "img"]
    assert alts[-3:] == ["momentum and base_lr", "momentum and model", "base_lr and model"]
    assert "Two parameters at once" not in Page(write_report(make_batch(tmp_path, TWO, name="26-11-20-two"))).text


def test_status_of_the_caller_is_shown(tmp_path: Path) -> None:
    batch = make_batch(tmp_path, TWO)
    status = [{"run": f"run{i}", "batch": batch, "state": state, "why": why, "left": None} for i, (state, why) in
              enumerate([("done", ""), ("running", ""), ("out_of_memory", "killed by Slurm")])]
    text = Page(write_report(batch, status=status)).text
    assert "Not ended (1)" in text and "Failed runs (1)" in text
    assert "killed by Slurm" in text and "out of memory" in text
    assert "run0" not in text and "run1" in text and "run2" in text


def test_report_of_several_batches_at_a_path(tmp_path: Path) -> None:
    batches = [make_batch(tmp_path, TWO, name=name) for name in ("26-01-01-a", "26-01-02-b")]
    path = write_report(batches, tmp_path / "both.html")
    assert path == str(tmp_path / "both.html")
    assert "26-01-01-a, 26-01-02-b" in Page(path).text


def test_report_says_that_a_test_split_chose(tmp_path: Path) -> None:
    batch = make_empty_batch(tmp_path)
    for index, value in enumerate((0.5, 0.75)):
        make_run(batch, index, {"base_lr": value}, stats=f"epoch,test/last/accuracy\n1,{value}\n")
    assert "Chosen by a test split: the best values are optimistic estimates." in Page(write_report(batch)).text


@pytest.mark.parametrize("runs", [0, 1])
def test_report_without_runs(tmp_path: Path, runs: int) -> None:
    batch = make_empty_batch(tmp_path)
    for index in range(runs):
        make_run(batch, index, {}, config=None, end=None)
    path = write_report(batch)
    assert path == f"{batch}/report.html"
    page = Page(path)
    assert_self_contained(page)
    assert "No run has been evaluated yet" in page.text


def test_report_on_several_batches_has_a_file_of_its_own(tmp_path: Path) -> None:
    first, second, third = (make_batch(tmp_path, [{"base_lr": 0.1}], f"26-11-2{number}-x") for number in range(3))
    assert write_report(first) == f"{first}/report.html"
    assert write_report([first, second]) == f"{first}/report-with-26-11-21-x.html"
    assert write_report([first, second, third]) == f"{first}/report-with-26-11-21-x-and-1-more.html"
    assert Page(f"{first}/report.html").text.count("26-11-21-x") == 0


def test_report_names_a_metric_that_no_run_has(tmp_path: Path) -> None:
    batch = make_empty_batch(tmp_path)
    make_run(batch, 0, {}, stats="")
    Path(batch, "job.yaml").write_text("job_details: {name: x, metric: val_loss}\n")
    assert "no run has val_loss, the metric that the job spec names: a program" in Page(write_report(batch)).text


def test_impossible_figure_is_replaced_by_the_reason(tmp_path: Path) -> None:
    batch = make_empty_batch(tmp_path)
    for index in range(30):
        make_run(batch, index, {"model": f"timm/m{index}"}, stats="epoch,val/last/loss\n1,nan\n")
    page = Page(write_report(batch))
    assert "No figure of learning curves, ranking metric: val/last/loss: not a number in any of 30 runs" in page.text
    assert_self_contained(page)


def test_report_of_no_batch_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ResultsError):
        write_report(tmp_path / "nowhere")


def test_idle_gpus_are_reported(tmp_path: Path) -> None:
    spec = {"base_lr": 0.1, "num_workers": 2}
    batch = make_empty_batch(tmp_path)
    header = "epoch,step,train/time,train/data_time,val/last/loss"
    make_run(batch, 0, spec, stats=f"{header},system/gpu\n1,5,9.0,8.0,0.5,23\n2,10,9.0,8.0,0.4,\n")
    make_run(batch, 1, spec, stats=f"{header}\n1,5,9.0,8.0,0.5\n")
    assert "<li>GPU 23 % busy: try num_workers 8</li>" in build_report(read_results(batch))
    make_run(batch, 2, spec, stats=f"{header},system/gpu\n1,5,9.0,8.0,0.5,99\n")
    assert build_report(read_results(batch)).count("% busy") == 1
