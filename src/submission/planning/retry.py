"""Plan a retry (-r): submit the runs of an existing batch whose state the retry policy, or --state, selects."""
from __future__ import annotations

from collections.abc import Sequence

from src.errors import BatchError, JobSpecError, retry_command
from src.search import definition
from src.submission.batch import batch_folder
from src.submission.planning.code_note import code_lines
from src.submission.planning.command_line import Options
from src.submission.planning.submission_plan import SubmissionPlan
from src.submission.planning.tickets import next_tickets, observe_batch
from src.submission.slurm.submit import read_specs
from src.submission.status import failures, retry_policy, states
from src.submission.status.observation import Observation, Run
from src.submission.system.terminal import count


def plan_retry(options: Options, project: str) -> SubmissionPlan:
    """Plan the runs of an existing batch that the retry policy, or --state, selects."""
    _reject_options_of_a_grid(options)
    batch = batch_folder.require_batch(options.path)
    if definition.is_search(batch):
        from src.submission.planning import search_plan  # few batches are searches

        return search_plan.plan_workers(batch, project, None, options)
    observation = observe_batch(batch, options.dry_run)
    runs, elsewhere = _split_by_site(observation)
    retried = set(options.state or retry_policy.RETRIED)
    lines = [f"retries    {batch}"]
    needs_memory = retry_policy.NEEDS_MORE_MEMORY & retried
    number = sum(run.state.name in needs_memory for run in runs.values())
    requests_memory = options.local or options.right_size is False or failures.requests_memory(
        f"{key}={value}" for key, value in options.sbatch.items())
    if number and not requests_memory:
        retried -= needs_memory
        selected = [argument for state in sorted(needs_memory) for argument in ("--state", state)]
        more = ["--no-right-size"] if observation.history.last_slurm_plan().get("sizes") else ["--sbatch", "mem=32G"]
        command = retry_command(batch, *selected, *more)
        lines.append(f"note: {count(number, 'run')} out of memory left alone: request more, for example `{command}`")
    if unknown := [run for run in runs.values() if run.state.name == states.UNKNOWN]:
        lines.append(_note_on_unknown_runs(batch, unknown, options.force))
        retried |= {states.UNKNOWN} if options.force else set()
    tickets = next_tickets(runs, retried).first(options.max_runs)
    tickets = tickets._replace(left_alone={**tickets.left_alone, **elsewhere})
    if deleted := tickets.left_alone.get(states.DELETED):
        lines.append(f"note: {count(len(deleted), 'run')} deleted and left alone; the command that made the batch "
                     f"creates {'it' if len(deleted) == 1 else 'them'} again")
    if left_out := observation.history.left_out_line():
        lines.append(f"note: {left_out}")
    if tickets.to_submit:
        lines += code_lines(project, observation)
    lines += [f"  {group.line()}" for group in failures.group_failures(runs[name] for name in tickets.to_submit)]
    return SubmissionPlan(project, batch, read_specs(batch, list(tickets.to_submit)), tickets, tuple(lines),
                          observation.history, observation.canaries,
                          failures.nodes_to_avoid(observation.runs.values()))


def _reject_options_of_a_grid(options: Options) -> None:
    """Raise JobSpecError for an option that would change the runs of the batch."""
    for is_given, name in ((options.overrides, "--set"), (options.command, "--command"),
                           (options.output_dir, "--output-dir"), (options.samples, "--samples"),
                           (options.seed is not None, "--seed")):
        if is_given:
            raise JobSpecError(f"{name} would change the runs of an existing batch", where="command line",
                               hint="submit the job spec under another name instead")


def _note_on_unknown_runs(batch: str, unknown: Sequence[Run], is_forced: bool) -> str:
    """Return the line about runs that may still be running."""
    example = f"{count(len(unknown), 'run')} may still be running ({unknown[0].name}: {unknown[0].state.why})"
    if is_forced:
        return (f"note: {example}: --force submits them; an old attempt that still runs stops at its next row or "
                "checkpoint")
    return f"note: {example}: left alone; `{retry_command(batch, '--force')}` submits them nevertheless"


def _split_by_site(observation: Observation) -> tuple[dict[str, Run], dict[str, list[str]]]:
    """Return the runs that this site may submit, and the names of the others by where they are.

    BatchError if all runs are on another machine.
    """
    shard = None
    if text := observation.history.first_plan().get("identity", {}).get("shard"):
        from src.submission.batch import shard as shards

        shard = shards.parse(text)
    runs: dict[str, Run] = {}
    elsewhere: dict[str, list[str]] = {}
    for name, run in observation.runs.items():
        if run.host:
            elsewhere.setdefault(f"on {run.host}", []).append(name)
        elif shard and not shard.contains(name):
            elsewhere.setdefault("in another shard", []).append(name)
        else:
            runs[name] = run
    if not runs and observation.history.sync_markers:
        host = observation.history.sync_markers[0].host
        raise BatchError(f"this is a copy of a batch on {host}", where=observation.path,
                         hint=f"run `{retry_command(observation.path, '--on', host)}` to continue it there")
    return runs, elsewhere
