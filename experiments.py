"""Looks after what was submitted: status, watch, logs, cancel, report, note, reproduce, prefetch, probe and others."""
from __future__ import annotations

import argparse
import dataclasses
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence

from src import config, logs, run_folder
from src.checks import registered_names
from src.errors import BatchError, JobSpecError, exits_on_user_error, to_type
from src.io import files, yaml_io
from src.submission.batch import batch_folder
from src.submission.batch.journal import LOCAL
from src.submission.slurm import client
from src.submission.spec import notify_spec, reader
from src.submission.status import failures, run_lookup, states, status
from src.submission.status.observation import Observation, Run
from src.submission.status.observe import observe
from src.submission.system import process
from src.submission.system.terminal import ask, count, table

PROJECT, RESULTS = os.path.dirname(os.path.abspath(__file__)), batch_folder.results_folder()
ON_HOST = ("status", "watch", "wait", "missing", "logs", "cancel", "clean", "report", "note", "doctor", "prefetch")
Add = Callable[[str, object, str], argparse.ArgumentParser]  # name, function, help: a subcommand to be filled
ALL_CHOICES = 1_000  # random points: each value that may be drawn is among them


@exits_on_user_error
def main(argv: Sequence[str]) -> int | None:
    """One subcommand."""
    options = parse(argv)
    if getattr(options, "on", None):
        from src.submission.remote import remote_command

        return remote_command.run(argv[0], argv, options, PROJECT, RESULTS)
    return options.run(options)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="experiments.py", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run: object, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run)
        if name in ON_HOST:
            command.add_argument("--on", metavar="HOST", help="do it on another machine: a host of hosts.toml, or of "
                                 "ssh's own configuration")
        return command

    for group in (_add_watching, _add_ending, _add_reading, _add_books, _add_machines):
        group(add)
    return parser.parse_args(argv)


def _add_watching(add: Add) -> None:
    """The subcommands that look on."""
    for name, run, text in (("status", print_status, "how far each run is; without a batch: all under results/"),
                            ("watch", watch, "status, refreshed until nothing is pending or running")):
        command = add(name, run, text)
        command.add_argument("batches", nargs="*", metavar="BATCH", help="a batch folder")
        command.add_argument("--all", action="store_true", help="every run, however many")
        if name == "status":
            command.add_argument("--json", action="store_true", help="plain values for scripts")
            command.add_argument("--state", action="append", choices=sorted(states.ALL), metavar="STATE",
                                 help="only runs in this state (repeatable)")
            command.add_argument("--tag", action="append", default=[], metavar="TAG",
                                 help="only runs with this tag (repeatable: with all of them)")
            command.add_argument("--names", action="store_true", help="the names of the runs alone, one on each line")
            command.add_argument("--efficiency", action="store_true", help="what ended Slurm jobs used of the memory, "
                                 "time and CPUs that they had, by sacct, and what to ask for")
        else:
            command.add_argument("--every", type=float, default=5.0, metavar="SECONDS", help="default: 5")
    command = add("wait", wait, "block until nothing is pending or running; exit code 0 if all is done, 1 otherwise")
    command.add_argument("batches", nargs="+", metavar="BATCH", help="a batch folder")
    command.add_argument("--every", type=float, default=10.0, metavar="SECONDS", help="default: 10")
    command = add("missing", print_missing, "the points of a job spec not done in any batch; exit code 1 if any")
    command.add_argument("path", metavar="JOB_SPEC", help="as jobs/x.yaml")
    command.add_argument("--output-dir", metavar="F", help="where the batches are, instead of job_details.output_dir")
    command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as for submit_multiple.py")
    command.add_argument("--samples", type=int, metavar="K", help="likewise")
    command.add_argument("--seed", type=int, metavar="S", help="likewise")
    command = add("logs", print_logs, "what a run has logged")
    command.add_argument("run_word", metavar="RUN", help=run_lookup.ACCEPTED_FORMS)
    command.add_argument("-f", "--follow", action="store_true", help="go on until the run has ended")


def _add_ending(add: Add) -> None:
    """The subcommands that end what runs, and remove what it leaves."""
    command = add("cancel", cancel, "end what is pending or running of batches, or single runs")
    command.add_argument("targets", nargs="+", metavar="BATCH|RUN",
                         help=f"a batch folder; or {run_lookup.ACCEPTED_FORMS}")
    command.add_argument("--state", action="append", choices=sorted(states.ALIVE), metavar="STATE",
                         help=f"only runs in this state (repeatable): {', '.join(sorted(states.ALIVE))}")
    command.add_argument("-y", "--yes", action="store_true", help="do not ask")
    command = add("clean", clean, "remove what runs saved to go on from, where they have ended")
    command.add_argument("batches", nargs="*", metavar="BATCH", help="a batch folder (default: all under results/)")
    command.add_argument("--unfinished", action="store_true",
                         help="of runs too that have not ended and do not run: they would begin anew")
    command.add_argument("-y", "--yes", action="store_true", help="do not ask")


def _add_reading(add: Add) -> None:
    """The subcommands that read results."""
    command = add("report", report, "one HTML file with the results of batches")
    command.add_argument("batches", nargs="+", metavar="BATCH", help="a batch folder")
    command.add_argument("--to", metavar="FILE", help="default: report.html in the first batch")
    command = add("sync", fetch_results, "fetch results from another machine by rsync, again for what is new")
    command.add_argument("source", metavar="HOST[:FOLDER]", help="a host of hosts.toml or of ssh's configuration; "
                         "FOLDER in the home folder there (default: the project's results)")
    command.add_argument("--into", metavar="FOLDER", default=RESULTS, help=f"default: {RESULTS}")
    command.add_argument("--checkpoints", action="store_true", help="checkpoints and snapshots of code too")
    command = add("compare", compare_batches, "two batches: which settings changed, which metrics moved and how surely")
    command.add_argument("before", metavar="BATCH_A", help="a batch folder")
    command.add_argument("after", metavar="BATCH_B", help="a batch folder")
    command = add("query", query, "the runs of batches for which an expression holds")
    command.add_argument("batches", nargs="+", metavar="BATCH", help="a batch folder")
    command.add_argument("expression", metavar="EXPRESSION",
                         help="as \"batch_size >= 128 and averaging.isnull()\"; columns of other names in backticks")
    command.add_argument("--columns", nargs="+", metavar="NAME", help="what to show (default: the parameters that "
                         "vary, and the best values)")
    command.add_argument("--names", action="store_true", help="the folders of the runs alone, one on each line")


def _add_books(add: Add) -> None:
    """The subcommands that keep, repeat and publish what came out."""
    command = add("note", note, "keep a conclusion with the commit, for the report; without text: show all of them")
    command.add_argument("batch", metavar="BATCH", help="a batch folder")
    command.add_argument("text", nargs="?", metavar="TEXT", help="in quotes")
    command = add("reproduce", reproduce_run, "the steps that repeat a run exactly, by the code that it ran with")
    command.add_argument("run_word", metavar="RUN", help=run_lookup.ACCEPTED_FORMS)
    command.add_argument("--run", action="store_true", dest="do", help="do them")
    command = add("export", export, "bring batches into MLflow, at once or what is new, or into two files")
    command.add_argument("batches", nargs="+", metavar="BATCH", help="a batch folder")
    command.add_argument("--to", choices=["mlflow", "parquet", "csv"], default="mlflow",
                         help="default: mlflow; the others write a row per run and a row per epoch")
    command.add_argument("--into", metavar="FOLDER", help="of the files (default: the first batch)")
    command.add_argument("--uri", help="as sqlite:///mlflow.db or http://host:5000 (default: $MLFLOW_TRACKING_URI)")
    command = add("register", register, "make a run's best model a version of a registered model of MLflow")
    command.add_argument("run_word", metavar="RUN", help=run_lookup.ACCEPTED_FORMS)
    command.add_argument("--name", required=True, help="of the registered model")
    command.add_argument("--alias", help="as staging or production")
    command.add_argument("--uri", help="as for export")
    command = add("notify", notify, "send a message about a batch, as it asks for; its own Slurm jobs do that")
    command.add_argument("batch", metavar="BATCH", help="a batch folder")
    command.add_argument("token", metavar="TOKEN", nargs="?", help="of a submission (default: the last one)")
    command.add_argument("kind", metavar="KIND", nargs="?", default="digest", choices=["failed", "ended", "digest"])
    command = add("sync-wandb", sync_wandb, "send to Weights & Biases what offline runs have left")
    command.add_argument("batches", nargs="+", metavar="BATCH", help="a batch folder")


def _add_machines(add: Add) -> None:
    """The subcommands that prepare a machine, or ask what it has."""
    command = add("doctor", doctor, "what this machine lacks for the project, and what to do; exit code 1 if it does")
    command.add_argument("--deep", action="store_true", help="load torch too, and see whether it finds the GPUs")
    command.add_argument("--json", action="store_true", help="plain values for scripts")
    command = add("push-env", push_environment, "send this environment to another machine, to the same path")
    command.add_argument("on_host", metavar="HOST", help="a host of hosts.toml, or of ssh's own configuration")
    command.add_argument("-y", "--yes", action="store_true", help="do not ask")
    command = add("prefetch", prefetch, "fetch every data set and pretrained model of a job spec once")
    command.add_argument("path", metavar="JOB_SPEC", help="as jobs/x.yaml")
    command = add("probe", probe, "the largest batch that this machine takes, and the loaders that feed it best")
    command.add_argument("path", metavar="SPEC", help="a spec, or a job spec: its largest model")
    command.add_argument("--most", type=int, default=65_536, metavar="N", help="most samples to try (default: 65536)")


def look(batches: Sequence[str]) -> list[Observation]:
    """The batches that were named, or all under results/."""
    paths = [batch_folder.require_batch(path) for path in batches] or batch_folder.all_batches(RESULTS)
    if not paths:
        raise BatchError(f"there is no batch under {RESULTS}/", hint="submit one: `python submit_multiple.py "
                         "jobs/digits-quickstart.yaml --local`; or name a batch folder")
    return observe(paths)


def print_status(options: argparse.Namespace) -> None:
    """The table of batches; of the named ones (or the newest) a line per run too."""
    observations = look(options.batches)
    only = options.state or states.ALL
    if options.tag:
        observations = [status.filter_runs(observation, states.ALL, options.tag) for observation in observations]
    if options.json:
        import json

        print(json.dumps([status.as_json(status.filter_runs(observation, only)) for observation in observations]))
    elif options.names:
        print("".join(f"{name}\n" for observation in observations
                      for name in status.filter_runs(observation, only).runs), end="")
    else:
        print(status.render(observations, None if options.all else 50, not options.batches, only, now=time.time()))
        if options.efficiency:
            print_efficiency(observations)


def print_efficiency(observations: list[Observation]) -> None:
    """What the Slurm jobs of each batch used, by one sacct."""
    from src.submission.status import efficiency

    for path, usage in efficiency.usage_by_batch(observations).items():
        print("\n".join(["", path, *(usage.lines() or ["sacct knows no Slurm job of it that has ended"])]))


def wait(options: argparse.Namespace) -> int:
    """0 once every run is done, early stopped or diverged; 1 if some are not and nothing that could end is left."""
    batches = [run_lookup.find_batch(path, RESULTS) for path in options.batches]
    for path in batches:
        refuse_copy(path, "wait")
    going = (states.SUBMITTED, states.PENDING, states.RUNNING, states.UNKNOWN)  # but not stuck: that never ends
    observations = observe(batches)
    while any(run.state.name in going and not run.host for observation in observations
              for run in observation.runs.values()):
        time.sleep(options.every)
        observations = observe(batches)
    for observation in observations:
        found = ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in status.counts(observation).items())
        print(f"{observation.path}: {found}")
        for group in failures.group_failures(observation.runs.values()):
            print(f"  {group.line()}")
    return int(any(observation.count(states.ENDED_WELL) < len(observation.runs) for observation in observations))


def refuse_copy(path: str, command: str) -> None:
    """BatchError if all of a batch was fetched from another machine: there alone is known what runs."""
    from src.submission.batch import journal

    history = journal.read_history(path)
    if history.sync_markers and not history.plans:
        host = history.sync_markers[0].host
        again = to_type("python", "experiments.py", command, path, "--on", host)
        raise BatchError(f"this is a copy of what is on {host}", where=path, hint=f"`{again}` does it there")


def print_missing(options: argparse.Namespace) -> int:
    """The names of the points of a job spec that are done nowhere under its output_dir, one on each line."""
    from src.submission.batch import done_points
    from src.submission.planning.command_line import key_values
    from src.submission.spec import job_spec

    spec = reader.read_job_spec(options.path)
    chosen = job_spec.check_output_dir(options.output_dir, "--output-dir") if options.output_dir else spec.output_dir
    names = done_points.missing_points(spec, key_values(options.set, "--set"), files.expand(chosen, "output_dir"),
                            options.samples, options.seed)
    print("".join(f"{name}\n" for name in names), end="")
    return int(bool(names))


def watch(options: argparse.Namespace) -> None:
    """`status` on a cleared screen until all has ended; as many runs as the screen has lines for, unless --all."""
    def show(observations: list[Observation]) -> None:
        clear, limit = "", 50
        if sys.stdout.isatty():
            clear, tables = "\x1b[H\x1b[2J", len(options.batches) or 1
            told = sum(min(len(failures.group_failures(item.runs.values())), status.MAX_GROUPS + 1)
                       for item in observations)
            limit = max(3, (os.get_terminal_size().lines - len(observations) - told - 3) // tables - 4)
        starts = client.expected_starts() if any(
            run.slurm_jobs and run.state.name == states.PENDING
            for observation in observations for run in observation.runs.values()) else {}
        text = status.render(observations, None if options.all else limit, not options.batches, starts=starts,
                             curves=True)
        line = status.progress_line(observations, time.time())
        print(f"{clear}{time.strftime('%H:%M:%S')}  {line}\n{text}", flush=True)

    try:
        status.watch(lambda: look(options.batches), show, options.every)
    except KeyboardInterrupt:
        print()


def find_run(word: str) -> Run:
    """The run that the user named. BatchError if it is none, or may be one of several."""
    path = run_lookup.find_run(word, RESULTS)
    observation, = observe([os.path.dirname(path) or "."])
    return observation.runs[os.path.basename(os.path.abspath(path))]


def print_logs(options: argparse.Namespace) -> None:
    """training.log and what its attempts printed, the file that was written last at the end."""
    run = find_run(options.run_word)
    paths = logs.log_paths(run.path)
    if not paths and not options.follow:
        raise BatchError(f"this run has no log yet; its state: {run.state.name}", where=run.path,
                         hint="-f waits for it")
    shown: dict[str, int] = {}
    for path in paths:
        print(f"==> {path} <==")
        shown[path] = print_from(path, 0)
    if options.follow:
        follow(run.path, shown)


def print_from(path: str, start: int) -> int:
    """Print a file from byte `start` on; where it ends now."""
    with open(path, "rb") as file:
        file.seek(start)
        sys.stdout.write(file.read().decode(errors="replace"))
        return file.tell()


def follow(folder: str, shown: dict[str, int]) -> None:
    """Print what is added to the run's logs until it has ended, or Ctrl-C. shown: bytes printed already, by path."""
    try:
        while True:
            run = find_run(folder)
            for path in logs.log_paths(folder):
                shown[path] = print_from(path, shown.get(path, 0))
            sys.stdout.flush()
            if run.host:
                print(f"state: {run.state.name}, {run.state.why}" if run.state.why else f"state: {run.state.name}")
                return
            if run.state.name not in states.ALIVE and run.state.name not in (states.NEW, states.UNKNOWN):
                print(f"state: {run.state.name}")
                return
            time.sleep(1.0)
    except KeyboardInterrupt:
        print()


def cancel(options: argparse.Namespace) -> None:
    """End Slurm jobs by scancel, local runs and their workers by TERM."""
    batches = [os.path.normpath(word) for word in options.targets if run_folder.is_batch_folder(word)]
    singles = {run_lookup.find_run(word, RESULTS) for word in options.targets if not run_folder.is_batch_folder(word)}
    observations = observe(dict.fromkeys([*batches, *(os.path.dirname(path) or "." for path in sorted(singles))]))
    wholes = [] if options.state else [observation for observation in observations if observation.path in batches]
    alive = [(observation, run) for observation in observations for run in observation.runs.values()
             if run.state.name in states.ALIVE]
    runs = [run for observation, run in alive if run.state.name in (options.state or states.ALIVE) and (
        observation in wholes or can_end_alone(run) and (
            observation.path in batches or os.path.normpath(run.path) in singles))]
    canaries = [first for observation in wholes for first in observation.canaries.values()
                if first.state.name in states.ALIVE]
    if not runs and not canaries:
        for observation in observations:
            if any(run.host and run.state.name == states.UNKNOWN for run in observation.runs.values()):
                refuse_copy(observation.path, "cancel")
        print("nothing is pending or running")
        return
    jobs = {job for run in (*runs, *canaries) for job in run.slurm_jobs}
    others = [run for _, run in alive if run not in runs and jobs & set(run.slurm_jobs)]
    if others:
        whole = to_type("python", "experiments.py", "cancel", os.path.dirname(others[0].path))
        raise BatchError(f"its Slurm job is a worker that has {count(len(others), 'other run')} too",
                         where=runs[0].path, hint=f"`{whole}` cancels all of them")
    told = count(len(runs), "run")
    if canaries:
        told += f" and {len(canaries)} canar{'y' if len(canaries) == 1 else 'ies'}"
    if not options.yes and ask(f"Cancel {told}? [y/N] ").lower() not in ("y", "yes"):
        raise BatchError("stopped: nothing was cancelled", hint="the answer was not y")
    if jobs:
        client.scancel(sorted(jobs))
    for observation in wholes:
        stop_local(observation)
    for run in (*runs, *canaries):
        who = (run.attempt or {}).get("who", {})
        if not run.slurm_jobs and process.is_alive(who):
            os.kill(who["pid"], signal.SIGTERM)
    print(f"cancelled {told}")
    for path in batches:
        print(f"  {to_type('python', 'submit_multiple.py', '-r', path)}  submits them again")


def clean(options: argparse.Namespace) -> None:
    """Show what the saved states of runs take, and remove them; those of runs that may be alive stay."""
    stay = (*states.ALIVE, states.UNKNOWN) if options.unfinished else [
        state for state in states.ALL if state not in states.ENDED_WELL]
    found: list[tuple[str, str]] = []
    total = 0
    for observation in look(options.batches):
        sizes = [(run.path, run_folder.resume_checkpoints_size(run.path)) for run in observation.runs.values()
                 if run.state.name not in stay]
        if taken := sum(size for _, size in sizes):
            number = sum(size > 0 for _, size in sizes)
            found += [(observation.path, f"{taken / 2**20:,.1f} MiB in {count(number, 'run')}")]
            total += taken
    if not total:
        print("there is nothing to remove")
        return
    print("\n".join(table(found)))
    if not options.yes and ask(f"Remove {total / 2**20:,.1f} MiB? [y/N] ").lower() not in ("y", "yes"):
        raise BatchError("stopped: nothing was removed", hint="the answer was not y")
    freed = sum(run_folder.remove_resume_checkpoints(run.path) for observation in look(options.batches)
                for run in observation.runs.values() if run.state.name not in stay)
    print(f"removed {freed / 2**20:,.1f} MiB")


def can_end_alone(run: Run) -> bool:
    """Whether there is a Slurm job or a process to end; a run that waits for a local worker has none yet."""
    return bool(run.slurm_jobs) or process.is_alive((run.attempt or {}).get("who", {})) is True


def stop_local(observation: Observation) -> None:
    """Have the processes that run a batch on this machine stop their workers, and wait for it (30 s at most)."""
    submitters = {ticket.submitter["pid"]: ticket.submitter for ticket in observation.history.tickets.values()
                  if ticket.mode == LOCAL and process.is_alive(ticket.submitter)}
    for pid in submitters:
        os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + 30
    while any(map(process.is_alive, submitters.values())) and time.monotonic() < end:
        time.sleep(0.05)


def report(options: argparse.Namespace) -> None:
    """Write the page and say where it is."""
    from src.analysis.report import write_report  # matplotlib and pandas, which status does not need
    from src.submission.status import efficiency

    batches = [batch_folder.require_batch(path) for path in options.batches]
    observations = observe(batches)
    path = write_report(batches, options.to, status=[
        {**row, "batch": found["batch"]} for found in map(status.as_json, observations) for row in found["runs"]],
        resources={path: usage.resources() for path, usage in efficiency.usage_by_batch(observations).items()})
    print(f"report: {os.path.abspath(path)}")


def fetch_results(options: argparse.Namespace) -> int:
    """Fetch, read, and say how much there is; 1 if a batch cannot be brought together with the one here."""
    from src.analysis.reading.results import read_results
    from src.submission.remote import download

    fetched = download.from_host(options.source, options.into, PROJECT, options.checkpoints)
    print("".join(f"{line}\n" for line in download.lines(fetched, options.into)), end="")
    batches = batch_folder.all_batches(options.into)
    if not batches:
        print(f"no batch is in {options.into}")
        return int(bool(fetched.told))
    results = read_results(batches)
    ended = int(results.config["end"].notna().sum())
    left_out = f", {len(results.skipped)} left out or mended" if results.skipped else ""
    print(f"{options.into}: {len(batches)} batch{'es' * (len(batches) > 1)}, {count(len(results.config), 'run')}, "
          f"{ended:,} ended{left_out}")
    return int(bool(fetched.told))


def compare_batches(options: argparse.Namespace) -> None:
    """A table of settings and a table of metrics."""
    from src.analysis.compare import compare
    from src.analysis.reading.results import read_results

    before, after = (batch_folder.require_batch(path) for path in (options.before, options.after))
    found = compare(read_results(before), read_results(after))
    lines = table([["setting", "before", "after"], *map(list, found.changes)]) if found.changes else [
        "both have the same settings"]
    on = f"{count(found.points, 'point')} that both have" if found.points else "all runs: no point is in both"
    lines += ["", f"means over {on}; last values, and the best of those that runs are judged by"]
    lines += table([["metric", "before", "after", "change", "standard errors", ""], *(
        [move.metric, *(f"{value:.4g}" for value in (move.before, move.after)), f"{move.change:+.3g}",
         "no repeats" if move.errors != move.errors else f"{abs(move.errors):.1f}",
         {True: "better", False: "worse", None: ""}[move.better]] for move in found.moves)])
    print("\n".join(lines))


def query(options: argparse.Namespace) -> None:
    """A line per run, or the names alone."""
    from src.analysis.plotting import plots
    from src.analysis.reading.filters import column, is_missing
    from src.analysis.reading.results import read_results
    from src.analysis.tables import tables
    from src.analysis.tables.query import query as matching

    results = read_results([batch_folder.require_batch(path) for path in options.batches])
    values = tables.values_table(results.config, results.long)
    found = matching(values, options.expression)
    if options.names:
        print("".join(f"{folder}\n" for folder in found["folder"]), end="")
        return
    names = options.columns or ["run", "end", *tables.varying_columns(results.config, seeds=True),
                                *(name for name in values if name.startswith("best/"))]
    cells = [["" if is_missing(value) else plots.show(value, 100) for value in column(found, name)] for name in names]
    print("\n".join(table([names, *map(list, zip(*cells, strict=True))])))
    print(f"{len(found)} of {count(len(values), 'run')}")


def note(options: argparse.Namespace) -> None:
    """Append a note to a batch's log, or print the log."""
    from src import notes

    path = batch_folder.require_batch(options.batch)
    if options.text is None:
        print("".join(f"{one.line()}\n" for one in notes.read(path)), end="")
        return
    if not options.text.strip():
        raise BatchError("there is nothing to note", where=path, hint="write it in quotes")
    from src.submission.batch import provenance

    code = provenance.inspect_code(PROJECT)
    commit = code.commit and f"{code.commit[:10]}{' and uncommitted changes' if code.uncommitted else ''}"
    print(notes.add(path, options.text.strip(), commit).line())


def reproduce_run(options: argparse.Namespace) -> int:
    """Print what repeats a run, or do it."""
    from src.submission.batch import reproduce

    steps = reproduce.plan_steps(run_lookup.find_run(options.run_word, RESULTS))
    if options.do:
        print("".join(f"# {text}\n" for text in steps.notes), end="", flush=True)
        return steps.run()
    print("\n".join(steps.lines()))
    return 0


def export(options: argparse.Namespace) -> None:
    """Bring batches into MLflow, or into files."""
    if options.to != "mlflow":
        from src.analysis.reading.results import read_results

        batches = [batch_folder.require_batch(path) for path in options.batches]
        print("\n".join(read_results(batches).export(options.into or batches[0], options.to)))
        return
    from src.tracking import mlflow_export

    for line in mlflow_export.export([batch_folder.require_batch(path) for path in options.batches],
                                     mlflow_uri(options)):
        print(line, flush=True)


def register(options: argparse.Namespace) -> None:
    """Make a version of a registered model."""
    from src.tracking import mlflow_export

    folder = run_lookup.find_run(options.run_word, RESULTS)
    print(mlflow_export.register(folder, mlflow_uri(options), options.name, options.alias))


def sync_wandb(options: argparse.Namespace) -> int:
    """`wandb sync` for each run that was not sent; 1 if one of them could not be."""
    import importlib.util

    from src.tracking import wandb_tracker

    if importlib.util.find_spec("wandb") is None:
        raise BatchError("wandb is not installed", where="sync-wandb", hint="pip install wandb")
    failed = sent = 0
    for path, is_sent, words in wandb_tracker.sync([batch_folder.require_batch(path) for path in options.batches]):
        failed, sent = failed + (not is_sent), sent + is_sent
        print(f"{path}: {'sent' if is_sent else f'failed: {words}'}", flush=True)
    print(f"{count(sent, 'run')} sent{f', {failed} failed' if failed else ''}")
    return int(failed > 0)


def notify(options: argparse.Namespace) -> int:
    """Send a message; 1 if it cannot be sent."""
    from src.submission.batch import journal
    from src.submission.status import notify as messages

    path = batch_folder.require_batch(options.batch)
    plans = journal.read_history(path).plans
    plan = next((plan for plan in reversed(plans) if plan.get("notify") and options.token in (None, plan.get("code"))),
                None)
    if plan is None:
        raise BatchError("this batch asks for no messages", where=path, hint="job_details.notify: true does")
    how = notify_spec.Notify(**plan["notify"])
    words = messages.run_notify_job(path, plan["code"], options.kind, how) if options.token else messages.send(
        how, path, plan["code"], options.kind)
    print(words or "sent")
    return int(words is not None)


def mlflow_uri(options: argparse.Namespace) -> str:
    """The address that was given, or that of the environment."""
    uri = options.uri or os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        raise BatchError("where is MLflow?", where="command line", hint="--uri sqlite:///mlflow.db makes a database "
                         "that `mlflow ui --backend-store-uri sqlite:///mlflow.db` shows; or --uri http://host:5000")
    return str(uri)


def doctor(options: argparse.Namespace) -> int:
    """A line for each check, or plain values; 1 if there is an error."""
    from src.submission.doctor import checks, probes

    found = probes.examine(PROJECT, RESULTS, options.deep)
    if options.json:
        import json

        print(json.dumps(checks.as_json(found)))
    else:
        print("\n".join(checks.report_lines(found)))
    return int(any(finding.verdict == checks.ERROR for finding in found))


def push_environment(options: argparse.Namespace) -> None:
    """Send the environment of this Python, and say what it will lack there."""
    from src.submission.remote import hosts, push_env, ssh

    folder = push_env.check(sys.prefix, sys.base_prefix, os.path.expanduser("~"))
    far = ssh.connect(hosts.find(options.on_host, PROJECT), make=(".",), known=hosts.read(PROJECT))
    question = f"Make {folder} on {far.host.name} what it is here? [y/N] "
    if not options.yes and ask(question).lower() not in ("y", "yes"):
        raise BatchError("stopped: nothing was sent", hint="the answer was not y")
    notes = push_env.push(far, folder, push_env.base_python())
    print("\n".join([f"sent       {folder}", *notes]))
    print(f"  {to_type('python', 'experiments.py', 'doctor', '--on', far.host.name)}  sees whether it works there")


def prefetch(options: argparse.Namespace) -> None:
    """Fetch each distinct data set and pretrained model of a job spec, on a node that has internet."""
    from src.submission.spec import grid

    spec = reader.read_job_spec(options.path)
    if spec.command:
        raise JobSpecError("a job spec with its own command has no data sets of ours", where=options.path)
    specs = grid.of_job_spec(spec, None, config.check_parameters, ALL_CHOICES).specs
    configs = [config.Config.from_dict(point, spec.source) for point in specs]
    from src.datasets.factory import fetch as fetch_data
    from src.models.factory import fetch as fetch_model

    # data_download: false is for the nodes that have no internet
    configs = [dataclasses.replace(item, data_download=True) for item in configs]
    data = {(item.dataset, item.data_dir, tuple(item.data_splits_map.values()), item.loss, item.targets,
             item.tokenizer or item.model if item.dataset.startswith("hf/") else None,
             tuple((item.eval_datasets or {}).values())): item for item in configs}
    models = {(item.model, item.model_pretrained, item.model_head_init): item for item in configs
              if item.model.partition("/")[0] in registered_names.PUBLISHED}
    for item in data.values():
        print(fetch_data(item))
    for item in models.values():
        print(fetch_model(item))


def probe(options: argparse.Namespace) -> None:
    """Try batches of growing size in steps of a real training, then loaders, and say what to write into the spec."""
    from src.submission.spec import grid

    if reader.is_job_spec(yaml_io.load_file(options.path)):
        spec = reader.read_job_spec(options.path)
        if spec.command:
            raise JobSpecError("a job spec with its own command has no models of ours", where=options.path)
        points = grid.of_job_spec(spec, None, config.check_parameters, ALL_CHOICES).specs
    else:
        points = [run_folder.read_spec(options.path)]
    configs = [config.Config.from_dict(point, options.path) for point in points]
    from src.training.probe import report
    from train import build

    for line in report(configs, options.most, lambda chosen: build(chosen, None)):
        print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
