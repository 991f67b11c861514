"""The command line of submit_multiple.py: its options, and which of them go together."""
from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from src import run_folder
from src.errors import JobSpecError
from src.io import yaml_io
from src.submission.status import retry_policy

Add = Callable[..., object]  # argparse's add_argument, of a group of options


def parse(argv: Sequence[str], description: str | None = None) -> argparse.Namespace:
    """The command line. Contradictions are user errors."""
    parser = argparse.ArgumentParser(prog="submit_multiple.py", description=description,
                                     epilog="docs/job-spec.md tells how job specs are written. experiments.py looks "
                                     "after what was submitted.")
    parser.add_argument("path", help="a job spec (jobs/x.yaml) or a W&B sweep file; with -r a batch folder")
    _add_doing(parser.add_argument_group("what to do").add_argument)
    _add_places(parser.add_argument_group("where the runs run").add_argument)
    _add_points(parser.add_argument_group("which runs, and what they are").add_argument)
    _add_care(parser.add_argument_group("what comes first, and what ends it").add_argument)
    options = parser.parse_args(argv)
    for wrong, text in _contradictions(options):
        if wrong:
            raise JobSpecError(text, where="command line", hint="`python submit_multiple.py --help` explains them")
    return options


def _add_doing(add: Add) -> None:
    add("-d", "--dry-run", action="store_true", help="show all, with the exact commands; write and submit nothing")
    add("--json", action="store_true", help="with -d: one JSON object per run (name, folder, spec, command)")
    add("-y", "--yes", action="store_true", help="do not ask")
    add("--no-submit", action="store_true", help="write the run folders and stop; -r submits them later")
    add("-o", "--overwrite", action="store_true", help="remove the earlier batch of the same name first")
    add("-r", "--retry", "--rerun", action="store_true", help="submit what is not done and not pending or running")
    add("--extend", action="store_true", help="add to the newest batch of that name what is new in the job spec; what "
        "it has stays as it is")


def _add_places(add: Add) -> None:
    add("-s", "--script", help="submit script for sbatch, as submit_2080.sh")
    add("--array", action="store_true", help="Slurm job arrays instead of a Slurm job for each run")
    add("--workers", type=_positive, metavar="N", help="with --local: runs at a time (default: half the "
        "cores); else: Slurm jobs that share the runs and take one after another")
    add("--slots", type=_positive, metavar="K", help="runs at a time in each worker, as to pack a GPU (default: 1)")
    add("--max-running", type=_positive, metavar="K", help="with --array: at most K runs of each array at a time")
    add("--sbatch", action="append", default=[], metavar="KEY=VALUE", help="an sbatch option, as mem=32G (repeatable)")
    add("--local", action="store_true", help="run on this machine, without Slurm")
    add("--gpus", metavar="1,3|free", help="with --local: pin the runs to these GPUs, or to those that nobody uses")
    add("--on", metavar="HOST", help="send the project to another machine by ssh, and submit it there "
        "(docs/laptop.md)")
    add("--container", metavar="IMAGE", help="run in this image, by Apptainer or Singularity, instead of "
        "job_details.container; none: without one. Holds for later submissions of the batch by -r too")


def _add_points(add: Add) -> None:
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="replace an axis or a constant (repeatable)")
    add("--samples", type=_positive, metavar="K", help="so many random points, where values are drawn, as by "
        "!uniform [0, 1]")
    add("--seed", type=_count, metavar="S", help="of these random points (default: 0)")
    add("--max-runs", type=_positive, metavar="K", help="only the first K runs; with -r: of those that are to "
        "be submitted")
    add("--state", action="append", choices=sorted(retry_policy.RETRIED), metavar="STATE",
        help=f"with -r: only runs in this state (repeatable): {', '.join(sorted(retry_policy.RETRIED))}")
    add("--skip-done", action="store_true", help="leave out the points that another batch in the same output_dir has "
        "done")
    add("--shard", metavar="K/N", help="only part K of N, as 1/2 at one site and 2/2 at another; `experiments.py sync` "
        "brings them together")
    add("--date", metavar="YY-MM-DD", help="with --shard: the date in the batch's name, where another site has "
        "submitted its part on an earlier day")
    add("--output-dir", metavar="F", help="instead of job_details.output_dir")
    add("--command", metavar="WORDS", help="a program other than train.py; fills in {spec}, {folder}, {args} and "
        "the {NAME} of a parameter")


def _add_care(add: Add) -> None:
    add("--smoke", action="store_true", help="run one batch of each distinct model and data set here first, and stop "
        "if one fails")
    add("--canary", action=argparse.BooleanOptionalAction, help="one epoch of each distinct script, model and data set "
        "first; what waits for one that fails is not run. Holds for later submissions of the batch too")
    add("--require-clean", action="store_true", help="stop if anything of the code is uncommitted or unpushed")
    add("--after", metavar="BATCH", help="start when every run of that batch has ended well, as Slurm sees it")
    add("--max-queued", type=_positive, metavar="K", help="at most K Slurm jobs of the batch pending or running; stops "
        "there with exit code 3, and the same command goes on")
    add("--wait", action="store_true", help="with limits of queued jobs: wait for room, and go on")
    add("--max-failures", type=_count, default=5, metavar="K", help="stop if the first K runs that end all fail alike "
        "(default: 5; 0: never)")


def _contradictions(options: argparse.Namespace) -> list[tuple[object, str]]:
    """What cannot be asked for together: whether it is, and what is wrong with it."""
    return [
        (options.smoke and (options.dry_run or options.no_submit), "--smoke runs something, and a dry run or "
         "--no-submit nothing: give it when you submit"),
        (options.smoke and options.command, "--smoke knows train.py alone, not a --command"),
        (options.json and not options.dry_run, "--json goes with --dry-run"),
        (options.local and options.script, "--local runs without Slurm, -s with it: give one of them"),
        (options.local and options.array, "--local runs without Slurm, --array with it: give one of them"),
        (options.array and options.workers, "--array makes a task of each run and --workers share them: give one of "
         "them"),
        (options.max_running and not options.array, "--max-running goes with --array"),
        (options.slots and not (options.workers or options.local), "--slots goes with --workers or --local"),
        (options.gpus and not options.local, "--gpus goes with --local: Slurm gives its own GPUs to each job"),
        (options.max_queued and options.workers, "--workers N submits no more than N Slurm jobs: give it alone"),
        (options.local and (options.max_queued or options.wait), "--max-queued and --wait are for Slurm's queue, and "
         "--local runs without it"),
        (options.state and not options.retry, "--state goes with -r"),
        (options.extend and (options.retry or options.overwrite), "--extend adds what is new in a job spec to its "
         "batch: give it without -r and -o"),
        (options.extend and options.shard, "--extend numbers its runs by the whole batch, of which --shard is a part: "
         "give one of them"),
        (options.skip_done and options.retry, "--skip-done goes with a job spec: -r keeps to the runs of its batch"),
        (options.shard and options.retry, "--shard goes with a job spec: -r keeps to the part that this site has"),
        (options.date and not options.shard, "--date goes with --shard: a batch of one site is named after today"),
        (options.after and options.no_submit, "--no-submit submits nothing that could wait: give --after with -r"),
        (options.after and options.local, "--after has Slurm wait, and --local runs without it: `experiments.py wait` "
         "does"),
        (options.local and options.sbatch, "--local runs without Slurm, --sbatch is for it: give one of them"),
        (not options.retry and run_folder.is_batch_folder(options.path), f"{options.path} is a batch, not a job spec: "
         "-r goes on with it"),
        (options.retry and options.overwrite, "--retry keeps an earlier batch and --overwrite removes it: give one of "
         "them")]


def _count(text: str) -> int:
    return 0 if text == "0" else _positive(text)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number from 1 on")
    return int(text)


def key_values(pairs: Sequence[str], option: str) -> dict[str, Any]:
    """`key=value` words as a mapping, with values read as YAML."""
    result = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise JobSpecError(f"'{pair}' is not KEY=VALUE", where=option, hint=f"as in {option} batch_size=[8,32]"
                               if option == "--set" else f"as in {option} mem=32G")
        result[key] = yaml_io.load(value, f"{option} {key}")
    return result
