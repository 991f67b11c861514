"""The state of a search as its decisions record it: trials, and the results that are known of each."""
from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from src import run_folder
from src.search.decision import GIVEN_UP, NEW, PROMOTE, STOP, Decision, Result
from src.search.definition import Search
from src.search.space import Point

OPEN, PAUSED, STOPPED = "open", run_folder.PAUSED, "stopped"  # states besides the ends of trials


@dataclass(frozen=True)
class Trial:
    """A trial.

    target: index of the rung that it was started, or promoted, to reach
    decided: number of the decision that set the target
    sampler: that chose its point, as in the decision that started it
    results: by rung
    end: None until it has ended
    """

    number: int
    run: str
    point: Point
    parameters: Mapping[str, Any]
    target: int
    decided: int
    sampler: str = ""
    results: Mapping[int, Result] = field(default_factory=dict)
    end: str | None = None
    is_stopped: bool = False

    @property
    def state(self) -> str:
        """Its end, STOPPED, PAUSED at a rung, or OPEN: it runs or is to be run."""
        if self.end or self.is_stopped:
            return self.end or STOPPED
        return PAUSED if self.target in self.results else OPEN

    @property
    def last_result(self) -> Result | None:
        """The result at the highest rung that it has reached."""
        return self.results[max(self.results)] if self.results else None

    def result_at(self, rung: int) -> Result | None:
        """Return the result at a rung. A trial that ended well before it counts there with its last value."""
        if (result := self.results.get(rung)) or self.end not in (run_folder.COMPLETED, run_folder.EARLY_STOPPED):
            return result
        last = self.last_result
        return last if last and last.rung < rung else None


@dataclass(frozen=True)
class Ledger:
    """The first `count` decisions of a search. Immutable: `after` and `with_results` return another one."""

    search: Search
    count: int = 0
    trials: tuple[Trial, ...] = ()

    def with_results(self, results: Iterable[Result]) -> Ledger:
        """Return the ledger with further results."""
        trials = list(self.trials)
        for result in results:
            trial = trials[result.trial]
            trials[result.trial] = replace(trial, results={**trial.results, result.rung: result}, end=result.end)
        return replace(self, trials=tuple(trials))

    def after(self, decision: Decision) -> Ledger:
        """Return the ledger with a decision, and the results that it was made from."""
        ledger = self.with_results(decision.results) if decision.results else self
        trials = ledger.trials
        if decision.kind == NEW:
            trials = (*trials, Trial(decision.trial, decision.run, decision.point, decision.parameters, decision.rung,
                                     decision.number, decision.sampler))
        else:
            trial = trials[decision.trial]
            changed = replace(trial, is_stopped=True) if decision.kind == STOP else replace(
                trial, target=decision.rung, decided=decision.number)
            trials = (*trials[:trial.number], changed, *trials[trial.number + 1:])
        return replace(ledger, trials=trials, count=ledger.count + 1)

    def open_trials(self) -> list[Trial]:
        """Return the trials that run or are to be run."""
        return [trial for trial in self.trials if trial.state == OPEN]

    def has_finished(self, trial: Trial) -> bool:
        """Return whether a trial has its value: it has reached the top rung, or ended well before."""
        return len(self.search.rungs) - 1 in trial.results or trial.end in (
            run_folder.COMPLETED, run_folder.EARLY_STOPPED)

    def losses(self, rung: int) -> dict[int, float]:
        """Return the loss of each trial that has a result at a rung; inf if it diverged. Less is better."""
        losses = {}
        for trial in self.trials:
            if (result := trial.result_at(rung)) and result.end != GIVEN_UP:
                losses[trial.number] = loss_of(result, self.search)
        return losses

    def best_trial(self) -> Trial | None:
        """Return the trial with the best value at the highest rung that any trial has reached; None before any."""
        for rung in reversed(range(len(self.search.rungs))):
            losses = {number: loss for number, loss in self.losses(rung).items() if loss < math.inf}
            if losses:
                return self.trials[min(losses, key=lambda number: (losses[number], number))]
        return None


def loss_of(result: Result, search: Search, best: bool = False) -> float:
    """Return the loss of a result: inf for a trial that diverged or has no finite value.

    best: of the best value until then, instead of the one at the rung
    """
    value = result.best if best else result.value
    return math.inf if value is None or result.end == run_folder.DIVERGED else search.loss(value)


def check(ledger: Ledger, decision: Decision) -> str | None:
    """Return why a decision cannot follow on the ledger; None if it can."""
    rungs = len(ledger.search.rungs)
    if any(result.trial >= len(ledger.trials) or result.rung >= rungs for result in decision.results):
        return "it has a result of a trial or rung that does not exist"
    if decision.rung >= rungs or (decision.trial != len(ledger.trials) if decision.kind == NEW
                                  else decision.trial >= len(ledger.trials)):
        return "it is about a trial or rung that does not exist"
    if decision.kind == PROMOTE and decision.rung != ledger.trials[decision.trial].target + 1:
        return "it promotes a trial past its next rung"
    return None
