from __future__ import annotations

import bz2
import gzip
import lzma
import multiprocessing
import os
import shutil
import sys
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from src.config import Config
from src.datasets import libsvm
from src.datasets.data import take
from src.datasets.factory import fetch, make_data
from src.errors import ConfigError, DataError

TRAIN = "-1 1:0.5 3:2\n+1 2:-1\n+1\n-1 3:1e-3 # a comment\n"
TEST = "+1 5:7\n-1 1:1\n"
X_TRAIN = [[0.5, 0, 2, 0, 0], [0, -1, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 1e-3, 0, 0]]
X_TEST = [[0, 0, 0, 0, 7], [1, 0, 0, 0, 0]]


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "toy").write_text(TRAIN)
    (tmp_path / "toy.t").write_text(TEST)
    return Config(dataset="libsvm/toy", data_dir=str(tmp_path))


def test_a_raw_pair_is_read_labelled_and_padded(config: Config) -> None:
    data = make_data(config)
    assert list(data.splits) == ["train", "test"]
    assert (data.task, data.classes, data.n_classes, data.input_shape) == ("classification", (-1, 1), 2, (5,))
    train, test = data.splits.values()
    assert torch.equal(train.x, torch.tensor(X_TRAIN)) and train.x.dtype == torch.float32
    assert torch.equal(test.x, torch.tensor(X_TEST))
    assert train.y.tolist() == [0, 1, 1, 0] and train.y.dtype == torch.int64
    assert test.y.tolist() == [1, 0]


def test_second_load_comes_from_the_cache_and_is_equal(config: Config,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    first = make_data(config)
    monkeypatch.setattr(libsvm, "_parse", lambda path: pytest.fail("parsed again"))
    second = make_data(config)
    for name, split in first.splits.items():
        assert torch.equal(split.x, second.splits[name].x) and torch.equal(split.y, second.splits[name].y)


def test_a_changed_file_is_parsed_again(config: Config, tmp_path: Path) -> None:
    make_data(config)
    (tmp_path / "toy").write_text(TRAIN.replace("0.5", "2.5"))  # as long as before
    os.utime(tmp_path / "toy", ns=(1, 1))
    assert make_data(config).splits["train"].x[0, 0] == 2.5


@pytest.mark.parametrize("harm", [b"", b"PK\x03\x04 torn", None])
def test_a_damaged_cache_is_made_again(config: Config, tmp_path: Path, harm: bytes | None) -> None:
    make_data(config)
    for cache in (tmp_path / ".parsed").iterdir():
        cache.write_bytes(cache.read_bytes()[:200] if harm is None else harm)
    assert torch.equal(make_data(config).splits["train"].x, torch.tensor(X_TRAIN))
    assert all(libsvm._read_cache(cache, os.getuid()) is not None for cache in (tmp_path / ".parsed").iterdir())


def test_read_only_data_dir_is_read(config: Config, tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        assert len(make_data(config).splits["train"]) == 4
        assert sorted(path.name for path in tmp_path.iterdir()) == ["toy", "toy.t"]
    finally:
        tmp_path.chmod(0o755)


def test_a_cache_that_cannot_be_written_leaves_nothing_behind(config: Config, tmp_path: Path,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(os, "fsync", full)
    assert len(make_data(config).splits["train"]) == 4
    assert list((tmp_path / ".parsed").iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("change", ["file", "folder", "group"])
def test_a_planted_cache_is_not_used(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
                                     ) -> None:
    """Others can write to the folder of the data, and would choose what a run is trained on."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    (tmp_path / "toy").chmod(0o644)
    expected = libsvm._rows(tmp_path / "toy", tmp_path)
    folder, = {path.parent for path in tmp_path.rglob(".parsed/*")}
    for path in folder.iterdir():
        libsvm._write_cache(path, expected._replace(value=expected.value + 1), os.getuid())
    assert (libsvm._rows(tmp_path / "toy", tmp_path).value == expected.value + 1).all(), "the cache is used"
    for path in [folder] if change == "folder" else folder.iterdir() if change == "file" else []:
        os.chown(path, 12345, -1)
    if change == "group":
        os.chown(folder, -1, 12345)
        folder.chmod(0o775)
    for _ in range(2):
        assert (libsvm._rows(tmp_path / "toy", tmp_path).value == expected.value).all()
    assert any((tmp_path / "home").rglob("toy-*.npz")) == (change != "file")


def test_a_reader_never_sees_half_a_cache(config: Config, tmp_path: Path) -> None:
    (tmp_path / "toy").write_text(TRAIN * 2000)
    rows, cache = libsvm._parse(tmp_path / "toy"), libsvm._cache_of(tmp_path / "toy", tmp_path)
    owner = os.getuid()
    libsvm._write_cache(cache, rows, owner)
    fork = multiprocessing.get_context("fork")
    writers = [fork.Process(target=lambda: [libsvm._write_cache(cache, rows, owner) for _ in range(60)])
               for _ in range(2)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        seen = libsvm._read_cache(cache, owner)
        assert seen is not None and len(seen.y) == 8000
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert list((tmp_path / ".parsed").iterdir()) == [cache]


@pytest.mark.parametrize(("ending", "pack"), [(".bz2", bz2.compress), (".xz", lzma.compress), (".gz", gzip.compress)])
@pytest.mark.parametrize("place", ["", "libsvm"])
def test_packed_files_in_either_place(tmp_path: Path, ending: str, pack: Callable[[bytes], bytes], place: str) -> None:
    (tmp_path / place).mkdir(exist_ok=True)
    (tmp_path / place / f"real-sim.v2{ending}").write_bytes(pack(TRAIN.encode()))
    data = make_data(Config(dataset="libsvm/real-sim.v2", data_dir=str(tmp_path), data_splits_map={"train": "train"}))
    assert torch.equal(data.splits["train"].x, torch.tensor(X_TRAIN)[:, :3])


def test_splits_follow_from_file_endings(config: Config, tmp_path: Path) -> None:
    (tmp_path / "toy.val").write_text("-1 1:1\n")
    (tmp_path / "toy.tr").write_text("+1 1:1\n")
    named = {"train": "train", "val": "val", "fit": "tr"}
    splits = make_data(config._replace(data_splits_map=named)).splits
    assert [len(split) for split in splits.values()] == [4, 1, 1]
    assert [split.y[0].item() for split in splits.values()] == [0, 0, 1]


def test_file_that_counts_from_zero_is_recognised(config: Config, tmp_path: Path) -> None:
    (tmp_path / "toy").write_text("-1 0:3\n+1 1:4\n")  # the test file has no 0, and yet counts as train does
    splits = make_data(config).splits
    assert splits["train"].x.tolist() == [[3, 0, 0, 0, 0, 0], [0, 4, 0, 0, 0, 0]]
    assert splits["test"].x.tolist() == [[0, 0, 0, 0, 0, 7], [0, 1, 0, 0, 0, 0]]


def test_column_base_is_that_of_all_parts_of_the_data_set(config: Config, tmp_path: Path) -> None:
    (tmp_path / "toy").write_text("-1 0:3\n+1 4:4\n")
    (tmp_path / "toy.t").write_text("+1 1:7\n-1 4:1\n")  # has no column 0
    for splits, evaluated in (({"train": "train", "test": "test"}, None), ({"test": "test"}, None),
                              ({"train": "train"}, {"test": "libsvm/toy"})):
        data = make_data(config._replace(data_splits_map=splits, eval_datasets=evaluated))
        assert data.splits["test"].x.tolist() == [[0, 7, 0, 0, 0], [0, 0, 0, 0, 1]]  # type: ignore[union-attr]
        assert data.about == {"libsvm_base": 0}


def test_damaged_part_matters_only_to_a_run_that_uses_it(config: Config, tmp_path: Path) -> None:
    (tmp_path / "toy.val").write_text("1 2:1 1:1\n")
    assert make_data(config).about == {"libsvm_base": 1}


def test_column_base_can_be_overridden(config: Config, tmp_path: Path) -> None:
    data = make_data(config._replace(libsvm_base=0))
    assert data.splits["test"].x.tolist() == [[0, 0, 0, 0, 0, 7], [0, 1, 0, 0, 0, 0]]  # type: ignore[union-attr]
    (tmp_path / "toy.t").write_text("+1 0:7\n")
    with pytest.raises(DataError, match="libsvm_base: split 'test' of libsvm/toy has a column 0; allowed: 0, or null"):
        make_data(config._replace(libsvm_base=1))
    with pytest.raises(ConfigError, match="libsvm_base: 2 is not a column base; allowed: 0, 1 or null"):
        Config.from_dict({"libsvm_base": 2})


@pytest.mark.parametrize("dense_bytes", [0, libsvm.DENSE_BYTES])
def test_evaluation_set_has_the_columns_of_training(config: Config, tmp_path: Path, dense_bytes: int,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libsvm, "DENSE_BYTES", dense_bytes)
    (tmp_path / "other.t").write_text("+1 2:7\n-1 1:1\n")
    other = config._replace(eval_datasets={"other": "libsvm/other"})

    def rows() -> list[list[float]]:
        split = make_data(other).splits["other"]
        return take(split.x, torch.arange(2)).tolist()  # type: ignore[union-attr, no-any-return]

    assert rows() == [[0, 7, 0, 0, 0], [1, 0, 0, 0, 0]]
    (tmp_path / "toy").write_text("-1 0:0.5 3:2\n+1 4:1\n")  # training data from column 0: so is the other
    assert rows() == [[0, 0, 7, 0, 0, 0], [0, 1, 0, 0, 0, 0]]
    (tmp_path / "other.t").write_text("+1 6:7\n")
    with pytest.raises(DataError, match="libsvm/other has 7 columns, and libsvm/toy has 6; .*libsvm_base"):
        make_data(other)
    (tmp_path / "toy").write_text(TRAIN)
    (tmp_path / "other.t").write_text("+1 0:7\n")
    with pytest.raises(DataError, match="libsvm/other count from 0, and those of libsvm/toy .* from 1.*libsvm_base: 0"):
        make_data(other)
    assert make_data(other._replace(libsvm_base=0)).input_shape == (6,)


@pytest.mark.parametrize("pack", ["", ".xz"])
def test_blanks_before_values_are_skipped(config: Config, tmp_path: Path, pack: str) -> None:
    """As in LIBSVM's own file of the data set protein."""
    (tmp_path / "toy").unlink()
    text = TRAIN.replace(":", ":  ").replace("0.5", ".50").encode()
    (tmp_path / f"toy{pack}").write_bytes(lzma.compress(text) if pack else text)
    assert make_data(config).splits["train"].x.tolist() == torch.tensor(X_TRAIN).tolist()  # type: ignore[union-attr]


def test_sparse_stays_sparse_above_the_limit(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    union = {"train": "train[:50%]", "val": "train[50%:]", "all": "train[:50%]+test+train[50%:]", "test": "test"}
    config = config._replace(data_splits_map=union)
    dense = make_data(config)
    monkeypatch.setattr(libsvm, "DENSE_BYTES", 6 * 5 * 4 - 1)  # six samples of five features
    sparse = make_data(config)
    assert sparse.input_shape == dense.input_shape == (5,)
    for name, split in sparse.splits.items():
        assert split.x.layout == torch.sparse_csr and dense.splits[name].x.layout == torch.strided
        assert torch.equal(take(split.x, torch.arange(len(split))), dense.splits[name].x)
        assert torch.equal(split.y, dense.splits[name].y)
    monkeypatch.setattr(libsvm, "DENSE_BYTES", 6 * 5 * 4)
    assert make_data(config).splits["train"].x.layout == torch.strided


def test_regression_keeps_the_labels(tmp_path: Path) -> None:
    (tmp_path / "toy").write_text("0.25 1:1\n-3 1:2\n")
    config = Config(dataset="libsvm/toy", data_dir=str(tmp_path), loss="mse", data_splits_map={"train": "train"})
    data = make_data(config)
    assert (data.task, data.classes, data.n_classes) == ("regression", (), None)
    assert data.splits["train"].y.tolist() == [0.25, -3] and data.splits["train"].y.dtype == torch.float32
    with pytest.raises(DataError, match="loss: mse"):
        make_data(config._replace(loss="log"))


@pytest.mark.parametrize("text", ["", "1 2:1 1:1\n", "1 1:1 1:1\n", "a 1:1\n", "1,2 1:1\n", "1 x:1\n", "\x00\x01",
                                  "1 1:2 3"])
def test_invalid_libsvm_files_are_refused(config: Config, tmp_path: Path, text: str) -> None:
    (tmp_path / "toy").write_text(text)
    with pytest.raises(DataError, match=str(tmp_path / "toy")):
        make_data(config)


@pytest.mark.parametrize("line", ["1 2:1 1:1", "1 1:1 1:1", "a 1:1", "1,2 1:1", "1 x:1", "1 1:2 3", "1 1:x", "1 -1:2",
                                  "1 1:nan", "inf 1:1", "1 4294967296:1", "\x00"])
@pytest.mark.parametrize("pack", ["", ".gz"])
def test_a_damaged_line_is_named(tmp_path: Path, line: str, pack: str) -> None:
    path = tmp_path / f"toy{pack}"
    path.write_bytes((gzip.compress if pack else bytes)(f"1 qid:4 1:1 # 2:1 1:1\n\n-1\n{line}\n2 x\n".encode()))
    with pytest.raises(DataError, match=rf"{path}, line 4: "):
        make_data(Config(dataset="libsvm/toy", data_dir=str(tmp_path), data_splits_map={"train": "train"}))


def test_a_torn_packed_file(tmp_path: Path) -> None:
    (tmp_path / "toy.xz").write_bytes(lzma.compress((TRAIN * 1000).encode())[:-30])
    with pytest.raises(DataError, match=r"toy\.xz"):
        make_data(Config(dataset="libsvm/toy", data_dir=str(tmp_path), data_splits_map={"train": "train"}))


def test_a_damaged_packed_file(tmp_path: Path) -> None:
    packed = gzip.compress((TRAIN * 1000).encode())
    (tmp_path / "toy.gz").write_bytes(packed[:10] + b"\xff" * 50 + packed[60:])
    with pytest.raises(DataError, match=r"toy\.gz"):
        make_data(Config(dataset="libsvm/toy", data_dir=str(tmp_path), data_splits_map={"train": "train"}))


@pytest.mark.parametrize("name", ["libsvm/../toy", "libsvm/a/b", "libsvm/.parsed", "libsvm/.."])
def test_names_outside_of_the_folder_are_refused(config: Config, name: str) -> None:
    with pytest.raises(DataError, match="is not the name of a LIBSVM data set"):
        make_data(config._replace(dataset=name))


class FakeDataset:
    """Behaves as libsvmdata 0.5: deletes a raw file that is in its folder, leaves NAME_X and NAME_y."""

    def __init__(self, name: str, url: str, x: object, y: list[float], task: str = "binary") -> None:
        self.dataset_name, self.dataset_url, self.task_name, self.x, self.y = name, url, task, x, y
        self.dataset_dir = Path("/nonexistent")
        self.fetched = 0

    def get_X_y(self) -> None:
        from scipy import sparse

        self.fetched += 1
        (self.dataset_dir / self.dataset_name).unlink(missing_ok=True)
        if isinstance(self.x, Exception):
            raise self.x
        if isinstance(self.x, np.ndarray):
            np.save(self.dataset_dir / f"{self.dataset_name}_X", self.x)
        else:
            sparse.save_npz(self.dataset_dir / f"{self.dataset_name}_X", sparse.csc_matrix(self.x))
        np.save(self.dataset_dir / f"{self.dataset_name}_y", np.array(self.y))


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> dict[str, FakeDataset]:
    """A libsvmdata that knows a few data sets."""
    datasets = [
        FakeDataset("toy.multiclass", "u/toy.bz2", X_TRAIN, [1, 7, 7, 2]),
        FakeDataset("toy.multiclass_test", "u/toy.t", np.array(X_TEST, order="F"), [7, 2]),
        FakeDataset("w1a", "u/w1a", X_TRAIN, [1, 1, 0, 0]),
        FakeDataset("w3a", "u/w1a", X_TRAIN, [1, 1, 0, 0]),
        FakeDataset("tags", "u/tags", X_TRAIN, [1, 1, 0, 0], task="multilabel"),
        FakeDataset("away", "u/away", RuntimeError("Error while fetching file u/away: Name or service not known"), []),
    ]
    core = types.ModuleType("libsvmdata.core")
    core.ALL_DATASETS = {dataset.dataset_name: dataset for dataset in datasets}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "libsvmdata", types.ModuleType("libsvmdata"))
    monkeypatch.setitem(sys.modules, "libsvmdata.core", core)
    return core.ALL_DATASETS


def test_libsvmdata_fetches_once(known: dict[str, FakeDataset], tmp_path: Path) -> None:
    config = Config(dataset="libsvm/toy.multiclass", data_dir=str(tmp_path / "new" / "data"))
    assert fetch(config) == "libsvm/toy.multiclass: train fetched, test fetched"
    assert fetch(config) == "libsvm/toy.multiclass: train present already, test present already"
    data = make_data(config)
    assert data.classes == (1, 2, 7)
    assert torch.equal(data.splits["train"].x, torch.tensor(X_TRAIN))
    assert torch.equal(data.splits["test"].x, torch.tensor(X_TEST, dtype=torch.float32))
    assert data.splits["test"].y.tolist() == [2, 1]
    assert [dataset.fetched for dataset in known.values()] == [1, 1, 0, 0, 0, 0]
    assert sorted(path.name for path in (tmp_path / "new/data/libsvm").iterdir()) == [
        "toy.multiclass_X.npz", "toy.multiclass_test_X.npy", "toy.multiclass_test_y.npy", "toy.multiclass_y.npy"]


def test_raw_file_of_the_user_takes_precedence_and_is_kept(known: dict[str, FakeDataset], tmp_path: Path) -> None:
    (tmp_path / "libsvm").mkdir()
    raw = tmp_path / "libsvm" / "toy.multiclass"
    raw.write_text(TRAIN)
    config = Config(dataset="libsvm/toy.multiclass", data_dir=str(tmp_path))
    fetch(config)  # the test split is fetched into the same folder
    assert raw.read_text() == TRAIN and known["toy.multiclass"].fetched == 0


def test_raw_test_file_fits_a_downloaded_train_split(known: dict[str, FakeDataset], tmp_path: Path) -> None:
    (tmp_path / "toy.multiclass.t").write_text("7 6:1\n")
    splits = make_data(Config(dataset="libsvm/toy.multiclass", data_dir=str(tmp_path))).splits
    assert splits["train"].x.shape == (4, 6) and splits["train"].x[0, 0] == 0.5
    assert splits["test"].x.tolist() == [[0, 0, 0, 0, 0, 1]]


def test_failed_download_is_one_error(known: dict[str, FakeDataset], tmp_path: Path) -> None:
    config = Config(dataset="libsvm/away", data_dir=str(tmp_path), data_splits_map={"train": "train"})
    with pytest.raises(DataError, match=r"Name or service not known.*experiments.py prefetch` with your job spec"):
        make_data(config)
    assert list((tmp_path / "libsvm").iterdir()) == []


def test_missing_internet_is_reported_before_libsvmdata_tries(known: dict[str, FakeDataset], tmp_path: Path) -> None:
    known["away"].dataset_url = "http://127.0.0.1:1/away"
    with pytest.raises(DataError, match=r"127.0.0.1 cannot be reached from .*; put the LIBSVM file there as away"):
        make_data(Config(dataset="libsvm/away", data_dir=str(tmp_path), data_splits_map={"train": "train"}))
    assert known["away"].fetched == 0 and list((tmp_path / "libsvm").iterdir()) == []


def test_download_not_allowed(known: dict[str, FakeDataset], tmp_path: Path) -> None:
    config = Config(dataset="libsvm/toy.multiclass", data_dir=str(tmp_path), data_download=False)
    with pytest.raises(DataError, match=r"data_download is false.*experiments.py prefetch` with your job spec"):
        make_data(config)
    assert known["toy.multiclass"].fetched == 0 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "split", "message"), [
    ("toy.multiclas", "train", "did you mean 'libsvm/toy.multiclass'"),
    ("toy.multiclass", "val", "libsvmdata does not have it"),
    ("toy.multiclass", "dev", "no split 'dev'; allowed: train, test, val, tr"),
    ("w3a", "train", "would download w1a instead"),
    ("tags", "train", "several labels per sample"),
])
def test_data_sets_that_libsvmdata_does_not_have_are_refused(known: dict[str, FakeDataset], tmp_path: Path, name: str,
                                                             split: str, message: str) -> None:
    config = Config(dataset=f"libsvm/{name}", data_dir=str(tmp_path), data_splits_map={"train": split})
    with pytest.raises(DataError, match=message):
        make_data(config)
    assert all(dataset.fetched == 0 for dataset in known.values())


def test_libsvmdata_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "libsvmdata.core", None)
    with pytest.raises(DataError, match="pip install libsvmdata"):
        make_data(Config(data_dir=str(tmp_path)))


def test_a_data_dir_that_cannot_be_made(known: dict[str, FakeDataset], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    config = Config(dataset="libsvm/toy.multiclass", data_dir=str(tmp_path / "file"))
    with pytest.raises(DataError, match="cannot be stored there: Not a directory"):
        make_data(config)


def test_concurrent_download_by_another_job_is_awaited(known: dict[str, FakeDataset], tmp_path: Path,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(dataset="libsvm/toy.multiclass", data_dir=str(tmp_path), data_splits_map={"train": "train"})
    get = FakeDataset.get_X_y

    def get_while_another_job_does(self: FakeDataset) -> None:
        mine, self.dataset_dir = self.dataset_dir, tmp_path / "libsvm"  # where the other job's files have arrived
        get(self)
        self.dataset_dir = mine
        get(self)

    monkeypatch.setattr(FakeDataset, "get_X_y", get_while_another_job_does)
    assert torch.equal(make_data(config).splits["train"].x, torch.tensor(X_TRAIN)[:, :5])
    assert sorted(path.name for path in (tmp_path / "libsvm").iterdir()) == ["toy.multiclass_X.npz",
                                                                            "toy.multiclass_y.npy"]


def test_the_real_libsvmdata_is_what_the_fake_imitates() -> None:
    core = pytest.importorskip("libsvmdata.core")
    dataset = core.ALL_DATASETS["covtype.multiclass"]
    assert dataset.task_name == "multiclass" and dataset.dataset_url.endswith("/multiclass/covtype.bz2")
    assert isinstance(dataset.dataset_dir, Path) and callable(dataset.get_X_y)
    assert "a9a_test" in core.ALL_DATASETS


def test_a9a(shared_data: Path, tmp_path: Path) -> None:
    for name in ("a9a", "a9a.t"):
        shutil.copy(shared_data / name, tmp_path)
    data = make_data(Config(data_dir=str(tmp_path), data_splits_map={"train": "train[:90%]", "val": "train[90%:]",
                                                                     "test": "test"}))
    assert [len(split) for split in data.splits.values()] == [29305, 3256, 16281]
    assert (data.input_shape, data.classes) == ((123,), (-1, 1))
    positive = sum(int(data.splits[name].y.sum()) for name in ("train", "val"))
    assert positive == sum(line.startswith("+1") for line in (tmp_path / "a9a").read_text().splitlines())
    assert data.splits["test"].x.unique().tolist() == [0, 1]
