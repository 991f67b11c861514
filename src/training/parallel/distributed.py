"""The processes that train one run together, and what they agree on; a process that is alone agrees with itself."""
from __future__ import annotations

import contextlib
import io
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from src.checks import user_code
from src.config import Config
from src.errors import BatchError, ConfigError
from src.io import files
from src.training.setup.facts import choose_device, micro_batch_size

T = TypeVar("T")
CONTINUE, SAVE, EXIT = range(3)  # requests of a process after a step; all processes follow the highest one
RENDEZVOUS_TIMEOUT = timedelta(minutes=30)  # for the others: one may have to download the data first
_PAUSE = 0.2  # seconds between looks for the meeting


class SingleProcess:
    """One process: what all of them do together costs nothing."""

    rank, size, is_first = 0, 1, True
    device: torch.device | None = None  # None: as the config says
    is_idle = False  # whether the rows that this process computes now only stand in, for none that count

    def broadcast(self, decide: Callable[[], T]) -> T:
        """What the first process decides, or the error that it raises; the others leave with it."""
        return decide()

    def agree_on(self, level: int) -> int:
        """The most that a process wants, of GO_ON, SAVE and LEAVE; all are given the same. Waits for nobody."""
        return level

    def max(self, number: int) -> int:
        """The largest of the numbers of all processes."""
        return number

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes: numbers, strings, tensors, and lists and mappings of them."""
        return [value]

    def gather_tensors(self, rows: Tensor) -> list[Tensor]:
        """The tensors of all processes, of one shape, on their device."""
        return [rows]

    def sum(self, numbers: Tensor) -> Tensor:
        """The sum over all processes, on their device."""
        return numbers

    def broadcast_buffers(self, model: nn.Module) -> None:
        """Give all processes the buffers that the first has, as the running means of a batch norm."""

    def sum_gradients(self, parameters: Iterable[Tensor], share: float) -> None:
        """Make the gradients the sum of those of all processes, each times its share."""


SINGLE_PROCESS = SingleProcess()


class WorkerGroup(SingleProcess):
    """Several processes, each of which must call the same methods in the same order."""

    def __init__(self, rank: int, size: int, device: torch.device) -> None:
        self.rank, self.size, self.is_first, self.device = rank, size, rank == 0, device
        self._asked = torch.zeros((), dtype=torch.int64)
        self._answer: dist.Work | None = None

    def close(self) -> None:
        """Go separate ways, when all are ready: an answer that comes while Python ends would abort it."""
        self.max(0)
        if self._answer:
            self._answer.wait()
            self._answer = None
        dist.barrier(device_ids=[self.device.index] if self.device and self.device.type == "cuda" else None)
        dist.destroy_process_group()

    def broadcast(self, decide: Callable[[], T]) -> T:
        if self.is_first:
            value = decide()
            packed = _packed(value)
            dist.broadcast(torch.tensor([len(packed)]), 0)
            dist.broadcast(packed, 0)
            return value
        size = torch.zeros(1, dtype=torch.int64)
        dist.broadcast(size, 0)
        packed = torch.empty(int(size), dtype=torch.uint8)
        dist.broadcast(packed, 0)
        found: T = _unpacked(packed)
        return found

    def agree_on(self, level: int) -> int:
        """The answer is of the step before: the question goes round beside the training, on the CPU."""
        answer = CONTINUE
        if self._answer:
            self._answer.wait()
            answer = int(self._asked)
        self._asked = torch.tensor(level if level > answer else CONTINUE)  # what is granted is not asked again
        self._answer = dist.all_reduce(self._asked, dist.ReduceOp.MAX, async_op=True)
        return answer

    def max(self, number: int) -> int:
        largest = torch.tensor(number)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return int(largest)

    def gather(self, value: Any) -> list[Any]:
        packed = _packed(value)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(sizes, torch.tensor([len(packed)]))
        room = int(max(sizes))
        rows = [torch.empty(room, dtype=torch.uint8) for _ in range(self.size)]
        dist.all_gather(rows, torch.cat([packed, packed.new_zeros(room - len(packed))]))
        return [_unpacked(row[:int(size)]) for row, size in zip(rows, sizes, strict=True)]

    def gather_tensors(self, rows: Tensor) -> list[Tensor]:
        found = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(self.size)]
        dist.all_gather(found, rows.contiguous())
        return found

    def sum(self, numbers: Tensor) -> Tensor:
        total = numbers.clone()
        dist.all_reduce(total)
        return total

    def broadcast_buffers(self, model: nn.Module) -> None:
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)

    def sum_gradients(self, parameters: Iterable[Tensor], share: float) -> None:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if not gradients:
            return
        flat = torch.cat([gradient.flatten() for gradient in gradients]) * share
        dist.all_reduce(flat)
        for gradient, part in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))


def _packed(value: Any) -> Tensor:
    written = io.BytesIO()
    torch.save(value, written)
    return torch.frombuffer(written.getbuffer(), dtype=torch.uint8)


def _unpacked(packed: Tensor) -> Any:
    return torch.load(io.BytesIO(packed.numpy().tobytes()), map_location="cpu", weights_only=True)


@dataclass(frozen=True)
class ProcessInfo:
    """Of a process among those of its start. local_rank: on its node. meeting: a folder that all of them see; its name
    in it, `start`, is that of this start alone."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    meeting: str | None = None
    start: str = "meeting"
    is_single_node: bool = False


@contextlib.contextmanager
def join_processes(config: Config, place: ProcessInfo) -> Iterator[SingleProcess]:
    """The processes of a start, met and connected: through NCCL on GPUs, through Gloo on CPUs.

    ConfigError if the config cannot be trained by so many.
    """
    if place.size == 1:
        yield SINGLE_PROCESS
        return
    device = _device(config, place)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    _check(config, place.size)
    how = _meeting(place)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", rank=place.rank,
                            world_size=place.size, timeout=RENDEZVOUS_TIMEOUT, **how)
    if place.rank == 0 and "store" in how:
        os.unlink(os.path.join(place.meeting or "", place.start))
    group = WorkerGroup(place.rank, place.size, device)
    yield group
    group.close()  # not after an error: the others may be gone


def _device(config: Config, place: ProcessInfo) -> torch.device:
    """Each process's GPU: the one that it sees, or of several the one of its number; or the CPU for all."""
    device = choose_device(config.device)
    if device.type == "cpu":
        return device
    if device.type != "cuda" or device.index is not None:
        raise ConfigError(f"{place.size} processes were started for this run, and {config.device} is one device",
                          where="device", allowed="auto, cuda or cpu")
    there = torch.cuda.device_count()
    if 1 < there <= place.local_rank:
        raise ConfigError(f"this is process {place.local_rank + 1} of its node, which has {there} GPUs", where="device",
                          hint="start as many processes as there are GPUs")
    return torch.device("cuda", place.local_rank if there > 1 else 0)


def _check(config: Config, size: int) -> None:
    if not config.multi_gpu:
        raise ConfigError(f"{size} processes were started for a run that is to have one", where="multi_gpu",
                          hint="start one, or set it to true")
    if micro_batch_size(config) < size:
        pieces = f" in {config.grad_accum_steps} micro-batches" if config.grad_accum_steps > 1 else ""
        raise ConfigError(f"{config.batch_size} samples a step{pieces} are too few for {size} processes",
                          where="batch_size", hint="it counts the samples of all of them together")


def max_processes(config: Config) -> int:
    """So many can train a config together, each with a sample of each micro-batch."""
    if not config.multi_gpu or config.task and not getattr(
            user_code.load(config.task, "task"), "several_processes", False):
        return 1
    return micro_batch_size(config)


def _meeting(place: ProcessInfo) -> dict[str, Any]:
    """How processes find each other: by a file, where all are of this machine; as torchrun or the user's script says,
    by MASTER_ADDR and MASTER_PORT; else the first tells in the run's folder where it listens."""
    if place.is_single_node:
        return {"init_method": f"file://{place.meeting}/{place.start}"}
    if "MASTER_ADDR" in os.environ and "MASTER_PORT" in os.environ:
        return {"init_method": "env://"}
    assert place.meeting is not None, "several processes share a folder"
    path = os.path.join(place.meeting, place.start)
    if place.rank == 0:
        host = socket.gethostname()
        listening = socket.create_server((host, 0))  # there alone, and not on every address of the node
        port = listening.getsockname()[1]
        store = dist.TCPStore(host, port, place.size, True, RENDEZVOUS_TIMEOUT, wait_for_workers=False,
                              master_listen_fd=listening.detach())
        files.write_json(path, {"host": host, "port": port})
        return {"store": store}
    end = time.monotonic() + RENDEZVOUS_TIMEOUT.total_seconds()
    while not (there := files.read_json(path)):
        if time.monotonic() > end:
            raise BatchError("the first process did not say where it is", where=path, hint="its log says why")
        time.sleep(_PAUSE)
    return {"store": dist.TCPStore(there["host"], there["port"], place.size, False, RENDEZVOUS_TIMEOUT)}


def is_peer_loss(error: BaseException) -> bool:
    """Whether an error says that another process is gone, and nothing of this one."""
    words = str(error)
    return isinstance(error, (dist.DistNetworkError, dist.DistBackendError, dist.DistStoreError)) or isinstance(
        error, RuntimeError) and any(sign in words for sign in (
            "gloo/transport", "Connection closed by peer", "Connection reset by peer", "Broken pipe",
            "NCCL communicator was aborted", "remote process exited"))
