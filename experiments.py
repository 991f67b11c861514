"""Looks after what was submitted: status, watch, logs, cancel, report, prefetch."""
from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence

from src import config, run_folder
from src.errors import BatchError, JobSpecError, exits_on_user_error, to_type
from src.submission import batch, process, states, status
from src.submission.journal import LOCAL
from src.submission.observe import Observation, Run, observe
from src.submission.plan import count
from src.submission.show import ask

RESULTS = "results"


@exits_on_user_error
def main(argv: Sequence[str]) -> int | None:
    """One subcommand."""
    options = parse(argv)
    return options.run(options)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="experiments.py", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run: object, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run)
        return command

    for name, run, text in (("status", print_status, "how far each run is; without a batch: all under results/"),
                            ("watch", watch, "status, refreshed until nothing is pending or running")):
        command = add(name, run, text)
        command.add_argument("batches", nargs="*", metavar="BATCH", help="a batch folder")
        command.add_argument("--all", action="store_true", help="every run, however many")
        if name == "status":
            command.add_argument("--json", action="store_true", help="plain values for scripts")
        else:
            command.add_argument("--every", type=float, default=5.0, metavar="SECONDS", help="default: 5")
    command = add("logs", print_logs, "what a run has logged")
    command.add_argument("folder", metavar="RUN", help="a run folder")
    command.add_argument("-f", "--follow", action="store_true", help="go on until the run has ended")
    command = add("cancel", cancel, "end what is pending or running of a batch, or one run")
    command.add_argument("folder", metavar="BATCH|RUN", help="a batch folder or a run folder")
    command.add_argument("-y", "--yes", action="store_true", help="do not ask")
    command = add("report", report, "one HTML file with the results of batches")
    command.add_argument("batches", nargs="+", metavar="BATCH", help="a batch folder")
    command.add_argument("--to", metavar="FILE", help="default: report.html in the first batch")
    command = add("prefetch", prefetch, "fetch every data set and pretrained model of a job spec once")
    command.add_argument("path", metavar="JOB_SPEC", help="as jobs/x.yaml")
    return parser.parse_args(argv)


def look(batches: Sequence[str]) -> list[Observation]:
    """The batches that were named, or all under results/."""
    paths = [batch.check(path) for path in batches] or batch.all_batches(RESULTS)
    if not paths:
        raise BatchError(f"there is no batch under {RESULTS}/", hint="submit one: `python submit_multiple.py "
                         "jobs/digits-quickstart.yaml --local`; or name a batch folder")
    return observe(paths)


def print_status(options: argparse.Namespace) -> None:
    """The table of batches; of the named ones (or the newest) a line per run too."""
    observations = look(options.batches)
    if options.json:
        import json

        print(json.dumps([status.as_json(observation) for observation in observations]))
    else:
        print(status.render(observations, None if options.all else 50, newest_only=not options.batches))


def watch(options: argparse.Namespace) -> None:
    """`status` on a cleared screen until all has ended; as many runs as the screen has lines for, unless --all."""
    def show(observations: list[Observation]) -> None:
        clear, limit = "", 50
        if sys.stdout.isatty():
            clear, tables = "\x1b[H\x1b[2J", len(options.batches) or 1
            limit = max(3, (os.get_terminal_size().lines - len(observations) - 3) // tables - 4)
        text = status.render(observations, None if options.all else limit, newest_only=not options.batches)
        print(f"{clear}{time.strftime('%H:%M:%S')}\n{text}", flush=True)

    try:
        status.watch(lambda: look(options.batches), show, options.every)
    except KeyboardInterrupt:
        print()


def find_run(path: str) -> Run:
    """The run in a run folder that the user named. BatchError if it is none."""
    path = os.path.normpath(path)
    if not run_folder.is_run_folder(path):
        raise BatchError("there is no run here", where=path, hint="name a run folder, as results/BATCH/000_…; "
                         "`python experiments.py status` lists them")
    observation, = observe([os.path.dirname(path) or "."])
    return observation.runs[os.path.basename(os.path.abspath(path))]


def print_logs(options: argparse.Namespace) -> None:
    """training.log and what its attempts printed, the file that was written last at the end."""
    run = find_run(options.folder)
    logs = sorted(log_files(run.path), key=os.path.getmtime)
    if not logs and not options.follow:
        raise BatchError(f"this run has no log yet; its state: {run.state.name}", where=run.path,
                         hint="-f waits for it")
    shown: dict[str, int] = {}
    for path in logs:
        print(f"==> {path} <==")
        shown[path] = print_from(path, 0)
    if options.follow:
        follow(run.path, shown)


def log_files(folder: str) -> list[str]:
    """The paths of a run's logs."""
    return [os.path.join(folder, name) for name in sorted(os.listdir(folder))
            if (name == run_folder.LOG or name.endswith(".out")) and os.path.getsize(os.path.join(folder, name))]


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
            for path in log_files(folder):
                shown[path] = print_from(path, shown.get(path, 0))
            sys.stdout.flush()
            if run.state.name not in states.ALIVE and run.state.name not in (states.NEW, states.UNKNOWN):
                print(f"state: {run.state.name}")
                return
            time.sleep(1.0)
    except KeyboardInterrupt:
        print()


def cancel(options: argparse.Namespace) -> None:
    """End Slurm jobs by scancel, local runs and their workers by TERM."""
    if run_folder.is_run_folder(options.folder):
        runs, whole = [find_run(options.folder)], None
    else:
        whole, = observe([batch.check(options.folder)])
        runs = list(whole.runs.values())
    runs = [run for run in runs if run.state.name in states.ALIVE]
    if not runs:
        print("nothing is pending or running")
        return
    if not options.yes and ask(f"Cancel {count(len(runs), 'run')}? [y/N] ").lower() not in ("y", "yes"):
        raise BatchError("stopped: nothing was cancelled", hint="the answer was not y")
    jobs = sorted({run.state.slurm_job for run in runs if run.state.slurm_job})
    if jobs:
        from src.submission import slurm

        slurm.scancel(jobs)
    if whole is not None:
        stop_local(whole)
    for run in runs:
        who = (run.attempt or {}).get("who", {})
        if not run.state.slurm_job and process.is_alive(who):
            os.kill(who["pid"], signal.SIGTERM)
    print(f"cancelled {count(len(runs), 'run')}")
    if whole is not None:
        print(f"  {to_type('python', 'submit_multiple.py', '-r', whole.path)}  submits them again")


def stop_local(observation: Observation) -> None:
    """Have the processes that run a batch on this machine stop their workers, and wait for it (30 s at most)."""
    submitters = {ticket.who["pid"]: ticket.who for ticket in observation.history.tickets.values()
                  if ticket.mode == LOCAL and process.is_alive(ticket.who)}
    for pid in submitters:
        os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + 30
    while any(map(process.is_alive, submitters.values())) and time.monotonic() < end:
        time.sleep(0.05)


def report(options: argparse.Namespace) -> None:
    """Write the page and say where it is."""
    from src.analysis.report import write_report  # matplotlib and pandas, which status does not need

    batches = [batch.check(path) for path in options.batches]
    path = write_report(batches, options.to, status=[
        {**row, "batch": found["batch"]} for found in map(status.as_json, observe(batches)) for row in found["runs"]])
    print(f"report: {os.path.abspath(path)}")


def prefetch(options: argparse.Namespace) -> None:
    """Fetch each distinct data set and pretrained model of a job spec, on a node that has internet."""
    from src.submission import grid, job_spec

    spec = job_spec.read_job_spec(options.path)
    if spec.command:
        raise JobSpecError("a job spec with its own command has no data sets of ours", where=options.path)
    specs = grid.expand(spec.parameters, spec.source, None, config.check_parameters).specs
    configs = [config.Config.from_dict(point, spec.source) for point in specs]
    from src.datasets.factory import fetch as fetch_data
    from src.models.factory import fetch as fetch_model

    data = {(item.dataset, item.data_dir, tuple(item.data_splits_map.values()), item.loss): item for item in configs}
    models = {item.model: item for item in configs if item.model_pretrained}
    for item in data.values():
        print(fetch_data(item))
    for item in models.values():
        print(fetch_model(item))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
