"""The cost of a search: the number of its trials that reach each rung, and the epochs that they take."""
from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from src.search.definition import Search
from src.search.settings import UNKNOWN_LENGTH
from src.submission.spec.grammar import Spec


def usual_counts(search: Search) -> list[tuple[int, int]]:
    """Return about how many trials reach each rung, each with its epochs, the first rung first.

    A few more are promoted where better trials come late: see most_epochs.
    """
    return _counts(search, lambda trials, eta: int(trials / eta))


def most_epochs(search: Search) -> int:
    """Return the most epochs that a search can take: with ASHA, if each trial is better than all before it."""
    # the first trial is promoted when a rung has eta of them, and then every new one
    return total_epochs(_counts(search, lambda trials, eta: max(0, trials - math.ceil(eta) + 1)))


def total_epochs(counts: Sequence[tuple[int, int]]) -> int:
    """Return the epochs that trials take together, given how many reach each rung."""
    before = [0, *(epochs for _, epochs in counts)]
    return sum(trials * (epochs - earlier) for (trials, epochs), earlier in zip(counts, before, strict=False))


def _counts(search: Search, promoted: Callable[[int, float], int]) -> list[tuple[int, int]]:
    """Return how many trials reach each rung. promoted: how many of a number of trials at a rung go on."""
    trials, stop = search.trials, search.early_stop
    if stop is None or not stop.resume:  # stopped while they run: in the worst case none is
        return [(trials, search.length)]
    counts = []
    for epochs in search.rungs:
        counts.append((trials, epochs))
        trials = promoted(trials, stop.eta)
    return [(trials, epochs) for trials, epochs in counts if trials]


def usual_specs(search: Search) -> Iterator[Spec]:
    """Yield a random spec for each trial, with the epochs that a trial of its rank usually gets."""
    counts = usual_counts(search)
    for trial in range(search.trials):
        spec = search.space.to_spec(search.space.draw(search.seed, trial))
        epochs = max(epochs for trials, epochs in counts if trial < trials)
        yield spec if epochs == UNKNOWN_LENGTH or "COMMAND" in spec else {**spec, "train_length": epochs}
