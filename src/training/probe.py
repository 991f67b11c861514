"""Find the largest batch that fits the device, and the number of loader processes that is fastest on this machine."""
from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from src.config import Config
from src.datasets.data import Batch, Lazy, Split, select
from src.datasets.on_device import OnDevice
from src.datasets.texts import Texts
from src.errors import ConfigError
from src.io import machine
from src.training.components import TrainingComponents
from src.training.experiment import Experiment
from src.training.setup import summary
from src.training.steps.batches import shuffled_batches

# Estimated need of memory on a CPU: tensors saved for the backward pass, times 3 for their gradients and temporaries.
_TIMES_SAVED, _USABLE_MEMORY = 3, 0.8
_PRECISION = 20  # bisection ends within 1/20


def report(configs: Iterable[Config], max_size: int, build: Callable[[Config], TrainingComponents]) -> Iterator[str]:
    """Yield lines with a batch_size and num_workers for the model of `configs` with the most parameters.

    max_size: samples in a batch, at most. ConfigError if there is no train split, or if not even one sample fits.
    """
    distinct = {(config.task, config.model, str(config.model_kwargs), config.dataset): config
                for config in configs}.values()
    largest = max(map(build, distinct), key=lambda components: summary.count_parameters(components.model))
    config, device, split = largest.config, largest.device, largest.data.splits.get("train")
    if split is None:
        raise ConfigError("a train split is required", where="data_splits_map")
    note = f", the largest of {len(distinct)}" if len(distinct) > 1 else ""
    yield f"model        {config.model} on {config.dataset}{note}, on {device}"
    one_batch = config._replace(batch_size=max_size, grad_accum_steps=1, train_length=1)
    step = Experiment(dataclasses.replace(largest, config=one_batch)).try_step
    size = min(len(split), 64)
    batch = split.longest(size) if isinstance(split, Texts) else next(shuffled_batches(split, size, 0, device))
    fitting, too_large = find_largest_batch(make_fit_check(step, batch, device), min(config.batch_size, 64), max_size)
    if not fitting:
        raise ConfigError(f"not even one sample of {config.dataset} fits {device} with {config.model}", where="model")
    yield f"batch_size   {fitting} fit" + (f", {too_large} do not" if too_large else ", and more were not tried")
    if isinstance(split, (Split, OnDevice, Texts)):
        yield "num_workers  has no effect: the data is in memory"
        return

    def split_with_workers(count: int) -> Split | Lazy:
        return build(config._replace(num_workers=count)).data.splits["train"]

    rates = measure_loading_rates(split_with_workers, candidate_loader_counts(machine.allotted_cpus()),
                                  min(fitting, len(split)), device)
    rate_list = ", ".join(f"{count}: {rate:.4g}" for count, rate in rates.items())
    yield (f"num_workers  {best_loader_count(rates)} of {machine.allotted_cpus()} CPUs; samples per second by number "
           f"of loaders: {rate_list}")


def find_largest_batch(fits: Callable[[int], bool], start: int, max_size: int) -> tuple[int, int | None]:
    """Return the largest size that fits, within 5 %, and the smallest that did not (None if `max_size` fits).

    It doubles from `start`, or halves if that does not fit, then bisects. 0 if not even 1 fits.
    """
    size = min(start, max_size)
    if fits(size):
        fitting, too_large = size, None
        while fitting < max_size:
            size = min(2 * fitting, max_size)
            if not fits(size):
                too_large = size
                break
            fitting = size
        if too_large is None:
            return fitting, None
    else:
        too_large, fitting = size, 0
        while too_large > 1:
            if fits(too_large // 2):
                fitting = too_large // 2
                break
            too_large //= 2
        if not fitting:
            return 0, too_large
    while too_large - fitting > max(1, fitting // _PRECISION):
        middle = (fitting + too_large) // 2
        fitting, too_large = (middle, too_large) if fits(middle) else (fitting, middle)
    return fitting, too_large


def make_fit_check(step: Callable[[Batch], None], batch: Batch, device: torch.device) -> Callable[[int], bool]:
    """Return a function that decides whether `step` fits the device with a number of samples.

    It repeats the samples of `batch`.
    A CPU does not report a lack of memory in time. There a size fits if three times what it saves for the backward
    pass, measured on two small batches, is at most 80 % of the available memory.
    """
    if device.type == "cpu":
        per_sample = bytes_per_sample(step, batch)
        usable = machine.available_memory() * _USABLE_MEMORY
        return lambda size: _TIMES_SAVED * per_sample * size <= usable and _try(step, batch, size, device)
    return lambda size: _try(step, batch, size, device)


def _try(step: Callable[[Batch], None], batch: Batch, size: int, device: torch.device) -> bool:
    try:
        step(repeat_samples(batch, size))
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return True
    except torch.OutOfMemoryError:
        return False
    finally:
        if device.type == "cuda":
            torch.cuda.empty_cache()


def repeat_samples(batch: Batch, size: int) -> Batch:
    """Return a batch of `size` samples, which repeat those of `batch`."""
    x, y = batch
    rows = torch.arange(size, device=y.device) % len(y)
    return select(x, rows), y[rows]


def bytes_per_sample(step: Callable[[Batch], None], batch: Batch) -> float:
    """Return the size of a sample and of what autograd saves for its backward pass."""
    sizes = (2, 8)
    totals = []
    for size in sizes:
        saved: dict[int, int] = {}

        def record(tensor: Tensor, saved: dict[int, int] = saved) -> Tensor:
            saved[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
            step(repeat_samples(batch, size))
        x = repeat_samples(batch, size)[0]
        inputs = x.values() if isinstance(x, Mapping) else [x]
        totals.append(sum(saved.values()) + sum(values.numel() * values.element_size() for values in inputs))
    return max(1.0, (totals[1] - totals[0]) / (sizes[1] - sizes[0]))


def candidate_loader_counts(cpus: int) -> list[int]:
    """Return 1, 2, 4, … and `cpus`."""
    return sorted({cpus, *itertools.takewhile(lambda count: count < cpus, (2**power for power in range(20)))})


def measure_loading_rates(split_of: Callable[[int], Split | Lazy], counts: list[int], batch_size: int,
                          device: torch.device, seconds: float = 5.0) -> dict[int, float]:
    """Return the samples per second of a train split with each number of loader processes, after its first batch.

    split_of: returns the split with a number of loaders.
    """
    rates = {}
    for count in counts:
        batches: Iterator[Any] = shuffled_batches(split_of(count), batch_size, 0, device)
        next(batches)  # starts the loaders
        start, samples = perf_counter(), 0
        while perf_counter() - start < seconds:
            samples += len(next(batches)[1])
        rates[count] = samples / (perf_counter() - start)
        if close := getattr(batches, "close", None):
            close()
    return rates


def best_loader_count(rates: Mapping[int, float]) -> int:
    """Return the smallest number of loaders within 5 % of the best rate: more would only take memory."""
    return min(count for count, rate in rates.items() if rate >= 0.95 * max(rates.values()))
