"""Define the search of a job spec: its space, rungs and limits. Find its errors before anything is submitted."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from src import config, metrics
from src.errors import JobSpecError
from src.search import definition, hyperband
from src.search.definition import ASHA, HYPERBAND, VALUES, EarlyStop, Search
from src.search.settings import UNKNOWN_LENGTH, EarlyStopSettings, SearchSettings
from src.search.space import CHOICE, Branching, Coordinate, Dimension, Point, Space
from src.submission.batch.task_files import fixed_slots
from src.submission.searches.space import read_space
from src.submission.spec.grammar import Spec
from src.submission.spec.job_spec import JobSpec

if TYPE_CHECKING:
    from src.metrics import Metric


class Options(Protocol):
    """The options of the command line that concern a search."""

    @property
    def overrides(self) -> dict[str, Any]: ...
    @property
    def command(self) -> str | None: ...
    @property
    def samples(self) -> int | None: ...
    @property
    def max_runs(self) -> int | None: ...
    @property
    def seed(self) -> int | None: ...
    @property
    def slots(self) -> int | str | None: ...
    @property
    def array(self) -> bool: ...
    @property
    def shard(self) -> str | None: ...
    @property
    def skip_done(self) -> bool: ...


def define_search(job_spec: JobSpec, options: Options, workers: int,
                  check: Callable[[Metric | None, Spec, str], None]) -> Search:
    """Return the search of a job spec. JobSpecError or ConfigError if it cannot be run.

    workers: their number, by default. check: raises for a spec that train.py cannot run.
    """
    assert job_spec.search is not None
    settings, where = job_spec.search, f"{job_spec.source}, job_details.search"
    _reject_options(options, where)
    metric, maximize = _require_metric(job_spec)
    space = read_space(job_spec.parameters, options.overrides, job_spec.source)
    command = options.command if options.command is not None else job_spec.command
    if command:
        space = _with_constants(space, _external(job_spec, command))
    else:
        for point in probe_points(space):
            check(job_spec.metric, space.to_spec(point), job_spec.source)
    if job_spec.tags:
        tags = list(dict.fromkeys((*job_spec.tags, *space.constants.get("TAGS", ()))))
        space = _with_constants(space, {"TAGS": tags})
    length = _length(space, settings, is_external=bool(command))
    return Search(
        settings.method, _trials(settings, options, where), settings.parallel or workers * fixed_slots(options.slots),
        next(seed for seed in (options.seed, settings.seed, job_spec.seed) if seed is not None), metric, maximize,
        length, space, job_spec.name, tuple(_varying(space)), _early_stop(settings, length, where),
        settings.max_trial_failures)


def probe_points(space: Space) -> list[Point]:
    """Return points in which each value of a choice, each limit and each branch occurs, the others being the first."""
    first: Point = {item.name: _probes(item)[0] for item in space.dimensions}
    inner = {branching.name: [{branching.name: index, **point} for index, item in enumerate(branching.alternatives)
                              for point in probe_points(item)] for branching in space.branchings}
    first |= {name: value for points in inner.values() for name, value in points[0].items()}
    result = [first]
    result += [{**first, item.name: value} for item in space.dimensions for value in _probes(item)[1:]]
    for branching in space.branchings:
        rest = {name: value for name, value in first.items() if name not in inner[branching.name][0]}
        result += [{**rest, **point} for point in inner[branching.name][1:]]
    return result


def _probes(item: Dimension) -> list[Coordinate]:
    if item.kind == CHOICE:
        return list(range(len(item.choices)))
    return [item.snap(item.low), item.snap(item.high)]


def _reject_options(options: Options, where: str) -> None:
    """Raise JobSpecError for an option that is for grids."""
    for is_given, name, hint in (
            (options.array, "--array", "workers take one trial after another: use --workers N"),
            (options.shard, "--shard", "a search decides by the results of all of its trials, at one site"),
            (options.skip_done, "--skip-done", "a search chooses its points itself")):
        if is_given:
            raise JobSpecError(f"{name} is for grids, and this job spec is a search", where=where, hint=hint)


def _require_metric(job_spec: JobSpec) -> tuple[str, bool]:
    """Return the metric, and whether more is better. JobSpecError if the job spec names none."""
    metric = job_spec.metric
    if metric is None:
        raise JobSpecError("a search needs a metric", where=f"{job_spec.source}, job_details",
                           hint="for example metric: {name: val/last/accuracy, goal: maximize}")
    goal = metric.goal or metrics.direction(metric.name)
    if goal is None:
        raise JobSpecError(f"whether more or less is better is not known for {metric.name!r}",
                           where=f"{job_spec.source}, job_details.metric", hint=metrics.GOAL_HINT)
    return metric.name, goal == metrics.MAXIMIZE


def _external(job_spec: JobSpec, command: str | list[str]) -> Spec:
    """Return the keys that make every trial a start of an external program."""
    from src.submission.spec import command_template

    words = command_template.parse_command(command, job_spec.source)
    return {"COMMAND": words, **({"CWD": job_spec.cwd} if job_spec.cwd else {})}


def _with_constants(space: Space, constants: Mapping[str, Any]) -> Space:
    return Space({**space.constants, **constants}, space.dimensions, space.branchings)


def _trials(settings: SearchSettings, options: Options, where: str) -> int:
    """Return the number of trials. JobSpecError if none is given."""
    trials = options.samples or settings.trials
    if trials is None:
        raise JobSpecError("a search needs a number of trials", where=where,
                           hint="write run_cap in the sweep file, or pass --samples 60")
    return min(trials, options.max_runs or trials)


def _length(space: Space, settings: SearchSettings, is_external: bool) -> int:
    """Return the epochs of a whole trial; UNKNOWN_LENGTH if that depends on the data or the program."""
    if settings.early_stop and settings.early_stop.last and settings.early_stop.method == ASHA:
        return settings.early_stop.last
    varies = {item.key for item in space.walk() if isinstance(item, Dimension)} | {
        key for item in space.walk() if isinstance(item, Branching) for branch in item.alternatives
        for key in branch.constants}
    if is_external or varies & {"train_length", "train_length_unit"}:
        return UNKNOWN_LENGTH
    values = {**config.DEFAULTS, **space.constants}
    return max(1, values["train_length"]) if values["train_length_unit"] == "epoch" else UNKNOWN_LENGTH


def _early_stop(settings: SearchSettings, length: int, where: str) -> EarlyStop | None:
    """Return the rungs of a search. JobSpecError if there is none below the length of a trial."""
    stop = settings.early_stop
    if stop is None:
        return None
    where = f"{where}.early_stop"
    if stop.method == HYPERBAND:
        return EarlyStop(HYPERBAND, _bands(stop, length), stop.eta, stop.strict, stop.resume, VALUES)
    if length == UNKNOWN_LENGTH:
        raise JobSpecError("the epochs of a whole trial are not known", where=where, hint="add `max`, the epochs of a "
                           "whole trial; for train.py a constant train_length in epochs is enough")
    if stop.first is not None and stop.first >= length:
        raise JobSpecError(f"min is {stop.first}, and a whole trial has {length} epochs, so that no trial would stop "
                           "early", where=where, allowed=f"min from 1 to {length - 1}")
    assert stop.first is not None
    return EarlyStop(ASHA, definition.asha_rungs(stop.first, stop.eta, length), stop.eta, resume=stop.resume)


def _bands(stop: EarlyStopSettings, length: int) -> tuple[int, ...]:
    """Return the bands of W&B's Hyperband below the length of a trial."""
    if stop.first is not None:
        return hyperband.bands_from_min(stop.first, stop.eta, length)
    assert stop.last is not None
    assert stop.bands is not None
    return hyperband.bands_from_max(stop.last, stop.bands, stop.eta, length)


def _varying(space: Space) -> Iterator[str]:
    """Yield the keys that differ between trials, each once: those of dimensions, and of branches."""
    seen: set[str] = set()
    for key in _varying_keys(space):
        if key not in seen and key not in config.NOT_PARAMETERS:
            seen.add(key)
            yield key


def _varying_keys(space: Space) -> Iterator[str]:
    for dimension in space.dimensions:
        yield dimension.key
    for branching in space.branchings:
        for key in dict.fromkeys(key for item in branching.alternatives for key in item.constants):
            values = [repr(item.constants.get(key)) for item in branching.alternatives]
            if len(set(values)) > 1:
                yield key
        for alternative in branching.alternatives:
            yield from _varying_keys(alternative)
