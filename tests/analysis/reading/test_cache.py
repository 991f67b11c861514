"""Reads with a cache equal reads without one after any change of the folders."""
from __future__ import annotations

import itertools
import os
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from src import run_folder
from src.analysis.reading import cache, columns, raw_files, results
from src.analysis.reading.results import Results, read_results
from tests.analysis.make_batch import make_batch, make_empty_batch, make_run

HEADER = "epoch,step,timestamp,train/loss,val/last/accuracy\n"
STATS = (HEADER + "1,10,1.5,0.5,0.25\n2,20,2.5,0.25,0.75\n", HEADER + "1,10,1.5,0.5,\n2,20,2.5,nan,0.75\n3,30", HEADER,
         "", None, HEADER + "1,10,1.5,0.5\n2,20,2.5,inf,0.75\n2,20,9.5,0.125,0.5\n", "epoch,note\n1,warm\n2,\"a, b\"\n",
         "epoch,note,step\n1,7,1.5\n", "step,loss\n1,2\n", "loss,epoch,run\n0.5,1,3\n0.25,x,4\n0.25,2.5,4\n",
         "\x00\x00", "epoch,val/last/accuracy\n2,oops\n")
ODD = ("a: !!binary aGk=\n", "a: {1: b}\n")  # which JSON cannot hold
CONFIGS = ("", None, "a: 1\nnull_or_not: null\n", "a: 1.0\nb: [1, {c: 2}]\n", "a: true\nfacts: {host: x, of: {n: 1}}\n",
           "a: 12345678901234567890\nb: x\n", 'a: "\\ud800"\n', "a: .nan\nmodel: linear\n", *ODD,
           "broken: [\n", "# nothing\n", "end: 3\nfacts/host: y\n", "base_lr: null\nfacts: {host: null, classes: 3}\n")


@pytest.fixture(autouse=True)
def _of_small_batches_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MIN_RUNS", 1)
    monkeypatch.setattr(results, "_BLOCK", 3)


def age(folder: str, clock: Iterator[int]) -> None:
    """Every file below a folder was written long ago, none at the same time."""
    for path, _, names in os.walk(folder):
        for name in names:
            os.utime(os.path.join(path, name), ns=(0, 10**18 + next(clock)))


def assert_same(one: Results, other: Results) -> None:
    """Equal to the type of each cell."""
    assert one.skipped == other.skipped
    for left, right in ((one.config, other.config), (one.long, other.long)):
        pd.testing.assert_frame_equal(left, right, check_exact=True)
        for name in left:
            if left[name].dtype == object:
                assert list(map(exact, left[name].tolist())) == list(map(exact, right[name].tolist()))


def exact(value: Any) -> Any:
    """A value with its type, so that 1, 1.0 and true differ, and NaN is itself."""
    if isinstance(value, dict):
        return [(exact(key), exact(item)) for key, item in value.items()]
    return [*map(exact, value)] if isinstance(value, list) else (type(value), repr(value))


def write(path: str, text: str | None) -> None:
    """In place, so that the inode stays."""
    if text is None:
        Path(path).unlink(missing_ok=True)
    else:
        Path(path).write_text(text)


def change(batch: str, what: str, which: int, how: int, number: int) -> None:
    """Do something to one of the run folders."""
    runs = [os.path.join(batch, name) for name in run_folder.run_names(batch)]
    if what == "add" or not runs:
        make_run(batch, number, {"base_lr": how / 4}, stats=STATS[how % len(STATS)],
                 config=CONFIGS[which % len(CONFIGS)], end=(run_folder.COMPLETED, None, run_folder.DIVERGED)[how % 3])
        return
    run, other = runs[which % len(runs)], runs[how % len(runs)]
    stats = os.path.join(run, run_folder.STATS)
    if what == "delete":
        shutil.rmtree(run)
    elif what == "rename":
        os.rename(run, os.path.join(batch, f"{number:03d}_renamed"))
    elif what == "swap" and run != other:
        for name in (run_folder.CONFIG, run_folder.STATS):
            if os.path.exists(f"{run}/{name}") and os.path.exists(f"{other}/{name}"):
                os.rename(f"{run}/{name}", f"{batch}/aside")
                os.rename(f"{other}/{name}", f"{run}/{name}")
                os.rename(f"{batch}/aside", f"{other}/{name}")
    elif what == "truncate" and os.path.exists(stats):
        os.truncate(stats, os.path.getsize(stats) * (how % 4) // 4)
    elif what == "append":
        with open(stats, "a", encoding="utf-8") as file:
            file.write(("3,30,3.5,0.125,0.5\n", "3,30,", "\n", "4,40,4.5,x,0.5\n")[how % 4])
    else:
        name, texts = {"stats": (run_folder.STATS, STATS), "config": (run_folder.CONFIG, CONFIGS[1:]),
                       "done": (run_folder.DONE, (None, "", "completed\n", "diverged\n"))}.get(
                           what, (run_folder.SPEC, ("a: 1\n", "a: 2\nb: x\n", None)))
        write(os.path.join(run, name), texts[how % len(texts)])


def opened(read: Callable[[], object]) -> list[str]:
    """The names of the run folders whose files `read` opens."""
    names: list[str] = []
    read_run = raw_files.read_run
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(raw_files, "read_run", lambda folder, *rest: (names.append(os.path.basename(folder)),
                                                                    read_run(folder, *rest))[1])
        read()
    return names


def read_now(batch: str) -> list[str]:
    return opened(lambda: read_results(batch))


def test_first_read_opens_each_file_once_and_asks_for_no_other_status(tmp_path: Path,
                                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    """On a shared file system each call may take a millisecond."""
    batch = make_empty_batch(str(tmp_path))
    for index in range(100):
        make_run(batch, index, {"base_lr": index}, stats=STATS[0])
    calls: Counter[str] = Counter()

    def count(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **named: (calls.update([name]), function(*args, **named))[1]
    for name in ("open", "fstat", "read", "close", "stat"):
        monkeypatch.setattr(os, name, count(name, getattr(os, name)))
    assert len(read_results(batch).config) == 100
    assert all(300 <= calls[name] < 350 for name in ("open", "fstat", "read", "close")) and calls["stat"] < 100, calls


CHANGES = st.tuples(st.sampled_from(["add", "add", "delete", "rename", "swap", "truncate", "append", "stats", "config",
                                     "done", "spec"]), st.integers(0, 50), st.integers(0, 50))


# without shrinking: an example takes a second
@settings(max_examples=8, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(st.lists(st.lists(CHANGES, min_size=1, max_size=4), max_size=5), st.booleans())
def test_cached_read_equals_uncached_read(tmp_path_factory: pytest.TempPathFactory, rounds: list[list[Any]],
                                      only_done: bool) -> None:
    clock, numbers = itertools.count(), itertools.count()
    batch = make_empty_batch(tmp_path_factory.mktemp("cache"))
    for number in range(len(CONFIGS)):
        make_run(batch, next(numbers), {}, stats=STATS[number % len(STATS)], config=CONFIGS[number % len(CONFIGS)])
    age(batch, clock)
    for changes in [[], *rounds]:
        before = {path: os.stat(path).st_mtime_ns for path in map(str, Path(batch).rglob("*.*"))}
        for what, which, how in changes:
            change(batch, what, which, how, next(numbers))
        for path in map(str, Path(batch).rglob("[a-z]*")):
            if os.path.isfile(path) and os.stat(path).st_mtime_ns != before.get(path):
                os.utime(path, ns=(0, 10**18 + next(clock)))
        cold = read_results(batch, only_done, cache=False)
        assert_same(read_results(batch, only_done), cold)
        assert_same(read_results(batch, only_done), cold)
        left_out = {os.path.basename(folder) for folder, _ in cold.skipped}
        for name in set(opened(lambda: read_results(batch, only_done))) - left_out:
            assert Path(batch, name, run_folder.CONFIG).read_text() in ODD
    assert_same(read_results(batch), read_results(batch, cache=False))


def test_only_what_changed_is_read(tmp_path: Path) -> None:
    batch, clock = make_batch(tmp_path), itertools.count()
    age(batch, clock)
    names = run_folder.run_names(batch)
    assert read_now(batch) == names
    assert read_now(batch) == []
    for position in range(12):  # again and again, until the parts are put together
        age(os.path.join(batch, names[position]), clock)
        assert read_now(batch) == [names[position]]
        assert len(os.listdir(cache.cache_dir(batch))) <= 2 * 8
    assert read_now(batch) == []
    assert_same(read_results(batch), read_results(batch, cache=False))


def test_recent_file_is_read_again(tmp_path: Path) -> None:
    """Two writes within one tick of a file system's clock leave the same size and time."""
    batch, clock = make_batch(tmp_path), itertools.count()
    age(batch, clock)
    name = run_folder.run_names(batch)[3]
    stats = os.path.join(batch, name, run_folder.STATS)
    now = time.time_ns() - 10**9
    os.utime(stats, ns=(now, now))
    read_results(batch)
    text = Path(stats).read_text()
    Path(stats).write_text(text.replace("1", "2"))
    os.utime(stats, ns=(now, now))
    assert read_now(batch) == [name]
    assert_same(read_results(batch), read_results(batch, cache=False))


def test_reading_some_runs_keeps_the_cache_of_others(tmp_path: Path) -> None:
    batch, clock = make_batch(tmp_path), itertools.count()
    age(batch, clock)
    read_results(batch)
    some = [os.path.join(batch, name) for name in reversed(run_folder.run_names(batch)[2:7])]
    assert_same(read_results(some), read_results(some, cache=False))
    assert_same(read_results([*some, batch]), read_results([*some, batch], cache=False))
    assert read_now(batch) == []


@pytest.mark.parametrize("damage", [b"", b"PAR1", b"x" * 100])
def test_damaged_cache_is_rebuilt(tmp_path: Path, damage: bytes) -> None:
    batch, clock = make_batch(tmp_path), itertools.count()
    age(batch, clock)
    read_results(batch)
    for name in os.listdir(cache.cache_dir(batch)):
        Path(cache.cache_dir(batch), name).write_bytes(damage)
    assert len(read_now(batch)) == 12
    assert read_now(batch) == []
    assert_same(read_results(batch), read_results(batch, cache=False))


@pytest.mark.parametrize("seed", range(40))
def test_block_of_zeros_is_detected(tmp_path: Path, seed: int) -> None:
    """As a power cut may leave it."""
    batch = make_batch(tmp_path)
    age(batch, itertools.count())
    cold = read_results(batch)
    rng = random.Random(seed)
    path = Path(cache.cache_dir(batch), rng.choice(sorted(os.listdir(cache.cache_dir(batch)))))
    text = bytearray(path.read_bytes())
    start, length = rng.randrange(len(text)), rng.choice([1, 8, 512, 4096])
    text[start:start + length] = bytes(len(text[start:start + length]))
    path.write_bytes(text)
    assert_same(read_results(batch), cold)


def test_cache_of_other_code_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batch, clock = make_batch(tmp_path), itertools.count()
    age(batch, clock)
    read_results(batch)
    monkeypatch.setattr(cache, "_version", lambda: "another")
    assert len(read_now(batch)) == 12


def test_read_only_batch_is_cached_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batch, clock = make_batch(tmp_path), itertools.count()
    age(batch, clock)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(os, "access", lambda *_: False)
    read_results(batch)
    assert read_now(batch) == []
    assert not os.path.exists(os.path.join(batch, run_folder.READ_CACHE))
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    assert len(read_now(batch)) == 12


def plant(batch: str) -> None:
    """Change the values in a cache, as somebody could who can write to it."""
    cached, = cache.load(batch)
    for parameter in cached.config:
        cached.config[parameter] = np.full(len(cached), "planted", object)
    shutil.rmtree(cache.cache_dir(batch))
    cache.store(batch, [], (np.zeros(0, int), np.zeros(0, int)), cached, time.time_ns() + 10 * cache.RECENT_NS)
    assert "planted" in read_results(batch).config["model"].tolist(), "the cache is used"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("change", ["file", "folder", "group", "others", "link"])
def test_planted_cache_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    batch, clock = make_batch(tmp_path), itertools.count()
    age(batch, clock)
    expected = read_results(batch, cache=False)
    read_results(batch)
    plant(batch)
    folder = Path(batch, run_folder.READ_CACHE)
    if change == "file":
        for path in folder.iterdir():
            os.chown(path, 12345, -1)
    elif change == "folder":
        os.chown(folder, 12345, -1)
    elif change == "link":
        os.rename(folder, tmp_path / "elsewhere")
        os.symlink(tmp_path / "elsewhere", folder)
    else:
        os.chown(folder, -1, 12345)
        folder.chmod(0o775 if change == "group" else 0o757)
    assert_same(read_results(batch), expected)
    assert_same(read_results(batch), expected)
    is_private = change != "file"
    assert is_private == (cache.cache_dir(batch) != str(folder)) == any((tmp_path / "home").rglob("*.parquet"))


def test_reading_works_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batch, clock = make_batch(tmp_path), itertools.count()
    age(batch, clock)
    for name in ("pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, name, None)
    assert len(read_now(batch)) == 12
    assert len(read_now(batch)) == 12


def test_changing_a_frame_does_not_change_the_cache(tmp_path: Path) -> None:
    batch = make_batch(tmp_path)
    age(batch, itertools.count())
    for _ in range(2):
        long = read_results(batch).long
        long.loc[0, "train/loss"] = 7.0
        long["train/time"].to_numpy(copy=True)[0] = 1.0
        long.iloc[:, 3] += 1.0


def test_slow_disk_is_read_in_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = make_batch(tmp_path)
    cold = read_results(batch, cache=False)
    for name, value in (("SLOW_CALL_SECONDS", -1.0), ("_PROBES", 2), ("_BLOCK", 3)):
        monkeypatch.setattr(raw_files, name, value)
    assert_same(read_results(batch), cold)
    assert list(raw_files.map_ordered(lambda item: item * 2, range(11))) == [*range(0, 22, 2)]


def test_columns_are_assembled_by_run() -> None:
    def part(names: str, start: int) -> columns.Columns:
        texts = [raw_files.RunText(f"b/{name}", None, True, {"rate": start + i, name: i}, f"epoch,{name}",
                                   "".join(f"{row},{start + i + row / 8}\n" for row in range(i)).encode())
                 for i, name in enumerate(names)]
        return columns.parse(texts)

    parts = [part("abc", 10), part("de", 20)]
    result = columns.assemble(parts, np.array([1, 0, 0, 0, 1]), np.array([1, 2, 0, 1, 0]))
    assert result.names == ["e", "c", "a", "b", "d"]
    assert result.config["rate"].tolist() == [21, 12, 10, 11, 20]
    assert result.config["c"].tolist() == [None, 2, None, None, None]
    assert result.counts.tolist() == [1, 2, 0, 1, 0]
    np.testing.assert_array_equal(result.stats["c"], [np.nan, 12.0, 12.125, np.nan])
    np.testing.assert_array_equal(result.stats["e"], [21.0, np.nan, np.nan, np.nan])
