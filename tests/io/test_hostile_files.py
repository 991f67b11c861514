"""Files that were written in order to stop a reader: each is refused with a reason, quickly and in little memory."""
from __future__ import annotations

import contextlib
import json
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src import logs, metrics, run_folder
from src.analysis.reading.results import read_results
from src.analysis.reading.runs import find_runs
from src.errors import JobSpecError
from src.io import files, records, yaml_io
from src.submission.batch import journal
from src.submission.status import status
from src.submission.status.observe import observe
from tests.analysis.make_batch import DIGITS, make_batch

ALIASES = [", ".join([f"*b{level - 1}" if level else "*a"] * 9) for level in range(9)]
BOMBS = {
    "brackets": "a: " + "[" * 100_000, "braces": "{" * 100_000, "dashes": "- " * 100_000, "questions": "? " * 100_000,
    "aliases": "a: &a [1]\n" + "".join(f"b{n}: &b{n} [{text}]\n" for n, text in enumerate(ALIASES)),
    "merges": "a: &a {x: 1}\n" + "".join(f"b{n}: &b{n} {{<<: [{text}]}}\n" for n, text in enumerate(ALIASES)),
    "itself": "a: &a [*a]", "digits": "a: " + "9" * 5000, "hex": "a: 0x" + "f" * 1_000_000,
    "binary": "a: 0b" + "1" * 9999, "values": "a:\n" + "- 1\n" * 200_000}


def quickly(call: Callable[[], Any]) -> Any:
    """Return what a call returns, or the error that it raises. At most 2 s of this process and 200 MiB."""
    start, memory = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        return call()
    except Exception as error:
        return error
    finally:
        assert time.process_time() - start < 2
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 200 * 1024


@pytest.mark.parametrize("bomb", BOMBS)
def test_yaml_bombs_are_refused(bomb: str) -> None:
    for load in (lambda: yaml_io.load(BOMBS[bomb], "x.yaml"), lambda: yaml_io.load_flat(BOMBS[bomb], "x.yaml")):
        error = quickly(load)
        assert isinstance(error, JobSpecError) and "x.yaml" in str(error) and len(str(error)) < 300
    assert quickly(lambda: yaml_io.load_1_1(BOMBS[bomb])) is None or bomb in ("digits", "hex", "binary")


@pytest.mark.parametrize("text", ["[" * 100_000, "[" * 60 + "]" * 60, '{"a":' * 60 + "1" + "}" * 60, "9" * 5000,
                                  "[" + "[]," * 2_000_000 + "1]", '{"a": 1', "", "\ud800"])
def test_json_that_is_no_record_counts_as_missing(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(text.encode(errors="surrogatepass"))
    assert quickly(lambda: files.read_json(path)) is None
    assert quickly(lambda: files.read_json_lines(path)) == []


def make_special(path: Path, kind: str) -> None:
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "link of another user":
        target = path.with_name("private")
        target.write_text("a: 1\n")
        path.symlink_to(target)
        os.lchown(path, 12345, -1)
    elif kind == "terabyte":
        path.touch()
        os.truncate(path, 2**40)
    elif kind == "folder":
        path.mkdir()


SPECIAL = ("pipe", "device", "terabyte", "folder", "link of another user")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give links away")
@pytest.mark.parametrize("kind", SPECIAL)
def test_only_regular_files_of_limited_size_are_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"
    make_special(path, kind)
    assert isinstance(quickly(lambda: files.read_bytes(path)), OSError)
    assert isinstance(quickly(lambda: yaml_io.read_user_file(path)), JobSpecError)
    assert quickly(lambda: files.read_json(path)) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give links away")
@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("name", ["config.yaml", "stats.csv", "done", "spec.yaml", "attempt-0-0.json"])
def test_a_bad_file_leaves_out_its_run_alone(tmp_path: Path, name: str, kind: str) -> None:
    batch = make_batch(tmp_path, [{**DIGITS, "base_lr": rate} for rate in (0.1, 0.2, 0.3)], epochs=2)
    bad = Path(batch, run_folder.run_names(batch)[1])
    make_special(bad / name, kind)
    read = quickly(lambda: read_results(batch))
    if name in ("config.yaml", "stats.csv", "done"):
        assert len(read.config) == 2
        assert [(Path(folder).name, reason.startswith(name)) for folder, reason in read.skipped] == [(bad.name, True)]
        assert len(quickly(lambda: find_runs({}, batch))) == 2
    observation, = quickly(lambda: observe([batch]))
    assert len(observation.runs) == 3
    text = quickly(lambda: status.render([observation]))
    if name in ("stats.csv", "done"):
        assert f"{name} cannot be read" in text
    json.dumps(quickly(lambda: status.as_json(observation)))


@pytest.mark.parametrize(("pattern", "column"), [
    ("(a+)+$", "a" * 40 + "b"), ("(a|a)*$", "a" * 50 + "b"), ("a?" * 30 + "a" * 30, "a" * 30), (".*.*.*.*x", "a" * 200),
    (r"(a*)*\1", "a" * 40), ("(?=(a+)+$)", "a" * 40 + "b"), ("(a|a)" * 30 + "b", "a" * 30), ("(" * 500, "a"),
    ("a{9999999}", "a"), ("(((a{99}){99}){99}){99}", "a")])
def test_slow_patterns_are_plain_names(pattern: str, column: str) -> None:
    assert quickly(lambda: metrics.Metric(pattern).names(column)) is False
    assert metrics.Metric(pattern).names(pattern)


def test_long_errors_are_grouped_quickly() -> None:
    assert len(quickly(lambda: logs.normalize_error("-" * 150_000))) <= 500
    assert len(quickly(lambda: logs.normalize_error("a/" * 75_000))) <= 500


def test_tables_with_too_many_columns_are_left_out(tmp_path: Path) -> None:
    batch = make_batch(tmp_path, [{**DIGITS, "base_lr": rate} for rate in (0.1, 0.2, 0.3)], epochs=2)
    wide, many, _ = (Path(batch, name) for name in run_folder.run_names(batch))
    (wide / "stats.csv").write_text("epoch," + ",".join(map(str, range(500_000))) + "\n1" + ",1" * 500_000 + "\n")
    (many / "config.yaml").write_text("".join(f"k{number}: 1\n" for number in range(40_000)))
    read = quickly(lambda: read_results(batch))
    assert len(read.config) == 1
    assert [reason for _, reason in read.skipped] == [
        "stats.csv has 500,001 columns; at most 2,000 are read",
        "config.yaml has 40,000 parameters and facts; at most 2,000 are read"]


def test_names_in_journals_stay_in_the_batch(tmp_path: Path) -> None:
    """The tickets of a plan name run folders, which status reads and cancel acts on."""
    (tmp_path / "submissions").mkdir()
    plan = {"kind": "plan", "time": 1.0, "mode": "local", "who": {}, "way": "one each", "bounds": []}
    for number, name in enumerate(("../other", "/etc", "..", ".", "", "a/b", "a\0b")):
        (tmp_path / "submissions" / f"t-{number}.jsonl").write_text(json.dumps({**plan, "tickets": {name: 1}}) + "\n")
    assert journal.read_history(str(tmp_path)).tickets == {}
    (tmp_path / "submissions" / "t-9.jsonl").write_text(json.dumps({**plan, "tickets": {"000_a": 1}}) + "\n")
    assert list(journal.read_history(str(tmp_path)).tickets) == ["000_a"]


SCALARS = st.none() | st.booleans() | st.integers() | st.integers(10**300, 10**320) | st.floats() | st.text(max_size=9)
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
    st.sampled_from(("who", "start", "end", "how", "error", "time", "kind", "tickets", "way", "bounds", "unit", "host",
                     "states", "slurm_job", "canaries", "code")) | st.text(max_size=3), inner, max_size=6),
    max_leaves=12)
PLAN = {"kind": "plan", "time": 1.0, "mode": "slurm", "who": {"host": "a", "pid": 1}, "way": "array", "bounds": [0, 2],
        "tickets": {"000_a": 1, "001_a": 2}, "code": "t-1", "canaries": {"c": [0]}}


@settings(max_examples=300)
@given(record=JSON, key=st.sampled_from(sorted(PLAN)), value=JSON)
def test_records_of_any_form_are_read(tmp_path_factory: pytest.TempPathFactory, record: Any, key: str, value: Any
                                      ) -> None:
    batch = tmp_path_factory.mktemp("batch")
    run = batch / "000_a"
    for folder in (batch / "submissions", run):
        folder.mkdir()
    (batch / "job.yaml").write_text("{}\n")
    (run / "spec.yaml").write_text("base_lr: 1.0\n")
    for name in ("claim-1", "attempt-1-0.json"):
        (run / name).write_text(json.dumps(record))
    answers = [{"kind": "job", "unit": 0, "time": 1.0, "slurm_job": "7"}, record,
               {"kind": "job", "unit": value, "time": record, "slurm_job": value}]
    (batch / "submissions" / "t-1.jsonl").write_text("".join(
        json.dumps(line) + "\n" for line in ({**PLAN, key: value}, *answers)))
    (batch / "submissions" / "from-far.json").write_text(json.dumps(
        {"host": "far", "time": 1.0, "journals": [], "states": {"000_a": ["done", ""]}, key: value}))
    (batch / "notes.jsonl").write_text(json.dumps(record) + "\n")
    history = journal.read_history(str(batch))
    assert all(records.is_name(name) for name in history.tickets)
    folder = run_folder.RunFolder.read(run)
    attempt = folder.last_attempt()
    assert attempt and (attempt["ticket"], attempt["number"]) == (1, 0)
    run_folder.identity(run)


@settings(max_examples=300)
@given(text=st.text(st.sampled_from("a1:-[]{}&*!<?,'\"| \n#%@\t\\.0xe\ud7ff\x85\u2028"), max_size=60))
def test_any_text_is_yaml_or_a_message(text: str) -> None:
    for load in (yaml_io.load, yaml_io.load_flat):
        with contextlib.suppress(JobSpecError):
            repr(load(text, "x.yaml"))
    yaml_io.load_1_1(text)


@settings(max_examples=100)
@given(cells=st.lists(st.lists(st.sampled_from(
    ("1", "2", "", "nan", "x", '"', '"a,b"', "1e999", "-", " 3", "_1", "\0")), max_size=5), max_size=6),
    header=st.sampled_from(("epoch,a,b", "epoch,a", "a,epoch", "epoch,,")))
def test_any_table_is_read(tmp_path_factory: pytest.TempPathFactory, cells: list[list[str]], header: str) -> None:
    batch = make_batch(tmp_path_factory.mktemp("results"), [DIGITS, DIGITS], epochs=1)
    first, _ = run_folder.run_names(batch)
    Path(batch, first, "stats.csv").write_text("\n".join([header, *map(",".join, cells), ""]))
    read = read_results(batch)
    assert len(read.config) == 2 and len(read.long) >= 1
    status.render(list(observe([batch])), curves=True)
