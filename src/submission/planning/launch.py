"""Choose how the planned runs are started: by Slurm or local workers, and with which options, container, canaries."""
from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from src import run_folder
from src.errors import JobSpecError
from src.io import slurm_environment
from src.submission.batch import batch_folder
from src.submission.batch.journal import LOCAL, SLURM, WRITE_ONLY
from src.submission.batch.task_files import fixed_slots
from src.submission.planning import sbatch_calls
from src.submission.planning.command_line import SLOTS_AND_STACK, Options
from src.submission.planning.submission_plan import LaunchSettings, SubmissionPlan
from src.submission.planning.tickets import AWAITS_CANARY
from src.submission.slurm.submit import SlurmOptions, check_script, script_of_plan
from src.submission.spec.job_spec import AUTO

if TYPE_CHECKING:
    from src.monitoring.gpu_idle import Limits
    from src.submission.batch.provenance import Code
    from src.submission.spec.container_spec import Container
    from src.submission.spec.job_spec import JobSpec
    from src.submission.spec.notify_spec import Notify


def choose_launch(plan: SubmissionPlan, job_spec: JobSpec | None, options: Options,
                  token: str) -> tuple[SubmissionPlan, LaunchSettings]:
    """Choose how the runs of a plan are started.

    Return the plan without runs that a canary holds back, and the launch settings.

    job_spec: the job spec; None for a retry, which starts runs like the last submission of the batch
    token: the name of the submission
    UserError if an option cannot be used, or if neither Slurm nor this machine is chosen.
    """
    stack = _requested_stack(plan, job_spec, options)
    _check_slots(plan, options, stack)
    mode, slurm, lines = _choose_mode(plan, job_spec, options, token, stack)
    container = _choose_container(plan, job_spec, options, mode, slurm)
    code = _inspect_code(plan.project, options)
    notify = _choose_notify(plan, job_spec)
    if notify and not options.dry_run:
        notify.addresses()  # fails now rather than after the batch was written
    has_snapshot = job_spec.snapshot if job_spec else bool(plan.last_setting("snapshot"))
    snapshot = os.path.join(os.path.abspath(plan.batch), run_folder.CODE, token, run_folder.SNAPSHOT)
    uses_canaries = _uses_canaries(plan, options)
    launch = LaunchSettings(token, mode, snapshot if has_snapshot else plan.project, has_snapshot, slurm, container,
                            notify, _choose_idle_gpu(plan, job_spec), code, uses_canaries,
                            right_size=_uses_right_size(plan, options), lines=tuple(lines))
    if uses_canaries and mode != WRITE_ONLY:
        plan, launch = _with_canaries(plan, launch, options)
    if launch.slurm and plan.has_work:
        plan, launch = _with_sizes(plan, launch, launch.slurm, options, bool(stack))
    return plan, _with_stacks(plan, launch, options, stack) if stack else launch


def _requested_stack(plan: SubmissionPlan, job_spec: JobSpec | None, options: Options) -> int | str | None:
    """Return --stack, else that of the job spec (a retry: of the last submission); None if runs are not stacked.

    JobSpecError if it cannot be used.
    """
    stack = options.stack or (job_spec.stack if job_spec else plan.last_setting("stack"))
    if stack in (None, 1):
        return None
    where = "--stack" if options.stack else "job_details.stack"
    if any("COMMAND" in spec for spec in plan.points.values()):
        raise JobSpecError("stack trains runs of train.py together, and a command starts a process for each run",
                           where=where, hint="leave it out")
    if plan.search:
        raise JobSpecError("stack trains runs together that are known at submission, and a search chooses one trial "
                           "after another", where=where, hint="leave it out")
    if options.array:
        raise JobSpecError("--array makes each run a task of a job array, and stack trains several in one process",
                           where=where, hint="use it without --array (a Slurm job for each stack), or "
                           "--stack 1 to train each run by itself")
    return stack


def _check_slots(plan: SubmissionPlan, options: Options, stack: int | str | None) -> None:
    """Raise JobSpecError if --slots auto is given with a search or a stack."""
    if options.slots == AUTO and plan.search:
        raise JobSpecError("--slots auto changes the number of runs at a time, and a search chooses its trials for a "
                           "fixed number", where="--slots", hint="use --slots K")
    if options.slots == AUTO and stack:
        raise JobSpecError(SLOTS_AND_STACK, where="--slots", hint="--stack 1 trains each run by itself")


def _with_stacks(plan: SubmissionPlan, launch: LaunchSettings, options: Options, stack: int | str) -> LaunchSettings:
    """Divide the runs to submit into stacks: by the number of workers, where workers share the runs."""
    from src.submission.planning import stacks  # few submissions have them

    slots = sbatch_calls.count_slots(plan, launch, options)
    return launch._replace(stack_plan=stacks.plan_stacks(plan.to_submit, plan.points, stack, slots))


def _choose_mode(plan: SubmissionPlan, job_spec: JobSpec | None, options: Options, token: str,
                 stack: int | str | None) -> tuple[str, SlurmOptions | None, list[str]]:
    """Return the mode, the options of Slurm, and lines to print. JobSpecError if neither -s nor --local is given."""
    if options.local:
        return (WRITE_ONLY if options.no_submit else LOCAL), None, []
    is_plain_retry = options.retry and not (options.script or options.sbatch or options.no_submit)
    if is_plain_retry and plan.last_setting("mode") == LOCAL:
        return LOCAL, None, []
    slurm, lines = _choose_slurm_options(plan, job_spec, options, token, stack)
    if slurm:
        return (WRITE_ONLY if options.no_submit else SLURM), slurm, lines
    if options.no_submit:
        return WRITE_ONLY, None, []
    raise JobSpecError("choose where to run", where="command line",
                       hint="-s SCRIPT runs on a Slurm cluster, for example `-s submit_2080.sh`, and so does "
                       "job_details.resources; --local runs on this machine (`--local --workers 4`: four runs at a "
                       "time)")


def _choose_slurm_options(plan: SubmissionPlan, job_spec: JobSpec | None, options: Options, token: str,
                          stack: int | str | None) -> tuple[SlurmOptions | None, list[str]]:
    """Return the submit script and the options of sbatch, and lines to print; None if no script is given."""
    lines = []
    # shape and options of the last submission apply to a retry unless others are given
    previous = plan.history.last_slurm_plan() if options.retry else {}
    by_workers = _runs_by_workers(plan, options)
    script = options.script or (job_spec.script if job_spec else None) or script_of_plan(previous, plan.batch)
    script_text = None
    if job_spec and job_spec.resources and not options.script:
        from src.submission.spec import resources  # few job specs have them

        script = os.path.join(os.path.abspath(plan.batch), run_folder.SUBMISSIONS, token + run_folder.SCRIPT_SUFFIX)
        is_single_process = bool(by_workers or stack or options.command or job_spec.command)
        script_text = resources.submit_script(job_spec.resources, job_spec.name, is_single_process)
        if job_spec.resources.ranks > 1 and not is_single_process:
            lines.append(f"processes  {job_spec.resources.ranks} train each run together")
    if not script:
        return None, []
    if script_text is None:
        script = check_script(script)
    shape: dict[str, Any] = {"array": options.array, "max_running": options.max_running, "workers": options.workers,
                             "slots": options.slots or 1}
    if not (options.array or options.workers):
        shape |= previous.get("shape", {})
    if by_workers:
        default = sbatch_calls.search_workers(plan.search, fixed_slots(shape["slots"])) if plan.search else 1
        shape |= {"array": False, "workers": shape["workers"] or default}
    shape.pop("stack", None)
    if stack:
        shape |= {"array": False, "stack": stack}
    command_line = {**(previous.get("command_line") or {}), **options.sbatch}
    extra, extra_lines = _extra_options(plan, options, command_line)
    batch_options = (job_spec.sbatch if job_spec else previous.get("sbatch")) or {}
    environment, environment_lines = _environment_options(previous)
    return (SlurmOptions(script, batch_options, command_line, shape, script_text, extra, environment=environment),
            [*lines, *extra_lines, *environment_lines])


def _environment_options(previous: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the options from SBATCH_* variables, and lines about variables that are ignored.

    previous: the recorded plan that a retry repeats, with the options from the variables of its own shell.
    """
    shell_options = slurm_environment.sbatch_defaults()
    recorded = previous.get("environment")
    if recorded is None:
        return dict(shell_options), []
    return dict(recorded), [
        f"ignored    {slurm_environment.sbatch_variable(option)} of this shell: a retry repeats the options of the "
        f"submission; --sbatch {option}={value} changes them"
        for option, value in shell_options.items() if recorded.get(option) != value]


def _runs_by_workers(plan: SubmissionPlan, options: Options) -> bool:
    """Return whether workers share the runs: by request, search, or a subtest's number of workers (without --array)."""
    return bool(options.workers or plan.search) or not options.array and any(
        "WORKERS" in spec for spec in plan.points.values())


def _extra_options(plan: SubmissionPlan, options: Options,
                   command_line: Mapping[str, Any]) -> tuple[dict[str, str], list[str]]:
    """Return `exclude` and `dependency` if this submission needs them, and lines to print about them."""
    extra: dict[str, str] = {}
    lines = []
    if plan.avoided_nodes and command_line.get("exclude", "") is not None:
        extra["exclude"] = ",".join(plan.avoided_nodes)
        lines += [f"excludes   {node}: {reason}" for node, reason in plan.avoided_nodes.items()]
    if options.after:
        from src.submission.planning.dependency import dependency_options
        from src.submission.status.observe import observe

        observation, = observe([batch_folder.require_batch(options.after)], read_only=options.dry_run)
        dependency = dependency_options(observation)
        extra |= dependency
        lines.append(f"after      {observation.path}{'' if dependency else ' (all of it has ended)'}")
    return extra, lines


def _choose_container(plan: SubmissionPlan, job_spec: JobSpec | None, options: Options, mode: str,
                      slurm: SlurmOptions | None) -> Container | None:
    """Return the container of the command line, else of the job spec (a retry: of the last submission).

    UserError if something that the container needs is missing on this machine.
    """
    recorded = None if job_spec else plan.last_setting("container")
    if not (options.container or recorded or job_spec and job_spec.container):
        return None
    from src.submission.job import container  # few batches have one

    folders = [plan.project, *container.data_folders(plan.points.values())]
    if slurm:
        folders.append(os.path.dirname(slurm.script))
    return container.choose_container(options.container, job_spec.container if job_spec else None, recorded, folders,
                                      here=mode == LOCAL)


def _inspect_code(project: str, options: Options) -> Code | None:
    """Return the state of the code in git; None in a dry run, since git is slow. BatchError by --require-clean."""
    if options.dry_run and not options.require_clean:
        return None
    from src.submission.batch import provenance

    code = provenance.inspect_code(project)
    if options.require_clean:
        code.require_clean()
    return code


def _choose_notify(plan: SubmissionPlan, job_spec: JobSpec | None) -> Notify | None:
    """Return where messages are sent, by the job spec (a retry: by the last submission)."""
    if job_spec:
        return job_spec.notify
    recorded = plan.last_setting("notify")
    from src.submission.spec.notify_spec import Notify

    return Notify(**recorded) if recorded else None


def _uses_right_size(plan: SubmissionPlan, options: Options) -> bool:
    """Return --right-size; without it, a retry does as the last submission did."""
    if options.right_size is not None:
        return options.right_size
    return options.retry and plan.history.last_slurm_plan().get("sizes") is not None


def _with_sizes(plan: SubmissionPlan, launch: LaunchSettings, slurm: SlurmOptions, options: Options, is_stacked: bool
                ) -> tuple[SubmissionPlan, LaunchSettings]:
    """Compare what runs request with what earlier runs used, and reduce it if --right-size does.

    Return the plan without the runs whose canaries must show first what they need, and the settings.
    """
    if not (launch.right_size or batch_folder.all_batches(os.path.dirname(plan.batch) or ".")):
        return plan, launch  # the usual dry run loads no more
    from src.submission.usage import right_size

    reason = ("the memory of a stack is that of all its runs" if is_stacked else
              "the next trials of a search may need more than the first" if plan.search else
              "--slots auto finds out how many runs share a worker" if slurm.shape.get("slots") == AUTO else "")
    if reason:
        lines = right_size.unchanged(reason).lines if launch.right_size else ()
        return plan, launch._replace(lines=(*launch.lines, *lines))
    specs = {name: plan.points[name] for name in plan.to_submit}
    sizing = right_size.choose_sizes(specs, slurm, plan.batch, launch.right_size, options.dry_run)
    canary_of = launch.canaries.canary_of if launch.canaries and launch.right_size else {}
    waiting = [name for name in sizing.unknown if name in canary_of]
    if waiting and slurm.by_workers:  # they share their jobs
        waiting = list(plan.to_submit)
    if waiting:
        plan = plan._replace(tickets=plan.tickets.without(waiting, AWAITS_CANARY))
        rest = {name: spec for name, spec in specs.items() if name in plan.to_submit}
        sizing = right_size.choose_sizes(rest, slurm, plan.batch, launch.right_size, options.dry_run)
        sizing = sizing.with_waiting(len(waiting))
    return plan, launch._replace(slurm=slurm._replace(sizes=sizing.sizes), awaits_canaries=bool(waiting),
                                 lines=(*launch.lines, *sizing.lines))


def _choose_idle_gpu(plan: SubmissionPlan, job_spec: JobSpec | None) -> Limits | None:
    """Return when a GPU counts as idle, by the job spec (a retry: by the last submission)."""
    if job_spec:
        return job_spec.idle_gpu
    recorded = plan.last_setting("idle_gpu")
    if not recorded:
        return None
    from src.monitoring import gpu_idle  # few batches set them

    return gpu_idle.read_limits(recorded)


def _uses_canaries(plan: SubmissionPlan, options: Options) -> bool | None:
    """Return --canary; without it True if the last submission that recorded the setting used canaries, else None."""
    if options.canary is not None:
        return options.canary
    records = (record["canary"] for record in reversed(plan.history.recorded_plans) if "canary" in record)
    return True if next(records, False) else None


def _with_canaries(plan: SubmissionPlan, launch: LaunchSettings, options: Options
                   ) -> tuple[SubmissionPlan, LaunchSettings]:
    """Let the runs wait for canaries. Return the plan without the runs that a canary holds back, and the settings."""
    from src.submission.planning.canary import plan_canaries

    slurm = launch.slurm
    canaries, tickets, lines = plan_canaries(plan.batch, plan.tickets, plan.points, slurm, plan.canaries, options.retry,
                                             by_batch_size=launch.right_size)
    if slurm:
        slurm = slurm._replace(dependencies=canaries.dependencies(tickets.to_submit, slurm.by_workers))
    launch = launch._replace(slurm=slurm, canaries=canaries, lines=(*launch.lines, *lines))
    return plan._replace(tickets=tickets), launch
