"""What a model and this machine can take: the largest batch that survives a step, and the loaders that feed it best."""
from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from src.config import Config
from src.datasets.data import Batch, Lazy, Split
from src.datasets.on_device import OnDevice
from src.datasets.texts import Texts
from src.errors import ConfigError
from src.io import machine
from src.training.components import TrainingComponents
from src.training.experiment import Experiment
from src.training.steps.batches import shuffled_batches

# An estimate: what is kept for the backward pass, the gradients of it, and what single operations need.
_TIMES_SAVED, _SHARE_OF_MEMORY = 3, 0.8
_CLOSE = 20  # bisection ends within a 20th


def report(configs: Iterable[Config], most: int, build: Callable[[Config], TrainingComponents]) -> Iterator[str]:
    """What to write into a spec for the model of `configs` with the most parameters, a line at a time.

    most: samples in a batch at most. ConfigError if there is nothing to train on, or not even one sample fits.
    """
    distinct = {(config.task, config.model, str(config.model_kwargs), config.dataset): config
                for config in configs}.values()
    parts = max(map(build, distinct), key=lambda made: sum(weight.numel() for weight in made.model.parameters()))
    config, device, split = parts.config, parts.device, parts.data.splits.get("train")
    if split is None:
        raise ConfigError("there is no train split to take batches from", where="data_splits_map")
    of = f", the largest of {len(distinct)}" if len(distinct) > 1 else ""
    yield f"model        {config.model} on {config.dataset}{of}, on {device}"
    whole = dataclasses.replace(config, batch_size=most, grad_accum_steps=1, train_length=1)
    step = Experiment(dataclasses.replace(parts, config=whole)).try_step
    size = min(len(split), 64)
    batch = split.longest(size) if isinstance(split, Texts) else next(shuffled_batches(split, size, 0, device))
    good, bad = find_largest_batch(make_fit_check(step, batch, device), min(config.batch_size, 64), most)
    if not good:
        raise ConfigError(f"not even one sample of {config.dataset} fits {device} with {config.model}", where="model")
    yield f"batch_size   {good} fit" + (f", {bad} do not" if bad else ", and more were not tried")
    if isinstance(split, (Split, OnDevice, Texts)):
        yield "num_workers  of no use: the data is in memory"
        return
    rates = measure_loading_rates(lambda count: build(dataclasses.replace(config,
                                                                          num_workers=count)).data.splits["train"],
                    candidate_workers(machine.allotted_cpus()), min(good, len(split)), device)
    told = ", ".join(f"{count}: {rate:.4g}" for count, rate in rates.items())
    yield f"num_workers  {best_workers(rates)} of {machine.allotted_cpus()} CPUs; samples a second by loaders: {told}"


def find_largest_batch(fits: Callable[[int], bool], start: int, most: int) -> tuple[int, int | None]:
    """The largest size found that fits, within 5 %, and the smallest that did not (None: `most` fits).

    By doubling from `start`, or halving if that is too much, then bisection. 0 if not even 1 fits.
    """
    size = min(start, most)
    if fits(size):
        good, bad = size, None
        while good < most:
            size = min(2 * good, most)
            if not fits(size):
                bad = size
                break
            good = size
        if bad is None:
            return good, None
    else:
        bad, good = size, 0
        while bad > 1:
            if fits(bad // 2):
                good = bad // 2
                break
            bad //= 2
        if not good:
            return 0, bad
    while bad - good > max(1, good // _CLOSE):
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good, bad


def make_fit_check(step: Callable[[Batch], None], batch: Batch, device: torch.device) -> Callable[[int], bool]:
    """Whether `step`, forward, backward and update, survives so many samples: those of `batch`, again and again.

    On a CPU nothing fails in time: there a size fits if what it keeps for the backward pass, measured on two small
    batches, is an estimated third of four fifths of the memory that is available.
    """
    if device.type == "cpu":
        per_sample = bytes_per_sample(step, batch)
        room = machine.available_memory() * _SHARE_OF_MEMORY
        return lambda size: _TIMES_SAVED * per_sample * size <= room and _try(step, batch, size, device)
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
    """A batch of `size` samples: those of `batch`, over and over."""
    x, y = batch
    rows = torch.arange(size, device=y.device) % len(y)
    taken = {name: values[rows] for name, values in x.items()} if isinstance(x, Mapping) else x[rows]
    return taken, y[rows]


def bytes_per_sample(step: Callable[[Batch], None], batch: Batch) -> float:
    """What a sample adds to what autograd keeps for the backward pass, and the sample itself."""
    sizes = (2, 8)
    kept = []
    for size in sizes:
        seen: dict[int, int] = {}

        def keep(tensor: Tensor, seen: dict[int, int] = seen) -> Tensor:
            seen[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            step(repeat_samples(batch, size))
        x = repeat_samples(batch, size)[0]
        inputs = x.values() if isinstance(x, Mapping) else [x]
        kept.append(sum(seen.values()) + sum(values.numel() * values.element_size() for values in inputs))
    return max(1.0, (kept[1] - kept[0]) / (sizes[1] - sizes[0]))


def candidate_workers(most: int) -> list[int]:
    """1, 2, 4, … and `most`."""
    return sorted({most, *itertools.takewhile(lambda count: count < most, (2**power for power in range(20)))})


def measure_loading_rates(split_of: Callable[[int], Split | Lazy], counts: list[int], batch_size: int,
                          device: torch.device,
            seconds: float = 5.0) -> dict[int, float]:
    """Samples a second that a train split gives with each number of loader processes, after its first batch.

    split_of: the split with so many loaders.
    """
    found = {}
    for count in counts:
        batches: Iterator[Any] = shuffled_batches(split_of(count), batch_size, 0, device)
        next(batches)  # starts the loaders
        start, samples = perf_counter(), 0
        while perf_counter() - start < seconds:
            samples += len(next(batches)[1])
        found[count] = samples / (perf_counter() - start)
        if close := getattr(batches, "close", None):
            close()
    return found


def best_workers(rates: Mapping[int, float]) -> int:
    """The fewest loaders that are within 5 % of the best rate: more would only take memory."""
    return min(count for count, rate in rates.items() if rate >= 0.95 * max(rates.values()))
