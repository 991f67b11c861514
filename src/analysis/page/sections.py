"""Tables and messages of the page about one batch, or about several together."""
from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from src import metrics, notes
from src.analysis.page import failures, plain
from src.analysis.page.plain import Table
from src.analysis.plotting import best_settings, figure_layout, plots
from src.analysis.reading.results import Results, Skipped
from src.analysis.tables import tables
from src.code import code_state, code_versions
from src.errors import ResultsError
from src.monitoring import gpu_idle

_MAX_SETTINGS, _MAX_BEST = 10, 10  # in the tables of the best ones
_MAX_SKIPPED, _MAX_ACTIVE, _MAX_DELETED = 1000, 200, 10
_ACTIVE_COLUMNS = ("run", "state", "epochs_done", "epochs", "left", "slurm_job", "why")  # of status rows


def ranking_columns(df: pd.DataFrame) -> list[str]:
    """Return the columns by which the runs of big_df are ranked: the first in which a run has a value counts."""
    return metrics.by_preference(tables.ranking_columns(df)[0])


def metric(df: pd.DataFrame) -> dict[str, Any] | None:
    """Return by what the runs of big_df are ranked; None if there is nothing."""
    columns = ranking_columns(df)
    if not columns:
        return None
    weights = ["averaged" if "/av/" in name else "last" for name in columns]
    names = list(map(plain.text, columns))
    return {"name": names[0], "columns": names, "epoch": "best", "split": names[0].partition("/")[0],
            "goal": metrics.MINIMIZE if tables.lower_is_better(df, columns[0]) else metrics.MAXIMIZE,
            "reduction": ", else ".join(dict.fromkeys(weights)),
            "label": plain.text(figure_layout.common_label(columns)),
            "note": plain.text(f"ranked by {figure_layout.describe_metric(columns, 'best')}")}


def best(df: pd.DataFrame) -> dict[str, Table | None]:
    """Return the tables `best` (settings) and `best_runs` of big_df; None where there is nothing to rank by."""
    columns, problems = tables.ranking_columns(df)
    return {"best": _best_settings(df) if columns else None,
            "best_runs": _best_runs(df, columns, problems) if columns else None}


def _best_settings(df: pd.DataFrame) -> Table | None:
    """The best settings with their intervals, and the runs that do not count; None if all settings have one run."""
    ranked = best_settings.find(df)
    if not (ranked.table["total"] > 1).any():
        return None
    texts = best_settings.to_text(ranked._replace(table=ranked.table.head(_MAX_SETTINGS)))
    scope = f"The best {len(texts)} of {ranked.settings} settings" if ranked.settings > len(texts) else "All settings"
    return plain.table("Best settings", texts, [f"{scope}: {ranked.note}.", *best_settings.name_uncounted(ranked)])


def _best_runs(df: pd.DataFrame, columns: list[str], problems: list[str]) -> Table:
    """The best runs, with the command that repeats each."""
    best_table = tables.best_runs(df, n=_MAX_BEST)
    commands = [repeat_command(folder) for folder in best_table["folder"]]
    caption = best_table.attrs[tables.CAPTION]
    problem = metrics.missing_metric_message(tables.named_metric(df), tables.stats_columns(df))
    texts = [*problems, problem, f"each run counts with its best epoch{f' ({caption})' if caption else ''}",
             "the columns of other splits have the same epoch; the command repeats the run in a new folder, with the "
             "code that it ran with, and compares the results",
             *tables.run_counts(df).lost("listed last", "listed with the epochs so far")]
    return plain.table("Best runs", _named(best_table, columns).assign(**{"repeat it": commands}),
                       [f"{line[0].upper()}{line[1:]}." for line in texts if line], ["repeat it"], "repeat it")


def repeat_command(folder: str) -> str:
    """Return the command that repeats a run."""
    return shlex.join(["python", "experiments.py", "reproduce", folder, "--run"])


def _named(best_table: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """The table of best runs with headings that say what is measured: val accuracy, weights, test accuracy."""
    split, *_, measure = columns[0].split("/") if "/" in columns[0] else ("", columns[0])
    names = {name: plots.column_label(name) for name in best_table if "/" in name} | {
        "value": plots.column_label(f"{split}/{measure}" if split else measure)}
    weights = ["averaged" if "/av/" in name else "last" for name in best_table["metric"]]
    best_table = best_table.assign(metric=weights) if len(columns) > 1 else best_table.drop(columns="metric")
    return best_table.drop(columns=["folder"]).rename(columns=names | {"metric": "weights"})


def messages(results: Results, df: pd.DataFrame, status: Sequence[Mapping[str, Any]] = ()) -> list[dict[str, Any]]:
    """Return what a reader must know: {title, lines} each. status: rows of the batch."""
    texts = {"Defaults that have changed": map(str, results.drift), "Runs of different code": _versions(df),
             "GPUs": _idle_gpus(df), "Metric": _metric_problem(df), "Deleted runs": deleted(status)}
    lines = {title: list(map(plain.text, several)) for title, several in texts.items()}
    return [{"title": title, "lines": several} for title, several in lines.items() if several]


def _metric_problem(df: pd.DataFrame) -> list[str]:
    """Why there is no ranking, or not the one of the job spec."""
    columns, problems = tables.ranking_columns(df)
    missing = metrics.missing_metric_message(tables.named_metric(df), tables.stats_columns(df),
                                             bool(df["end"].notna().any()))
    return [*problems, *filter(None, [missing])] or ([] if columns else ["no run has been evaluated yet"])


def _versions(df: pd.DataFrame) -> Iterable[str]:
    """The versions of the code that runs of a batch started with, if there are several."""
    for batch, runs in df.groupby(df["folder"].map(os.path.dirname), sort=False):
        if code_state.may_have_versions(str(batch)):
            line = code_versions.line(code_versions.read_versions(str(batch), runs["folder"].tolist(), limit=None))
            if line:
                yield f"{os.path.basename(str(batch))}: {line}"


def _idle_gpus(df: pd.DataFrame) -> list[str]:
    """GPUs with low utilization, and what to try."""
    stats = tables.stats_columns(df)
    if gpu_idle.COLUMN not in stats:
        return []
    columns = [name for name in (gpu_idle.COLUMN, "train/time", "train/data_time") if name in stats]
    return gpu_idle.summarize(
        gpu_idle.assess(pd.DataFrame({name: row[name] for name in columns}).dropna().to_dict("records"),
                        {**row, "facts": {"threads": row.get("facts/threads")}}) for row in df.to_dict("records"))


def changed_code(df: pd.DataFrame) -> Table | None:
    """Return the runs that started with other code than was submitted, by the files."""
    runs: dict[tuple[str, ...], list[str]] = {}
    column = f"facts/{code_state.CHANGED}"
    for name, changed in zip(df["run"], df[column], strict=True) if column in df else ():
        if isinstance(changed, (list, tuple)) and changed:
            runs.setdefault(tuple(map(str, changed)), []).append(name)
    if not runs:
        return None
    frame = pd.DataFrame([{"runs": len(names), "files that had changed when they started": ", ".join(changed),
                           "first": names[0]} for changed, names in runs.items()])
    return plain.table("Code changed since submission", frame, ["The command of the best runs repeats what ran."],
                       ["files that had changed when they started", "first"])


def active(status: Sequence[Mapping[str, Any]] | None) -> Table | None:
    """Return the status rows of runs that are pending or running."""
    rows = [row for row in status or () if row["state"] in failures.ACTIVE]
    if not rows:
        return None
    cells = [{name: row.get(name) for name in _ACTIVE_COLUMNS} for row in rows[:_MAX_ACTIVE]]
    frame = pd.DataFrame(cells, dtype=object).replace("", None).dropna(axis="columns", how="all")
    notes_above = [f"The first {_MAX_ACTIVE:,} of {len(rows):,}."] if len(rows) > _MAX_ACTIVE else []
    return plain.table(f"Not ended ({len(rows):,})", frame, notes_above, ["run", "why"])


def deleted(status: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of the runs that were deleted, by the status rows of a batch."""
    names = sorted(row["run"] for row in status if row["state"] == failures.DELETED)
    more = len(names) - _MAX_DELETED
    return [*names[:_MAX_DELETED], *([f"and {more:,} more"] if more > 0 else [])]


def resources(rows: Sequence[Sequence[str]]) -> Table | None:
    """Return the resources that the Slurm jobs of a batch used and requested."""
    if not rows:
        return None
    frame = pd.DataFrame(rows, columns=["resource", "used", "requested", "share", "recommended"])
    return plain.table("Resources used and requested", frame, [
        "Of Slurm jobs that have ended, by sacct. The recommendation includes a margin; smaller jobs start sooner."],
        ["recommended"])


def skipped(items: Sequence[Skipped]) -> Table | None:
    """Return the folders or rows that could not be read."""
    if not items:
        return None
    return plain.table(f"Left out ({len(items):,})", pd.DataFrame(items[:_MAX_SKIPPED], columns=["folder", "reason"]),
                       ["Folders or rows that could not be read."], ["folder", "reason"])


def batch_notes(batch: str) -> list[dict[str, Any]]:
    """Return the notes of a batch, the oldest first."""
    return [{"time": note.time, "commit": note.commit and plain.text(note.commit), "text": plain.text(note.text)}
            for note in notes.read(batch)]


def attempt(section: Callable[[], Any], problems: list[str]) -> Any:
    """Return a section; None, and its reason among `problems`, if the results do not allow it."""
    try:
        return section()
    except ResultsError as error:
        problems.append(plain.text(error))
        return None
