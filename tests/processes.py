"""Processes that train together, forked from this one and connected by Gloo, so that they start in milliseconds."""
from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # DistributedDataParallel imports it: once here instead of in each process

from src.config import Config
from src.training.parallel.distributed import SingleProcess, join_processes
from src.training.parallel.rendezvous import ProcessInfo

os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")


def run_processes(world_size: int, folder: Path, work: Callable[[SingleProcess], Any],
                  config: Config | None = None) -> list[Any]:
    """Call `work` in each process of a group. Returns the results by rank: tensors, numbers and strings.

    Fails with the traceback of the first process that fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    running = {rank: _fork(rank, world_size, folder, work, config or Config()) for rank in range(world_size)}
    deadline = time.monotonic() + 300
    try:
        while running:
            for rank, pid in list(running.items()):
                ended_pid, status = os.waitpid(pid, os.WNOHANG)
                if ended_pid:
                    del running[rank]
                    assert status == 0, (folder / f"error-{rank}").read_text()
            assert time.monotonic() < deadline, f"processes {list(running)} still run after 120 s"
            time.sleep(0.005)
    finally:
        for pid in running.values():
            os.kill(pid, 9)
            os.waitpid(pid, 0)
    return [torch.load(folder / f"result-{rank}", weights_only=True) for rank in range(world_size)]


def _fork(rank: int, world_size: int, folder: Path, work: Callable[[SingleProcess], Any], config: Config) -> int:
    """Start the process of a rank. Returns its process id."""
    if pid := os.fork():
        return pid
    try:
        with join_processes(config, ProcessInfo(rank, world_size, rank, str(folder), is_single_node=True)) as team:
            torch.save(work(team), folder / f"result-{rank}")
        os._exit(0)
    except BaseException:
        (folder / f"error-{rank}").write_text(traceback.format_exc())
    finally:
        os._exit(1)
