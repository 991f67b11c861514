"""The direction of a metric, and the metric that runs are ranked by."""
from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from src import run_folder
from src.checks import patterns
from src.errors import ConfigError, JobSpecError, ResultsError, UserError
from src.io import files, yaml_io

MAXIMIZE, MINIMIZE = "maximize", "minimize"
GOAL_HINT = "give a goal in job_details, e.g. metric: {name: val/last/energy, goal: minimize}"
TEST_NOTE = "chosen by a test split: the best values are optimistic estimates"

# Words in the name of a metric that say which direction is better. If words of both kinds occur, as in top5_error,
# those of the first kind decide. Words with two meanings are left out: such a metric needs a goal.
_LESS = frozenset((
    "loss losses error errors err perplexity ppl mae nmae rmae mse nmse rmse nrmse msle rmsle mape smape wmape mdape "
    "mase medae residual residuals nll nlpd ce bce xent kl kld jsd mmd deviance brier crps ece mce wer cer ter der eer "
    "levenshtein mistakes misclassification false failures fpr fnr fdr fid kid fvd fad lpips bits nats bpb bpc bpd bpt "
    "emd wasserstein chamfer hausdorff hd95 regret hinge huber pinball cost aic bic violations time seconds duration "
    "runtime latency memory").split())
_LESS_SUFFIX = re.compile(r"(loss|error|crossentropy|divergence|distance)$")
_MORE = frozenset((
    "accuracy acc precision recall fbeta auc auroc roc auprc aupr prauc ap map explained iou miou jaccard dice bleu "
    "chrf meteor cider bertscore exact em pass hit hits ndcg mrr psnr ssim snr sdr sisdr pesq stoi kappa mcc corr "
    "correlation spearman pearson kendall concordance ccc similarity agreement sensitivity specificity tpr tnr ppv npv "
    "true likelihood elbo reward rewards return returns score success win wins utility inception nmi ari silhouette "
    "throughput fps").split())
_MORE_NUMBERED = re.compile(r"(top|f|r|acc|ap|map|ndcg|bleu|hits)\d+|rouge\w*")
_SPEED_OR_SKILL = re.compile(r"per_s(ec(ond)?)?$|(^|_)skill(_|$)")  # examples_per_second, brier_skill_score
_MINIMIZED_PHRASES = ({"cross", "entropy"}, {"negative", "likelihood"}, {"neg", "likelihood"})
_WORD_ENDS = re.compile(r"[\W_]+")
# columns of stats.csv by which no epoch is chosen
_NOT_METRICS = ("epoch", "step", "timestamp", "time", "data_time", "examples_per_second", "seen_examples",
                "learning_rate", "trainable_parameters", "grad_norm")
_CHOOSING_FIELD = "best_checkpoint_metric"
_PREFERENCE = ("accuracy", "r2", "loss")
_SWEEP_KEYS = ("target", "impute", "impute_while_running")  # of W&B sweeps, ignored here


class Metric(NamedTuple):
    """The metric that a job spec names.

    name: a stats column, or a regular expression for several;
    goal: maximize or minimize; None: the direction follows from the columns' names.
    """

    name: str
    goal: str | None = None

    def find(self, columns: Iterable[str]) -> list[str]:
        """Return the columns that it names and that have the direction of the first one; empty if none is known."""
        columns = list(columns)
        named = [self.name] if self.name in columns else [column for column in columns if self.names(column)]
        directions = {column: direction(column, self) for column in named}
        first = next(filter(None, directions.values()), None)
        return [column for column in named if first and directions[column] == first]

    def names(self, column: str) -> bool:
        """Return whether the name matches this column as a regular expression, if that is quickly decided."""
        return self.name == column or patterns.search(self.name, column)


@functools.lru_cache(maxsize=10_000)  # status calls it for each run
def direction(column: str, metric: Metric | None = None) -> str | None:
    """Return whether to maximize or minimize a stats column; None if it is not known.

    metric: of the job spec; its goal overrides the names of the columns that it matches. Otherwise the words of the
    column's last part decide, e.g. `error` of val/last/top5_error.
    """
    if metric and metric.goal and metric.names(column):
        return metric.goal
    spelled = column.rpartition("/")[2]  # the name of a split does not count
    name = spelled.lower()
    words = {*_WORD_ENDS.split(name), *_WORD_ENDS.split(re.sub("(?<=[a-z])(?=[A-Z])", "_", spelled).lower())}  # valLoss
    if _SPEED_OR_SKILL.search(name):
        return MAXIMIZE
    if words & _LESS or any(map(_LESS_SUFFIX.search, words)) or any(map(words.issuperset, _MINIMIZED_PHRASES)):
        return MINIMIZE
    return MAXIMIZE if words & _MORE or any(map(_MORE_NUMBERED.fullmatch, words)) else None


def lower_is_better(column: str, metric: Metric | None = None) -> bool:
    """Return whether smaller is better in a column by which something is chosen. ResultsError if it is not known."""
    goal = direction(column, metric)
    if goal is None:
        raise ResultsError(f"whether more or less is better is not known for {column}", hint=GOAL_HINT)
    return goal == MINIMIZE


def check_known(name: str, metric: Metric | None, where: str) -> None:
    """JobSpecError if something is chosen by `name` and its direction is not known.

    name: a column, or a regular expression for columns, which is checked only if its last part is a plain word.
    metric: of the job spec, whose goal holds for the same last part.
    """
    last = name.rpartition("/")[2]
    has_goal = metric is not None and metric.goal is not None and metric.name.rpartition("/")[2] == last
    if re.fullmatch(r"[\w@ -]+", last) and not has_goal and direction(name, metric) is None:
        raise JobSpecError(f"whether more or less is better is not known for {name!r}", where=where, hint=GOAL_HINT)


def choosing_columns(pattern: str, columns: Iterable[str], metric: Metric | None) -> tuple[list[str], str]:
    """Return the columns that a regular expression matches as a whole, by which an epoch is chosen, and their goal.

    metric: of the job spec, whose goal holds for the columns that it names.
    ConfigError if the pattern matches no metric, one whose direction is not known, or metrics of opposite directions.
    """
    numbers = [column for column in columns if column.rpartition("/")[2] not in _NOT_METRICS]
    chosen = [column for column in numbers if patterns.fullmatch(pattern, column)]
    if not chosen:
        raise ConfigError(f"{pattern!r} matches no metric of this run", where=_CHOOSING_FIELD, allowed=numbers,
                          hint="it is a regular expression for the whole of a name")
    goals = {column: direction(column, metric) for column in chosen}
    if unknown := next((column for column, goal in goals.items() if goal is None), None):
        raise ConfigError(f"whether more or less is better is not known for {unknown}", where=_CHOOSING_FIELD,
                          hint=f"set best_checkpoint_goal: {MINIMIZE} or {MAXIMIZE}, or {GOAL_HINT}")
    if len(set(goals.values())) > 1:
        raise ConfigError(f"{pattern!r} matches metrics that improve by falling and metrics that improve by rising",
                          where=_CHOOSING_FIELD, allowed=f"one kind of {', '.join(chosen)}")
    return chosen, goals[chosen[0]] or MAXIMIZE


def chooses_by_test(column: str | None) -> bool:
    """Return whether choosing by this column means choosing by a test split."""
    return (column or "").startswith("test")


def is_better(column: str, value: float, other: float, metric: Metric | None = None) -> bool:
    """Return whether `value` is better than `other`. NaN is never better, and worse than any number."""
    if value != value:
        return False
    return other != other or (value < other if lower_is_better(column, metric) else value > other)


def ranking_columns(columns: Iterable[str], metric: Metric | None = None) -> list[str]:
    """Return the stats columns that runs are ranked by: those that `metric` names; without such a column, last and av
    of the preferred metric of val, or of the first other split.

    Accuracy before r2 before loss; `train` only if nothing else was evaluated. Empty if there is no such column.
    """
    columns = list(columns)
    if metric and (named := metric.find(columns)):
        return named
    evaluated = dict.fromkeys(column.partition("/")[0] for column in columns if column.count("/") == 2)
    splits = sorted(evaluated, key=lambda split: not split.startswith("val")) or ["train"]
    for split in splits:
        for measure in _PREFERENCE:
            matching = [column for column in columns
                        if column.startswith(f"{split}/") and column.endswith(f"/{measure}")]
            if matching:
                return matching
    return []


def by_preference(columns: Iterable[str]) -> list[str]:
    """Return the columns of one metric, averaged weights first: a run counts with the first that it has.

    The choice does not depend on the values: the better of both would favor averaging by chance.
    """
    return sorted(columns, key=lambda name: "/av/" not in name)


def missing_metric_message(metric: Metric | None, columns: Iterable[str], has_ended: bool = False) -> str | None:
    """Return a message if some runs were evaluated, but the metric that the job spec names cannot rank them.

    has_ended: a run has ended, so that it should have a metric.
    """
    columns = list(columns)
    ranked = ranking_columns(columns)
    if metric is None or metric.find(columns) or not (ranked or has_ended):
        return None
    remark = f"ranked by {ranked[0]}" if ranked else (
        "a program writes its metrics to stats.csv in its run folder, see docs/sweeps.md")
    if any(map(metric.names, columns)):
        return f"{metric.name} has no goal, maximize or minimize{f': {remark}' if ranked else ''}"
    return f"no run has {metric.name}, the metric that the job spec names: {remark}"


def parse(value: Any, where: str, default_goal: str | None = None) -> Metric:
    """Parse the metric of a job spec: a name, or {name: …, goal: maximize or minimize}.

    default_goal: of a metric without a goal whose direction is not known. JobSpecError if that is None, and for
    anything else.
    """
    metric = _parse(value, where)
    if default_goal and direction(metric.name, metric) is None:
        return metric._replace(goal=default_goal)
    check_known(metric.name, metric, where)
    return metric


def _parse(value: Any, where: str) -> Metric:
    spec = {"name": value} if isinstance(value, str) else value
    if not isinstance(spec, dict) or not isinstance(spec.get("name"), str) or not spec["name"] or (
            spec.keys() - {"name", "goal", *_SWEEP_KEYS}):
        raise JobSpecError(f"invalid metric {value!r}", where=where, allowed="the name of a stats column, or name and "
                           "goal", hint="e.g. metric: {name: val/last/accuracy, goal: maximize}")
    goal = spec.get("goal")
    if goal not in (None, MAXIMIZE, MINIMIZE):
        raise JobSpecError(f"invalid goal {goal!r}", where=where, allowed=(MAXIMIZE, MINIMIZE))
    return Metric(spec["name"], goal)


def read_from_batch(batch: str | os.PathLike[str]) -> Metric | None:
    """Return the metric that a batch's job spec names: in its job_details, or in a sweep file beside `parameters`."""
    try:
        return read_from_text(files.read_text(os.path.join(batch, run_folder.JOB_SPEC)) or "")
    except OSError:  # not a folder
        return None


def read_from_text(job_spec: str) -> Metric | None:
    """Return the metric that the text of a job spec names; None if it is invalid, or has another key of that name."""
    try:
        document = yaml_io.load(job_spec, run_folder.JOB_SPEC)
        details = document.get("job_details", document) if isinstance(document, dict) else None
        if not isinstance(details, dict) or not details.get("metric"):
            return None
        return parse(details["metric"], "metric", MINIMIZE) if details is document else _parse(details["metric"], "")
    except UserError:
        return None


def read_for_run(folder: str | os.PathLike[str]) -> Metric | None:
    """Return the metric that the job spec of a run's batch names; a canary's folder is inside its batch."""
    parent = os.path.dirname(os.path.abspath(folder))
    return read_from_batch(os.path.dirname(parent) if os.path.basename(parent) == run_folder.CANARY else parent)
