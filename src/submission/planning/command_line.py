"""The command line of submit_multiple.py: its options, and which of them can be combined."""
from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from src import run_folder
from src.errors import JobSpecError
from src.io import yaml_io
from src.submission.batch import batch_folder
from src.submission.spec.job_spec import AUTO
from src.submission.status import retry_policy
from src.submission.system.terminal import help_formatter

_WORDS: dict[str, bool | None] = {"true": True, "false": False, "null": None, "~": None, "": None}
SLOTS_AND_STACK = ("--slots auto and a stack both find out how many runs share a device: use one of them, or --slots K "
                   "with the stack")
_AddArgument = Callable[..., object]  # add_argument of a group of options


class Options(NamedTuple):
    """The options of submit_multiple.py, checked. Fields are named like the options, apart from --set."""

    path: str
    overrides: dict[str, Any]  # --set
    sbatch: dict[str, Any]
    right_size: bool | None = None
    # what to do
    dry_run: bool = False
    json: bool = False
    yes: bool = False
    no_submit: bool = False
    overwrite: bool = False
    retry: bool = False
    force: bool = False
    extend: bool = False
    # where the runs run
    script: str | None = None
    array: bool = False
    workers: int | None = None
    slots: int | str | None = None
    stack: int | str | None = None
    max_running: int | None = None
    local: bool = False
    gpus: str | None = None
    on: str | None = None
    container: str | None = None
    # which runs
    samples: int | None = None
    seed: int | None = None
    max_runs: int | None = None
    state: list[str] | None = None
    skip_done: bool = False
    shard: str | None = None
    date: str | None = None
    output_dir: str | None = None
    command: str | None = None
    # what comes first, and what stops the submission
    smoke: bool = False
    canary: bool | None = None
    require_clean: bool = False
    after: str | None = None
    max_queued: int | None = None
    wait: bool = False
    max_failures: int = 5


EXAMPLES = """\
  python submit_multiple.py jobs/digits-quickstart.yaml -s submit_cpu.sh --dry-run  show what Slurm would run
  python submit_multiple.py jobs/digits-quickstart.yaml --local                     run it on this machine
  python submit_multiple.py -r jobs/digits-quickstart.yaml                          run again what failed"""


def parse(argv: Sequence[str], description: str | None = None) -> Options:
    """Parse the command line. JobSpecError if options contradict each other."""
    parser = argparse.ArgumentParser(prog="submit_multiple.py", description=description, formatter_class=help_formatter,
                                     usage=f"submit_multiple.py [options] path\n\n{EXAMPLES}",
                                     epilog="docs/job-spec.md describes job specs. experiments.py manages what was "
                                     "submitted.")
    parser.add_argument("path", help="a job spec (jobs/x.yaml) or a W&B sweep file; with -r "
                        + batch_folder.ACCEPTED_FORMS)
    _add_actions(parser.add_argument_group("what to do").add_argument)
    _add_launch_options(parser.add_argument_group("where the runs run").add_argument)
    _add_points(parser.add_argument_group("which runs").add_argument)
    _add_checks(parser.add_argument_group("what comes first, and what stops the submission").add_argument)
    values = vars(parser.parse_args(argv))
    overrides = key_values(values.pop("set"), "--set")
    options = Options(**{**values, "sbatch": sbatch_options(values["sbatch"])}, overrides=overrides)
    for is_contradiction, message in _contradictions(options):
        if is_contradiction:
            raise JobSpecError(message, where="command line", hint="see `python submit_multiple.py --help`")
    return options


def _add_actions(add: _AddArgument) -> None:
    add("-d", "--dry-run", action="store_true", help="print the plan with the exact commands; write and submit nothing")
    add("--json", action="store_true", help="with -d: print one JSON object per run (name, folder, spec, command); "
        "with -y: print one with the runs that were submitted, and all text on stderr (docs/reference/json.md)")
    add("-y", "--yes", action="store_true", help="do not ask")
    add("--no-submit", action="store_true", help="only write the run folders; -r submits them later")
    add("-o", "--overwrite", action="store_true", help="first remove the earlier batch of the same name")
    add("-r", "--retry", "--rerun", action="store_true", help="submit the runs of a batch that were not submitted or "
        "did not end well, except those that may still run (docs/guarantees.md)")
    add("--force", action="store_true", help="with -r: also runs in the state unknown; one that still runs is "
        "superseded and stops")
    add("--extend", action="store_true", help="add the new points of the job spec to the newest batch of that name; "
        "its runs stay as they are")


def _add_launch_options(add: _AddArgument) -> None:
    add("-s", "--script", help="submit script for sbatch, for example submit_2080.sh")
    add("--array", action="store_true", help="submit Slurm job arrays instead of one Slurm job per run")
    add("--workers", type=positive, metavar="N", help="with --local: number of runs at a time (default: half the "
        "cores); else: number of Slurm jobs that share the runs and take one after another")
    add("--slots", type=number_or_auto, metavar="K|auto", help="runs at a time in each worker, to share a GPU "
        "(default: 1); auto: each worker measures its runs, and runs as many at a time as fit and are fastest "
        "(docs/slots.md)")
    add("--stack", type=number_or_auto, metavar="K|auto", help="train runs that differ in numbers alone, such as "
        "learning rates and seeds, K at a time in one process; auto: as many as is fastest; 1: off (docs/stacking.md)")
    add("--max-running", type=positive, metavar="K", help="with --array: at most K runs of each array at a time")
    add("--sbatch", action="append", default=[], metavar="KEY=VALUE", help="an option of sbatch, for example mem=32G "
        "(repeatable)")
    add("--right-size", action=argparse.BooleanOptionalAction, help="request what 95 %% of earlier runs of the same "
        "model, data and batch size needed, with a margin, and never more than the script. Also applies to later "
        "submissions of the batch")
    add("--local", action="store_true", help="run on this machine, without Slurm")
    add("--gpus", metavar="1,3|free", help="with --local: pin the runs to these GPUs, or to the GPUs that nobody uses")
    add("--on", metavar="HOST", help="upload the project to another machine by ssh, and submit it there "
        "(docs/laptop.md)")
    add("--container", metavar="IMAGE", help="run in this image, by Apptainer or Singularity, instead of "
        "job_details.container; none: without a container. Also applies to later submissions of the batch by -r")


def _add_points(add: _AddArgument) -> None:
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="replace an axis or a constant (repeatable)")
    add("--samples", type=positive, metavar="K", help="number of random points, where values are drawn, for example "
        "by !uniform [0, 1]")
    add("--seed", type=_non_negative, metavar="S", help="seed of these random points (default: 0)")
    add("--max-runs", type=positive, metavar="K", help="only the first K runs; with -r: of those to submit")
    add("--state", action="append", choices=sorted(retry_policy.RETRIED), metavar="STATE",
        help=f"with -r: only runs in this state (repeatable): {', '.join(sorted(retry_policy.RETRIED))}")
    add("--skip-done", action="store_true", help="leave out points that another batch in the same output_dir has done")
    add("--shard", metavar="K/N", help="only shard K of N, for example 1/2 at one site and 2/2 at another; "
        "`experiments.py sync` merges them")
    add("--date", metavar="YY-MM-DD", help="with --shard: date in the name of the batch, if another site has "
        "submitted its shard on an earlier day")
    add("--output-dir", metavar="F", help="folder of the batch, instead of job_details.output_dir")
    add("--command", metavar="WORDS", help="run a program other than train.py; {spec}, {folder}, {args} and the "
        "{NAME} of a parameter are filled in")


def _add_checks(add: _AddArgument) -> None:
    add("--smoke", action="store_true", help="first run one batch of each distinct model and data set on this machine, "
        "and stop if one fails")
    add("--canary", action=argparse.BooleanOptionalAction, help="first run one epoch of each distinct script, model "
        "and data set; runs whose canary fails are not run. Also applies to later submissions of the batch")
    add("--require-clean", action="store_true", help="stop if any code is uncommitted or unpushed")
    add("--after", metavar="BATCH", help="start when every run of that batch (a folder, or a job spec or name) has "
        "ended well; Slurm waits for them")
    add("--max-queued", type=positive, metavar="K", help="at most K Slurm jobs of the batch pending or running; stops "
        "there with exit code 3, and the same command continues")
    add("--wait", action="store_true", help="at a limit of queued jobs: wait for room and continue")
    add("--max-failures", type=_non_negative, default=5, metavar="K", help="stop if the first K runs that end all fail "
        "alike (default: 5; 0: never)")


def _contradictions(options: Options) -> list[tuple[object, str]]:
    """Return pairs: whether the command line has a contradiction, and its message."""
    return [
        (options.smoke and (options.dry_run or options.no_submit), "--smoke runs something, and a dry run or "
         "--no-submit does not: use it when you submit"),
        (options.smoke and options.command, "--smoke can only run train.py, not a --command"),
        (options.json and not (options.dry_run or options.yes), "--json asks no question: use it with --dry-run or "
         "--yes"),
        (options.local and options.script, "--local does not use Slurm, -s is a script for Slurm: use one of them"),
        (options.local and options.array, "--local does not use Slurm, --array submits job arrays: use one of them"),
        (options.array and options.workers, "--array makes each run a task of a job array, and --workers N shares the "
         "runs among N jobs: use one of them"),
        (options.array and options.stack not in (None, 1), "--array makes each run a task of a job array, and --stack "
         "trains several in one process: use --stack without it (a Slurm job for each stack), or with --workers"),
        (options.stack not in (None, 1) and options.command, "--stack trains runs of train.py together, and a "
         "--command starts a process for each run: use one of them"),
        (options.max_running and not options.array, "--max-running requires --array"),
        (options.slots and options.array, "--array makes each run a task of a job array, and --slots lets a worker run "
         "several at a time: use --workers N instead of --array"),
        (options.slots and not (options.workers or options.local), "--slots requires --workers or --local"),
        (options.slots == AUTO and options.stack not in (None, 1), SLOTS_AND_STACK),
        (options.gpus and not options.local, "--gpus requires --local: Slurm assigns GPUs to each job"),
        (options.max_queued and options.workers, "--workers N submits at most N Slurm jobs: use it without "
         "--max-queued"),
        (options.local and (options.max_queued or options.wait), "--max-queued and --wait are for Slurm's queue, and "
         "--local runs without it"),
        (options.state and not options.retry, "--state requires -r"),
        (options.force and not options.retry, "--force requires -r"),
        (options.extend and (options.retry or options.overwrite), "--extend adds new points of a job spec to its "
         "batch: use it without -r and -o"),
        (options.extend and options.shard, "--extend cannot number the runs of one shard: use one of them"),
        (options.skip_done and options.retry, "--skip-done requires a job spec: -r submits only runs of its batch"),
        (options.shard and options.retry, "--shard requires a job spec: -r submits only the shard of this site"),
        (options.date and not options.shard, "--date requires --shard: a batch of one site is named after today"),
        (options.after and options.no_submit, "--no-submit submits nothing that could wait: use --after with -r"),
        (options.after and options.local, "--after makes Slurm wait, and --local runs without it: use "
         "`experiments.py wait`"),
        (options.local and options.right_size, "--local does not use Slurm, --right-size reduces what it is asked for: "
         "use one of them"),
        (options.local and options.sbatch, "--local does not use Slurm, --sbatch sets its options: use one of them"),
        (not options.retry and run_folder.is_batch_folder(options.path), f"{options.path} is a batch, not a job spec: "
         "-r continues it"),
        (options.retry and options.overwrite, "--retry keeps an earlier batch and --overwrite removes it: use one of "
         "them")]


def _non_negative(text: str) -> int:
    return 0 if text == "0" else positive(text)


def positive(text: str) -> int:
    """Parse an argument that is a whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a positive whole number")
    return int(text)


def number_or_auto(text: str) -> int | str:
    """Parse the argument of --slots or --stack: a whole number from 1, or auto."""
    if text != AUTO and (not text.isdecimal() or int(text) < 1):
        raise argparse.ArgumentTypeError(f"'{text}' is neither a number of runs, from 1, nor auto")
    return text if text == AUTO else int(text)


def key_values(pairs: Iterable[str], option: str) -> dict[str, Any]:
    """Parse arguments `key=value` into a mapping, with values read as YAML."""
    return {key: yaml_io.load(value, f"{option} {key}", is_sbatch=key == "SBATCH")
            for key, value in _split(pairs, option, "batch_size=[8,32]")}


def sbatch_options(pairs: Iterable[str]) -> dict[str, Any]:
    """Parse arguments `option=value` of --sbatch into a mapping. A value is text, apart from true, false and null."""
    return {key: _WORDS.get(value.strip().lower(), value) for key, value in _split(pairs, "--sbatch", "mem=32G")}


def _split(pairs: Iterable[str], option: str, example: str) -> Iterator[tuple[str, str]]:
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise JobSpecError(f"'{pair}' is not KEY=VALUE", where=option, hint=f"for example {option} {example}")
        yield key, value
