"""Extensions of a batch: more runs, which join it all at once or not at all, and the job spec that they come from."""
from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from src import run_folder
from src.frozen import Frozen
from src.io import deletion, files, records
from src.submission.batch import batch_folder

_FORMS: records.Forms = {"names": records.list_of(records.is_name), "identity": records.is_mapping}


class Extension(Frozen):
    """The points of an extended batch, which follow from its job spec and its options.

    number: of the extension, from 0
    names: the run of each grid point, in the order of the grid
    grid_options: overrides and other options that determine the points
    new: the names of the runs that the extension adds
    """

    number: int
    names: list[str]
    grid_options: dict[str, Any]
    new: frozenset[str] = frozenset()


def last_extension(batch: str) -> Extension | None:
    """Return the last extension of a batch; None before any."""
    for number in reversed(_extension_numbers(batch)):
        record = files.read_json(os.path.join(batch, run_folder.extension_name(number), run_folder.EXTENSION))
        checked = records.fields(record, _FORMS)
        if checked.keys() >= _FORMS.keys():
            return Extension(number, checked["names"], checked["identity"])
    return None


def job_spec_path(batch: str, extension: Extension | None) -> str:
    """Return the file with the newest job spec of a batch.

    If the last extension was interrupted, its job spec is not in job.yaml yet.
    """
    path = os.path.join(batch, run_folder.extension_name(extension.number), run_folder.JOB_SPEC) if extension else ""
    return path if os.path.exists(path) else os.path.join(batch, run_folder.JOB_SPEC)


def _extension_numbers(batch: str) -> list[int]:
    """Return the numbers of the extensions of a batch, in order."""
    names = files.list_folder(os.path.join(batch, run_folder.SUBMISSIONS))
    return sorted(int(match[1]) for name in names if (match := re.fullmatch(r"extension-([0-9]{1,9})", name)))


def create(batch: str, extension: Extension, job_spec_text: str, names: Sequence[str], texts: Iterable[str],
           write_plan: Callable[[str], None]) -> bool:
    """Write an extension with its job spec, its plan and its run folders, and move them into the batch.

    The extension appears as a whole or not at all. Return False if another process has extended the batch in the
    meantime: then this process has read an old state of the batch.

    names, texts: the new run folders and the text of their spec.yaml
    write_plan: writes the first journal into the folder that it is called with
    """
    staging = files.temporary_path(os.path.join(batch, f"extension-{extension.number}"))
    batch_folder.remove_leftovers(batch)
    try:
        os.makedirs(os.path.join(staging, run_folder.SUBMISSIONS))
        files.write_atomic(os.path.join(staging, run_folder.JOB_SPEC), job_spec_text)
        files.write_json(os.path.join(staging, run_folder.EXTENSION),
                         {"names": extension.names, "identity": extension.grid_options})
        batch_folder.write_specs(staging, names, texts)
        write_plan(staging)
        files.sync_folder(staging)
        os.rename(staging, os.path.join(batch, run_folder.extension_name(extension.number)))
    except BaseException as error:
        deletion.remove_tree(staging)
        if batch_folder.is_name_taken(error):
            return False
        raise
    files.sync_folder(os.path.join(batch, run_folder.SUBMISSIONS))
    finish_extensions(batch)
    return True


def finish_extensions(batch: str) -> None:
    """Move the contents of all extensions into the batch, the plan first, so that no run appears without a plan.

    Every process that continues a batch does this first. Any number of processes may do it at once, and it does not
    matter where one of them was killed.
    """
    for number in _extension_numbers(batch):
        extension_folder = os.path.join(batch, run_folder.extension_name(number))
        is_finished = os.path.exists(os.path.join(extension_folder, run_folder.DONE))
        # a copy that was downloaded in part may lack the job spec
        if is_finished or not os.path.exists(os.path.join(extension_folder, run_folder.JOB_SPEC)):
            continue
        for source, target in _moves(extension_folder, batch):
            with contextlib.suppress(FileNotFoundError):  # another process has just moved it
                os.rename(source, target)
        old = os.path.join(batch, run_folder.old_job_spec_name(number))
        if not os.path.exists(old):
            before = run_folder.extension_name(number - 1) if number else ""
            files.create_exclusive(old, files.read_text(os.path.join(batch, before, run_folder.JOB_SPEC)) or "")
        newest = ""
        # a later extension may have been made in the meantime
        while newest != (newest := job_spec_path(batch, last_extension(batch))):
            files.write_atomic(os.path.join(batch, run_folder.JOB_SPEC), files.read_text(newest) or "")
        files.write_atomic(os.path.join(extension_folder, run_folder.DONE), "")


def _moves(extension_folder: str, batch: str) -> Iterator[tuple[str, str]]:
    """Yield source and target of what is moved: journals first, then run folders."""
    journals = os.path.join(extension_folder, run_folder.SUBMISSIONS)
    for name in sorted(os.listdir(journals)):
        yield os.path.join(journals, name), os.path.join(batch, run_folder.SUBMISSIONS, name)
    for name in run_folder.run_names(extension_folder):
        yield os.path.join(extension_folder, name), os.path.join(batch, name)
