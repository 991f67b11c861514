"""Commands that show how far runs are: status, watch, wait, missing, logs."""
from __future__ import annotations

import argparse
import itertools
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from src.commands.command_output import Output
from src.commands.common import ALL_BATCHES, add_batches, add_interval, add_run, observe_batches
from src.errors import BatchError, retry_command
from src.printable import printable, unfiltered
from src.submission.batch import batch_folder
from src.submission.status import failures, retry_policy, run_lookup, states, status, throughput
from src.submission.status.observation import Observation
from src.submission.status.observe import SlurmView
from src.submission.system.terminal import is_plain, is_terminal

if TYPE_CHECKING:
    from src.commands import documents

_MAX_ROWS = 50  # runs in a status table without --all


def add_status(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=print_status)
    add_batches(parser, ALL_BATCHES)
    _add_all(parser)
    parser.add_argument("--state", action="append", choices=sorted(states.ALL), metavar="STATE",
                        help="only runs in this state (repeatable)")
    parser.add_argument("--tag", action="append", default=[], metavar="TAG",
                        help="only runs with this tag (repeatable: with all of them)")
    parser.add_argument("--names", action="store_true", help="print the names of the runs only, one per line")
    parser.add_argument("--efficiency", action="store_true", help="print how much of their memory, time and CPUs the "
                        "ended Slurm jobs used, from sacct, and what to request instead; with --slots auto, what the "
                        "workers found")


def add_watch(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=watch)
    add_batches(parser, ALL_BATCHES)
    _add_all(parser)
    parser.add_argument("--every", type=float, default=5.0, metavar="SECONDS",
                        help="refresh interval, from the files of the runs (default: 5)")
    add_interval(parser)


def _add_all(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--all", action="store_true", help=f"show every run, not only {_MAX_ROWS} per batch")


def add_wait(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=wait)
    add_batches(parser)
    parser.add_argument("--every", type=float, default=10.0, metavar="SECONDS",
                        help="polling interval of the files of the runs (default: 10)")
    add_interval(parser)


def add_missing(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=print_missing)
    parser.add_argument("path", metavar="JOB_SPEC", help="a job spec, for example jobs/x.yaml")
    parser.add_argument("--output-dir", metavar="F", help="folder of the batches, instead of job_details.output_dir")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as in submit_multiple.py")
    parser.add_argument("--samples", type=int, metavar="K", help="as in submit_multiple.py")
    parser.add_argument("--seed", type=int, metavar="S", help="as in submit_multiple.py")


def add_logs(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=print_logs)
    add_run(parser)
    parser.add_argument("-f", "--follow", action="store_true", help="print new lines until the run has ended")
    parser.add_argument("--raw", action="store_true", help="also print the escape sequences in the logs, such as "
                        "colors, which can do more than that")
    add_interval(parser)


def print_status(options: argparse.Namespace) -> Output:
    """Print the table of batches, and a line per run of the named batches (or of the newest)."""
    observations = observe_batches(options.batches)
    shown_states = options.state or states.ALL
    if options.tag:
        observations = [status.filter_runs(observation, states.ALL, options.tag) for observation in observations]
    in_shown_states = [status.filter_runs(observation, shown_states) for observation in observations]
    if options.names:
        names = [name for observation in in_shown_states for name in observation.runs]
        return Output(names, names)
    used = _used_resources(observations) if options.efficiency else {}
    if options.json:
        document = [status.as_json(observation) | (
            {"used": used[observation.path]} if observation.path in used else {}) for observation in in_shown_states]
        return Output([], document)
    limit, newest_only = None if options.all else _MAX_ROWS, not options.batches
    usage_lines = [line for path, usage in used.items() for line in (
        "", path, *(usage or ["neither sacct nor a run shows what an ended Slurm job of this batch used"]))]
    if is_plain():
        return Output([status.render(observations, limit, newest_only, shown_states, now=time.time()), *usage_lines])
    from src.terminal import colors, status_view

    for line in status_view.lines(observations, limit, newest_only, shown_states, time.time(),
                                  colors.terminal_width()):
        colors.write(line)
    return Output(usage_lines)


def _used_resources(observations: list[Observation]) -> dict[str, list[str]]:
    """Return what the ended Slurm jobs of each batch used, from one call of sacct, and what workers found."""
    from src.submission.slots import record
    from src.submission.status import efficiency

    return {path: [*usage.lines(), *record.lines(path)]
            for path, usage in efficiency.usage_by_batch(observations).items()}


def watch(options: argparse.Namespace) -> Output:
    """Show the runs on a live screen until the user quits; without a terminal, print the status again and again until
    every run has ended or is stuck.
    """
    from src.submission.status import wait

    if not options.json and sys.stdin.isatty() and is_terminal():
        from src.terminal.live import watch as live

        observations = live.run(lambda slurm: observe_batches(options.batches, slurm), options.every, options.interval)
        return Output([throughput.progress_line(observations, time.time(), 12)] if observations else [])
    views = wait.watch(lambda slurm: observe_batches(options.batches, slurm), options.every, options.interval)
    return Output(_screens(views, options), (list(map(status.as_json, observations)) for observations, _ in views))


def _screens(views: Iterable[tuple[list[Observation], SlurmView]], options: argparse.Namespace) -> Iterator[str]:
    """Clear the screen and yield its text, for each view, until Ctrl-C."""
    try:
        for observations, slurm in views:
            limit = _MAX_ROWS
            if sys.stdout.isatty():
                limit = _rows_on_screen(observations, len(options.batches) or 1)
            text = status.render(observations, None if options.all else limit, not options.batches,
                                 starts=slurm.queue.expected_starts(), curves=True)
            progress = throughput.progress_line(observations, time.time())
            if sys.stdout.isatty():
                unfiltered(sys.stdout).write("\x1b[H\x1b[2J")  # clears the screen
            yield f"{time.strftime('%H:%M:%S')}  {progress}\n{text}"
    except KeyboardInterrupt:
        yield ""


def _rows_on_screen(observations: list[Observation], tables: int) -> int:
    """Return how many rows each table of runs may have so that everything fits on the terminal."""
    failure_lines = sum(min(len(failures.group_failures(observation.runs.values())), status.MAX_GROUPS + 1)
                        for observation in observations)
    return max(3, (os.get_terminal_size().lines - len(observations) - failure_lines - 3) // tables - 4)


def wait(options: argparse.Namespace) -> Output:
    """Block until every run has ended or is stuck. Return 0 if every run ended well or was deleted, else 1."""
    from src.search import summary
    from src.submission.status.wait import wait_for_batches

    paths = [batch_folder.require_batch(path) for path in options.batches]
    if options.json or not is_terminal():
        observations = wait_for_batches(paths, options.every, options.interval)
    else:
        from src.terminal import footer

        with footer.Footer() as line:
            observations = wait_for_batches(paths, options.every, options.interval,
                                            lambda observed: line.show(footer.of_batches(observed)))
    lines, document = [], []
    for observation in observations:
        counts, groups = status.counts(observation), failures.group_failures(observation.runs.values())
        text = ", ".join(f"{number} {states.shown(name)}" for name, number in counts.items())
        search = summary.unfinished(observation.path)
        lines += [f"{observation.path}: {text}", *(f"  {group.line()}" for group in groups)]
        if search:
            lines.append(f"  the search is not over: {search}; `{retry_command(observation.path)}` continues it")
        batch_end: documents.BatchEnd = {"batch": observation.path, "counts": counts, "failures": [
            {"state": group.state, "error": group.error, "log": group.log,
             "runs": [os.path.basename(run.path) for run in group.runs]} for group in groups],
            "unfinished_search": search}
        document.append(batch_end)
    return Output(lines, document, int(any(
        end["unfinished_search"] or observation.count(retry_policy.CLOSED) < len(observation.runs)
        for observation, end in zip(observations, document, strict=True))))


def print_missing(options: argparse.Namespace) -> Output:
    """Print the names of the points of a job spec that no batch in its output_dir has done, one per line."""
    from src.io import files
    from src.submission.batch import done_points
    from src.submission.planning.command_line import key_values
    from src.submission.spec.job_spec import check_output_dir
    from src.submission.spec.reader import read_job_spec

    job_spec = read_job_spec(options.path)
    output_dir = job_spec.output_dir
    if options.output_dir:
        output_dir = check_output_dir(options.output_dir, "--output-dir")
    output_dir = files.expand_path(output_dir, "output_dir")
    names = done_points.missing_points(job_spec, key_values(options.set, "--set"), output_dir, options.samples,
                                       options.seed)
    document: documents.Missing = {"missing": list(names)}
    return Output(names, document, int(bool(names)))


def print_logs(options: argparse.Namespace) -> Output:
    """Print training.log and the output of all attempts, the file that was written last at the end."""
    from src.submission.status import follow_logs

    run = follow_logs.observe_run(run_lookup.find_run(options.run_name, batch_folder.results_folder()))
    paths, starts = failures.log_paths(run), follow_logs.starts(run)
    if not paths and len(starts) < 2 and not options.follow:
        raise BatchError("this run has no log; its state: " + states.shown(run.state.name) + (
            f": {run.state.why}" if run.state.why else ""), where=run.path, hint="-f waits for it"
            if run.state.name in retry_policy.MAYBE_ALIVE else None)
    texts = {path: follow_logs.read_from(path, 0) for path in paths}
    logs: list[documents.LogText] = [
        {"file": path, "text": text if options.raw else printable(text)} for path, (text, _) in texts.items()]
    if not options.follow:
        document = {"run": run.path, "state": run.state.name, "starts": [start._asdict() for start in starts],
                    "logs": logs}
        lines = [start.line() for start in starts] if len(starts) > 1 else []
        if not logs:
            lines.append(f"no log; its state: {states.shown(run.state.name)}")
        return Output(itertools.chain(lines, _write_logs(logs, options.raw)), document)
    positions = {path: end for path, (_, end) in texts.items()}
    if is_terminal() and not options.json and not options.raw:
        return Output(_follow_on_terminal(run.path, logs, positions, options.interval))
    appended = follow_logs.follow(run.path, positions, options.interval)
    return Output(_follow(logs, appended, options.raw), itertools.chain(logs, (
        {"state": part} if isinstance(part, str) else {"file": part[0], "text": part[1]} for part in appended)))


def _write_logs(logs: Iterable[documents.LogText], raw: bool) -> Iterator[str]:
    """Write logs, each below its path; yield nothing. raw: with their escape sequences."""
    for log in logs:
        print(f"==> {log['file']} <==")
        _write(log["text"], raw)
    yield from ()


def _follow(logs: Iterable[documents.LogText], appended: Iterable[tuple[str, str] | str], raw: bool) -> Iterator[str]:
    """Write logs and what is appended to them, until Ctrl-C; yield a line with the state at the end."""
    yield from _write_logs(logs, raw)
    try:
        for part in appended:
            if isinstance(part, str):
                yield f"state: {part}"
            else:
                _write(part[1], raw)
    except KeyboardInterrupt:
        yield ""


def _follow_on_terminal(folder: str, logs: Iterable[documents.LogText], positions: Mapping[str, int],
                        interval: float | None) -> Iterator[str]:
    """As _follow, with a line at the bottom that shows how far the run is."""
    from src.submission.status import follow_logs
    from src.terminal import footer

    begun = ""  # the last line of the logs, if its end is not written yet
    for log in logs:
        _write(f"{begun}\n" if begun else "", raw=False)
        complete, newline, begun = log["text"].rpartition("\n")
        print(f"==> {log['file']} <==")
        _write(complete + newline, raw=False)
    state = ""
    try:
        with footer.Footer() as line:
            line.write(begun)
            for part in follow_logs.follow(folder, positions, interval, lambda run: line.show(*footer.of_run(run))):
                if isinstance(part, str):
                    state = f"state: {part}"
                else:
                    line.write(part[1])
    except KeyboardInterrupt:
        pass
    yield state


def _write(text: str, raw: bool) -> None:
    (unfiltered(sys.stdout) if raw else sys.stdout).write(text)
    sys.stdout.flush()
