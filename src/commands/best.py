"""The command that ranks settings: best."""
from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from src.commands.command_output import Output
from src.commands.common import add_batches
from src.submission.batch import batch_folder
from src.submission.planning.command_line import positive
from src.submission.system.terminal import count, table

if TYPE_CHECKING:
    from src.analysis.plotting.best_settings import BestSettings
    from src.analysis.reading.results import Results
    from src.commands import documents


def add_best(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=best)
    add_batches(parser)
    parser.add_argument("--by", nargs="+", default=[], metavar="NAME", help="the best setting of each value of this "
                        "parameter, or of each combination of several")
    parser.add_argument("--where", metavar="EXPRESSION", help="only the runs that match, as in query")
    parser.add_argument("--metric", metavar="NAME", help="a column of stats.csv, or a regular expression (default: the "
                        "metric of the job spec)")
    parser.add_argument("--epoch", type=_epoch, default="best", help="best (default), last, or a number")
    parser.add_argument("--limit", type=positive, metavar="K", default=10, help="at most K settings (default: 10)")


def _epoch(text: str) -> str | int:
    """Parse --epoch."""
    if text in ("best", "last"):
        return text
    if text.isascii() and text.isdigit():
        return int(text)
    raise argparse.ArgumentTypeError(f"invalid epoch '{text}'; allowed: best, last, or a number")


def best(options: argparse.Namespace) -> Output:
    """Print the best settings: mean and 95 % interval over seeds, and the runs that do not count."""
    from src.analysis.plotting import best_settings
    from src.analysis.reading.results import read_results

    results = read_results([batch_folder.require_batch(path) for path in options.batches])
    df = _selected(results, options.where)
    ranked = best_settings.find(df, options.metric, options.epoch, options.by)
    shown = ranked._replace(table=ranked.table.head(options.limit))
    texts = best_settings.to_text(shown)
    lines = table([list(texts), *texts.to_numpy().tolist()])
    lines.append(f"{len(shown.table)} of {count(ranked.settings, 'setting')}; {ranked.note}")
    return Output([*lines, *best_settings.name_uncounted(ranked)], _document(shown, df["run"].to_dict()))


def _selected(results: Results, expression: str | None) -> Any:
    """The big_df of the runs that match an expression."""
    from src.analysis.tables import query, tables

    df = results.big_df()
    if expression is None:
        return df
    return df.loc[query.query(tables.values_table(results.config, results.long), expression).index]


def _document(best: BestSettings, names: dict[Any, str]) -> documents.BestSettings:
    """names: of the runs, by their labels in the frame."""
    from src.analysis.reading.filters import is_missing
    from src.analysis.tables import tables

    parameters = tables.ranked_parameters(best.table)
    rows = best.table.astype(object).to_dict("records")
    return {"settings": [{
        "rank": None if is_missing(row["rank"]) else int(row["rank"]),
        "parameters": {name: None if is_missing(row[name]) else row[name] for name in parameters},
        "mean": float(row["value"]), "deviation": float(row["deviation"]), "low": float(row["low"]),
        "high": float(row["high"]), "counted": int(row["runs"]), "left_out": row["left_out"],
        "runs": [names[label] for label in row["members"]]} for row in rows],
        "of": best.settings, "metric": best.metric, "not_counted": best.uncounted, "note": best.note}
