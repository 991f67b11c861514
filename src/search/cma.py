"""CMA-ES by the library `cmaes`: its distribution is computed from the ledger, and a point is drawn from it.

Numbers that every trial has are in the distribution; choices, and numbers inside branches, are random.
"""
from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from src.search.decision import GIVEN_UP
from src.search.definition import CMAES
from src.search.ledger import Ledger, Trial, loss_of
from src.search.space import CHOICE, Dimension, Point

if TYPE_CHECKING:
    from cmaes import CMA

_SIGMA = 0.2  # initial standard deviation, in a unit cube
_EDGE = 1e-6  # points are drawn this far from the faces of the cube


def choose(ledger: Ledger, seed: int) -> tuple[Point, str, int, Mapping[str, str]]:
    """Return the point of the next trial, the name and the seed of the sampler, and the version of its library."""
    import cmaes

    search = ledger.search
    dimensions = [item for item in search.space.dimensions if item.kind != CHOICE]
    point = search.space.draw(search.seed, len(ledger.trials))
    generation = 0
    if dimensions:
        optimizer = _start(ledger, dimensions, seed)
        while len(members := _members(ledger, generation)) >= optimizer.population_size:
            ranked = sorted(members[:optimizer.population_size], key=lambda trial: _rank(ledger, trial))
            optimizer.tell([(_position(trial, dimensions), rank) for rank, trial in enumerate(ranked)])
            generation += 1
        for dimension, share in zip(dimensions, optimizer.ask(), strict=True):
            point[dimension.name] = dimension.at(min(max(float(share), _EDGE), 1 - _EDGE))
    return point, _name(generation), seed, {"cmaes": cmaes.__version__}


def _start(ledger: Ledger, dimensions: list[Dimension], seed: int) -> CMA:
    """Return the distribution of the first generation, around the best of the first, random trials."""
    import numpy as np
    from cmaes import CMA

    initial = [trial for trial in ledger.trials if not trial.sampler.startswith(CMAES) and trial.results
               and trial.end != GIVEN_UP]
    best = min(initial, key=lambda trial: (_rank(ledger, trial), trial.number))
    bounds = np.array([[0.0, 1.0]] * len(dimensions))
    return CMA(mean=_position(best, dimensions), sigma=_SIGMA, bounds=bounds, seed=seed % (2**31 - 2) + 1)


def _name(generation: int) -> str:
    return f"{CMAES}, generation {generation}"


def _members(ledger: Ledger, generation: int) -> list[Trial]:
    """Return the trials of a generation that have a result, in order."""
    name = _name(generation)
    return [trial for trial in ledger.trials if trial.sampler == name and trial.results and trial.end != GIVEN_UP]


def _rank(ledger: Ledger, trial: Trial) -> tuple[float, float]:
    """Return a key by which trials sort from the best on: those at a higher rung first, diverged ones last."""
    result = trial.results[max(trial.results)]
    loss = loss_of(result, ledger.search)
    return (math.inf if math.isinf(loss) else -result.rung), loss


def _position(trial: Trial, dimensions: list[Dimension]):  # type: ignore[no-untyped-def]
    """Return the place of a trial in the unit cube, as an array."""
    import numpy as np

    return np.array([dimension.probability(trial.point[dimension.name]) for dimension in dimensions])
