"""Processes that wait for others name them, and stop at once on a signal."""
from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from src.errors import BatchError
from src.training.parallel import rendezvous
from src.training.parallel.rendezvous import ProcessInfo
from tests.conftest import ROOT

SPEC = ("dataset: sklearn/digits\nmodel: linear\nmodel_input_shape: [1, 8, 8]\ndata_splits_map: {train: train}\n"
        "train_length: 1\ndevice: cpu\nseed_model: 0\nseed_training: 0\n")
# as in a shell that `srun -n2 --pty bash` starts, and as torchrun's for a process whose first one does not start
SRUN = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0"}
FIRST_OF_TWO = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}


def start(folder: Path, environment: dict[str, str]) -> subprocess.Popen[str]:
    (folder / "run").mkdir()
    (folder / "run" / "spec.yaml").write_text(SPEC + f"data_dir: {folder}/data\n")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    return subprocess.Popen([sys.executable, str(ROOT / "train.py"), str(folder / "run" / "spec.yaml")],
                            env={**clean, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            cwd=ROOT)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize("environment", [SRUN, FIRST_OF_TWO], ids=["srun", "MASTER_ADDR"])
def test_process_that_waits_for_another_says_so_and_stops_at_once(environment: dict[str, str], number: signal.Signals,
                                                                  tmp_path: Path) -> None:
    process = start(tmp_path, environment)
    assert process.stdout is not None
    lines = []
    while "waits for" not in (line := process.stdout.readline()):
        assert line, "".join(lines)
        lines.append(line)
    assert "rank 0 of 2 processes waits for rank 1 to join, at most 30 minutes; Ctrl-C ends it" in line
    assert ("To train with this process alone: `SLURM_STEP_NUM_TASKS=1 python train.py …`" in line) == (
        environment is SRUN)
    sent = time.monotonic()
    process.send_signal(number)
    output, _ = process.communicate(timeout=300)
    assert time.monotonic() - sent < 10, "it ended late"
    assert process.returncode == 1
    is_scancel = environment is SRUN and number == signal.SIGTERM
    assert ("cancelled by scancel" if is_scancel else f"stopped by {number.name}") in output
    assert not list((tmp_path / "run").glob("meeting-*")), "the next start would read an old address"


def test_wait_ends_with_an_error_that_names_the_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                         capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(rendezvous, "TIMEOUT", timedelta(seconds=0.6))
    monkeypatch.setattr(rendezvous, "SILENCE", 0.1)
    with pytest.raises(BatchError, match="ranks 1, 2 of 3 processes did not join in 0 minutes"):
        rendezvous.meet(ProcessInfo(0, 3, 0, str(tmp_path)))
    assert "waits for ranks 1, 2 to join" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    with pytest.raises(BatchError, match="rank 0 of 3 processes did not write its address"):
        rendezvous.meet(ProcessInfo(1, 3, 0, str(tmp_path)))


@pytest.mark.parametrize("way", ["single node", "file", "MASTER_ADDR", "torchrun"])
def test_processes_meet_in_every_way_and_in_any_order(way: str, tmp_path: Path,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    import torch.distributed as dist

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    agent = dist.TCPStore("127.0.0.1", port, None, True, wait_for_workers=False) if way == "torchrun" else None
    for name, value in (("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", str(port)),
                        ("TORCHELASTIC_USE_AGENT_STORE", str(agent is not None))):
        if way in ("MASTER_ADDR", "torchrun"):
            monkeypatch.setenv(name, value)
        else:
            monkeypatch.delenv(name, raising=False)
    for name in ("first", "second"):  # one process may train several runs
        stores: dict[int, Any] = {}

        def meet(rank: int, name: str = name, stores: dict[int, Any] = stores) -> None:
            stores[rank] = rendezvous.meet(ProcessInfo(rank, 2, rank, str(tmp_path), name, way == "single node"))
        threads = [threading.Thread(target=meet, args=(rank,)) for rank in (1, 0)]
        for thread in threads:
            thread.start()
            time.sleep(0.3)
        for thread in threads:
            thread.join(120)
        stores[0].set("key", name)
        assert stores[1].get("key") == name.encode()
