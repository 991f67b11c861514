"""TPE and Gaussian processes of Optuna, by a study in memory that is built anew from the ledger for each decision."""
from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from src.search.decision import GIVEN_UP
from src.search.definition import GP, TPE
from src.search.ledger import OPEN, Ledger, loss_of
from src.search.space import CHOICE, INT, Branching, Coordinate, Dimension, Point

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

_MAX_REPEATS = 4  # how often TPE is asked for another point if a trial has the one that it gave
_MIN_RESULTS = 10  # of a rung that a Gaussian process is fitted to


def choose(ledger: Ledger, seed: int) -> tuple[Point, str, int, Mapping[str, str]]:
    """Return the point of the next trial, the name and the seed of the sampler, and the version of its library."""
    import optuna

    search = ledger.search
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # the user has chosen the method
    with _one_thread(search.method):
        study = optuna.create_study(sampler=_sampler(ledger, seed), direction="minimize")
        study.add_trials(list(_trials_for_tpe(ledger) if search.method == TPE else _trials_for_gp(ledger)))
        taken = {_key(trial.point) for trial in ledger.trials}
        for _ in range(_MAX_REPEATS if search.method == TPE else 1):
            trial = study.ask()  # remains in the study as running, so that the next point is another one
            point = search.space.fill(lambda item, trial=trial: _suggest(trial, item))  # type: ignore[misc]
            if _key(point) not in taken:
                break
    return point, search.method, seed, {"optuna": optuna.__version__}


@contextlib.contextmanager
def _one_thread(method: str) -> Iterator[None]:
    """Have a Gaussian process use one thread: for its small matrices several take ten times the CPU time."""
    if method != GP:
        yield
        return
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _sampler(ledger: Ledger, seed: int) -> BaseSampler:
    """Return a fresh sampler. TPE chooses each parameter by itself: that has less regret than choosing all jointly, as
    Optuna does by default (benchmarks/search.py), and suits parameters that exist only in some trials.
    """
    from optuna import samplers

    if ledger.search.method == TPE:
        return samplers.TPESampler(seed=seed, multivariate=False, constant_liar=True, n_startup_trials=1)
    return samplers.GPSampler(seed=seed, n_startup_trials=1, warn_independent_sampling=False)


def _key(point: Point) -> tuple[tuple[str, Coordinate], ...]:
    return tuple(sorted(point.items()))


def _suggest(trial: Any, item: Dimension | Branching) -> Coordinate:
    """Return the coordinate that the study suggests, as the space has it."""
    if isinstance(item, Branching) or item.kind == CHOICE and not item.is_ordered:
        return int(trial.suggest_categorical(item.name, range(_count(item))))
    if item.kind == CHOICE:
        return int(trial.suggest_int(item.name, 0, _count(item) - 1))
    if item.kind == INT:
        return item.snap(trial.suggest_int(item.name, int(item.low), int(item.high), log=item.log))
    return item.snap(trial.suggest_float(item.name, float(item.low), float(item.high), log=item.log))


def _distribution(item: Dimension | Branching) -> BaseDistribution:
    from optuna import distributions

    if isinstance(item, Branching) or item.kind == CHOICE and not item.is_ordered:
        return distributions.CategoricalDistribution(range(_count(item)))
    if item.kind == CHOICE:
        return distributions.IntDistribution(0, _count(item) - 1)
    if item.kind == INT:
        return distributions.IntDistribution(int(item.low), int(item.high), log=item.log)
    return distributions.FloatDistribution(float(item.low), float(item.high), log=item.log)


def _count(item: Dimension | Branching) -> int:
    return len(item.alternatives if isinstance(item, Branching) else item.choices)


def _trials_for_tpe(ledger: Ledger) -> Iterator[FrozenTrial]:
    """Yield the trials as TPE ranks them: finished ones, then those at higher rungs, then diverged ones.

    A trial that has been promoted and runs again counts with the rungs that it has reached: it is among the best. Only
    trials without a result are running ones, near which TPE chooses no other.
    """
    from optuna.trial import TrialState, create_trial

    distributions = {item.name: _distribution(item) for item in ledger.search.space.walk()}
    for trial in ledger.trials:
        if trial.end == GIVEN_UP:
            continue
        arguments: dict[str, Any] = {"params": trial.point, "distributions": {
            name: distributions[name] for name in trial.point}}
        losses = {ledger.search.rungs[rung]: loss_of(result, ledger.search) for rung, result in trial.results.items()}
        has_diverged = math.inf in losses.values()
        if not losses and trial.state == OPEN:
            yield create_trial(state=TrialState.RUNNING, **arguments)
        elif ledger.has_finished(trial) and not has_diverged:
            yield create_trial(state=TrialState.COMPLETE, value=losses[max(losses)], **arguments)
        else:  # a diverged one without values is the last
            yield create_trial(state=TrialState.PRUNED, intermediate_values={} if has_diverged else losses, **arguments)


def _trials_for_gp(ledger: Ledger) -> Iterator[FrozenTrial]:
    """Yield the trials with a result at the highest rung that has _MIN_RESULTS, and the open ones without.

    A Gaussian process needs values of one kind: as in BOHB (Falkner et al., ICML 2018), those of the highest rung with
    enough of them. Diverged trials count with the worst value of others.
    """
    from optuna.trial import TrialState, create_trial

    distributions = {item.name: _distribution(item) for item in ledger.search.space.walk()}
    losses = _losses_for_gp(ledger)
    worst = max((loss for loss in losses.values() if loss < math.inf), default=0.0)
    for trial in ledger.trials:
        arguments: dict[str, Any] = {"params": trial.point, "distributions": {
            name: distributions[name] for name in trial.point}}
        if trial.number in losses:
            yield create_trial(state=TrialState.COMPLETE, value=min(losses[trial.number], worst), **arguments)
        elif trial.state == OPEN:
            yield create_trial(state=TrialState.RUNNING, **arguments)


def _losses_for_gp(ledger: Ledger) -> dict[int, float]:
    by_rung = [ledger.losses(rung) for rung in range(len(ledger.search.rungs))]
    return next((losses for losses in reversed(by_rung) if len(losses) >= _MIN_RESULTS),
                max(by_rung, key=len))
