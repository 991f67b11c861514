"""The command that fits the project to a cluster: setup."""
from __future__ import annotations

import argparse
import getpass
import os
import shutil
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from src.commands.command_output import Output
from src.commands.common import PROJECT
from src.errors import BatchError
from src.io import files, packed_copy, slurm_environment
from src.submission.batch import batch_folder
from src.submission.setup import files_to_write, job_python, scripts, storage, trial_run
from src.submission.setup.scripts import Script
from src.submission.setup.site import Partition, Site, read_site
from src.submission.slurm import client, directives
from src.submission.system.terminal import ask, format_duration, is_terminal, table

if TYPE_CHECKING:
    from src.commands import documents

_CPU_TEMPLATE, _GPU_TEMPLATE = "submit_cpu.sh", "submit_2080.sh"
_TEST_LIMIT = 900  # seconds
_MEMORY_WORDS = ("memory", "--mem")  # in a message of sbatch that refuses a script because of its memory

Choose = Callable[[str, Sequence[tuple[str, str]]], str]  # question, and choices with what they are → a choice


class Decisions(NamedTuple):
    """The answers of the user. account: None if there is no choice; gpu_partitions: by GPU type."""

    account: str | None
    cpu_partition: Partition
    gpu_partitions: dict[str, Partition]


def add_setup(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=setup)
    parser.add_argument("-y", "--yes", action="store_true", help="take the default of each question")
    parser.add_argument("--no-test", action="store_true", help="submit no test run")
    parser.add_argument("--wait", type=float, default=600.0, metavar="SECONDS",
                        help="how long to wait for the test run (default: 600)")


def setup(options: argparse.Namespace) -> Output:
    """Read what this cluster has, ask, and write submit scripts, links and a test run. Return 1 if that run failed."""
    if options.json and not options.yes:
        raise BatchError("setup asks questions", where="command line", hint="with --json, add --yes")
    choose = _take_first if options.yes else _ask_choice
    site = read_site(getpass.getuser())
    if site is None:
        print("Slurm's controller does not answer: repeat `python experiments.py setup` when it does; until then, runs "
              "start on this machine (--local)" if shutil.which("scontrol") else
              "no Slurm on this machine: runs start on it (--local)")
    elif not site.with_gpu(None):
        raise BatchError("no partition is up that you may use", where="Slurm",
                         hint="`sinfo` and `scontrol show partition` list them; ask the administrators for access")
    made = [_activate_script(), *([_accepted(script, site.accounts) for script in _scripts(site, _decide(
        site, choose))] if site else [])]
    written, left_alone = _write(made, choose)
    links, kept = _link_folders(choose)
    run = None if options.no_test else _test(site, options.wait)
    document: documents.Setup = {
        "slurm": site is not None, "written": written, "left_alone": left_alone, "links": links, "kept": kept,
        "test": run and {"batch": run.batch, "seconds": run.seconds, "problem": run.problem}}
    where = "--local" if site is None else f"-s {_CPU_TEMPLATE}"
    return Output(_closing_lines(where, run), document, int(bool(run and run.problem)))


def _write(made: Sequence[Script], choose: Choose) -> tuple[list[str], list[str]]:
    """Show what would be written, ask, and write it. Return the names of the written files, and of edited ones."""
    changes, edited = files_to_write.plan_changes(PROJECT, {script.name: script.text for script in made})
    print("\n".join(table([(script.name, "; ".join(script.reasons)) for script in made])))
    for name in edited:
        print(f"kept  {name}: it was edited; {files_to_write.restore_hint(name)}, and setup writes it again")
    for change in changes:
        print("\n".join(change.diff()))
    if changes and choose("Write these files?", [("yes", ""), ("no", "")]) != "yes":
        raise BatchError("nothing was written", where="setup",
                         hint="docs/cluster.md describes how to adapt the submit scripts by hand")
    for change in changes:
        files_to_write.write(change)
    return [os.path.basename(change.path) for change in changes], edited


def _activate_script() -> Script:
    """Return activate.sh for the environment of the project, or of this Python, and the loaded modules."""
    template = files_to_write.without_mark(_template(job_python.NAME))
    python = job_python.find_python(PROJECT, packed_copy.environment()[0], os.environ.get("CONDA_EXE"))
    return job_python.activate_script(template, python, job_python.loaded_modules(os.environ, template))


def _template(name: str) -> str:
    """Return the text of a shipped file, or of the one that an earlier setup made from it."""
    text = files.read_text(os.path.join(PROJECT, name))
    if text is None:
        raise BatchError("this file is missing, from which setup makes others", where=name,
                         hint=f"`git checkout {name}` restores it")
    return text


def _decide(site: Site, choose: Choose) -> Decisions:
    """Ask for the account, the partition of CPU jobs and that of GPU jobs, each where there is a choice.

    A GPU type that the chosen partition lacks gets the partition that has most of them.
    """
    account = None
    if site.accounts:
        account = choose("Which account pays for jobs?", [(name, "") for name in site.accounts])
    cpu = _choose_partition("Which partition for jobs without a GPU?", site.with_gpu(None), choose)
    gpu_partitions: dict[str, Partition] = {}
    for gpu in site.gpus():
        candidates = site.with_gpu(gpu)
        chosen = next((partition for partition in gpu_partitions.values() if partition in candidates), None)
        is_asked = not any(len(site.with_gpu(earlier)) > 1 for earlier in gpu_partitions)
        gpu_partitions[gpu] = chosen or _choose_partition("Which partition for jobs with a GPU?", candidates,
                                                          choose if is_asked else _take_first)
    return Decisions(account if len(site.accounts) > 1 else None, cpu, gpu_partitions)


def _choose_partition(question: str, partitions: Sequence[Partition], choose: Choose) -> Partition:
    name = choose(question, [(partition.name, partition.description()) for partition in partitions])
    return next(partition for partition in partitions if partition.name == name)


def _scripts(site: Site, decisions: Decisions) -> list[Script]:
    cpu_template, gpu_template = map(_template, (_CPU_TEMPLATE, _GPU_TEMPLATE))
    if decisions.gpu_partitions and "gres" not in directives.effective(gpu_template):
        raise BatchError("no line `#SBATCH --gres=…`, from which setup makes the scripts for GPUs", where=_GPU_TEMPLATE,
                         hint=f"`git checkout {_GPU_TEMPLATE}` restores the shipped one")
    made = [scripts.cpu_script(files_to_write.without_mark(cpu_template), decisions.cpu_partition, decisions.account)]
    for gpu, partition in decisions.gpu_partitions.items():
        node = max(site.nodes_of(partition.name, gpu), key=lambda node: node.nodes)
        made.append(scripts.gpu_script(files_to_write.without_mark(gpu_template), partition, node, decisions.account))
    return made


def _accepted(script: Script, accounts: Sequence[str]) -> Script:
    """Return the script as sbatch accepts it: without --mem if that is refused, with an account if one must be named.

    Another objection is a reason.
    """
    message = _objection(script)
    if message and any(word in message.lower() for word in _MEMORY_WORDS):
        script = scripts.without_memory(script, message)
        message = _objection(script)
    if message and "account" in message.lower() and "#SBATCH --account=" not in script.text and accounts:
        script = scripts.naming_account(script, accounts[0], message)
        message = _objection(script)
    return script._replace(reasons=(*script.reasons, f"sbatch: {message}")) if message else script


def _objection(script: Script) -> str | None:
    """Return why sbatch refuses a script, or what it warns of: texts of a site's own submit plugin are not known to be
    refusals. None if it has no objection.

    The script is checked on the cluster that its options were read from; other options of this shell, such as
    SBATCH_ACCOUNT, are not used, since the script must do without them.
    """
    clusters = {"clusters": slurm_environment.sbatch_defaults().get("clusters")}
    try:
        command = client.sbatch_command("setup", os.devnull, "", client.option_arguments(clusters, "environment"),
                                        script.name, os.devnull, PROJECT)
        message = client.validate(command, script.text).warning
    except client.SbatchError as error:
        message = error.message
    # what a plugin prints stands between these
    return message and message.removeprefix("sbatch: error: ").removesuffix(" allocation failure: Unspecified error")


def _link_folders(choose: Choose) -> tuple[dict[str, str], list[str]]:
    """Ask where results and data are kept, and make links. Return them, target by path, and the folders that stay."""
    places = storage.places(PROJECT, os.path.expanduser("~"), getpass.getuser(), os.environ)
    links, kept = storage.plan_links(PROJECT, places[0].path) if places else ({}, [])
    if not links:
        return {}, kept
    names = " and ".join(sorted(map(os.path.basename, links)))
    path = choose(f"Where to keep {names}? (quotas are not taken into account)",
                  [(place.path, place.description()) for place in places])
    if path == PROJECT:
        return {}, kept
    links, kept = storage.plan_links(PROJECT, path)
    for link, target in links.items():
        has_files = bool(files.list_folder(target))
        storage.make_link(link, target)
        print(f"link  {os.path.basename(link)} -> {target}{' (has files already)' * has_files}")
    return links, kept


def _test(site: Site | None, patience: float) -> trial_run.TrialRun:
    where = ["--local"] if site is None else ["-s", _CPU_TEMPLATE, "--sbatch", f"time={_test_limit()}"]
    print("test  one run of a few seconds:", *where, flush=True)
    results = os.path.join(batch_folder.results_folder(), "setup")
    if not is_terminal():
        return trial_run.submit_and_wait(PROJECT, results, where, patience)
    from src.terminal import footer

    with footer.Footer() as line:
        return trial_run.submit_and_wait(PROJECT, results, where, patience,
                                         lambda run: line.show(*footer.of_run(run)))


def _test_limit() -> str:
    """Return the time limit of the test run: short, so that it starts soon, and enough to load libraries from a slow
    disk.
    """
    own = directives.effective(files.read_text(os.path.join(PROJECT, _CPU_TEMPLATE)) or "").get("time", "")
    return directives.format_time(min(_TEST_LIMIT, directives.parse_time(own) or _TEST_LIMIT))


def _closing_lines(where: str, run: trial_run.TrialRun | None) -> list[str]:
    """Return how the test run ended, and the command that submits a first grid. where: its option for that."""
    lines = []
    if run and run.problem:
        lines.append(f"test  not done: {run.problem}")
        if run.batch:
            lines.append(f"  python experiments.py watch {run.batch}  shows it")
        lines.append("  python experiments.py doctor  checks this machine")
    elif run:
        lines.append(f"test  done after {format_duration(run.seconds)}")
    lines.append(f"  python submit_multiple.py jobs/digits-quickstart.yaml {where}  submits a first grid")
    if run and not run.problem:
        lines.append(f"  python experiments.py delete {run.batch}  deletes the test run")
    return lines


def _ask_choice(question: str, choices: Sequence[tuple[str, str]]) -> str:
    """Return the user's choice, by number, name or Enter for the first one; without a question if there is only one."""
    if len(choices) == 1:
        return choices[0][0]
    names = [name for name, _ in choices]
    for number, (name, description) in enumerate(choices, 1):
        print(f"  {number}  {name}{'  ' * bool(description)}{description}")
    while True:
        answer = ask(f"{question} [{names[0]}] ")
        if not answer:
            return names[0]
        if answer.isdecimal() and 1 <= int(answer) <= len(names):
            return names[int(answer) - 1]
        if answer in names:
            return answer
        print(f"invalid answer '{answer}'; allowed: 1 to {len(names)}, a name, or Enter for {names[0]}")


def _take_first(question: str, choices: Sequence[tuple[str, str]]) -> str:
    if len(choices) > 1:
        print(f"{question} {choices[0][0]}")
    return choices[0][0]
