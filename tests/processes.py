"""Several processes that train together, forked from this one and joined through Gloo: they begin in milliseconds."""
from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # DistributedDataParallel imports it: once here, and not in each process

from src.config import Config
from src.training.parallel.distributed import Alone, Place, joined

os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")



def together(size: int, folder: Path, work: Callable[[Alone], Any], config: Config | None = None) -> list[Any]:
    """What `work` gave in each of so many processes; tensors, numbers and strings. Fails with the first traceback."""
    folder.mkdir(parents=True, exist_ok=True)
    children = [_fork(rank, size, folder, work, config or Config()) for rank in range(size)]
    end = time.monotonic() + 120
    left = dict(enumerate(children))
    try:
        while left:
            for rank, pid in list(left.items()):
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    del left[rank]
                    assert status == 0, (folder / f"error-{rank}").read_text()
            assert time.monotonic() < end, f"processes {list(left)} do not end"
            time.sleep(0.005)
    finally:
        for pid in left.values():
            os.kill(pid, 9)
            os.waitpid(pid, 0)
    return [torch.load(folder / f"result-{rank}", weights_only=True) for rank in range(size)]


def _fork(rank: int, size: int, folder: Path, work: Callable[[Alone], Any], config: Config) -> int:
    if pid := os.fork():
        return pid
    try:
        with joined(config, Place(rank, size, rank, str(folder), of_one_node=True)) as team:
            torch.save(work(team), folder / f"result-{rank}")
        os._exit(0)
    except BaseException:
        (folder / f"error-{rank}").write_text(traceback.format_exc())
    finally:
        os._exit(1)
