"""Commands that read results: report, sync, compare, query, export, register, sync-wandb."""
from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from src import metrics
from src.commands.command_output import Output
from src.commands.common import PROJECT, add_batch, add_batches, add_run, page_rows
from src.errors import BatchError, listed
from src.submission.batch import batch_folder
from src.submission.planning.command_line import positive
from src.submission.status import run_lookup
from src.submission.system.terminal import count, table

if TYPE_CHECKING:
    from src.analysis.compare import BestRun, Comparison, MetricChange
    from src.commands import documents


def add_report(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=report)
    add_batches(parser)
    parser.add_argument("--to", metavar="FILE", help="default: report.html in the batch; of several batches, "
                        "report-with-B.html in the first, where B is the second")


def add_sync(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=sync)
    parser.add_argument("source", metavar="HOST[:FOLDER]", help="a host of hosts.toml or of the ssh configuration; "
                        "FOLDER is relative to the home folder there (default: the project's results)")
    results = batch_folder.results_folder()
    parser.add_argument("--into", metavar="FOLDER", default=results, help=f"default: {results}")
    parser.add_argument("--checkpoints", action="store_true", help="include checkpoints and code snapshots")


def add_compare(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=compare)
    add_batch(parser, "before", "BATCH_A")
    add_batch(parser, "after", "BATCH_B")


def add_query(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=query)
    add_batches(parser)
    parser.add_argument("expression", metavar="EXPRESSION", help="for example \"batch_size >= 128 and "
                        "averaging.isnull()\" or \"end != 'diverged'\"; put names of columns such as `facts/host` in "
                        "backticks")
    parser.add_argument("--columns", nargs="+", metavar="NAME", help="columns to print (default: the parameters that "
                        "vary, and the best values)")
    parser.add_argument("--sort", metavar="NAME", help="sort by this column: the best first of a metric, else "
                        "ascending; --sort=-NAME: the other way round")
    parser.add_argument("--limit", type=positive, metavar="K", help="only the first K runs")
    parser.add_argument("--names", action="store_true", help="print the folders of the runs only, one per line")


def add_export(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=export)
    add_batches(parser)
    parser.add_argument("--to", choices=["mlflow", "parquet", "csv"], default="mlflow",
                        help="default: mlflow; the others write a row per run and a row per epoch")
    parser.add_argument("--into", metavar="FOLDER", help="folder of the files (default: the first batch)")
    parser.add_argument("--uri", help="for example sqlite:///mlflow.db or http://host:5000 (default: "
                        "$MLFLOW_TRACKING_URI)")


def add_register(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=register)
    add_run(parser)
    parser.add_argument("--name", required=True, help="name of the registered model")
    parser.add_argument("--alias", help="for example staging or production")
    parser.add_argument("--uri", help="as in export")


def add_sync_wandb(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=sync_wandb)
    add_batches(parser)


def report(options: argparse.Namespace) -> Output:
    """Write the HTML report and print its path."""
    from src.analysis.report import write_report
    from src.submission.status import efficiency
    from src.submission.status.observe import observe

    batches = [batch_folder.require_batch(path) for path in options.batches]
    observations = observe(batches)
    rows = [row for observation in observations for row in page_rows(observation)]
    resources = {path: usage.resources() for path, usage in efficiency.usage_by_batch(observations).items()}
    document: documents.Report = {
        "report": os.path.abspath(write_report(batches, options.to, status=rows, resources=resources))}
    return Output([f"report: {document['report']}"], document)


def sync(options: argparse.Namespace) -> Output:
    """Download results and count them. Return 1 if a batch conflicts with the one on this machine."""
    from src.analysis.reading.results import read_results
    from src.submission.remote import download

    fetched = download.download_from_host(options.source, options.into, PROJECT, options.checkpoints)
    lines = [*download.summary_lines(fetched, options.into)]
    batches = batch_folder.all_batches(options.into)
    document: documents.Synced = {"folder": options.into, "batches": batches, "runs": 0, "ended": 0, "left_out": [],
                                  "conflicts": list(fetched.skipped)}
    exit_code = int(bool(fetched.skipped))
    if not batches:
        return Output([*lines, f"no batch in {options.into}"], document, exit_code)
    results = read_results(batches)
    ended = int(results.config["end"].notna().sum())
    document |= {"runs": len(results.config), "ended": ended, "left_out": [str(note) for note in results.skipped]}
    skipped = f", {len(results.skipped)} left out or repaired" if results.skipped else ""
    lines.append(f"{options.into}: {len(batches)} batch{'es' * (len(batches) > 1)}, "
                 f"{count(len(results.config), 'run')}, {ended:,} ended{skipped}")
    return Output(lines, document, exit_code)


def compare(options: argparse.Namespace) -> Output:
    """Print the best runs and settings, a table of changed settings, and a table of metrics."""
    from src.analysis import compare as comparing
    from src.analysis.reading.results import read_results

    before, after = (batch_folder.require_batch(path) for path in (options.before, options.after))
    comparison = comparing.compare(read_results(before), read_results(after))
    return Output(_comparison_lines(comparison), _comparison_document(comparison, (before, after)))


def _comparison_document(comparison: Comparison, batches: tuple[str, str]) -> documents.ComparisonDocument:
    return {
        "best": [{"batch": batch, "run": run and run.run, "metric": run and run.metric, "value": run and run.value,
                  "others": run.others if run else 0, "counted": counts.counted, "runs": counts.total}
                 for batch, run, counts in zip(batches, comparison.best, comparison.counts, strict=True)],
        "best_settings": [{
            "batch": batch, "setting": best and best.setting, "mean": best and best.mean.value,
            "low": best and best.mean.low, "high": best and best.mean.high, "counted": best.runs if best else 0,
            "runs": best.total if best else 0, "others": best.others if best else 0}
            for batch, best in zip(batches, comparison.best_settings, strict=True)],
        "changes": [{"parameter": change.parameter, "before": change.before, "after": change.after}
                    for change in comparison.changes],
        "only_before": comparison.only_before, "only_after": comparison.only_after, "settings": comparison.settings,
        "metrics": [{"metric": row.metric, "before": row.before, "after": row.after, "change": row.change.value,
                     "low": row.change.low, "high": row.change.high, "p": row.change.p, "basis": row.basis,
                     "better": row.better} for row in comparison.metrics],
        "note": comparison.note}


def _with_others(best: BestRun) -> str:
    """The name of the best run, and how many others are as good."""
    return best.run + (f" and {count(best.others, 'other')}" if best.others else "")


def _best_setting_lines(comparison: Comparison) -> list[str]:
    """A table of the best settings; nothing where no setting has several runs."""
    if not any(best and best.runs > 1 for best in comparison.best_settings):
        return []
    rows = []
    for group, best in zip(("before", "after"), comparison.best_settings, strict=True):
        if best:
            interval = f"{best.mean.low:.4g} to {best.mean.high:.4g}" if best.runs > 1 else "unknown"
            others = f"shares its rank with {count(best.others, 'other')}" if best.others else ""
            rows.append([group, best.setting, f"{best.mean.value:.4g}", interval, f"{best.runs}/{best.total}", others])
    return ["", *table([["best setting", "", "mean", "95 % interval", "runs", ""], *rows])]


def _comparison_lines(comparison: Comparison) -> list[str]:
    best = [[group, "no run has a value" if run is None else f"{run.value:.4g}  {run.metric}  {_with_others(run)}",
             f"{counts.counted} of {count(counts.total, 'run')} counted", *counts.lost()[:3]]
            for group, run, counts in zip(("before", "after"), comparison.best, comparison.counts, strict=True)]
    width = max(map(len, best))
    lines = table([["best run", "", *[""] * (width - 2)], *([*row, *[""] * (width - len(row))] for row in best)])
    lines += _best_setting_lines(comparison)
    lines += [f"note: {comparison.note}"] if comparison.note else []
    lines += ["", *(table([["setting", "before", "after"], *map(list, comparison.changes)]) if comparison.changes
                    else ["the settings that both have are the same"])]
    for group, names in (("before", comparison.only_before), ("after", comparison.only_after)):
        if names:
            lines.append(f"only {group}: {listed(names, 6)}")
    if not comparison.metrics:
        return [*lines, "", "no metric has a value in both batches"]
    shared = comparison.settings + comparison.lost_settings
    settings = f"{comparison.settings} of {shared} settings" if comparison.lost_settings else count(shared, "setting")
    lines += ["", f"change of each metric: last values, mean over {settings} that both have"
              f"{' (of the others, one batch has no run that counts)' * bool(comparison.lost_settings)}"
              if comparison.settings else "no setting is in both: the best run against the best run, last values"]
    lines += table([["metric", "before", "after", "change", "95 % interval", "p", "basis", ""],
                    *map(_metric_row, comparison.metrics)])
    return [*lines, "p: probability of such a change by chance (t-test), of each metric by itself"] if any(
        change.change.p == change.change.p for change in comparison.metrics) else lines


def _metric_row(row: MetricChange) -> list[str]:
    is_known = row.change.p == row.change.p
    verdict = {True: "better", False: "worse", None: ""}[row.better]
    if verdict and is_known and row.change.p > 0.05:
        verdict = "within the noise"
    return [row.metric, f"{row.before:.4g}", f"{row.after:.4g}", f"{row.change.value:+.3g}",
            f"{row.change.low:+.3g} to {row.change.high:+.3g}" if is_known else "unknown",
            ("<0.001" if row.change.p < 0.001 else f"{row.change.p:.2g}") if is_known else "", row.basis, verdict]


def query(options: argparse.Namespace) -> Output:
    """Print a line per matching run, or only the folders."""
    from src.analysis.plotting import plots
    from src.analysis.reading.filters import is_missing
    from src.analysis.reading.results import read_results
    from src.analysis.tables import query as querying
    from src.analysis.tables import tables

    results = read_results([batch_folder.require_batch(path) for path in options.batches])
    values = tables.values_table(results.config, results.long)
    matches = querying.query(values, options.expression)
    number = len(matches)
    if options.sort:
        matches = querying.sort(matches, options.sort)
    matches = matches.head(options.limit)
    if options.names:
        return Output(matches["folder"], list(matches["folder"]))
    names = options.columns or ["run", "end", *tables.varying_columns(results.config, seeds=True),
                                *(name for name in values if name.startswith("best/"))]
    columns = [[None if is_missing(value) else value for value in querying.column(matches, name)] for name in names]
    rows = list(zip(*columns, strict=True))
    document: documents.Query = {"runs": [dict(zip(names, row, strict=True)) for row in rows], "matching": number,
                                 "of": len(values)}
    lines = table([names, *(["" if value is None else plots.format_value(value, 100) for value in row]
                            for row in rows)])
    lines.append(f"{number} of {count(len(values), 'run')}{f', {len(matches)} shown' if len(matches) < number else ''}")
    if any(name.startswith("best/test") for name in names):
        lines.append(f"note: {metrics.TEST_NOTE}")
    return Output(lines, document)


def export(options: argparse.Namespace) -> Output:
    """Copy batches to MLflow, or write them to files."""
    batches = [batch_folder.require_batch(path) for path in options.batches]
    if options.to != "mlflow":
        from src.analysis.reading.results import read_results

        paths = read_results(batches).export(options.into or batches[0], options.to)
        return Output(paths, {"files": list(paths)})
    from src.tracking import mlflow_export

    return Output(mlflow_export.export(batches, _mlflow_uri(options.uri)))


def register(options: argparse.Namespace) -> Output:
    """Make the best checkpoint of a run a version of a registered model of MLflow."""
    from src.tracking import mlflow_export

    folder = run_lookup.find_run(options.run_name, batch_folder.results_folder())
    return Output([mlflow_export.register(folder, _mlflow_uri(options.uri), options.name, options.alias)])


def _mlflow_uri(uri: str | None) -> str:
    """Return the address of MLflow from the command line or the environment. BatchError if neither has one."""
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        raise BatchError("the address of MLflow is required", where="command line", hint="--uri sqlite:///mlflow.db "
                         "creates a database that `mlflow ui --backend-store-uri sqlite:///mlflow.db` shows; or --uri "
                         "http://host:5000")
    return uri


def sync_wandb(options: argparse.Namespace) -> Output:
    """Upload offline runs with `wandb sync`. Return 1 if one of them failed."""
    import importlib.util

    from src.tracking import wandb_tracker

    if importlib.util.find_spec("wandb") is None:
        raise BatchError("wandb is not installed", where="sync-wandb", hint="pip install wandb")
    uploads: list[documents.Upload] = []
    for path, is_sent, message in wandb_tracker.sync([batch_folder.require_batch(path) for path in options.batches]):
        uploads.append({"run": path, "sent": is_sent, "message": message})
        print(f"{path}: {'sent' if is_sent else f'failed: {message}'}", flush=True)
    failed = sum(not upload["sent"] for upload in uploads)
    return Output([f"{count(len(uploads) - failed, 'run')} sent{f', {failed} failed' if failed else ''}"], uploads,
                  int(failed > 0))
