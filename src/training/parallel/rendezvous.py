"""Connect the processes of a start: a store that all of them reach, and a wait that names the missing ones.

All waiting is done in Python, so that signals end it at once: they do not interrupt a wait of torch.distributed.
"""
from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch.distributed as dist

from src.errors import BatchError, listed
from src.io import files, slurm_environment

TIMEOUT = timedelta(minutes=30)  # another process may have to download the data first
SILENCE = 5.0  # seconds before the missing processes are named
_POLL_INTERVAL = 0.2  # seconds
_CONNECT_TIMEOUT = timedelta(seconds=2)  # of one try, which signals do not end


@dataclass(frozen=True)
class ProcessInfo:
    """A process among those of its start, and where they meet.

    local_rank: rank on its node.
    rendezvous_folder: one that all processes can access.
    rendezvous_name: of a file in it, which no other start uses.
    is_single_node: whether all processes run on this machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    rendezvous_folder: str | None = None
    rendezvous_name: str = "rendezvous"
    is_single_node: bool = False

    @property
    def path(self) -> str:
        """The path of the file by which the processes meet."""
        return os.path.join(self.rendezvous_folder or "", self.rendezvous_name)


class _Wait:
    """Waits for other processes in short steps. After a few seconds it names them, and in the end raises BatchError."""

    def __init__(self, info: ProcessInfo) -> None:
        self._info, self._start, self._is_silent = info, time.monotonic(), True

    def pause(self, find_missing: Callable[[], Sequence[int]], purpose: str) -> None:
        """Sleep for one step. find_missing: returns the ranks that are waited for; purpose: what they have to do."""
        waited = time.monotonic() - self._start
        if waited > TIMEOUT.total_seconds() or self._is_silent and waited > SILENCE:
            self._report(find_missing(), purpose, is_over=waited > TIMEOUT.total_seconds())
        time.sleep(_POLL_INTERVAL)

    def _report(self, missing: Sequence[int], purpose: str, is_over: bool) -> None:
        """Print who is waited for, or raise BatchError if the wait is over."""
        names = f"{'ranks' if len(missing) > 1 else 'rank'} {listed([*map(str, missing)], 8)}"
        if is_over:
            raise BatchError(f"{names} of {self._info.size} processes did not {purpose} in {TIMEOUT.seconds // 60} "
                             "minutes", where=self._info.rendezvous_folder or "", hint="see their logs for the reason")
        self._is_silent = False
        print(f"rank {self._info.rank} of {self._info.size} processes waits for {names} to {purpose}, at most "
              f"{TIMEOUT.seconds // 60} minutes; Ctrl-C ends it{_hint()}", flush=True)


def _hint() -> str:
    """Return how to train with one process where srun has started several, as `srun -n2 --pty bash` does."""
    setting = slurm_environment.single_process_setting()
    if not setting or "WORLD_SIZE" in os.environ:
        return ""
    return f". To train with this process alone: `{setting} python train.py …`"


def meet(info: ProcessInfo) -> dist.Store:
    """Return a store that all processes of the start have reached. BatchError if one does not within half an hour.

    On a single machine they find each other by a file. Otherwise by MASTER_ADDR and MASTER_PORT if they are set, as
    torchrun does; else the first process writes its address to the run folder.
    """
    wait = _Wait(info)
    if info.is_single_node:
        store: dist.Store = dist.FileStore(info.path, info.size)
    elif "MASTER_ADDR" in os.environ and "MASTER_PORT" in os.environ:
        store = _store_at_master(info, wait)
    else:
        store = _store_by_file(info, wait)
    try:
        _wait_for_all(store, info, wait)
    except BaseException:
        remove_file(info)
        raise
    return store


def _wait_for_all(store: dist.Store, info: ProcessInfo, wait: _Wait) -> None:
    keys = [f"arrived/{rank}" for rank in range(info.size)]
    store.set(keys[info.rank], "")
    while not store.check(keys):
        wait.pause(lambda: [rank for rank, key in enumerate(keys) if not store.check([key])], "join")


def _store_at_master(info: ProcessInfo, wait: _Wait) -> dist.Store:
    """Return a store at MASTER_ADDR: that of torchrun's agent if it has one, else of the first process."""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    if info.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != str(True):
        store = dist.TCPStore(host, port, info.size, True, TIMEOUT, wait_for_workers=False, multi_tenant=True)
    else:
        store = _connect(host, port, info, wait)
    # the agent's store outlives a start, and one process may train several runs
    start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "")
    return dist.PrefixStore(f"{info.path}/{start}", store)


def _store_by_file(info: ProcessInfo, wait: _Wait) -> dist.Store:
    assert info.rendezvous_folder is not None, "several processes need a common folder"
    if info.rank == 0:
        host = socket.gethostname()
        server = socket.create_server((host, 0))  # not on every address of the node
        port = server.getsockname()[1]
        store = dist.TCPStore(host, port, info.size, True, TIMEOUT, wait_for_workers=False,
                              master_listen_fd=server.detach())
        files.write_json(info.path, {"host": host, "port": port})
        return store
    while not (address := files.read_json(info.path)):
        wait.pause(lambda: [0], "write its address")
    return _connect(address["host"], address["port"], info, wait)


def _connect(host: str, port: int, info: ProcessInfo, wait: _Wait) -> dist.TCPStore:
    while True:
        try:
            store = dist.TCPStore(host, port, info.size, False, _CONNECT_TIMEOUT, wait_for_workers=False)
        except dist.DistNetworkError:
            wait.pause(lambda: [0], f"listen at {host}:{port}")
        else:
            store.set_timeout(TIMEOUT)
            return store


def remove_file(info: ProcessInfo) -> None:
    """Remove the file by which processes on several machines met. Called by the first process."""
    if info.rank == 0 and not info.is_single_node and os.path.exists(info.path):
        os.unlink(info.path)
