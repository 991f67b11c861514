"""Commands that end runs and remove their saved states: cancel, clean."""
from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Iterator

from src import run_folder
from src.commands.common import confirm, observe_batches
from src.submission.batch import batch_folder
from src.submission.status import retry_policy, run_lookup, states
from src.submission.status.observation import Observation, Run
from src.submission.status.observe import observe
from src.submission.system.terminal import count, table


def add_cancel(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=cancel)
    parser.add_argument("targets", nargs="+", metavar="BATCH|RUN",
                        help=f"{batch_folder.ACCEPTED_FORMS}; or {run_lookup.ACCEPTED_FORMS}")
    parser.add_argument("--state", action="append", choices=sorted(retry_policy.ALIVE), metavar="STATE",
                        help=f"only runs in this state (repeatable): {', '.join(sorted(retry_policy.ALIVE))}")
    parser.add_argument("--by-id", action="store_true",
                        help="if squeue does not show whether a run has ended: cancel its Slurm jobs by the ids in the "
                        "journal")
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")


def add_clean(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=clean)
    parser.add_argument("batches", nargs="*", metavar="BATCH", help=f"{batch_folder.ACCEPTED_FORMS} (default: "
                        "all under results/)")
    parser.add_argument("--unfinished", action="store_true",
                        help="also of runs that have not ended and are not running: they would start over")
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")


def cancel(options: argparse.Namespace) -> int:
    """Cancel batches and single runs, and print how to submit them again. Return 1 if something was left alone."""
    from src.errors import shell_command
    from src.submission.status import cancel as cancelling

    # a number is the index or the Slurm job of a run, never the name of a batch
    named = {name: None if name.isdecimal() else batch_folder.named_batch(name) for name in options.targets}
    batches = [os.path.normpath(batch) for batch in named.values() if batch]
    runs = {run_lookup.find_run(name, batch_folder.results_folder()) for name, batch in named.items() if not batch}
    observations = observe(dict.fromkeys([*batches, *(os.path.dirname(path) or "." for path in sorted(runs))]))
    cancellation = cancelling.select(observations, batches, runs, options.state, options.by_id)
    left_alone: list[str] = []
    unverified = cancelling.unverified(observations, batches, runs)
    if cancellation is not None:
        confirm(f"Cancel {cancellation.summary()}?", "nothing was cancelled", options.yes)
        gone, left_alone = cancelling.cancel(cancellation)
        print(f"cancelled {cancellation.summary()}" if not left_alone else "cancelled, with these exceptions:")
        print("".join(f"  {line}\n" for line in left_alone), end="")
        if gone:
            print(f"note: already ended or unknown to Slurm: {', '.join(gone)}")
        unverified = [run for run in unverified if run not in (*cancellation.runs, *cancellation.canaries)]
        for path in batches:
            print(f"  {shell_command('python', 'submit_multiple.py', '-r', path)}  submits them again")
    elif not unverified:
        print("nothing is pending or running")
    if unverified:
        raise cancelling.unverified_error(
            unverified, shell_command("python", "experiments.py", "cancel", *options.targets, "--by-id"))
    return int(bool(left_alone))


def clean(options: argparse.Namespace) -> None:
    """Print how much the saved states of ended runs take, and remove them."""
    kept_states = (*retry_policy.ALIVE, states.UNKNOWN) if options.unfinished else [
        state for state in states.ALL if state not in retry_policy.ENDED_WELL]
    rows, total = [], 0
    for observation in observe_batches(options.batches):
        sizes = [size for run in _without_states(observation, kept_states)
                 if (size := run_folder.resume_checkpoints_size(run.path))]
        if sizes:
            rows.append((observation.path, f"{_mebibytes(sum(sizes))} in {count(len(sizes), 'run')}"))
            total += sum(sizes)
    if not total:
        print("nothing to remove")
        return
    print("\n".join(table(rows)))
    confirm(f"Remove {_mebibytes(total)}?", "nothing was removed", options.yes)
    # observed again, since a run may have been resumed in the meantime
    freed = sum(run_folder.remove_resume_checkpoints(run.path, run.files.attempts)
                for observation in observe_batches(options.batches)
                for run in _without_states(observation, kept_states) if run.files)
    print(f"removed {_mebibytes(freed)}")


def _without_states(observation: Observation, state_names: Iterable[str]) -> Iterator[Run]:
    return (run for run in observation.runs.values() if run.state.name not in state_names)


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
