"""GPUs are selected by number or because they are free, and divided among slots."""
from __future__ import annotations

import os
from pathlib import Path

import pytest

from src.errors import JobSpecError
from src.submission.job.worker_child import gpu_share
from src.submission.system import gpus

# output of nvidia-smi on a machine with three GPUs, two of them in use
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
def test_free_gpus_are_chosen_and_busy_ones_explained() -> None:
    free, busy = gpus.choose_gpus("free")
    assert free == ["0"]
    assert busy == ["GPU 1 is busy: 20480 MiB in use by python (4711)", "GPU 2 is busy: 0 MiB in use by Xorg (4712)"]
    assert gpus.choose_gpus("2,1") == (["2", "1"], [])


@pytest.mark.usefixtures("nvidia_smi")
@pytest.mark.parametrize(("text", "error"), [("0,7", "no GPU 7"), ("all", "free"), ("1;2", "free"), ("", "free")])
def test_invalid_and_missing_gpus_are_refused(text: str, error: str) -> None:
    with pytest.raises(JobSpecError, match=error):
        gpus.choose_gpus(text)


def test_machine_without_gpus_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for text in ("free", "0"):
        with pytest.raises(JobSpecError, match="nvidia-smi lists no GPU"):
            gpus.choose_gpus(text)


@pytest.mark.parametrize(("gpu_numbers", "slots", "expected"), [
    (["0"], 3, [["0"], ["0"], ["0"]]), (["0", "1"], 2, [["0"], ["1"]]),
    (["0", "1", "2", "3"], 2, [["0", "2"], ["1", "3"]]), (["0", "1"], 4, [["0"], ["1"], ["0"], ["1"]]),
    (["0", "1"], 1, [["0", "1"]]), ([], 2, [[], []])])
def test_slots_get_gpus_of_their_own_while_there_are_enough(gpu_numbers: list[str], slots: int,
                                                            expected: list[list[str]]) -> None:
    assert [gpu_share(gpu_numbers, position, slots) for position in range(slots)] == expected
