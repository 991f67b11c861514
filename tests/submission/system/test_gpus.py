"""GPUs are chosen by number or because nobody uses them, and shared out among slots."""
from __future__ import annotations

import os
from pathlib import Path

import pytest

from src.errors import JobSpecError
from src.submission.job.worker import gpu_share
from src.submission.system import gpus

# what nvidia-smi prints on a machine with three GPUs, of which the second trains something
NVIDIA_SMI = """#!/bin/sh
case "$1" in
*memory.used*) printf '0, 3\\n1, 20480\\n2, 0\\n';;
*index,uuid*) printf '0, GPU-a\\n1, GPU-b\\n2, GPU-c\\n';;
*) printf 'GPU-b, 4711, python\\nGPU-c, 4712, Xorg\\n';;
esac
"""


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "nvidia-smi"
    path.write_text(NVIDIA_SMI)
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


@pytest.mark.usefixtures("nvidia_smi")
def test_free_gpus_and_who_occupies_the_others() -> None:
    free, busy = gpus.choose_gpus("free")
    assert free == ["0"]
    assert busy == ["GPU 1 is busy: 20480 MiB in use by python (4711)", "GPU 2 is busy: 0 MiB in use by Xorg (4712)"]
    assert gpus.choose_gpus("2,1") == (["2", "1"], [])


@pytest.mark.usefixtures("nvidia_smi")
@pytest.mark.parametrize(("text", "words"), [("0,7", "no GPU 7"), ("all", "free"), ("1;2", "free"), ("", "free")])
def test_gpus_that_are_not_there(text: str, words: str) -> None:
    with pytest.raises(JobSpecError, match=words):
        gpus.choose_gpus(text)


def test_a_machine_without_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for text in ("free", "0"):
        with pytest.raises(JobSpecError, match="nvidia-smi finds no GPU"):
            gpus.choose_gpus(text)


@pytest.mark.parametrize(("there", "places", "expected"), [
    (["0"], 3, [["0"], ["0"], ["0"]]), (["0", "1"], 2, [["0"], ["1"]]),
    (["0", "1", "2", "3"], 2, [["0", "2"], ["1", "3"]]), (["0", "1"], 4, [["0"], ["1"], ["0"], ["1"]]),
    (["0", "1"], 1, [["0", "1"]]), ([], 2, [[], []])])
def test_places_get_gpus_of_their_own_while_there_are_enough(there: list[str], places: int,
                                                             expected: list[list[str]]) -> None:
    assert [gpu_share(there, position, places) for position in range(places)] == expected
