"""MNIST's 10,000 test images as a data set of one's own: tests.mnist:make_dataset, with their folder as data_dir."""
from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

from src.config import Config

FILES = ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")


def make_dataset(config: Config) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """One split, test: uint8 [10000, 1, 28, 28] and [10000]."""
    images, labels = (np.frombuffer(gzip.decompress((Path(config.data_dir) / name).read_bytes()), np.uint8)
                      for name in FILES)
    return {"test": (images[16:].reshape(-1, 1, 28, 28).copy(), labels[8:].copy())}  # after the headers of idx files
