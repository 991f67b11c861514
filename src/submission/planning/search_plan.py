"""Plan the first trials of a search, or workers that continue one, with more trials if need be."""
from __future__ import annotations

import time
from dataclasses import replace

from src.errors import BatchError
from src.search import decide, definition, summary
from src.search import decision as decisions
from src.search.decision import Decision
from src.search.definition import Search
from src.search.ledger import Ledger
from src.submission.batch.extension import Extension, last_extension
from src.submission.planning.command_line import Options
from src.submission.planning.submission_plan import RequestedBatch, SubmissionPlan
from src.submission.planning.tickets import Tickets, observe_batch, require_none_alive, runs_maybe_alive
from src.submission.spec.grammar import Spec
from src.submission.spec.naming import name_run


def first_decisions(search: Search) -> list[Decision]:
    """Return the decisions that need no results: they start the first trials, with random points."""
    ledger, made = Ledger(search), []
    while draft := decide.propose(ledger, name_run(search)):
        made.append(draft)
        ledger = ledger.after(draft)
    return made


def first_points(search: Search) -> dict[str, Spec]:
    """Return the specs of the first trials, which start at once, by the name of their run."""
    return {made.run: dict(made.parameters) for made in first_decisions(search)}


def write_search(folder: str, search: Search, is_new: bool) -> None:
    """Write the definition of a search into a batch folder; of a new one also the decisions about its first trials."""
    definition.write(folder, search)
    for made in first_decisions(search) if is_new else ():
        decisions.create(folder, replace(made, time=time.time()))


def plan_workers(batch: str, project: str, requested: RequestedBatch | None, options: Options) -> SubmissionPlan:
    """Plan workers that continue the search of a batch: they take up trials that are open, and choose further ones.

    requested: what a job spec requests; None for a retry. Nothing is started if the search is over, or if runs of it
    may be alive and no number of workers is requested.
    """
    observation = observe_batch(batch, options.dry_run)
    left_alone: dict[str, list[str]] = {}
    for name, run in observation.runs.items():
        left_alone.setdefault(run.state.name, []).append(name)
    search = definition.read(batch)
    assert search is not None
    is_needed = not summary.is_over(batch, search) and not (runs_maybe_alive(observation) and not (
        options.retry and options.workers))
    lines = (*(requested.lines if requested else ()), f"continues  {batch}")
    return SubmissionPlan(project, batch, {}, Tickets({}, left_alone), lines, observation.history, observation.canaries,
                          {}, requested.job_spec.text if requested else "",
                          requested.grid_options if requested else None, search=search if is_needed else None)


def plan_extension(requested: RequestedBatch, batch: str, project: str, options: Options) -> SubmissionPlan:
    """Plan a search with more trials. BatchError if the batch is another search, or if runs of it may be alive."""
    new, old = requested.search, definition.read(batch)
    assert new is not None
    if old is None:
        raise BatchError("this batch is a grid, and the job spec is a search", where=batch,
                         hint="submit the search under another name")
    last = last_extension(batch)
    observation = observe_batch(batch, options.dry_run)
    require_none_alive(observation, "extend this search")
    changed = [key for key, value in vars(replace(new, trials=old.trials, parallel=old.parallel)).items()
               if value != getattr(old, key)]
    if changed or new.trials < old.trials:
        problem = f"another {', '.join(changed)}" if changed else f"fewer trials, {new.trials} instead of {old.trials}"
        raise BatchError(f"an extension adds trials, and the job spec now has {problem}", where=batch,
                         hint="submit it under another name")
    names = list(observation.runs)
    extension = Extension(last.number + 1 if last else 0, names, requested.grid_options) if (
        new.trials > old.trials) else None
    lines = (*requested.lines, f"extends    {batch}", f"           {new.trials - old.trials} more trials")
    plan = plan_workers(batch, project, requested, options)
    is_needed = bool(extension) or plan.search is not None
    search = replace(new, space=old.space) if is_needed else None
    return plan._replace(search=search, extension=extension, lines=lines)
