"""Run a plan by local workers, and print how its runs have ended."""
from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from src import run_folder
from src.errors import BatchError, experiments_command, retry_command
from src.search import summary
from src.submission.batch import task_files
from src.submission.batch.task_files import NO_STACKS, Stacks, WorkerGroup
from src.submission.execution.messages import failure_sent, next_steps
from src.submission.job import external_program, local_workers
from src.submission.planning.canary import HELD_BACK, Canaries
from src.submission.planning.command_line import Options
from src.submission.planning.sbatch_calls import local_worker_groups
from src.submission.planning.submission_plan import LaunchSettings, SubmissionPlan
from src.submission.planning.tickets import Tickets
from src.submission.slurm.circuit_breaker import CircuitBreaker
from src.submission.spec.job_spec import AUTO
from src.submission.status import retry_policy, states
from src.submission.status.canary_results import explain_failure
from src.submission.status.notify import Notifier
from src.submission.status.observe import observe
from src.submission.system.terminal import Progress, count


def run_locally(plan: SubmissionPlan, launch: LaunchSettings, options: Options) -> int:
    """Run the canaries, then the runs. Return 0 if all ended well, 1 if one failed, 130 after Ctrl-C."""
    workers = _Workers(plan, launch, options, _choose_gpus(options.gpus))
    notifier = Notifier(launch.notify, plan.batch, launch.token)
    breaker = CircuitBreaker(plan.batch, options.max_failures)

    def on_end(name: str, exit_code: int) -> None:
        notifier.run_ended(exit_code not in (0, external_program.SAVED))
        breaker.record_end(name)

    held_back: list[str] = []
    if launch.canaries and launch.canaries.to_submit:
        if not workers.run_canaries(launch.canaries):
            return _report_stop(plan)
        tickets, held_back = _hold_back(plan, launch)
        plan = plan._replace(tickets=tickets)
    with failure_sent(notifier):
        is_finished = workers.run(plan.batch, local_worker_groups(plan, options), "runs", on_end, launch.stacks)
    if not is_finished:
        return _report_stop(plan)
    notifier.send("ended")
    if plan.search and (error := summary.stop_reason(plan.batch)):
        raise BatchError(error, where=plan.batch)
    log = os.path.join(plan.batch, run_folder.SUBMISSIONS, f"{launch.token}.workers.log")
    names = run_folder.run_names(plan.batch) if plan.search else plan.to_submit
    return max(_report_end(plan.batch, names, log), int(bool(held_back)))


class _Workers(NamedTuple):
    """The submission that local workers execute. gpus: that the runs are pinned to."""

    plan: SubmissionPlan
    launch: LaunchSettings
    options: Options
    gpus: list[str]

    def run_canaries(self, canaries: Canaries) -> bool:
        """Run the canaries, by as many workers as the runs have. Return whether all ended; False after Ctrl-C."""
        workers = sum(group.workers for group in local_worker_groups(self.plan, self.options))
        groups = task_files.worker_groups(canaries.to_submit, canaries.points, workers)
        return self.run(canaries.folder, groups, "canaries")

    def run(self, folder: str, groups: Sequence[WorkerGroup], noun: str,
            on_end: Callable[[str, int], None] | None = None, stacks: Stacks = NO_STACKS) -> bool:
        """Run the tickets of the groups with a progress bar. Return whether all ended; False after Ctrl-C."""
        is_of_batch = folder == self.plan.batch
        search = self.plan.search if is_of_batch else None
        seen = _ended_trials(folder) if search else set()  # a trial of a search ends at each rung
        total = search.trials - len(seen) if search else sum(len(group.tickets) for group in groups)
        with Progress(total, noun) as progress:
            def end(name: str, exit_code: int) -> None:
                if name not in seen:
                    seen.add(name)
                    progress.step(failed=exit_code != 0)
                if on_end:
                    on_end(name, exit_code)

            # canaries are few, and shorter than what could be measured
            slots = self.options.slots if is_of_batch or self.options.slots != AUTO else 1
            return local_workers.run(folder, self.launch.token, groups, self.launch.entry_script, end, slots or 1,
                                     self.gpus, stacks, is_search=search is not None)


def _choose_gpus(requested: str | None) -> list[str]:
    """Return the GPUs of --gpus, and print them with the GPUs that are busy."""
    if not requested:
        return []
    from src.submission.system import gpus

    chosen, busy_lines = gpus.choose_gpus(requested)
    print("\n".join([*busy_lines, f"GPUs       {', '.join(chosen)}"]))
    return chosen


def _hold_back(plan: SubmissionPlan, launch: LaunchSettings) -> tuple[Tickets, list[str]]:
    """Return the tickets without the runs whose canary has not ended well, and print a line for each such canary.

    BatchError if no run is left.
    """
    assert launch.canaries is not None
    observation, = observe([launch.canaries.folder])
    tickets, lines = plan.tickets, []
    for name, canary in observation.runs.items():
        runs = [run for run in tickets.to_submit if launch.canaries.canary_of.get(run) == name]
        if runs and canary.state.name not in retry_policy.ENDED_WELL:
            tickets = tickets.without(runs, HELD_BACK)
            lines.append(f"{count(len(runs), 'run')} held back, {explain_failure(canary)}")
    print("".join(f"{line}\n" for line in lines), end="")
    if not tickets.to_submit:
        raise BatchError("no run was started: every canary failed", where=plan.batch,
                         hint=f"when that is fixed, `{retry_command(plan.batch, '--local')}` tries them again")
    return tickets, lines


def _ended_trials(batch: str) -> set[str]:
    """Return the trials of a search that were trained before, at least to a rung."""
    observation, = observe([batch])
    return {name for name, run in observation.runs.items() if run.state.name in retry_policy.CLOSED}


def _report_stop(plan: SubmissionPlan) -> int:
    print("stopped; what was finished is kept")
    print(next_steps((retry_command(plan.batch, "--local"), "continues")))
    return 130


def _report_end(batch: str, names: Iterable[str], log: str) -> int:
    """Print how the runs have ended, and what to type next. Return 0 if all ended well, else 1.

    log: what the workers printed. BatchError if some runs were never started.
    """
    observation, = observe([batch])
    retry = retry_command(batch, "--local")
    unfinished = {name: state for name in names
                  if (state := observation.runs[name].state.name) not in retry_policy.CLOSED}
    never_started = [name for name, state in unfinished.items() if state in (states.NEW, states.PENDING)]
    search = summary.unfinished(batch)
    if never_started or search:
        raise BatchError("the workers ended before " + (
            f"the search was over: {search}" if search else f"{count(len(never_started), 'run')} started"),
            where=log, hint=f"read that file; then `{retry}`")
    failed = [name for name, state in unfinished.items() if state not in (states.RUNNING, states.UNKNOWN)]
    steps = [(experiments_command("status", batch), "shows each run"),
             (experiments_command("report", batch), "writes the report")]
    if failed:
        print(f"{count(len(failed), 'run')} failed")
        steps = [(experiments_command("logs", os.path.join(batch, failed[0])), "shows why"),
                 (retry, "runs what failed again"), *steps]
    if len(unfinished) > len(failed):
        print(f"{count(len(unfinished) - len(failed), 'run')} still running in other processes")
    print(next_steps(*steps))
    return 1 if unfinished else 0
