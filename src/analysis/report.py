"""Write the page about batches as one self-contained HTML file, with details of failed runs and of the best ones."""
from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from src import run_folder
from src.analysis.page import details, write
from src.analysis.page import document as page_document
from src.analysis.reading.results import Results, read_results
from src.io import files

_MAX_DETAILS = 60  # runs whose details are in the file
_MAX_DETAILS_SIZE = 4 * 2**20  # bytes of JSON, before they are compressed


def write_report(batches: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
                 path: str | os.PathLike[str] | None = None,
                 status: Sequence[Mapping[str, Any]] | None = None,
                 resources: Mapping[str, Sequence[Sequence[str]]] | None = None) -> str:
    """Write the report on some batches and return its path.

    batches: as in `read_results`;
    path: default report.html in the batch; of several batches, report-with-B.html in the first, where B is the second;
    status: rows of the status table, if the caller has queried Slurm: mappings with at least run, batch, state and why;
    resources: by batch, rows of resource, used, requested, fraction, recommended.
    The file loads nothing from the network, and no text in it can become markup. ResultsError as in `read_results`.
    """
    paths = [batches] if isinstance(batches, (str, os.PathLike)) else list(batches)
    results = read_results(paths)
    path = os.fspath(path) if path is not None else os.path.join(
        _first_batch(results, paths), run_folder.report_name(
            list(dict.fromkeys(map(os.path.dirname, results.config["folder"])))))
    folders = [os.fspath(batch) for batch in paths if os.path.isdir(batch)]
    files.write_atomic(path, build_report(results, status, resources, folders), sync=False)
    return path


def build_report(results: Results, status: Sequence[Mapping[str, Any]] | None = None,
                 resources: Mapping[str, Sequence[Sequence[str]]] | None = None, batches: Iterable[str] = ()) -> str:
    """Return the HTML of the report. status, resources: as in `write_report`; batches: shown even without runs."""
    document = page_document.build(results, status, resources, batches=batches)
    return write.page({**document, **_details(document, results.config["folder"].tolist())})


def _first_batch(results: Results, paths: Sequence[str | os.PathLike[str]]) -> str:
    """The folder of the first run's batch; the first path if there are no runs."""
    folders = [*results.config["folder"], *(skipped.folder for skipped in results.skipped)]
    return os.path.dirname(os.path.abspath(folders[0])) if folders else os.fspath(paths[0])


def _details(document: Mapping[str, Any], folders: Sequence[str]) -> dict[str, Any]:
    """The details of as many runs as there is room for, and a note if these are not all."""
    parameters = document["runs"]["parameters"]
    chosen: dict[str, Any] = {}
    room = _MAX_DETAILS_SIZE
    for run in list(dict.fromkeys(_by_interest(document)))[:_MAX_DETAILS]:
        run_details = details.run(folders[run], {name: values[run] for name, values in parameters.items()})
        room -= len(page_document.to_json(run_details))
        if room < 0:
            break
        chosen[document["runs"]["key"][run]] = run_details
    note = None if len(chosen) == len(folders) else (
        f"This file has the logs, configs and system metrics of {len(chosen)} of {len(folders):,} runs: one of each "
        "kind of failure, the best ones, then the others in order. The dashboard shows those of all runs:")
    return {"details": chosen, "details_note": note}


def _by_interest(document: Mapping[str, Any]) -> Iterator[int]:
    """Yield runs: the first of each kind of failure, the best ones of each batch, other failures, all runs."""
    failures = [failure["runs"] for batch in document["batches"] for failure in batch["failures"]]
    yield from (runs[0] for runs in failures if runs)
    runs = document["runs"]
    for number, batch in enumerate(document["batches"]):
        ranked = [run for run, own_batch in enumerate(runs["batch"])
                  if own_batch == number and runs["value"][run] is not None]
        if batch["metric"]:
            sign = -1 if batch["metric"]["goal"] == "maximize" else 1
            yield from sorted(ranked, key=lambda run, sign=sign: sign * runs["value"][run])[:10]  # type: ignore[misc]
    for group in failures:
        yield from group
    yield from range(runs["count"])
