"""Manage submitted batches: status, watch, logs, cancel, report, note, reproduce, prefetch, probe and others."""
from __future__ import annotations

import gc

gc.disable()  # what imports create stays, and would be visited again and again

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

from src import printable, python_check  # noqa: F401  ends here in an unsuitable Python
from src.commands.command_output import redirected_output, show
from src.errors import BatchError, exits_on_user_error
from src.io import files
from src.submission.system.terminal import help_formatter, table

gc.freeze()
gc.enable()


class Command(NamedTuple):
    """A row of the table of commands.

    module: the module of src.commands whose function `add_<command>` defines the arguments and what is run
    help: help text
    remote: whether the command has the option --on HOST, which runs it on another machine
    examples: pairs of arguments and what they do, at the top of its help text
    """

    module: str
    help: str
    remote: bool = False
    examples: tuple[tuple[str, str], ...] = ()


COMMANDS = {
    "status": Command("monitor", "show how far each run is; without a batch: all under results/", remote=True),
    "watch": Command("monitor", "show the runs on a live screen, with their logs and curves; q quits, ? lists the keys",
                     remote=True),
    "wait": Command("monitor", "block until every run has ended or is stuck; exit code 0 if all ended well, else 1",
                    remote=True),
    "missing": Command("monitor", "list the points of a job spec not done in any batch; exit code 1 if any",
                       remote=True),
    "logs": Command("monitor", "print the logs of a run", remote=True, examples=(
        ("12", "the run with index 12 of the newest batch"),
        ("jobs/digits-quickstart.yaml:12 -f", "that of the newest batch of a job spec; new lines until it ends"),
        ("4711", "the run of a Slurm job"))),
    "cancel": Command("stop", "cancel what is pending or running of batches, or single runs", remote=True),
    "clean": Command("stop", "remove the resume checkpoints of runs that have ended", remote=True),
    "rename": Command("batches", "rename a batch", remote=True),
    "move": Command("batches", "move batches into another folder", remote=True),
    "archive": Command("batches", "pack the ended runs of batches into one file each; commands read them as before",
                       remote=True),
    "unarchive": Command("batches", "restore the folders of archived runs", remote=True),
    "delete": Command("batches", "delete batches and single runs; a file keeps their specs and notes", remote=True),
    "dashboard": Command("dashboard", "show batches on a page in a browser while they run, until Ctrl-C", examples=(
        ("", "the batches that are submitted or running, or the newest one"),
        ("lenet resnet --port 8080", "the newest batches of these names"))),
    "report": Command("results", "write one HTML file with the results of batches", remote=True),
    "sync": Command("results", "download what is new in the results of another machine, by rsync"),
    "best": Command("best", "rank the settings of batches by their mean over seeds, with a 95 % interval", examples=(
        ("lenet", "the ten best of the newest batch of lenet"),
        ("lenet --by model", "the best setting of each model"),
        ("lenet --where \"base_lr < 1\" --metric val/last/loss", "of some runs, by another metric"))),
    "compare": Command("results", "compare two batches: best runs, changed settings, changes of metrics", examples=(
        ("results/26-11-20-lenet results/26-11-21-lenet", "two batches"),
        ("lenet resnet", "the newest batches of these names"),
        ("jobs/lenet.yaml jobs/resnet.yaml", "those of two job specs"))),
    "query": Command("results", "list the runs of batches that match an expression", examples=(
        ("lenet \"base_lr >= 0.1 and end != 'diverged'\"", "of the newest batch of lenet"),
        ("lenet \"epochs > 9\" --sort best/val/last/accuracy --limit 5", "the five best"),
        ("lenet \"averaging.isnull()\" --names", "only the folders"))),
    "search": Command("search", "list the decisions of a search, or compute them again and compare", remote=True),
    "note": Command("records", "add a note with the commit to a batch, for the report; without text: print all notes",
                    remote=True),
    "reproduce": Command("records", "print the steps that repeat a run exactly, with the code that it ran with"),
    "export": Command("results", "copy what is new in batches to MLflow; or write them to two files"),
    "register": Command("results", "make the best checkpoint of a run a version of a registered model of MLflow"),
    "notify": Command("records", "send the message about a batch that its job spec requests; its Slurm jobs call this"),
    "sync-wandb": Command("results", "upload offline runs to Weights & Biases"),
    "setup": Command("setup", "fit the project to this cluster: submit scripts, activate.sh, links, a test run"),
    "doctor": Command("machines", "check what this machine lacks for the project; exit code 1 on an error",
                      remote=True),
    "pack-env": Command("machines", "pack this environment into one file that jobs use on their node's own disk",
                        remote=True),
    "push-env": Command("machines", "upload this environment to another machine, to the same path"),
    "prefetch": Command("machines", "download every data set and pretrained model of a job spec", remote=True),
    "probe": Command("machines", "find the largest batch size that fits this machine, and the best number of loaders"),
}


@exits_on_user_error
def main(argv: Sequence[str]) -> int | None:
    """Run one command, here or on another machine."""
    options = parse(argv)
    if getattr(options, "on", None):
        from src.commands.common import PROJECT
        from src.submission.batch import batch_folder
        from src.submission.remote import remote_command

        return remote_command.run(argv[0], argv, options, PROJECT, batch_folder.results_folder())
    with redirected_output(options.json):
        output = options.run(options)
    return show(output, options.json)


class _JsonParser(argparse.ArgumentParser):
    """Reports a mistake on the command line as a BatchError, which is printed as JSON."""

    def error(self, message: str) -> NoReturn:
        """Raise the BatchError."""
        raise BatchError(message, where="command line", hint=f"`python {self.prog} --help` describes its arguments")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the command line. Only the module of the requested command is imported."""
    parser_class = _JsonParser if "--json" in argv else argparse.ArgumentParser
    parser = parser_class(prog="experiments.py", description=__doc__, formatter_class=help_formatter)
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=command.help.replace("%", "%%"), description=command.help,
                                          formatter_class=help_formatter)
        if name in argv[:1]:
            module = importlib.import_module(f"src.commands.{command.module}")
            getattr(module, f"add_{name.replace('-', '_')}")(subparser)
            subparser.add_argument("--json", action="store_true", help="print one JSON document for programs "
                                   "(docs/reference/json.md)")
            if command.remote:
                subparser.add_argument("--on", metavar="HOST", help="run it on another machine: a host of hosts.toml, "
                                       "or of the ssh configuration")
            if command.examples:
                usage = subparser.format_usage().removeprefix("usage: ").rstrip()
                subparser.usage = f"{usage}\n\n{examples_text(name, command.examples)}"
    return parser.parse_args(argv)


def examples_text(name: str, examples: Sequence[tuple[str, str]]) -> str:
    """Return a line for each example of a command, with what it does; empty without examples."""
    if not examples:
        return ""
    lines = table([(f"  python experiments.py {name} {arguments}", text) for arguments, text in examples])
    return "\n".join(lines)


if __name__ == "__main__":
    files.limit_umask()
    printable.filter_output()
    sys.exit(main(sys.argv[1:]))
