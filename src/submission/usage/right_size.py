"""Compare what a submission requests with what similar runs used, and request that and a margin (--right-size)."""
from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from src import run_folder
from src.submission.batch import task_files, usage_history
from src.submission.batch.usage_history import RunUse
from src.submission.slurm import client, directives, sizes
from src.submission.slurm.sizes import Size
from src.submission.slurm.submit import SlurmOptions
from src.submission.spec.grammar import Spec
from src.submission.system.terminal import count
from src.submission.usage import costs
from src.submission.usage.job_usage import usage_of_jobs

_MOST_COMPARED = 2000  # runs of a grid that are compared with earlier ones, if no sizes are requested
_MOST_JOBS = 200  # that sacct is asked about
_ACCOUNTED = 90 * 86400  # seconds for which jobs are looked up in sacct
_BUDGETS = {True: 0.1, False: 0.5}  # seconds for reading earlier runs, in a dry run and otherwise
_Uses = dict[str, list[RunUse]]  # by usage_history.key_of


class Sizing(NamedTuple):
    """The sizes that runs need, by earlier ones.

    sizes: by usage_history.key_of
    lines: what the plan prints
    unknown: the names of the runs without a similar run
    """

    sizes: Mapping[str, Size] = {}
    lines: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    def with_waiting(self, number: int) -> Sizing:
        """Add a line about runs whose canaries must show first what they need."""
        lines = [line[10:].strip() for line in self.lines]
        return self._replace(lines=_labelled([*lines, f"{count(number, 'run')} will request what the canary uses: the "
                                              "same command submits them when it has ended, and --wait does so by "
                                              "itself"]))


def choose_sizes(specs: Mapping[str, Spec], options: SlurmOptions, batch: str, is_requested: bool,
                 dry_run: bool) -> Sizing:
    """Return what runs need, and lines that compare it with what they request.

    specs: of the runs to submit. is_requested: by --right-size; otherwise the lines only show what it would request.
    dry_run: read less, write no index, and do not call sacct.
    """
    compared = specs if is_requested else dict(list(specs.items())[:_MOST_COMPARED])
    spec_of_key = {usage_history.key_of(spec): spec for spec in compared.values()}
    uses = _read_uses(spec_of_key, batch, dry_run)
    needed = {key: size for key, runs in uses.items() if (size := _size(runs, spec_of_key[key])) != sizes.NO_SIZE}
    if not specs or not (needed or is_requested):  # all runs await their canaries; or nothing is known
        return Sizing()
    unknown = tuple(name for name, spec in compared.items() if usage_history.key_of(spec) not in needed)
    lines = [_comparison(compared, spec_of_key, uses, options)] if needed else []
    if options.shape.get("workers"):
        needed = {} if unknown else _sizes_of_workers(compared, needed, options.shape)
    requests = _request_lines(compared, options, options._replace(sizes=needed))
    if not is_requested:
        lines += [f"--right-size requests for {line}" for line in requests]
        return Sizing(lines=_labelled(lines))
    lines += requests or ["no request is reduced: the margin leaves nothing to spare"] * bool(needed)
    if any(": time " in line for line in requests) and not any("COMMAND" in spec for spec in compared.values()):
        lines.append("a run that needs more time than that saves its state and resumes")
    if unknown:
        lines.append(f"{count(len(unknown), 'run')} as the script: no run of the same model, data and batch size is "
                     "known")
    return Sizing(needed, _labelled(lines), unknown)


def unchanged(reason: str) -> Sizing:
    """Return the sizing of a submission that requests what its script does, and why."""
    return Sizing(lines=_labelled([f"as the script: {reason}"]))


def _labelled(lines: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"{'' if position else 'sizes':<10} {line}" for position, line in enumerate(lines))


def _read_uses(spec_of_key: Mapping[str, Spec], batch: str, dry_run: bool) -> _Uses:
    """Return the similar runs of each spec; where there are none, the canary of this batch."""
    kinds = {key: usage_history.kind_of(spec) for key, spec in spec_of_key.items()}
    similar_runs = usage_history.similar_runs(set(kinds.values()), os.path.dirname(batch) or ".", _BUDGETS[dry_run],
                                        may_write=not dry_run)
    uses = {key: runs for key, kind in kinds.items() if (runs := similar_runs.get(kind))}
    folder = os.path.join(batch, run_folder.CANARY)
    if len(uses) < len(kinds) and os.path.isdir(folder):
        canaries = {use.kind: use for use in usage_history.uses_of_runs(folder, run_folder.run_names(folder)).values()}
        for key, spec in spec_of_key.items():
            if key not in uses and (use := canaries.get(usage_history.kind_of(_one_epoch(spec)))):
                is_divided = spec.get("train_length_unit", "epoch") == "epoch" and use.per_length is not None
                uses[key] = [use if is_divided else use._replace(per_length=None, length=-1)]
    return uses if dry_run else _with_accounting(uses)


def _one_epoch(spec: Spec) -> Spec:
    """Return the spec of a canary, as far as it determines its kind."""
    return spec if spec.get("train_length") == 0 else {**spec, "train_length": 1, "train_length_unit": "epoch"}


def _with_accounting(uses: _Uses) -> _Uses:
    """Fill in from sacct the memory of runs that did not measure it, as those of several processes."""
    jobs = [use.slurm_job for runs in uses.values() for use in runs
            if use.memory is None and use.slurm_job and not use.by_workers][:_MOST_JOBS]
    if not jobs:
        return uses
    rows = client.usage(time.time() - _ACCOUNTED, {job.partition(";")[2] for job in jobs}, jobs)
    usage = usage_of_jobs(rows, set(jobs))

    def complete(use: RunUse) -> RunUse:
        job = usage.get(use.slurm_job or "") if use.memory is None else None
        if job is None:
            return use
        gpu = 100 * job.gpu_used / job.gpu_allocated if job.gpu_used is not None and job.gpu_allocated else use.gpu
        return use._replace(memory=1024 * job.memory or None, gpu=gpu,
                            cpu=job.cpu_used / job.seconds if job.seconds and job.cpu_used else use.cpu)

    return {key: list(map(complete, runs)) for key, runs in uses.items()}


def _size(runs: Sequence[RunUse], spec: Spec) -> Size:
    """Return what 95 % of similar runs needed; for external programs, which may not resume, the longest time."""
    times, memories = _times(runs, spec), [use.memory for use in runs if use.memory]
    choose = max if "COMMAND" in spec else sizes.percentile
    return Size(choose(times) if times else None, sizes.percentile(memories) if memories else None)


def _times(runs: Iterable[RunUse], spec: Spec) -> list[float]:
    length = usage_history.length_of(spec)
    return [seconds for use in runs if (seconds := use.seconds_for(length)) is not None]


def _sizes_of_workers(specs: Mapping[str, Spec], needed: Mapping[str, Size], shape: Mapping[str, Any]
                      ) -> dict[str, Size]:
    """Return one size for all workers: the memory of the runs that they have at a time, the time for their share."""
    slots = shape.get("slots") or 1
    seconds, memory = ([getattr(size, name) for size in needed.values()] for name in Size._fields)
    groups = task_files.worker_groups(dict.fromkeys(specs, 1), specs, shape["workers"])
    rounds = max(-(-len(group.tickets) // (group.workers * slots)) for group in groups)
    size = Size(None if None in seconds else rounds * max(seconds), None if None in memory else slots * max(memory))
    return dict.fromkeys(needed, size)


def _requests(specs: Mapping[str, Spec], options: SlurmOptions) -> list[dict[str, str]]:
    """Return the options of the Slurm job of each run, by long name."""
    effective: dict[tuple[str, ...], dict[str, str]] = {}
    requests = []
    for name, spec in specs.items():
        script, arguments = options.resolve(spec, name)
        key = (script, *arguments)
        if key not in effective:
            effective[key] = directives.effective(options.text_of(script), arguments)
        requests.append(effective[key])
    return requests


def _request_lines(specs: Mapping[str, Spec], options: SlurmOptions, sized: SlurmOptions) -> list[str]:
    """Return `24 runs: time 1:05:00, mem 3900M` for the runs whose requests become smaller."""
    texts: Counter[str] = Counter()
    for before, after in zip(_requests(specs, options), _requests(specs, sized), strict=True):
        changed = {name: after[name] for name in ("time", "mem") if after.get(name) != before.get(name)}
        if changed:
            if "time" in changed:
                changed["time"] = directives.format_time(directives.parse_time(changed["time"]) or 0)
            texts[", ".join(f"{name} {value}" for name, value in changed.items())] += 1
    return [f"{count(number, 'run')}: {text}" for text, number in texts.items()]


def _comparison(specs: Mapping[str, Spec], spec_of_key: Mapping[str, Spec], uses: _Uses, options: SlurmOptions) -> str:
    """Return `earlier runs took at most 41 min and 3.1 GB; you ask for 2 days and 32 GB (24 similar runs)`."""
    runs = {id(use): use for group in uses.values() for use in group}.values()
    times = [seconds for key, group in uses.items() for seconds in _times(group, spec_of_key[key])]
    requests = list({id(request): request for request in _requests(specs, options)}.values())
    cpus, gpus = (max(numbers) for numbers in zip(*map(costs.cpus_and_gpus, requests), strict=True))
    memory, cpu, gpu = (max((value for use in runs if (value := getattr(use, name)) is not None), default=None)
                        for name in ("memory", "cpu", "gpu"))
    limits = [seconds for request in requests if (seconds := directives.parse_time(request.get("time", "")))]
    megabytes = [number for request in requests if (number := sizes.megabytes(request.get("mem", "")))]
    took = [_duration(max(times)) if times else "", _gigabytes(memory) if memory else "",
            f"{cpu:.1f} CPUs" if cpu else "", f"{gpu:.0f} % of the GPU" if gpu is not None and gpus else ""]
    requested = [_duration(max(limits)) if limits else "no time limit", _gigabytes(max(megabytes) * 2**20) if megabytes
             else "", count(cpus, "CPU"), count(gpus, "GPU") if gpus else ""]
    subject = "each worker asks" if options.shape.get("workers") else "you ask"
    return (f"earlier runs took at most {_enumerate(took)}; {subject} for {_enumerate(requested)} "
            f"({count(len(runs), 'similar run')})")


def _enumerate(words: Iterable[str]) -> str:
    *most, last = filter(None, words)
    return f"{', '.join(most)} and {last}" if most else last


def _duration(seconds: float) -> str:
    """Return a duration in words: 40 s, 41 min, 5.5 h or 2 days."""
    for unit, length, most in (("s", 1, 60), ("min", 60, 3600), ("h", 3600, 172800)):
        if seconds < most:
            return f"{seconds / length:.3g} {unit}" if unit == "h" else f"{seconds / length:.0f} {unit}"
    return f"{seconds / 86400:.3g} days"


def _gigabytes(memory: float) -> str:
    """Return bytes in units of Slurm's M or G."""
    return f"{memory / 2**30:.3g} GB" if memory >= 2**30 else f"{memory / 2**20:.0f} MB"
