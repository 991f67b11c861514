"""Throughput on a GPU: the training loop with bf16, channels_last and compile, compared with bare loops."""
from __future__ import annotations

import argparse
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.config import Config
from src.datasets.data import Data, Split
from src.models.factory import make_model
from src.optimizers.factory import make_optimizer
from src.training.components import TrainingComponents
from src.training.experiment import run_epochs

# model, image size, batch size
MODELS = (("tiny/resnet_18", 32, 512), ("timm/resnet50", 224, 128))
OPTIONS: dict[str, dict[str, object]] = {
    "float32": {}, "tf32": {"precision": "tf32"}, "bf16": {"precision": "bf16"}, "fp16": {"precision": "fp16"},
    "bf16, channels_last": {"precision": "bf16", "channels_last": True},
    "bf16, channels_last, compile": {"precision": "bf16", "channels_last": True, "compile": "default"}}
CLASSES, WARM_UP = 100, 10


def main(arguments: list[str]) -> int:
    """Print samples per second for each model and options, compared with the bare loop and with float32."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--steps", type=int, default=50, help="timed steps per turn (default: 50)")
    parser.add_argument("--turns", type=int, default=3, help="number of turns, whose median counts (default: 3)")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("error: no CUDA device", file=sys.stderr)
        return 2
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {platform.node()}")
    print(f"{'model':<16}{'options':<30}{'samples/s':>10}{'/ bare loop':>13}{'/ float32':>11}")
    for name, size, batch_size in MODELS:
        plain = 0.0
        for text, chosen in OPTIONS.items():
            config = Config.from_dict({"model": name, "batch_size": batch_size, "train_length": 2 * options.steps,
                                       "train_length_unit": "step", "steps_per_epoch": options.steps, "base_lr": 0.01,
                                       "seed_training": 0, "seed_model": 0, "device": "cuda", "log_interval": 0,
                                       "data_splits_map": {"train": "train"}, **chosen})
            ours, bare = _rivals(config, size, options.turns)
            plain = plain or ours
            print(f"{name:<16}{text:<30}{ours:10.0f}{ours / bare:13.3f}{ours / plain:11.2f}", flush=True)
    return 0


def _rivals(config: Config, size: int, turns: int) -> tuple[float, float]:
    """Return the median samples per second of the training loop and of the bare loop, which take turns."""
    device = torch.device("cuda")
    generator = torch.Generator(device).manual_seed(0)
    x = torch.randn(4 * config.batch_size, 3, size, size, generator=generator, device=device)
    split = Split(x, torch.randint(CLASSES, (len(x),), generator=generator, device=device))
    pairs = [(_ours(config, split), _bare(config, split)) for _ in range(turns)]
    return statistics.median(pair[0] for pair in pairs), statistics.median(pair[1] for pair in pairs)


def _model(config: Config, split: Split) -> nn.Module:
    torch.manual_seed(0)
    model = make_model(config, tuple(split.x.shape[1:]), CLASSES)
    return model.to("cuda", memory_format=torch.channels_last if config.channels_last else torch.preserve_format)


def _ours(config: Config, split: Split) -> float:
    """Return the samples per second of the second epoch; the first one warms up and compiles."""
    data = Data({"train": split}, "classification", tuple(range(CLASSES)), tuple(split.x.shape[1:]))
    model = _model(config, split)
    parts = TrainingComponents(config, data, model, [make_optimizer(config, model)], None, torch.device("cuda"), [])
    with tempfile.TemporaryDirectory() as folder:
        *_, (row, _, _) = run_epochs(parts, folder, lambda: None)
    return row["train/examples_per_second"] or 0.0


def _bare(config: Config, split: Split) -> float:
    """Return the samples per second of a hand-written loop that sums loss and accuracy on the device."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(config.precision)
    model = _model(config, split)
    call: Callable[[Tensor], Tensor] = torch.compile(model) if config.compile else model
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, nesterov=True, fused=True)
    scaler = torch.amp.GradScaler("cuda", enabled=dtype == torch.float16)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if config.precision == "tf32" else before)
    total, correct = torch.zeros((), device="cuda"), torch.zeros((), dtype=torch.long, device="cuda")
    steps, start = config.steps_per_epoch or 1, 0.0
    for step, (x, y) in zip(range(steps + WARM_UP), _batches(split, config.batch_size), strict=False):
        if step == WARM_UP:
            torch.cuda.synchronize()
            start = time.perf_counter()
        with torch.autocast("cuda", dtype, enabled=dtype is not None):
            output = call(x)
        loss = F.cross_entropy(output.float(), y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        with torch.no_grad():
            total += loss
            correct += (output.argmax(1) == y).sum()
    torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    torch.set_float32_matmul_precision(before)
    return steps * config.batch_size / seconds


def _batches(split: Split, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        for rows in torch.randperm(len(split), device="cuda").split(batch_size):
            yield split.x[rows], split.y[rows]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
