"""Stacks on a GPU: how many times faster runs train as a stack than one after another. `--device cpu` runs anywhere."""
from __future__ import annotations

import argparse
import platform
import sys

import torch

from benchmarks.loop import random_split
from benchmarks.stacked import SAMPLES, grid, options, random_images, ratio
from src.datasets.data import Split

# model, image size (None: 54 features), batch sizes, steps
MODELS = (("linear", None, (8, 128, 2048), 300), ("tiny/lenet", 28, (32, 256), 60), ("tiny/resnet_20", 32, (32,), 20))


def main(arguments: list[str]) -> int:
    """Print the speed-up for each model, batch size and number of runs, with different and with equal seeds."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stacked_gpu", description=__doc__)
    parser.add_argument("--device", default="cuda", help="cuda, or cpu (default: cuda)")
    parser.add_argument("--runs", type=int, nargs="+", default=[4, 16, 64], help="runs per stack (default: 4 16 64)")
    parser.add_argument("--models", nargs="+", default=[name for name, *_ in MODELS], help="models (default: all)")
    parser.add_argument("--share", type=float, default=1.0, help="share of the steps that are timed (default: 1)")
    chosen = parser.parse_args(arguments)
    if chosen.device == "cuda" and not torch.cuda.is_available():
        print("error: no CUDA device; try --device cpu", file=sys.stderr)
        return 2
    name = torch.cuda.get_device_name() if chosen.device == "cuda" else platform.machine()
    print(f"{name}, torch {torch.__version__}, {platform.node()}")
    print(f"{'model':<16}{'batch size':>10}{'runs':>6}{'different seeds':>17}{'equal seeds':>13}")
    for model, size, batch_sizes, steps in MODELS:
        split = _on(chosen.device, random_split(SAMPLES) if size is None else random_images(4096, size))
        for batch_size in batch_sizes if model in chosen.models else ():
            spec = options(batch_size, max(2, round(steps * chosen.share))) | {"model": model, "device": chosen.device}
            for runs in chosen.runs:
                different, equal = (1 / ratio(split, grid(runs, equal_seeds), spec, singles=min(runs, 4), turns=1)
                                    for equal_seeds in (False, True))
                print(f"{model:<16}{batch_size:>10}{runs:>6}{different:>17.2f}{equal:>13.2f}", flush=True)
    return 0


def _on(device: str, split: Split) -> Split:
    if split.x.dim() == 4 and split.x.shape[-1] == 32:  # of CIFAR's shape
        split = Split(split.x.expand(-1, 3, -1, -1).contiguous(), split.y)
    return Split(split.x.to(device), split.y.to(device))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
