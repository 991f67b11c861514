"""The JSON documents that commands print with --json: docs/reference/json.md shows them (`make reference`)."""
from __future__ import annotations

from typing import Any, TypedDict


class Error(TypedDict):
    """Printed by every command in place of its document, with exit code 2, for a mistake that the user can correct."""

    error: str  # what is wrong
    where: str | None  # the file, line, key or run
    allowed: list[str]  # the allowed values, or one sentence that describes them; empty if there is nothing to list
    hint: str | None  # what to do, or to type next


class RunStatus(TypedDict):
    """A run, in `BatchStatus`."""

    run: str  # its name, which is the name of its folder in the batch
    state: str  # new, pending, running, done, early_stopped, diverged, failed, out_of_memory, … (docs/guarantees.md)
    epochs_done: int
    epochs: int | None  # planned; null if unknown
    left: float | None  # remaining seconds of a running run
    metric: str | None  # the column of stats.csv that `best` is of
    best: float | None
    why: str  # explains the state
    slurm_job: str | None
    idle: str | None  # the use of its GPU, if that is low, by the epochs so far
    tags: list[str]
    notes: list[str]  # what of its stats.csv was left out
    code_changed: list[str]  # files that differed from the submission when it started
    gpu_idle: str  # a warning that its GPU idles now, with the likely cause; empty if it does not run


class BatchThroughput(TypedDict):
    """Runs that end well per hour, in `BatchStatus`; null if unknown, or if nothing is pending or running."""

    now: float | None  # over the last hour
    over_the_batch: float | None
    left: float | None  # seconds until all runs have ended, at this rate


class CodeVersion(TypedDict):
    """A version of the code, in `BatchStatus`."""

    runs: int  # that started with it
    files: dict[str, str | None]  # the hash of each file that differs between versions; null: these runs do not use it


class RungStatus(TypedDict):
    """A rung of a search, in `SearchStatus`."""

    epochs: int | None  # at which it is; null: the end of a trial whose length is not known
    reached: int  # trials with a result at it
    promoted: int
    stopped: int
    best: float | None
    run: str | None  # of the best trial


class SearchStatus(TypedDict):
    """An adaptive search, in `BatchStatus`."""

    metric: str
    trials: int  # that were started
    planned: int
    states: dict[str, int]  # number of trials by state
    stopped: list[str]  # runs that the search has stopped
    rungs: list[RungStatus]
    is_over: bool
    error: str | None  # why it could not go on


class BatchStatus(TypedDict, total=False):
    """A batch."""

    batch: str  # its folder
    counts: dict[str, int]  # number of runs by state
    throughput: BatchThroughput
    code_versions: list[CodeVersion]  # empty if all runs have the same
    runs: list[RunStatus]
    canaries: list[RunStatus]  # only if it has any
    search: SearchStatus  # only of a search
    used: list[str]  # with --efficiency: what its ended Slurm jobs used, what to request, what workers found


class FailureGroupDocument(TypedDict):
    """Runs that failed alike, in `BatchEnd`."""

    state: str
    error: str
    runs: list[str]  # names
    log: str  # of the first of them


class BatchEnd(TypedDict):
    """A batch of which every run has ended or is stuck."""

    batch: str
    counts: dict[str, int]  # number of runs by state
    failures: list[FailureGroupDocument]
    unfinished_search: str | None  # of a search that is not over, or could not go on: how far it is, or why


class Missing(TypedDict):
    """The points of a job spec that no batch has done."""

    missing: list[str]  # names of runs


class LogText(TypedDict, total=False):
    """A part of a log. With `--follow` each is printed on a line of its own, the last one with `state` alone."""

    file: str
    text: str  # without escape sequences, unless `--raw`
    state: str


class Start(TypedDict):
    """A start of a run, in `Logs`."""

    number: int  # 1, 2, …
    began: float  # unix seconds
    ended: float | None  # null: it runs, or left no record of its end
    how: str  # completed, failed, timeout, requeued, …; running; or lost: it left no record
    error: str
    host: str
    pid: int | None
    slurm_job: str | None


class Logs(TypedDict):
    """The logs of a run."""

    run: str  # its folder
    state: str
    starts: list[Start]
    logs: list[LogText]  # the one that was written last at the end


class Cancelled(TypedDict):
    """Runs that were cancelled."""

    cancelled: list[str]  # run folders, with those of canaries
    exceptions: list[str]  # a line for each run or job that was left alone, with the reason
    gone: list[str]  # Slurm jobs that had ended already
    ending: list[str]  # run folders of those that have not ended yet, after a few seconds


class Cleaned(TypedDict):
    """Files that `clean` removed."""

    removed: int  # bytes
    batches: dict[str, int]  # number of runs by batch


class Moved(TypedDict):
    """A batch that was renamed or moved."""

    source: str  # the folder that it had
    target: str  # the folder that it has


class Archived(TypedDict):
    """A batch of which runs were archived."""

    batch: str
    archived: list[str]  # names of the runs
    left: dict[str, str]  # why other runs were left in their folders: their state, or what prevents it
    files: list[str]  # of its archive


class Unarchived(TypedDict):
    """A batch of which runs were brought back from the archive."""

    batch: str
    runs: list[str]  # their names


class Deleted(TypedDict):
    """A batch that was deleted."""

    batch: str
    kept: str  # the file with its job spec and notes


class DeletedRun(TypedDict):
    """A run that was deleted, in the list of `delete`."""

    run: str  # its folder
    kept: str  # the file with its spec


class Dashboard(TypedDict):
    """Where the live page is. It is printed first; then the command serves the page until it is stopped."""

    address_file: str  # the file with the address, which contains a token; it is removed at the end
    port: int
    tunnel: str  # the ssh command that connects this port of another machine
    batches: list[str]


class Report(TypedDict):
    """The report."""

    report: str  # the HTML file


class Synced(TypedDict):
    """The results after `sync`."""

    folder: str
    batches: list[str]
    runs: int
    ended: int
    left_out: list[str]  # a line for each run or batch that is not as it is there
    conflicts: list[str]  # batches that differ from those of the same name here


class Query(TypedDict):
    """Runs that match."""

    runs: list[dict[str, Any]]  # columns and values; null if a run has none
    matching: int  # number of runs that match, before `--limit`
    of: int  # number of runs in the batches


class BestSetting(TypedDict):
    """A setting: runs that differ in seeds alone, in `BestSettings`."""

    rank: int | None  # null: as many runs diverged as count, or no run has a value
    parameters: dict[str, Any]  # those that vary
    mean: float | None  # of the runs that count
    deviation: float | None  # standard deviation of these runs; null of a single run
    low: float | None  # 95 % interval of the mean
    high: float | None
    counted: int  # runs that count and have a value
    left_out: str  # why the others do not; empty if all count
    runs: list[str]  # all names


class BestSettings(TypedDict):
    """The best settings."""

    settings: list[BestSetting]  # the best one first
    of: int  # number of settings in the batches
    metric: list[str]  # columns of stats.csv; a run counts with the first one in which it has a value
    not_counted: dict[str, list[str]]  # names of the runs that do not count, by reason
    note: str  # what to know about these values


class BestOfGroup(TypedDict):
    """The best run of a batch, in `ComparisonDocument`."""

    batch: str
    run: str | None  # null if no run has a value
    metric: str | None
    value: float | None
    others: int  # runs with the same value
    counted: int  # runs that count
    runs: int  # all runs


class BestSettingOfGroup(TypedDict):
    """The setting of a batch with the best mean, in `ComparisonDocument`."""

    batch: str
    setting: str | None  # the parameters that vary in the batch; null if no run has a value
    mean: float | None  # of its runs that count, each at its best epoch
    low: float | None  # 95 % interval; null of a single run
    high: float | None
    counted: int  # its runs that count
    runs: int  # all its runs
    others: int  # settings that share its rank


class SettingChangeDocument(TypedDict):
    """A parameter that has other values, in `ComparisonDocument`."""

    parameter: str
    before: str
    after: str


class MetricChangeDocument(TypedDict):
    """The change of a metric, in `ComparisonDocument`: last values, mean over the settings that both batches have."""

    metric: str
    before: float
    after: float
    change: float
    low: float | None  # 95 % interval of the change; null if the noise is unknown
    high: float | None
    p: float | None  # of such a change by chance (t-test)
    basis: str  # what the interval rests on
    better: bool | None  # null if the direction of the metric is unknown


class ComparisonDocument(TypedDict):
    """Two batches compared."""

    best: list[BestOfGroup]  # of the first batch and of the second
    best_settings: list[BestSettingOfGroup]
    changes: list[SettingChangeDocument]
    only_before: list[str]  # settings
    only_after: list[str]
    settings: int  # that both have, and that are compared; 0: the best runs are compared instead
    metrics: list[MetricChangeDocument]
    note: str  # what to know about the choice of the best values; empty: nothing


class NoteDocument(TypedDict):
    """A note on a batch."""

    time: float  # unix seconds
    commit: str | None
    text: str


class Steps(TypedDict, total=False):
    """The steps that repeat a run, and with `--run` the result."""

    steps: list[str]  # comments and commands
    identical: bool
    difference: str  # the first one, or that there is none


class Written(TypedDict):
    """The files that `export` wrote."""

    files: list[str]


class Lines(TypedDict):
    """The lines that the command would print as text."""

    lines: list[str]


class Sent(TypedDict):
    """Whether a message was sent."""

    sent: bool
    error: str | None


class Upload(TypedDict):
    """A run uploaded to Weights & Biases, or not."""

    run: str
    sent: bool
    message: str


class Finding(TypedDict):
    """One check of `doctor`."""

    check: str
    verdict: str  # ok, note, warning or error
    found: str
    do: str  # what to do; empty: nothing


class PackedImage(TypedDict):
    """An environment that was packed."""

    image: str  # its path
    bytes: int
    files: int  # files, folders and links in it
    removed: list[str]  # names of older images
    kept: list[str]  # names of older images that running jobs may use
    notes: list[str]


class PushedEnvironment(TypedDict):
    """An environment that was uploaded."""

    host: str
    folder: str
    notes: list[str]


class DecisionDocument(TypedDict):
    """A decision of a search."""

    number: int
    kind: str  # new, promote or stop
    trial: int
    rung: int  # the epoch that the trial is to reach; of stop, the one at which it ended
    run: str  # the trial's run
    sampler: str | None  # that chose the parameters of a new trial


class DifferenceDocument(TypedDict):
    """A decision that would be made differently today, in `Replay`."""

    number: int
    recorded: dict[str, Any]  # keys of the decision that differ
    computed: dict[str, Any]
    versions: str  # libraries whose version has changed since


class Replay(TypedDict):
    """With --replay: the decisions of a search, computed again."""

    decisions: int
    different: list[DifferenceDocument]


class SetupTest(TypedDict):
    """The test run of `setup`."""

    batch: str
    seconds: float
    problem: str | None  # null: it is done


class Setup(TypedDict):
    """The changes that `setup` made."""

    slurm: bool  # whether Slurm answers here
    written: list[str]  # files
    left_alone: list[str]  # files that somebody has edited
    links: dict[str, str]  # target by path
    kept: list[str]  # folders that stay in the project because they hold files
    test: SetupTest | None


class PlannedRun(TypedDict, total=False):
    """A run that a submission would start, one on each line."""

    name: str
    folder: str
    spec: dict[str, Any]
    command: list[str]
    stack: int  # of runs that are trained at once: the number of their stack, from 0
    program: list[str]  # of a program of one's own: its command in this run
    container: list[str]  # with a container: the first command in it


class SubmittedRun(TypedDict):
    """A run, in `Submission`."""

    name: str
    folder: str
    state: str  # as in status
    slurm_job: str | None


class Submission(TypedDict):
    """The result of a submission."""

    batch: str
    runs: list[SubmittedRun]  # the runs that it was to submit
    exit_code: int


# the document of each command of experiments.py
DOCUMENTS: dict[str, Any] = {
    "status": list[BatchStatus], "watch": list[BatchStatus], "wait": list[BatchEnd], "missing": Missing,
    "logs": Logs, "cancel": Cancelled, "clean": Cleaned, "rename": Moved, "move": list[Moved],
    "archive": list[Archived], "unarchive": list[Unarchived], "delete": list[Deleted | DeletedRun],
    "dashboard": Dashboard, "report": Report,
    "sync": Synced, "best": BestSettings, "compare": ComparisonDocument, "query": Query,
    "search": list[DecisionDocument] | Replay, "note": list[NoteDocument],
    "reproduce": Steps, "export": Written | Lines, "register": Lines, "notify": Sent, "sync-wandb": list[Upload],
    "setup": Setup, "doctor": list[Finding], "pack-env": PackedImage,
    "push-env": PushedEnvironment, "prefetch": Lines, "probe": Lines}
# and of submit_multiple.py: in a dry run, and otherwise
SUBMISSION_DOCUMENTS = (PlannedRun, Submission)
