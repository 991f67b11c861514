"""The stages of a submission as types: the points of a job spec, the plan of what to submit, and how runs are started.

Each stage is computed from the one before and never changed; docs/architecture.md shows the path.
"""
from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

from src.submission.batch.task_files import NO_STACKS, Stacks

if TYPE_CHECKING:
    from src.monitoring.gpu_idle import Limits
    from src.search.definition import Search
    from src.submission.batch.extension import Extension
    from src.submission.batch.journal import History
    from src.submission.batch.provenance import Code
    from src.submission.planning.canary import Canaries
    from src.submission.planning.stacks import StackPlan
    from src.submission.planning.tickets import Tickets
    from src.submission.slurm.submit import SlurmOptions
    from src.submission.spec.container_spec import Container
    from src.submission.spec.grammar import Spec
    from src.submission.spec.job_spec import JobSpec
    from src.submission.spec.notify_spec import Notify
    from src.submission.status.observation import Run


class RequestedBatch(NamedTuple):
    """The points of a job spec, before it is known which batch they belong to.

    job_spec: as it was read
    points: the spec of each run, by name, in the order of the grid
    varying: the parameters that differ between points
    grid_options: overrides and other options that determine the points
    output_dir: the folder of the batch
    lines: what to print about the grid
    search: that chooses further points; None for a grid
    """

    job_spec: JobSpec
    points: dict[str, Spec]
    varying: list[str]
    grid_options: dict[str, Any]
    output_dir: str
    lines: tuple[str, ...]
    search: Search | None = None


class SubmissionPlan(NamedTuple):
    """Which runs of which batch are submitted.

    project: the folder of train.py
    batch: the batch folder
    points: the spec of each run whose folder must exist, by name
    tickets: which of these runs are submitted, and with which ticket
    lines: what to print about the plan
    history: earlier submissions of the batch
    canaries: canaries of the batch on disk, by name
    avoided_nodes: nodes to exclude, each with the reason
    job_spec_text: the text of job.yaml, if the batch is new or extended
    grid_options: overrides and other options that determine the points of the batch; None for a retry
    is_new: whether the batch is not on disk yet
    replaces: an earlier batch to remove (--overwrite)
    extension: what makes an existing batch a larger one (--extend)
    search: that workers continue, with the runs of `points` as its first or present trials; None for a grid
    points_left_out: the number of points that are not written because of --max-runs; None for a retry
    """

    project: str
    batch: str
    points: dict[str, Spec]
    tickets: Tickets
    lines: tuple[str, ...]
    history: History
    canaries: dict[str, Run]
    avoided_nodes: dict[str, str]
    job_spec_text: str = ""
    grid_options: dict[str, Any] | None = None
    is_new: bool = False
    replaces: str | None = None
    extension: Extension | None = None
    search: Search | None = None
    points_left_out: int | None = None

    @property
    def has_work(self) -> bool:
        """Whether anything is to be started: runs, or workers that choose the next trials of a search."""
        return bool(self.to_submit) or self.search is not None

    @property
    def to_submit(self) -> dict[str, int]:
        """The ticket of each run to submit, by name."""
        return self.tickets.to_submit

    def with_lines(self, *lines: str) -> SubmissionPlan:
        """Return the plan with more lines to print."""
        return self._replace(lines=(*self.lines, *lines))

    def last_setting(self, key: str) -> Any:
        """Return what the last submission of the batch recorded under a key; None if there is no such record."""
        return self.history.recorded_plans[-1].get(key) if self.history.recorded_plans else None


class LaunchSettings(NamedTuple):
    """The settings with which the planned runs are started.

    token: the name of this submission
    mode: SLURM, LOCAL or WRITE_ONLY of batch/journal.py
    program_folder: the folder of the train.py that runs start: the project, or a snapshot of it
    has_snapshot: whether runs start from a snapshot
    slurm: the submit script and options of sbatch; None without Slurm
    container: what runs start in; None: on the node itself
    notify: where messages are sent; None: no messages
    idle_gpu: when the GPU of a run counts as idle; None: by default
    code: the state of the project in git; None in a dry run
    uses_canaries: whether later submissions of the batch use canaries too; None: not recorded
    canaries: the canaries that runs wait for; None: no canaries
    right_size: whether later submissions of the batch reduce requests by what earlier runs used
    awaits_canaries: whether runs are left for a later submission, which reduces their requests by what canaries used
    stack_plan: which runs are trained at once; None: each run by itself
    lines: what to print about the settings
    """

    token: str
    mode: str
    program_folder: str
    has_snapshot: bool = False
    slurm: SlurmOptions | None = None
    container: Container | None = None
    notify: Notify | None = None
    idle_gpu: Limits | None = None
    code: Code | None = None
    uses_canaries: bool | None = None
    canaries: Canaries | None = None
    right_size: bool = False
    awaits_canaries: bool = False
    stack_plan: StackPlan | None = None
    lines: tuple[str, ...] = ()

    @property
    def submits_canaries(self) -> bool:
        """Whether any canary is to be submitted."""
        return self.canaries is not None and bool(self.canaries.to_submit)

    @property
    def stacks(self) -> Stacks:
        """The runs that are trained at once; none without stacks."""
        return self.stack_plan.stacks if self.stack_plan else NO_STACKS

    @property
    def entry_script(self) -> str:
        """The path of the train.py that runs start."""
        return os.path.join(self.program_folder, "train.py")
