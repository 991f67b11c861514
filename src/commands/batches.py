"""Commands that rename, move, archive and delete batches."""
from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from src import notes
from src.archive import run_files
from src.code import code_state
from src.commands import common
from src.commands.command_output import Output
from src.commands.common import PROJECT, confirm, mebibytes, split_targets
from src.errors import BatchError, experiments_command, retry_command
from src.io import files
from src.submission.batch import batch_folder
from src.submission.planning.tickets import require_none_alive
from src.submission.status import retry_policy, run_lookup, states, status
from src.submission.status.observation import Observation, Run
from src.submission.status.observe import observe
from src.submission.storage import relocation
from src.submission.system.terminal import count

if TYPE_CHECKING:
    from src.commands import documents
    from src.submission.storage.archiving import Archived


# states of runs that have ended without a `done` file
_UNFINISHED = retry_policy.RETRIED - {states.NEW} | {states.PAUSED}


def add_rename(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=rename)
    common.add_batch(parser)
    parser.add_argument("name", metavar="NAME", help="the new name; the date in front of it stays")


def add_move(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=move)
    common.add_batches(parser)
    parser.add_argument("folder", metavar="FOLDER", help="where they are moved to; created if need be")


def add_archive(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=archive)
    common.add_batches(parser)
    parser.add_argument("--drop-checkpoints", action="store_true", help="delete the checkpoints of these runs, after a "
                        "question, instead of packing them")
    common.add_yes(parser)


def add_unarchive(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=unarchive)
    common.add_targets(parser)


def add_delete(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=delete)
    common.add_targets(parser)
    common.add_yes(parser)


def rename(options: argparse.Namespace) -> Output:
    """Rename a batch of which nothing is pending or running."""
    batch = _observe_idle([options.batch], "rename this batch")[0].path
    with files.report_os_errors(batch, "nothing was changed"):
        target = relocation.rename(batch, options.name)
        _add_note(target, f"renamed from {os.path.basename(batch)}")
    document: documents.Moved = {"source": batch, "target": target}
    return Output([f"renamed {batch} to {target}",
                   f"  {retry_command(target)}  continues this batch; submitting its job spec again creates a new one"],
                  document)


def move(options: argparse.Namespace) -> Output:
    """Move batches of which nothing is pending or running into a folder."""
    moved: list[documents.Moved] = []
    for observation in _observe_idle(options.batches, "move this batch"):
        with files.report_os_errors(observation.path, "the batch is where it was"):
            target = relocation.move(observation.path, options.folder)
            _add_note(target, f"moved from {os.path.dirname(os.path.abspath(observation.path))}")
            moved.append({"source": observation.path, "target": target})
            print(f"moved {observation.path} to {target}", flush=True)
    return Output(_lines_about_lookup(moved, options.folder), moved)


def _lines_about_lookup(moved: list[documents.Moved], folder: str) -> list[str]:
    """Return which commands do not find batches in the folder that they were moved to."""
    results, target = batch_folder.results_folder(), os.path.realpath(folder)
    lines = []
    if target != os.path.realpath(results):
        lines.append(f"commands that name no batch look in {results}/ alone: name these by their folder")
    sources = dict.fromkeys(os.path.dirname(item["source"]) or "." for item in moved)
    if left := [source for source in sources if os.path.realpath(source) != target]:
        lines.append(f"their job specs no longer find them, unless output_dir is {folder}: `missing`, --skip-done, "
                     f"--extend and `-r JOB_SPEC` look in {', '.join(left)}")
    return lines


def archive(options: argparse.Namespace) -> Output:
    """Pack ended runs into one file for each batch. Batches of which a run is pending or running are left alone."""
    from src.submission.storage import archiving

    if options.drop_checkpoints:
        confirm("Delete the checkpoints of all runs that are archived? This cannot be undone.", "nothing was archived",
                options)
    lines: list[str] = []
    document: list[documents.Archived] = []
    for observation in observe(dict.fromkeys(map(batch_folder.require_batch, options.batches))):
        if observation.history.sync_markers or observation.history.first_plan().get("identity", {}).get("shard"):
            raise BatchError("other machines have this batch or a part of it, and archives have the same names there",
                             where=observation.path, hint="archive a batch on the one machine that runs it: --on HOST")
        ended = _ended_runs(observation)
        if observation.count(retry_policy.ALIVE):
            archived = archiving.Archived([], dict.fromkeys(ended, "a run of this batch is pending or running"))
        else:
            archived = _archive_runs(observation.path, ended, options.drop_checkpoints)
        left = {name: states.shown(run.state.name) for name, run in observation.runs.items() if name not in ended
                and run.files is not None and not run_files.is_archived(run.path)} | archived.left
        volumes = run_files.volumes(observation.path)
        document.append({"batch": observation.path, "archived": archived.runs, "left": left, "files": volumes})
        lines += _archive_lines(observation.path, archived.runs, left, volumes)
    return Output(lines, document)


def _archive_runs(batch: str, ended: Mapping[str, Run], drop_checkpoints: bool) -> Archived:
    from src.submission.storage import archiving

    tickets = {name: run.ticket for name, run in ended.items()}
    failed = [name for name, run in ended.items() if run.state.name in _UNFINISHED]
    with files.report_os_errors(batch, "nothing was lost; give the same command again"):
        return archiving.archive(batch, tickets, failed, drop_checkpoints)


def _ended_runs(observation: Observation) -> dict[str, Run]:
    """Return the runs that have ended, by name: well, paused by their search, or so that `-r` submits them again."""
    ended = retry_policy.ENDED_WELL | _UNFINISHED
    return {name: run for name, run in observation.runs.items() if run.state.name in ended and run.host is None}


def _archive_lines(batch: str, archived: list[str], left: dict[str, str], volumes: list[str]) -> list[str]:
    """Return what was archived of a batch, how to bring it back, and why other runs were left in their folders."""
    size = sum(map(os.path.getsize, volumes))
    where = f"; its archive: {', '.join(volumes)} ({mebibytes(size)})" if volumes else ""
    lines = [f"{batch}: {count(len(archived), 'run')} archived{where}"]
    for reason, number in Counter(left.values()).most_common():
        lines.append(f"  {count(number, 'run')} left alone: {reason}")
    if archived:
        lines.append(f"  {experiments_command('unarchive', batch)}  brings them back")
    return lines


def unarchive(options: argparse.Namespace) -> Output:
    """Make the folders of archived runs again, as they were."""
    from src.submission.storage import archiving

    batches, run_names = split_targets(options.targets)
    selected: dict[str, list[str] | None] = dict.fromkeys(batches)
    for run in map(_find_run, run_names):
        batch, name = os.path.split(run)
        if (names := selected.setdefault(batch or ".", [])) is not None:
            names.append(name)
    document: list[documents.Unarchived] = []
    for batch, names in selected.items():
        with files.report_os_errors(batch, "nothing was lost; give the same command again"):
            document.append({"batch": batch, "runs": archiving.unarchive(batch, names)})
    return Output([f"{item['batch']}: {count(len(item['runs']), 'run')} brought back" for item in document], document)


def delete(options: argparse.Namespace) -> Output:
    """Ask, and delete batches and single runs that are neither pending nor running; a file keeps what they were."""
    batches, run_names = split_targets(options.targets)
    runs = list(dict.fromkeys(os.path.normpath(_find_run(name)) for name in run_names))
    observations = _observe_idle(batches, "delete this batch")
    for run in _observe_idle_runs(runs):
        print(f"{run.path}: {states.shown(run.state.name)}, {_size(run.path)}")
    for observation in observations:
        print(f"{observation.path}: {_describe(observation)}")
    number = len(batches) + len(run_names)
    which = "it" if number == 1 else f"all {number}"
    confirm(f"Delete {which}? This cannot be undone.", "nothing was deleted", options)
    deleted: list[documents.Deleted | documents.DeletedRun] = []
    for run in _observe_idle_runs(runs):
        with files.report_os_errors(run.path, "not all of it was deleted"):
            kept = relocation.delete_run(run.path, run.state.name)
            _add_note(os.path.dirname(run.path), f"deleted {run.name} ({states.shown(run.state.name)})")
        deleted.append({"run": run.path, "kept": kept})
        print(f"deleted {run.path}; {kept} keeps its spec", flush=True)
    # observed again, since a run may have been started in the meantime
    for observation in _observe_idle([observation.path for observation in observations], "delete this batch"):
        with files.report_os_errors(observation.path, "not all of it was deleted"):
            kept = relocation.delete(observation.path, status.counts(observation))
        deleted.append({"batch": observation.path, "kept": kept})
        print(f"deleted {observation.path}; {kept} keeps its job spec and notes", flush=True)
    return Output([], deleted)


def _find_run(name: str) -> str:
    """Return the folder of a run. BatchError if there is no run or batch of that name."""
    try:
        return run_lookup.find_run(name, batch_folder.results_folder())
    except BatchError as error:
        if error.what == run_lookup.NO_RUN:
            batch_folder.require_batch(name)
        raise


def _observe_idle_runs(paths: list[str]) -> list[Run]:
    """Observe runs. BatchError if one may be pending or running on this machine or its cluster."""
    batches = observe(dict.fromkeys(map(os.path.dirname, paths))) if paths else []
    by_path = {os.path.normpath(run.path): (batch, run) for batch in batches for run in batch.runs.values()}
    runs = [by_path[path] for path in paths if path in by_path]
    for batch, run in runs:
        require_none_alive(batch._replace(runs={run.name: run} if run.host is None else {}, canaries={}),
                           "delete this run")
    return [run for _, run in runs]


def _observe_idle(names: Iterable[str], action: str) -> list[Observation]:
    """Observe batches. BatchError if a run of one may be pending or running on this machine or its cluster."""
    paths = [batch_folder.require_batch(name) for name in names]
    observations = observe(dict.fromkeys(paths))
    for observation in observations:
        local_runs = {name: run for name, run in observation.runs.items() if run.host is None}
        require_none_alive(observation._replace(runs=local_runs), action)
    return observations


def _add_note(batch: str, text: str) -> None:
    commit = code_state.commit(Path(PROJECT))
    notes.add(batch, text, commit and commit[:10])


def _describe(observation: Observation) -> str:
    """Return `27 runs (24 done, 3 failed), 1,234.5 MiB`."""
    numbers = ", ".join(f"{number} {states.shown(name)}" for name, number in status.counts(observation).items())
    return f"{count(len(observation.runs), 'run')} ({numbers}), {_size(observation.path)}"


def _size(path: str) -> str:
    """Return the size of a folder with all its files, or of an archived run: `1,234.5 MiB`."""
    size = run_files.size(path) + sum(os.lstat(os.path.join(folder, name)).st_size
                                      for folder, _, names in os.walk(path) for name in names)
    return mebibytes(size)
