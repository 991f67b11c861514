"""Choose the point of the next trial from the ledger, with a fresh sampler for each decision.

The first trials are random, as are all of method random, and need no library: a dry run shows them. TPE and GP are
Optuna's; its study is built anew from the ledger. CMA-ES is that of `cmaes`, which Optuna uses as well: Optuna keeps
its state in pickles, which are not read from files here, while the ledger suffices to compute it again.
"""
from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple

from src.search.decision import GIVEN_UP
from src.search.definition import CMAES, RANDOM
from src.search.ledger import Ledger
from src.search.space import Point

STARTUP = 8  # results before which trials are random
# With early stopping each third trial is random, as in BOHB (Falkner et al., ICML 2018): such a trial costs few epochs,
# and a model of first rungs may mislead
RANDOM_SHARE = 3


class Choice(NamedTuple):
    """The point of a trial, and what it was chosen by: the name, seed and library versions of the sampler."""

    point: Point
    sampler: str
    seed: int
    versions: Mapping[str, str]


def choose(ledger: Ledger) -> Choice:
    """Choose the point of the next trial."""
    search, number = ledger.search, len(ledger.trials)
    results = sum(1 for trial in ledger.trials if trial.results and trial.end != GIVEN_UP)
    explores = search.early_stop is not None and number % RANDOM_SHARE == 0
    if search.method == RANDOM or results < STARTUP or explores:
        return Choice(search.space.draw(search.seed, number), RANDOM, search.seed, {})
    seed = _seed_of(search.seed, ledger.count)
    if search.method == CMAES:
        from src.search import cma  # a sampler is imported where it decides

        return Choice(*cma.choose(ledger, seed))
    from src.search import optuna_study

    return Choice(*optuna_study.choose(ledger, seed))


def _seed_of(seed: int, number: int) -> int:
    """Return the seed of a decision: one that every random generator accepts."""
    import hashlib  # imported on demand: loads OpenSSL, which few commands need

    digest = hashlib.blake2b(json.dumps([seed, "decision", number]).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") >> 1
