"""The command that shows how a search has decided, and computes its decisions again: search."""
from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from typing import Any

from src.commands import documents
from src.commands.command_output import Output
from src.commands.common import add_batch
from src.errors import BatchError
from src.search import decide, definition
from src.search.decision import NEW, PROMOTE, Decision
from src.search.definition import Search
from src.search.history import History
from src.search.ledger import Ledger, Trial
from src.submission.batch import batch_folder
from src.submission.spec.naming import name_run
from src.submission.system.terminal import count, table


def add_search(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=search)
    add_batch(parser)
    parser.add_argument("--replay", action="store_true", help="compute every decision again from the results that it "
                        "was made from, and compare; exit code 1 if any differs")


def search(options: argparse.Namespace) -> Output:
    """List the decisions of a search, or compute them again."""
    batch = batch_folder.require_batch(options.batch)
    defined = definition.read(batch)
    if defined is None:
        raise BatchError("this batch is not a search", where=batch, hint="a job spec with job_details.search makes one "
                         "(docs/search.md)")
    return _replay(batch, defined) if options.replay else _decisions(batch, defined)


def _decisions(batch: str, defined: Search) -> Output:
    history = History(batch, defined)
    history.refresh()
    rows: list[tuple[str, ...]] = [("decision", "kind", "trial", "to epoch", "chosen by", "run")]
    rows += [_row(decision, history.ledger) for decision in history.decisions]
    document: list[documents.DecisionDocument] = [
        {"number": decision.number, "kind": decision.kind, "trial": decision.trial,
         "rung": defined.rungs[decision.rung], "run": history.ledger.trials[decision.trial].run,
         "sampler": decision.sampler or None} for decision in history.decisions]
    best = history.current.best_trial()
    end = [f"best: {_value(best)} {defined.metric}, {best.run}"] if best else []
    return Output([*table(rows), *end], document)


def _row(decision: Decision, ledger: Ledger) -> tuple[str, ...]:
    chosen_by = decision.sampler if decision.kind == NEW else (
        f"rung at {ledger.search.rungs[decision.rung - (decision.kind == PROMOTE)]}")
    return (str(decision.number), decision.kind, str(decision.trial), str(ledger.search.rungs[decision.rung]),
            chosen_by, ledger.trials[decision.trial].run)


def _value(trial: Trial) -> str:
    result = trial.last_result
    return f"{math.nan if result is None or result.value is None else result.value:.4g}"


def _replay(batch: str, defined: Search) -> Output:
    number, differences = decide.replay(batch, defined, name_run(defined))
    lines = [f"decision {difference.number}: {_texts(difference.recorded)} is now {_texts(difference.computed)}"
             f"{f' ({difference.versions})' if difference.versions else ''}" for difference in differences]
    lines.append(f"{count(number, 'decision')} computed again: "
                 f"{f'{len(differences)} differ' if differences else 'all are the same'}")
    document: documents.Replay = {"decisions": number, "different": [
        {"number": difference.number, "recorded": dict(difference.recorded), "computed": dict(difference.computed),
         "versions": difference.versions} for difference in differences]}
    return Output(lines, document, int(bool(differences)))


def _texts(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())
