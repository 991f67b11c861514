"""The processes that train one run together, and how they exchange values; for a single process that is free."""
from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from src.checks import user_code
from src.config import Config
from src.errors import ConfigError
from src.training.parallel import rendezvous
from src.training.parallel.rendezvous import ProcessInfo
from src.training.setup.facts import choose_device, micro_batch_size

T = TypeVar("T")
CONTINUE, SAVE, EXIT = range(3)  # requests of a process after a step; all processes follow the highest one


class SingleProcess:
    """A group of one process, which exchanges nothing.

    device: of this process; None for that of the config.
    is_idle: whether this process computes only placeholder rows in the current micro-batch.
    """

    rank, size, is_first = 0, 1, True
    device: torch.device | None = None
    is_idle = False

    def broadcast(self, decide: Callable[[], T]) -> T:
        """Return in all processes what `decide` returns in the first. If it raises there, the others end too."""
        return decide()

    def agree_on(self, level: int) -> int:
        """Return the highest request of any process: CONTINUE, SAVE or EXIT. With several, that of the last call."""
        return level

    def max(self, number: int) -> int:
        """Return the largest of the numbers of all processes."""
        return number

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes: numbers, strings, tensors, and lists and mappings of them."""
        return [value]

    def gather_tensors(self, rows: Tensor) -> list[Tensor]:
        """Return the tensors of all processes, which have one shape, on their device."""
        return [rows]

    def sum(self, numbers: Tensor) -> Tensor:
        """Return the sum over all processes, on their device."""
        return numbers

    def broadcast_buffers(self, model: nn.Module) -> None:
        """Copy the first process's buffers, such as the running means of a batch norm, to all processes."""

    def sum_gradients(self, parameters: Iterable[Tensor], weight: float) -> None:
        """Replace gradients by the sum of those of all processes, each times its weight."""


SINGLE_PROCESS = SingleProcess()


class ProcessGroup(SingleProcess):
    """Several processes, all of which have to call the same methods in the same order."""

    def __init__(self, rank: int, size: int, device: torch.device) -> None:
        self.rank, self.size, self.is_first, self.device = rank, size, rank == 0, device
        self._request = torch.zeros((), dtype=torch.int64)
        self._exchange: dist.Work | None = None  # of the last request

    def close(self) -> None:
        """End the group once all processes are ready: a message that arrives while Python exits would abort Python."""
        self.max(0)
        if self._exchange:
            self._exchange.wait()
            self._exchange = None
        dist.barrier(device_ids=[self.device.index] if self.device and self.device.type == "cuda" else None)
        dist.destroy_process_group()

    def broadcast(self, decide: Callable[[], T]) -> T:
        if self.is_first:
            value = decide()
            packed = _pack(value)
            dist.broadcast(torch.tensor([len(packed)]), 0)
            dist.broadcast(packed, 0)
            return value
        size = torch.zeros(1, dtype=torch.int64)
        dist.broadcast(size, 0)
        packed = torch.empty(int(size), dtype=torch.uint8)
        dist.broadcast(packed, 0)
        result: T = _unpack(packed)
        return result

    def agree_on(self, level: int) -> int:
        """Return the result of the exchange that the last call started on the CPU, and start another."""
        agreed = CONTINUE
        if self._exchange:
            self._exchange.wait()
            agreed = int(self._request)
        self._request = torch.tensor(level if level > agreed else CONTINUE)  # do not repeat a granted request
        self._exchange = dist.all_reduce(self._request, dist.ReduceOp.MAX, async_op=True)
        return agreed

    def max(self, number: int) -> int:
        largest = torch.tensor(number)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return int(largest)

    def gather(self, value: Any) -> list[Any]:
        packed = _pack(value)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(sizes, torch.tensor([len(packed)]))
        longest = int(max(sizes))
        rows = [torch.empty(longest, dtype=torch.uint8) for _ in range(self.size)]
        dist.all_gather(rows, torch.cat([packed, packed.new_zeros(longest - len(packed))]))
        return [_unpack(row[:int(size)]) for row, size in zip(rows, sizes, strict=True)]

    def gather_tensors(self, rows: Tensor) -> list[Tensor]:
        gathered = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(self.size)]
        dist.all_gather(gathered, rows.contiguous())
        return gathered

    def sum(self, numbers: Tensor) -> Tensor:
        total = numbers.clone()
        dist.all_reduce(total)
        return total

    def broadcast_buffers(self, model: nn.Module) -> None:
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)

    def sum_gradients(self, parameters: Iterable[Tensor], weight: float) -> None:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if not gradients:
            return
        flat = torch.cat([gradient.flatten() for gradient in gradients]) * weight
        dist.all_reduce(flat)
        for gradient, part in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))


def _pack(value: Any) -> Tensor:
    written = io.BytesIO()
    torch.save(value, written)
    return torch.frombuffer(written.getbuffer(), dtype=torch.uint8)


def _unpack(packed: Tensor) -> Any:
    return torch.load(io.BytesIO(packed.numpy().tobytes()), map_location="cpu", weights_only=True)


@contextlib.contextmanager
def join_processes(config: Config, info: ProcessInfo) -> Iterator[SingleProcess]:
    """Connect the processes of a start, by NCCL on GPUs and by Gloo on CPUs, and yield their group.

    ConfigError if the config cannot be trained by this number of processes.
    """
    if info.size == 1:
        yield SINGLE_PROCESS
        return
    device = _device(config, info)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    _check(config, info.size)
    store = rendezvous.meet(info)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", rank=info.rank,
                            world_size=info.size, timeout=rendezvous.TIMEOUT, store=store)
    rendezvous.remove_file(info)
    group = ProcessGroup(info.rank, info.size, device)
    yield group
    group.close()  # not after an error, when other processes may have died


def _device(config: Config, info: ProcessInfo) -> torch.device:
    """Return this process's GPU: that of its local rank, or the only one that it sees. The CPU is shared by all."""
    device = choose_device(config.device)
    if device.type == "cpu":
        return device
    if device.type != "cuda" or device.index is not None:
        raise ConfigError(f"{info.size} processes were started for this run, but {config.device} is one device",
                          where="device", allowed="auto, cuda or cpu")
    gpus = torch.cuda.device_count()
    if 1 < gpus <= info.local_rank:
        raise ConfigError(f"this is process {info.local_rank + 1} of its node, which has {gpus} GPUs", where="device",
                          hint="start one process per GPU")
    return torch.device("cuda", info.local_rank if gpus > 1 else 0)


def _check(config: Config, size: int) -> None:
    if not config.multi_gpu:
        raise ConfigError(f"{size} processes were started for a run that allows one", where="multi_gpu",
                          hint="start one process, or set it to true")
    if micro_batch_size(config) < size:
        split = f" in {config.grad_accum_steps} micro-batches" if config.grad_accum_steps > 1 else ""
        raise ConfigError(f"{config.batch_size} samples per step{split} are too few for {size} processes",
                          where="batch_size", hint="it is the number of samples in all processes together")


def max_processes(config: Config) -> int:
    """Return how many processes can train a config, each with at least one sample of each micro-batch."""
    if not config.multi_gpu or config.task and not getattr(
            user_code.load(config.task, "task"), "several_processes", False):
        return 1
    return micro_batch_size(config)


def is_peer_loss(error: BaseException) -> bool:
    """Return whether an error means that another process has died, and not that this one has failed."""
    message = str(error)
    return isinstance(error, (dist.DistNetworkError, dist.DistBackendError, dist.DistStoreError)) or isinstance(
        error, RuntimeError) and any(sign in message for sign in (
            "gloo/transport", "Connection closed by peer", "Connection reset by peer", "Broken pipe",
            "NCCL communicator was aborted", "remote process exited"))
