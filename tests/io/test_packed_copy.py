"""What a Python in a copy of a packed environment uses of it, and what it takes from the environment itself."""
from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from src.config import Config
from src.datasets.factory import make_data
from src.errors import DataError
from src.io import packed_copy
from src.submission.job import container


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of an environment, in which this Python is, with the data folder `data`."""
    folder, data = tmp_path / "copy", tmp_path / "data"
    data.mkdir()
    (folder / f".data{data}").mkdir(parents=True)
    (folder / ".gridiron-packed.json").write_text(json.dumps({
        "prefix": "/my/.venv", "base_prefix": "/my/python", "executable": "/my/.venv/bin/python", "data": [str(data)]}))
    monkeypatch.setattr(sys, "prefix", str(folder))
    packed_copy.record.cache_clear()
    yield folder
    packed_copy.record.cache_clear()


def test_nothing_is_different_outside_of_a_copy() -> None:
    assert packed_copy.record() == {} and packed_copy.data_copy("data") is None
    assert packed_copy.environment() == (sys.prefix, sys.base_prefix, sys.executable)


def test_data_is_read_from_the_copy_unless_it_is_not_there(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("data")
    assert packed_copy.data_copy(str(tmp_path / "link")) == f"{copy}/.data{tmp_path}/data"
    assert packed_copy.data_copy(str(tmp_path)) is None
    config = Config(dataset="libsvm/toy", data_dir=str(tmp_path / "data"), data_splits_map={"train": "train"},
                    data_download=False)
    with pytest.raises(DataError, match=str(tmp_path / "data")):
        make_data(config)
    (tmp_path / "data" / "toy").write_text("1 1:1\n-1 1:2\n")
    assert len(make_data(config).splits["train"].y) == 2
    (copy / f".data{tmp_path}" / "data" / "toy").write_text("1 1:1\n-1 1:2\n1 1:3\n")
    assert len(make_data(config).splits["train"].y) == 3


def test_containers_use_the_environment_itself(copy: Path) -> None:
    assert container.python_environment_folders() == ["/my/.venv", "/my/python"]
    assert container.python_inside(container.Container(image="x.sif")) == "/my/.venv/bin/python"
