"""Make the learning-curve table of the search benchmark: `python -m benchmarks.curves` trains a grid on the digits."""
from __future__ import annotations

import contextlib
import csv
import io
import itertools
from pathlib import Path

TABLE = Path(__file__).with_name("digits-curves.csv")
EPOCHS = 27
GRID: dict[str, list[float]] = {
    "base_lr": [2.0**power for power in range(-12, 8, 2)], "momentum": [0.0, 0.5, 0.9, 0.97],
    "batch_size": [32, 128, 512], "weight_decay": [0.0, 1e-3]}
METRIC = "val/last/accuracy"


def main() -> None:
    """Train every point of the grid with this project, and write one line for each: its parameters, then its curve."""
    import torch

    torch.set_num_threads(1)
    with TABLE.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*GRID, *range(1, EPOCHS + 1)])
        for number, point in enumerate(itertools.product(*GRID.values())):
            writer.writerow([*point, *curve(dict(zip(GRID, point, strict=True)))])
            print(number + 1, flush=True)


def curve(point: dict[str, float]) -> list[str]:
    """Return the accuracy after each epoch; that of a run that diverged is 0.1, as by chance, from then on."""
    from src.config import Config
    from train import experiment_generator

    config = Config(dataset="sklearn/digits", data_splits_map={"train": "train[:60%]", "val": "train[60%:]"},
                    model="linear", train_length=EPOCHS, eval_batch_size=1000, seed_model=0, seed_training=0,
                    **point)  # type: ignore[arg-type]
    with contextlib.redirect_stdout(io.StringIO()):
        *_, (stats, _) = experiment_generator(config)
    values = [f"{value:.4f}" for value in stats[METRIC]]
    return values + ["0.1000"] * (EPOCHS - len(values))


def read() -> dict[tuple[float, ...], list[float]]:
    """Return the curve of each point of the grid, by its parameters in the order of GRID."""
    with TABLE.open() as file:
        rows = [[float(cell) for cell in row] for row in list(csv.reader(file))[1:]]
    return {tuple(row[:len(GRID)]): row[len(GRID):] for row in rows}


if __name__ == "__main__":
    main()
