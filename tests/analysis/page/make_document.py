"""Generate page documents of any size, without folders: for tests of the page and for benchmarks.

`python -m tests.analysis.page.make_document --runs 2000 --epochs 50 --to document.json` writes one.
"""
from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from src import metrics, run_folder
from src.analysis.page import details, document
from src.analysis.reading import columns, frames
from src.analysis.reading.raw_files import RunText
from src.analysis.reading.results import METRIC, Results, Skipped
from src.config import Config

HOSTILE = '"><script>window.hostile = 1</script><img src=x onerror="window.hostile = 1">\x1b[31m\u202egnp.exe'
_STATES = ("done", "diverged", "early_stopped", "running", "pending", "failed", "timeout")
_WHY = {"failed": "RuntimeError: CUDA out of memory: tried to allocate {} MiB", "pending": "Priority",
        "timeout": "its time limit was 60 minutes"}


def make_results(runs: int = 60, epochs: int = 20, seeds: int = 3, batch: str = "results/26-11-20-digits",
                 hostile: bool = False) -> tuple[Results, list[dict[str, Any]]]:
    """Results of a batch whose runs learn, and rows of its status table. A few runs failed, wait or are running.

    hostile: names of runs, parameters, metrics and errors have HTML and control characters.
    """
    random = np.random.default_rng(0)
    texts, status = [], []
    for index in range(runs):
        setting, seed = divmod(index, seeds)
        spec = {"model": ("linear", "tiny/lenet", "tiny/resnet_18")[setting % 3],
                "base_lr": float(f"{10 ** -(setting // 3 % 10 / 3):.3g}"), "batch_size": 32 << setting // 30 % 4,
                "averaging": (None, "poly_8")[setting // 120 % 2], "weight_decay": float(setting // 240) / 1000,
                "seed_training": seed}
        state = _STATES[min(int(random.exponential(0.7)), 6)] if index % 7 == 6 else "done"
        name = f"{index:04d}_digits+mod={spec['model']}+bas={spec['base_lr']}+see={seed}".replace("/", "-")
        if hostile and index % 5 == 0:
            name += HOSTILE.replace("/", "-")
            spec["optim_kwargs"] = {HOSTILE: HOSTILE}
        rows = {"done": epochs, "pending": 0}.get(state, int(random.integers(0, epochs)))
        header, body = _stats(spec, rows, random, hostile)
        facts = {"host": "node1", "epochs": epochs, "classes": 10}
        config = {**Config().to_dict(), **spec, **({"__proto__": index % 3, "constructor": 1} if hostile else {}),
                  "facts": facts}
        end = {"done": run_folder.COMPLETED}.get(state, state if state in run_folder.ENDS else None)
        texts.append(RunText(f"{batch}/{name}", end, True, config, header, body))
        why = _WHY.get(state, "").format(index * 16) + HOSTILE * (hostile and state == "failed")
        status.append({"run": name, "batch": batch, "state": state, "epochs_done": rows, "epochs": epochs,
                       "left": (epochs - rows) * 12.0 if state == "running" else None, "why": why,
                       "slurm_job": str(4000 + index)})
    folders = [text.folder for text in texts]
    parsed = columns.parse(texts)
    config = frames.config_frame(parsed, [f"/{folder}" for folder in folders], folders)
    long, _ = frames.long_frame(parsed, config["run"], folders)
    config.attrs[METRIC] = metrics.Metric("val/(av|last)/accuracy", "maximize")
    skipped = [Skipped(f"{batch}/9999_broken{HOSTILE if hostile else ''}", "config.yaml is empty")]
    return Results(config, long, skipped), status


def _stats(spec: dict[str, Any], epochs: int, random: np.random.Generator, hostile: bool) -> tuple[str, bytes]:
    """Header and rows of a stats.csv: best near base_lr 0.1, averages smoother than the last."""
    epoch = np.arange(1, epochs + 1)
    top = {"linear": 0.93, "tiny/lenet": 0.97}.get(spec["model"], 0.99) - 0.05 * abs(np.log10(spec["base_lr"] / 0.1))
    good = top * (1 - np.exp(-epoch * (0.05 + spec["base_lr"]) * 3 / 10))
    table = {"epoch": epoch, "step": epoch * 13, "timestamp": 1.8e9 + epoch * 12 + 3.25,
             "train/loss": 2.3 * (1.02 - good), "train/accuracy": good, "train/time": np.full(epochs, 11.5),
             "train/learning_rate": spec["base_lr"] / epoch}
    for split in ("val", "test"):
        for weights in ("last", *(("av",) if spec["averaging"] else ())):
            noise = random.normal(0, 0.002 if weights == "av" else 0.008, epochs)
            table |= {f"{split}/{weights}/loss": 2.3 * (1.01 - good) - noise,
                      f"{split}/{weights}/accuracy": good + noise}
    if hostile:
        table |= {"hasOwnProperty": good, "val/last/" + HOSTILE.replace(",", "").replace('"', "'"): good}
    buffer = io.BytesIO()
    np.savetxt(buffer, np.column_stack(np.broadcast_arrays(*table.values())) if epochs else np.zeros((0, len(table))),
               fmt="%.9g", delimiter=",")
    return ",".join(table), buffer.getvalue()


def make_document(runs: int = 60, epochs: int = 20, seeds: int = 3, hostile: bool = False, search: bool = False,
                  live: bool = False) -> dict[str, Any]:
    """A document about one batch, with resources, notes, messages and failures. Arguments as in `make_results`.

    search: the batch has a section about a search, whose numbers are made up.
    """
    results, status = make_results(runs, epochs, seeds, hostile=hostile)
    words = HOSTILE if hostile else "learning rate 0.1 is best"
    used = [("memory", "1,024 MB", "8,192 MB", "12 %", "--sbatch mem=1300M"), ("time", "10:00", "60:00", "17 %", "")]
    built = document.build(results, status, {"results/26-11-20-digits": used}, live)
    batch = built["batches"][0]
    batch["notes"] = [{"time": 1.8e9, "commit": "1a2b3c4d5e", "text": document.plain.text(words)}]
    batch["messages"].append({"title": "GPUs", "lines": ["3 runs use less than 20 % of their GPU"]})
    for failure in batch["failures"]:
        failure |= {"path": "results/26-11-20-digits/0006/local.out", "log": document.plain.text(
            f"epoch 3\n{words}\nTraceback (most recent call last):\nRuntimeError")}
    if search:
        batch["search"] = _search(runs, epochs)
    return built


def _search(runs: int, epochs: int) -> dict[str, Any]:
    """A search with three rungs, a third of the trials promoted from each."""
    random = np.random.default_rng(1)
    levels = [max(1, epochs // 9), max(2, epochs // 3), epochs]
    rung = np.array([2 if run % 9 == 0 else 1 if run % 3 == 0 else 0 for run in range(runs)])
    value = np.round(0.5 + 0.1 * rung + random.uniform(0, 0.3, runs), 4)
    rows = [[str(level), str(int((rung >= number).sum())), str(int((rung > number).sum())) if number < 2 else "",
             f"{value[rung == number].max(initial=0):.4g} val/last/accuracy", f"run {number}"]
            for number, level in enumerate(levels)]
    return {"headline": f"search     {runs} of {runs + 10} trials started: {runs} done", "metric": "val/last/accuracy",
            "goal": "maximize", "rungs": {"title": "Rungs", "notes": [], "columns": [
                "rung", "trials", "promoted", "best", "run"], "rows": rows, "code": ["run"]}, "levels": levels,
            "trials": {"run": list(range(runs)), "state": ["completed" if level == 2 else "paused" for level in rung],
                       "rung": rung.tolist(), "value": value.tolist()},
            "results": {"trials": list(range(1, runs + 1)), "epochs": np.cumsum(np.array(levels)[rung]).tolist(),
                        "value": value.tolist()}, "over": False, "error": None}


def make_details(hostile: bool = False) -> dict[str, Any]:
    """Details of a run as `details.run` returns them, with curves of steps and of the system."""
    words = document.plain.text(HOSTILE) if hostile else "RuntimeError: CUDA out of memory"
    x = np.arange(0, 600, 5.0)
    steps = {"loss": 2.3 * np.exp(-x / 200), "grad_norm": 1 + np.cos(x / 30)}
    series = {"system": details.series("seconds", x, {"cpu": 1 + np.sin(x / 50), "memory": 1e9 + x * 1e6}),
              "steps": details.series("step", x * 10, steps)}
    return {"config": {"model": "linear", "base_lr": 0.1, "__proto__": words}, "different": {"base_lr": 0.1},
            "facts": {"host": "node1"}, "series": series, "log": {"path": "results/x/training.log", "text": words},
            "failure": words, "command": "python experiments.py reproduce results/26-11-20-digits/0000_digits --run",
            "folder": "results/26-11-20-digits/0000_digits", "notes": [],
            "files": [{"name": "stats.csv", "size": 12345}]}


def main(arguments: Sequence[str] | None = None) -> None:
    """Write a document to a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("runs", 2000), ("epochs", 50), ("seeds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    for name in ("hostile", "search"):
        parser.add_argument(f"--{name}", action="store_true")
    parser.add_argument("--to", default="document.json")
    options = parser.parse_args(arguments)
    built = make_document(options.runs, options.epochs, options.seeds, options.hostile, options.search)
    Path(options.to).write_text(document.to_json(built))


if __name__ == "__main__":
    main()
