"""Fetching results: a real rsync, whose ssh is a script that runs the other side here."""
from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

import experiments
from src import run_folder
from src.errors import BatchError
from src.submission.sync import rsync_command
from tests.analysis.make_batch import make_batch

SSH = """#!/bin/bash
[[ $1 == cluster ]] || exit 7
shift
exec bash -c "$*"
"""


def test_the_words_of_the_command() -> None:
    command = rsync_command("me@cluster:my results/x", "results", "gridiron")
    assert command[0] == "rsync" and command[-3:] == ["--", "me@cluster:my results/x/", "results/"]
    assert "--exclude=*.pt" in command and not any("delete" in word for word in command)
    assert rsync_command("cluster", "here", "my fork")[-2] == "cluster:my fork/results/"
    assert "--exclude=*.pt" not in rsync_command("cluster", "here", "x", checkpoints=True)


@pytest.mark.parametrize("source", ["", ":folder", "-oProxyCommand=x:y", "a b:c"])
def test_what_is_no_host_is_refused(source: str) -> None:
    with pytest.raises(BatchError, match="names no machine"):
        rsync_command(source, "results", "gridiron")


@pytest.mark.skipif(shutil.which("rsync") is None, reason="rsync is not installed here")
def test_fetched_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    there = tmp_path / "my cluster"
    there.mkdir()
    run = Path(make_batch(there)) / run_folder.run_names(there / "26-11-20-digits")[0]
    (run / run_folder.BEST_CHECKPOINT).write_bytes(b"large")
    (run / ".half").write_text("x")
    (tmp_path / "ssh").write_text(SSH)
    (tmp_path / "ssh").chmod(0o755)
    monkeypatch.setenv("RSYNC_RSH", str(tmp_path / "ssh"))
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    assert experiments.main(["sync", f"cluster:{there}"]) == 0
    assert "results: 1 batch, 12 runs, 12 ended" in capsys.readouterr().out
    here = Path("results", "26-11-20-digits", run.name)
    assert sorted(os.listdir(here)) == sorted({*os.listdir(run)} - {run_folder.BEST_CHECKPOINT, ".half"})
    with open(run / run_folder.STATS, "a", encoding="utf-8") as file:
        file.write("99\n")
    assert experiments.main(["sync", f"cluster:{there}", "--checkpoints"]) == 0
    assert (here / run_folder.BEST_CHECKPOINT).exists()
    assert (here / run_folder.STATS).read_text().endswith("99\n")
    assert experiments.main(["sync", "elsewhere:x"]) == 2
    assert "rsync ended with" in capsys.readouterr().err
    monkeypatch.setenv("PATH", str(tmp_path))
    assert experiments.main(["sync", "cluster"]) == 2
    assert "rsync is not installed" in capsys.readouterr().err
