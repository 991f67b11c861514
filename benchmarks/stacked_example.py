"""jobs/linear-classifier-example, each run by itself and in stacks: the time of the grid, and the metrics of each pair.

`python -m benchmarks.stacked_example` prints the figures of docs/stacking.md. The data is synthetic, of the shape of
covtype: 581,012 samples of 54 features, of which 44 are indicators, in 7 classes.
"""
from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from src import stats_csv

JOB = "jobs/linear-classifier-example.yaml"
SAMPLES, NUMBERS, INDICATORS, CLASSES = 581_012, 10, 44, 7
# the example evaluates all samples twice in each epoch, which takes most of the time of many of its runs
SPLITS = "data_splits_map={train: train, traineval: 'train[:5%]'}"
METRICS = ("train/loss", "train/accuracy", "traineval/last/loss", "traineval/last/accuracy", "traineval/av/loss",
           "traineval/av/accuracy")


def main() -> None:
    """Run the grid in both ways, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--samples", type=int, default=SAMPLES)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_data(Path(folder) / "covtype.multiclass", options.samples)
        seconds, batches = zip(*(run(Path(folder), name, options.epochs, arguments) for name, arguments in (
            ("stacked", ["--stack", "auto"]), ("single", []))), strict=True)
        report(*seconds, compare(*batches))


def write_data(path: Path, samples: int) -> None:
    """Write samples whose classes follow a noisy linear rule, in LIBSVM's format."""
    generator = np.random.default_rng(0)
    numbers = generator.random((samples, NUMBERS), dtype=np.float32)
    indicators = generator.integers(INDICATORS, size=(samples, 2))
    rule, offsets = generator.normal(size=(NUMBERS, CLASSES)), generator.normal(size=(INDICATORS, CLASSES))
    scores = 3 * numbers @ rule + offsets[indicators].sum(1) + generator.gumbel(size=(samples, CLASSES))
    with open(path, "w") as file:
        for label, row, ones in zip(scores.argmax(1), numbers, indicators, strict=True):
            cells = [f"{index}:{value:.3f}" for index, value in enumerate(row, 1)]
            cells += [f"{NUMBERS + 1 + index}:1" for index in sorted(set(ones.tolist()))]
            file.write(f"{label + 1} {' '.join(cells)}\n")


def run(folder: Path, name: str, epochs: int, arguments: list[str]) -> tuple[float, Path]:
    """Run the grid by two local workers. Return the seconds, and its batch."""
    settings = (f"train_length={epochs}", f"data_dir={folder}", SPLITS, "seed_model=1", "seed_training=1", "device=cpu")
    command = [sys.executable, "submit_multiple.py", JOB, "--local", "--workers", "2", "-y", "--output-dir",
               str(folder / name), *(word for setting in settings for word in ("--set", setting)), *arguments]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    batch, = (folder / name).glob("*-linear-classifier-example")
    return seconds, batch


def compare(stacked: Path, single: Path) -> list[tuple[str, str, float, float]]:
    """Return for each run its name, how it ended, and the largest relative and absolute difference of final metrics."""
    rows = []
    for run_folder in sorted(path for path in stacked.iterdir() if path.name[0].isdigit()):
        other = single / run_folder.name
        ends = [(path / "done").read_text().strip() for path in (run_folder, other)]
        assert ends[0] == ends[1], f"{run_folder.name} ended in different ways: {ends}"
        pairs = [tuple(stats_csv.read(str(path)).numbers(name)[-1] for path in (run_folder, other)) for name in METRICS]
        rows.append((run_folder.name, ends[0], max(abs(mine - theirs) / max(abs(theirs), 1e-12)
                                                   for mine, theirs in pairs),
                     max(abs(mine - theirs) for mine, theirs in pairs)))
    return rows


def report(stacked: float, single: float, rows: list[tuple[str, str, float, float]]) -> None:
    """Print the figures."""
    print(f"{len(rows)} pairs, all of which ended alike: {', '.join(sorted({end for _, end, _, _ in rows}))}")
    relative = sorted(value for _, _, value, _ in rows)
    print(f"largest relative difference of the final metrics of a pair: median {statistics.median(relative):.1e}, "
          f"90 % of pairs below {relative[int(0.9 * len(relative))]:.1e}, largest {relative[-1]:.1e}")
    for name, _, value, absolute in sorted(rows, key=lambda row: -row[2])[:5]:
        print(f"  {name}: {value:.1e} relative, {absolute:.1e} absolute")
    print(f"seconds: stacked {stacked:.0f}, single {single:.0f}, ratio {stacked / single:.3f}")


if __name__ == "__main__":
    main()
