"""The search of a batch for the page: its rungs, its trials, and its results in the order of use."""
from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import pandas as pd

from src import metrics
from src.analysis.page import plain
from src.analysis.plotting import search_figures
from src.search import summary
from src.search.settings import UNKNOWN_LENGTH


def section(batch: str, positions: Mapping[str, int]) -> dict[str, Any] | None:
    """Return the search of a batch; None if it is none. positions: of the runs, by absolute path."""
    if (search := summary.summarize(batch)) is None:
        return None
    header, *rows = search.rows()
    definition, ledger, _ = search_figures.read_search(batch)
    _, results = search_figures.results_in_order(batch)
    trials = [(positions.get(os.path.abspath(os.path.join(batch, trial.run))), trial.state, trial.last_result)
              for trial in ledger.trials]
    return {"headline": plain.text(search.headline()), "metric": plain.text(search.metric),
            "goal": metrics.MAXIMIZE if definition.maximize else metrics.MINIMIZE,
            "rungs": plain.table("Rungs", pd.DataFrame(rows, columns=[*header[:-1], "run"]), (), ["run"]),
            "levels": [rung.epochs for rung in search.rungs],
            "trials": {"run": [run for run, _, _ in trials], "state": [state for _, state, _ in trials],
                       "rung": [result.rung if result else -1 for _, _, result in trials],
                       "value": [result and result.value and plain.number(result.value) for _, _, result in trials]},
            "results": {"trials": [result.trials for result in results], "epochs": None if (
                            definition.length == UNKNOWN_LENGTH) else [result.epochs for result in results],
                        "value": plain.numbers([result.value for result in results])},
            "over": search.is_over, "error": search.error and plain.text(search.error)}
