"""Commands that end runs and remove their resume checkpoints: cancel, clean."""
from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from src import run_folder
from src.commands import common
from src.commands.command_output import Output
from src.commands.common import confirm, mebibytes, observe_batches, split_targets
from src.search import summary
from src.submission.batch import batch_folder
from src.submission.status import retry_policy, run_lookup, states
from src.submission.status.observation import Observation, Run
from src.submission.status.observe import observe
from src.submission.system.terminal import count, table

if TYPE_CHECKING:
    from src.commands import documents


def add_cancel(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=cancel)
    common.add_targets(parser)
    parser.add_argument("--state", action="append", choices=sorted(retry_policy.ALIVE), metavar="STATE",
                        help=f"only runs in this state (repeatable): {', '.join(sorted(retry_policy.ALIVE))}")
    parser.add_argument("--by-id", action="store_true",
                        help="if squeue does not show whether a run has ended: cancel its Slurm jobs by the ids in the "
                        "journal")
    common.add_yes(parser)


def add_clean(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=clean)
    common.add_batches(parser, common.ALL_BATCHES)
    parser.add_argument("--unfinished", action="store_true",
                        help="also of runs that have not ended and are not running: they would start over")
    common.add_yes(parser)


def cancel(options: argparse.Namespace) -> Output:
    """Cancel batches and single runs, and print how to submit them again. Return 1 if something was left alone."""
    from src.errors import experiments_command, retry_command
    from src.submission.status import cancel as cancelling

    named_batches, run_names = split_targets(options.targets)
    batches = list(map(os.path.normpath, named_batches))
    runs = {run_lookup.find_run(name, batch_folder.results_folder()) for name in run_names}
    observations = observe(dict.fromkeys([*batches, *(os.path.dirname(path) or "." for path in sorted(runs))]))
    cancellation = cancelling.select(observations, batches, runs, options.state, options.by_id)
    lines: list[str] = []
    document: documents.Cancelled = {"cancelled": [], "exceptions": [], "gone": [], "ending": []}
    unverified = cancelling.unverified(observations, batches, runs)
    if cancellation is not None:
        confirm(f"Cancel {cancellation.summary()}?", "nothing was cancelled", options)
        gone, left_alone = cancelling.cancel(cancellation)
        runs_and_canaries = [*cancellation.runs, *cancellation.canaries]
        ending = [] if left_alone else cancelling.wait_for_ends(cancellation)
        document = {"cancelled": [run.path for run in runs_and_canaries], "exceptions": left_alone, "gone": gone,
                    "ending": [run.path for run in ending]}
        lines += [*cancelling.describe_end(cancellation.summary(), left_alone, ending),
                  *(f"  {line}" for line in left_alone)]
        if gone:
            lines.append(f"note: already ended or unknown to Slurm: {', '.join(gone)}")
        unverified = [run for run in unverified if run not in runs_and_canaries]
        lines += [f"  {retry_command(path)}  submits them again" for path in batches]
    elif not unverified:
        lines.append("nothing is pending or running")
    if unverified:
        print("".join(f"{line}\n" for line in lines), end="")
        raise cancelling.unverified_error(unverified, experiments_command("cancel", *options.targets, "--by-id"))
    return Output(lines, document, int(bool(document["exceptions"])))


def clean(options: argparse.Namespace) -> Output:
    """Print the size of the resume checkpoints of ended runs, and remove them."""
    kept_states = (*retry_policy.ALIVE, states.UNKNOWN, states.DELETED) if options.unfinished else [
        state for state in states.ALL if state not in retry_policy.ENDED_WELL]
    rows, runs, total = [], {}, 0
    for observation in observe_batches(options.batches):
        sizes = [size for run in _without_states(observation, kept_states)
                 if (size := run_folder.resume_checkpoints_size(run.path))]
        if sizes:
            rows.append((observation.path, f"{mebibytes(sum(sizes))} in {count(len(sizes), 'run')}"))
            runs[observation.path] = len(sizes)
            total += sum(sizes)
    if not total:
        return Output(["nothing to remove"], {"removed": 0, "batches": {}})
    print("\n".join(table(rows)))
    confirm(f"Remove {mebibytes(total)}?", "nothing was removed", options)
    # observed again, since a run may have been resumed in the meantime
    freed = sum(run_folder.remove_resume_checkpoints(run.path, run.files.attempts)
                for observation in observe_batches(options.batches)
                for run in _without_states(observation, kept_states) if run.files)
    document: documents.Cleaned = {"removed": freed, "batches": runs}
    return Output([f"removed {mebibytes(freed)}"], document)


def _without_states(observation: Observation, state_names: Iterable[str]) -> Iterator[Run]:
    """Yield the runs in other states; a paused trial only if its search is over: until then it may be continued."""
    kept = {*state_names}
    if observation.count((states.PAUSED,)) and summary.may_continue(observation.path):
        kept.add(states.PAUSED)
    return (run for run in observation.runs.values() if run.state.name not in kept)
