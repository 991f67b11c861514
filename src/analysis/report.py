"""Write one self-contained HTML file about batches: states, failures with logs, best runs, figures, all runs."""
from __future__ import annotations

import base64
import html
import io
import itertools
import os
import shlex
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import matplotlib.style
import pandas as pd
from matplotlib.figure import Figure

from src import gpu_idle, logs, metrics, notes
from src.analysis.page import failures
from src.analysis.page.failures import Failure
from src.analysis.plotting import best_settings, heat_maps, plots, search_figures
from src.analysis.reading.filters import is_number
from src.analysis.reading.results import Results, Skipped, read_results
from src.analysis.tables import tables
from src.code import code_state, code_versions
from src.errors import ResultsError
from src.io import files
from src.search import summary

_HERE = os.path.dirname(__file__)
_MAX_PARAMETERS = 8  # with a figure of the metric against each
_MAX_LINES = 12  # of a figure
_MAX_MAP_PARAMETERS = 3  # each pair of which has a heat map
_MAX_GROUPS, _MAX_OPEN, _MAX_NAMES = 20, 3, 10  # groups of failures shown, unfolded; runs named in each
_MAX_SETTINGS = 10  # in the table of the best ones
_MAX_LOG_SEARCH = 50  # runs of a group in which a log is searched


def write_report(batches: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
                 path: str | os.PathLike[str] | None = None,
                 status: Sequence[Mapping[str, Any]] | None = None,
                 resources: Mapping[str, Sequence[Sequence[str]]] | None = None) -> str:
    """Write the report on some batches and return its path.

    batches: as in `read_results`;
    path: default report.html in the batch; of several batches, report-with-B.html in the first, where B is the second;
    status: rows of the status table, if the caller has queried Slurm: mappings with at least run, batch, state and why;
    resources: by batch, rows of resource, used, requested, fraction, recommended.
    The file loads nothing from the network, and all texts are escaped. ResultsError as in `read_results`.
    """
    paths = [batches] if isinstance(batches, (str, os.PathLike)) else list(batches)
    results = read_results(paths)
    path = os.fspath(path) if path is not None else os.path.join(
        _first_batch(results, paths), f"report{_other_batches(results)}.html")
    files.write_atomic(path, build_report(results, status, resources), sync=False)
    return path


def build_report(results: Results, status: Sequence[Mapping[str, Any]] | None = None,
                 resources: Mapping[str, Sequence[Sequence[str]]] | None = None) -> str:
    """Return the HTML of the report. status, resources: as in `write_report`."""
    df = results.big_df()
    failed = failures.group(results, status)
    names = list(dict.fromkeys(results.config["batch"])) or ["no runs yet"]
    sections = [_header(names, df, results, failed, status), _notes(results), _drift(results), _changed_code(df),
                _versions(df), _failed(failed), _active(status), *_searches(df), _parameters(df),
                *_best_and_figures(df),
                _machines(df), _resources(resources or {}), _runs(df), _skipped(results.skipped)]
    with open(os.path.join(_HERE, "report_template.html"), encoding="utf-8") as file:
        page = file.read()
    head, _, tail = page.replace("{{title}}", html.escape(", ".join(names))).partition("{{body}}")
    return head + "\n".join(filter(None, sections)) + tail


def _other_batches(results: Results) -> str:
    """`-with-B`, or `-with-B-and-2-more`, of a report on several batches; empty for one."""
    batches = list(dict.fromkeys(map(os.path.dirname, results.config["folder"])))
    more = f"-and-{len(batches) - 2}-more" if len(batches) > 2 else ""
    return f"-with-{os.path.basename(batches[1])}{more}" if len(batches) > 1 else ""


def _first_batch(results: Results, paths: Sequence[str | os.PathLike[str]]) -> str:
    """The folder of the first run's batch; the first path if there are no runs."""
    folders = [*results.config["folder"], *(skipped.folder for skipped in results.skipped)]
    return os.path.dirname(os.path.abspath(folders[0])) if folders else os.fspath(paths[0])


def _header(names: list[str], df: pd.DataFrame, results: Results, failed: list[Failure],
            status: Sequence[Mapping[str, Any]] | None) -> str:
    """Batches, time, and the number of runs per state (per end, if Slurm was not queried)."""
    counts = Counter(row["state"] for row in status) if status else Counter(end or "not ended" for end in df["end"])
    number = 0 if status else sum(len(group.folders) for group in failed)
    tiles = [("runs read", len(df)), *counts.most_common(), ("failed", number), ("left out", len(results.skipped))]
    items = "".join(f'<li class="{html.escape(label)}"><b>{count}</b> {html.escape(label.replace("_", " "))}</li>'
                    for label, count in tiles if count)
    written = time.strftime("%Y-%m-%d %H:%M %Z")
    title = html.escape(", ".join(names))
    return f"<header><h1>{title}</h1><p>Report of {written}</p><ul class=tiles>{items}</ul></header>"


def _notes(results: Results) -> str:
    """The notes of the batches."""
    batches = dict.fromkeys(os.path.dirname(folder) for folder in results.config["folder"])
    all_notes = [note for batch in batches for note in notes.read(batch)]
    if not all_notes:
        return ""
    items = "".join(f"<li>{html.escape(note.line())}</li>" for note in sorted(all_notes, key=lambda note: note.time))
    return _section("Notes", f"<ul>{items}</ul>")


def _drift(results: Results) -> str:
    """Parameters whose default has changed since runs were made."""
    items = "".join(f"<li>{html.escape(str(change))}</li>" for change in results.drift)
    return _section("Defaults that have changed", f"<ul>{items}</ul>") if items else ""


def _changed_code(df: pd.DataFrame) -> str:
    """Runs that started with other code than was submitted, by the files."""
    runs: dict[tuple[str, ...], list[str]] = {}
    column = f"facts/{code_state.CHANGED}"
    for name, changed in zip(df["run"], df[column], strict=True) if column in df else ():
        if isinstance(changed, (list, tuple)) and changed:
            runs.setdefault(tuple(map(str, changed)), []).append(name)
    if not runs:
        return ""
    table = pd.DataFrame([{"runs": len(names), "files that had changed when they started": ", ".join(changed),
                           "first": names[0]} for changed, names in runs.items()])
    return _section("Code changed since submission", "<p>The command in <i>best runs</i> repeats what ran.</p>"
                    + _table(table, code=("files that had changed when they started", "first")))


def _versions(df: pd.DataFrame) -> str:
    """The versions of the code that runs of a batch started with, if there are several."""
    items = ""
    for batch, runs in df.groupby(df["folder"].map(os.path.dirname), sort=False):
        if code_state.may_have_versions(str(batch)):
            line = code_versions.line(code_versions.read_versions(str(batch), runs["folder"].tolist(), limit=None))
            items += f"<li>{html.escape(f'{os.path.basename(str(batch))}: {line}')}</li>" if line else ""
    return _section("Runs of different code", f"<ul>{items}</ul>") if items else ""


def _failed(failed: list[Failure]) -> str:
    """The failures, each with its runs and the end of a log; the first ones unfolded."""
    if not failed:
        return ""
    items = "".join(f"<details{' open' if number < _MAX_OPEN else ''}>{_summary(group)}{_log_tail(group)}"
                    f"{_named_runs(group.folders)}</details>" for number, group in enumerate(failed[:_MAX_GROUPS]))
    if len(failed) > _MAX_GROUPS:
        items += f"<p>… and {len(failed) - _MAX_GROUPS} more kinds</p>"
    note = "Runs that failed alike, with the last lines of the first log among them."
    return _section(f"Failed runs ({sum(len(group.folders) for group in failed):,})", f"<p>{note}</p>{items}")


def _summary(group: Failure) -> str:
    error = f": <code>{html.escape(group.error)}</code>" if group.error else ""
    return f"<summary><b>{len(group.folders):,}</b> {html.escape(group.state.replace('_', ' '))}{error}</summary>"


def _named_runs(folders: list[str]) -> str:
    names = ", ".join(f"<code>{html.escape(os.path.basename(folder))}</code>" for folder in folders[:_MAX_NAMES])
    return f"<p>{names}{f' … and {len(folders) - _MAX_NAMES:,} more' if len(folders) > _MAX_NAMES else ''}</p>"


def _log_tail(group: Failure) -> str:
    """The end of the newest log of the first run that has one."""
    for folder in group.folders[:_MAX_LOG_SEARCH]:
        for path in logs.log_paths(folder)[-1:]:
            return f"<p><code>{html.escape(path)}</code></p><pre>{html.escape(logs.tail(path))}</pre>"
    return "<p>No log.</p>"


def _active(status: Sequence[Mapping[str, Any]] | None) -> str:
    """The status rows of runs that are pending or running."""
    rows = [row for row in status or () if row["state"] in failures.ACTIVE]
    if not rows:
        return ""
    table = pd.DataFrame([{name: "" if value is None else value for name, value in row.items()} for row in rows])
    names = [name for name in table if any(value not in ("", [], ()) for value in table[name].tolist())]
    table = table[names if table["batch"].nunique() > 1 else [name for name in names if name != "batch"]]
    return _section(f"Not ended ({len(rows)})", _table(table, code=("run", "batch", "why")))


def _searches(df: pd.DataFrame) -> Iterator[str]:
    """A section for each batch that is a search: its rungs, its best value so far, its curves, and its space."""
    for batch, runs in df.groupby(df["folder"].map(os.path.dirname), sort=False):
        if (search := summary.summarize(str(batch))) is None:
            continue
        header, *rows = search.rows()
        first_rung = search.rungs[0].epochs if len(search.rungs) > 1 else "best"
        figures = [_figure("best so far", search_figures.best_so_far, str(batch)),
                   _figure("learning curves", search_figures.rung_curves, runs, str(batch)),
                   _figure("space", search_figures.space, str(batch)),
                   _figure("importance", plots.importance, runs, epoch=first_rung)]
        table = pd.DataFrame(rows, columns=[*header[:-1], "run"])
        yield _section(f"Search {os.path.basename(str(batch))}", f"<p>{html.escape(search.headline())}</p>"
                       + _table(table, code=("run",)) + "".join(figures))


def _parameters(df: pd.DataFrame) -> str:
    varying = tables.varying_columns(df, seeds=True)
    rows = [{"parameter": name, "values": len(plots.levels(df[name])), "which": _format_levels(plots.levels(df[name]))}
            for name in varying]
    return _section("Varying parameters", _table(pd.DataFrame(rows), code=("which",))) if rows else ""


def _format_levels(values: list[Any], limit: int = 12) -> str:
    shown = [plots.format_value(value, 40) for value in values[:limit]]
    return ", ".join(shown) + (" …" if len(values) > limit else "")


def _best_and_figures(df: pd.DataFrame) -> list[str]:
    """Best runs and figures; a note while no run has been evaluated."""
    columns, problems = tables.ranking_columns(df)
    if not columns:
        missing = metrics.missing_metric_message(tables.named_metric(df), [], bool(df["end"].notna().any()))
        text = html.escape("; ".join(problems) or missing or "No run has been evaluated yet.")
        return [_section("Best runs", f"<p>{text}</p>")]
    return [_best_settings(df), _best_runs(df, columns, problems), _curves(df), _against(df), _heat_maps(df)]


def _best_settings(df: pd.DataFrame) -> str:
    """The best settings with their intervals, and the runs that do not count; nothing if all settings have one run."""
    found = best_settings.find(df)
    if not (found.table["total"] > 1).any():
        return ""
    texts = best_settings.to_text(found._replace(table=found.table.head(_MAX_SETTINGS)))
    note = f"The best {len(texts)} of {found.settings} settings" if found.settings > len(texts) else "All settings"
    uncounted = "".join(f"<li>{html.escape(line)}</li>" for line in best_settings.name_uncounted(found))
    return _section("Best settings", f"<p>{note}: {html.escape(found.note)}.</p>{_table(texts)}<ul>{uncounted}</ul>")


def _best_runs(df: pd.DataFrame, columns: list[str], problems: list[str]) -> str:
    best = tables.best_runs(df, n=10)
    commands = [shlex.join(["python", "experiments.py", "reproduce", folder, "--run"]) for folder in best["folder"]]
    caption = best.attrs[tables.CAPTION]
    best = _named(best, columns)
    note = "".join(f"<strong>{html.escape(problem)}.</strong> " for problem in problems) + (
        "Each run counts with its best epoch")
    if problem := metrics.missing_metric_message(tables.named_metric(df), tables.stats_columns(df)):
        note = f"<strong>{html.escape(problem[0].upper() + problem[1:])}.</strong> {note}"
    note += f" ({html.escape(caption)})" if caption and metrics.TEST_NOTE not in caption else ""
    note += ". The columns of other splits have the same epoch. The command repeats the run in a new folder, with " \
            "the code that it ran with, and compares the results."
    if metrics.TEST_NOTE in caption:
        note += f" <strong>{html.escape(caption[0].upper() + caption[1:])}.</strong>"
    if lost := tables.run_counts(df).lost("listed last", "listed with the epochs so far"):
        note += f" {html.escape('; '.join(lost))}."
    best["repeat it"] = commands
    return _section("Best runs", f"<p>{note}</p>{_table(best, code=('repeat it',))}")


def _named(best: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """The table of best runs with headings that say what is measured: val accuracy, weights, test accuracy."""
    split, *_, measure = columns[0].split("/") if "/" in columns[0] else ("", columns[0])
    names = {name: plots.column_label(name) for name in best if "/" in name} | {
        "value": plots.column_label(f"{split}/{measure}" if split else measure)}
    weights = ["averaged" if "/av/" in name else "last" for name in best["metric"]]
    best = best.assign(metric=weights) if len(columns) > 1 else best.drop(columns="metric")
    return best.drop(columns=["run", "folder"]).rename(columns=names | {"metric": "weights"})


def _curves(df: pd.DataFrame) -> str:
    columns, legend = _facets(df, ())
    figures = [_figure(f"learning curves, {name}", plots.learning_curves, df, metric, columns=columns, legend=legend,
                       log_y=log_y)
                for name, metric, log_y in (("ranking metric", None, False), ("training loss", "train/loss", True))
                if metric is None or metric in tables.stats_columns(df)]
    return _section("Learning curves", "".join(figures))


def _against(df: pd.DataFrame) -> str:
    figures = []
    for parameter in tables.varying_columns(df)[:_MAX_PARAMETERS]:
        columns, legend = _facets(df, (parameter,))
        figures.append(_figure(f"metric against {parameter}", plots.metric_against, df, parameter, columns=columns,
                               legend=legend))
    return _section("Metric against each parameter", "".join(figures)) if figures else ""


def _heat_maps(df: pd.DataFrame) -> str:
    """Heat maps of the parameters with the most values: numbers first."""
    values = {name: levels for name in tables.varying_columns(df)
              if 1 < len(levels := plots.levels(df[name])) <= heat_maps.MAX_CELLS}
    names = sorted(values, key=lambda name: (not all(map(is_number, values[name])), -len(values[name])))
    figures = [_figure(f"{x} and {y}", plots.heat_map, df, x, y)
                for x, y in itertools.combinations(names[:_MAX_MAP_PARAMETERS], 2)]
    return _section("Two parameters at once", "".join(figures)) if figures else ""


def _facets(df: pd.DataFrame, drawn: tuple[str, ...]) -> tuple[str | None, str | None]:
    """(columns, legend) of a figure: the parameter with the fewest values as columns, the next as colors."""
    counts = {name: len(plots.levels(df[name])) for name in tables.varying_columns(df) if name not in drawn}
    names = sorted((name for name, count in counts.items() if count <= _MAX_LINES), key=counts.__getitem__)
    many = [name for name, count in counts.items() if count > _MAX_LINES]
    if not names:
        return None, many[0] if many and not drawn else None
    if counts[names[0]] <= 3 and (len(names) > 1 or many):
        return names[0], names[-1] if len(names) > 1 else many[0]
    return None, names[-1]


def _figure(text: str, draw: Callable[..., Figure], *args: Any, **kwargs: Any) -> str:
    """A figure as an SVG in an <img>, where no script can run, or why it is not possible. text: the alt text."""
    try:
        figure = draw(*args, **kwargs)
    except ResultsError as error:
        return f"<p>No figure of {html.escape(f'{text}: {error}')}.</p>"
    buffer = io.BytesIO()
    with matplotlib.style.context(plots.STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    source = base64.b64encode(buffer.getvalue()).decode()
    width = round(figure.get_figwidth() * 96)
    return (f'<div class=picture><img alt="{html.escape(text)}" width="{width}" '
            f'src="data:image/svg+xml;base64,{source}"></div>')


def _runs(df: pd.DataFrame) -> str:
    table = tables.runs_table(df).rename(columns=plots.column_label)
    hint = "<p><input type=search placeholder='filter: words in a row' aria-label='filter runs' data-filter=runs> " \
           "<span data-count=runs></span> Click a column to sort by it.</p>"
    return _section("Runs", hint + _table(table, "runs", code=("run",)))


def _machines(df: pd.DataFrame) -> str:
    """GPUs with low utilization, and what to try."""
    stats = tables.stats_columns(df)
    if gpu_idle.COLUMN not in stats:
        return ""
    columns = [name for name in (gpu_idle.COLUMN, "train/time", "train/data_time") if name in stats]
    idle = [gpu_idle.assess(pd.DataFrame({name: row[name] for name in columns}).dropna().to_dict("records"),
                         {**row, "facts": {"threads": row.get("facts/threads")}}) for row in df.to_dict("records")]
    lines = gpu_idle.summarize(idle)
    return _section("GPUs", f"<ul>{''.join(f'<li>{html.escape(line)}</li>' for line in lines)}</ul>") if lines else ""


def _resources(resources: Mapping[str, Sequence[Sequence[str]]]) -> str:
    """The resources that Slurm jobs used and requested."""
    rows = [(os.path.basename(path), *row) for path, several in resources.items() for row in several]
    table = pd.DataFrame(rows, columns=["batch", "resource", "used", "requested", "share", "recommended"])
    if table.empty:
        return ""
    note = "Of Slurm jobs that have ended, by sacct. The recommendation includes a margin; smaller jobs start sooner."
    table = table if len(resources) > 1 else table.drop(columns="batch")
    return _section("Resources used and requested", f"<p>{note}</p>{_table(table, code=('batch', 'recommended'))}")


def _skipped(skipped: list[Skipped]) -> str:
    if not skipped:
        return ""
    table = pd.DataFrame({"folder": [item.folder for item in skipped], "reason": [item.reason for item in skipped]})
    return _section(f"Left out ({len(skipped)})", "<p>Folders or rows that could not be read.</p>"
                    + _table(table, code=("folder", "reason")))


def _section(title: str, content: str) -> str:
    return f"<section><h2>{html.escape(title)}</h2>{content}</section>"


def _table(df: pd.DataFrame, name: str = "", code: tuple[str, ...] = ()) -> str:
    """A sortable table. code: the columns in a monospaced font."""
    head = "".join(f"<th><button>{html.escape(str(column))}</button></th>" for column in df)
    rows = "\n".join(f"<tr>{''.join(_cell(value, column in code) for column, value in zip(df, row, strict=True))}</tr>"
                     for row in df.astype(object).itertuples(index=False, name=None))
    return (f"<div class=wide><table{f' id={name}' if name else ''}><thead><tr>{head}</tr></thead>"
            f"<tbody>{rows}</tbody></table></div>")


def _cell(value: Any, as_code: bool) -> str:
    if as_code:
        return f"<td class=code><code>{html.escape(str(value))}</code></td>"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return f'<td class=number data-value="{float(value)!r}">{html.escape(plots.format_value(value))}</td>'
    return f"<td>{html.escape(plots.format_value(value, 60))}</td>"
