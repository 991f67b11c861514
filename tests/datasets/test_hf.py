from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import experiments
from src.config import Config
from src.datasets.factory import fetch, make_data
from src.datasets.texts import Texts
from src.errors import ConfigError, DataError
from src.pretrained import hub
from tests.texts import make_folder, reviews, write_csv

pytest.importorskip("datasets")
pytest.importorskip("transformers")
ROWS = [{"text": "a good film", "label": "pos"}, {"text": "bad", "label": "neg"},
        {"text": "it was so very very fine", "label": "pos"}]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_folder(tmp_path_factory.mktemp("bert"))


@pytest.fixture
def options(bert: str, tmp_path: Path) -> dict[str, Any]:
    """Of a config whose data_dir has reviews.csv."""
    write_csv(tmp_path / "reviews.csv", ROWS)
    return {"dataset": "hf/reviews.csv", "model": f"hf/{bert}", "data_dir": str(tmp_path),
            "data_splits_map": {"train": "train"}}


def split_of(options: dict[str, Any], **changes: Any) -> Texts:
    made = make_data(Config.from_dict({**options, **changes})).splits["train"]
    assert isinstance(made, Texts)
    return made


def test_a_csv_file_becomes_tokens(options: dict[str, Any]) -> None:
    data = make_data(Config.from_dict(options))
    assert (data.task, data.classes, data.input_shape) == ("classification", ("neg", "pos"), ())
    assert (data.about["max_length"], data.about["text_column"], data.about["label_column"]) == (24, "text", "label")
    assert data.about["texts"]["train"] == {"tokens": 5 + 3 + 8, "left_out": 0, "as_long_as_max_length": 0}
    (x, y), (rest, _) = data.splits["train"].batches(2, None, 0)  # type: ignore[union-attr, misc]
    assert x["input_ids"].tolist() == [[2, 8, 4, 9, 3], [2, 6, 3, 0, 0]]  # as wide as the longest of the two
    assert x["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert x["token_type_ids"].tolist() == [[0] * 5] * 2
    assert y.tolist() == [1, 0] and rest["input_ids"].shape == (1, 8)


def test_text_pairs_and_truncation(options: dict[str, Any], tmp_path: Path) -> None:
    write_csv(tmp_path / "pairs.csv", [{"premise": "a film", "hypothesis": "good", "label": 3},
                                       {"premise": "a film " * 30, "hypothesis": "bad", "label": -1}])
    changes = {"dataset": "hf/pairs.csv"}
    data = make_data(Config.from_dict({**options, **changes, "max_length": 7}))
    assert data.classes == (-1, 3) and data.about["texts"]["train"]["as_long_as_max_length"] == 1
    x, _ = next(data.splits["train"].batches(2, None, 0))  # type: ignore[union-attr]
    assert x["input_ids"].tolist() == [[2, 8, 9, 3, 4, 3, 0], [2, 8, 9, 8, 3, 6, 3]]
    assert x["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1, 0], [0, 0, 0, 0, 0, 1, 1]]
    x, _ = next(split_of(options, **changes, text_column="premise").batches(1, None, 0))
    assert x["input_ids"].tolist() == [[2, 8, 9, 3]]


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows by the library itself, in the format of the ending."""
    import datasets

    table, file = datasets.Dataset.from_list(rows), str(path)
    if path.suffix == ".parquet":
        table.to_parquet(file)
    elif path.suffix in (".csv", ".tsv"):
        table.to_csv(file, sep="," if path.suffix == ".csv" else "\t")
    elif path.suffix == ".arrow":
        table.save_to_disk(path.with_suffix(""))
        (path.with_suffix("") / "data-00000-of-00001.arrow").rename(file)
        shutil.rmtree(path.with_suffix(""))
    else:
        table.to_json(file, lines=path.suffix == ".jsonl")


FORMATS = ["csv", "tsv", "json", "jsonl", "parquet", "arrow"]


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize(("label", "loss"), [("pos", "log"), (3, "log"), (0.5, "mse")])
def test_missing_cells_are_named_by_their_row_in_every_format(ending: str, label: object, loss: str,
                                                              options: dict[str, Any], tmp_path: Path) -> None:
    options = {**options, "dataset": f"hf/gaps.{ending}", "loss": loss}
    for text_gap in (None, "", " "):
        write_table(tmp_path / f"gaps.{ending}", [
            {"text": "good", "label": label}, {"text": text_gap, "label": label}, {"text": "bad", "label": label}])
        with pytest.raises(DataError, match=r"text_column: row 1 .* hf/gaps.* lacks a text in 'text';"):
            make_data(Config.from_dict(options))
    write_table(tmp_path / f"gaps.{ending}", [
        {"text": "good", "label": label}, {"text": "bad", "label": None}, {"text": "fine", "label": None}])
    with pytest.raises(DataError, match=r"label_column: row 1 .* lacks a label in 'label', and so do 1 more rows;"):
        make_data(Config.from_dict(options))


@pytest.mark.parametrize("word", ["NA", "nan", "null", "N/A"])
def test_word_for_a_gap_in_a_column_of_numbers_is_a_missing_label(word: str, options: dict[str, Any], tmp_path: Path
                                                                  ) -> None:
    write_csv(tmp_path / "reviews.csv", [{"text": "good", "label": 1}, {"text": "bad", "label": word}])
    with pytest.raises(DataError, match="row 1 .* lacks a label in 'label'"):
        make_data(Config.from_dict(options))


@pytest.mark.parametrize("ending", FORMATS)
def test_missing_text_is_left_out_of_a_language_model(ending: str, options: dict[str, Any], tmp_path: Path) -> None:
    gpt = make_folder(tmp_path / "gpt", "gpt2")
    write_table(tmp_path / f"gaps.{ending}", [{"text": "good film", "page": 1}, {"text": None, "page": 2}])
    data = make_data(Config.from_dict({**options, "dataset": f"hf/gaps.{ending}", "model": f"hf/{gpt}",
                                       "targets": "next_token"}))
    assert (len(data.splits["train"]), data.about["texts"]["train"]["left_out"]) == (1, 1)


@pytest.mark.parametrize("ending", FORMATS)
def test_folders_of_every_format_are_read_alike(ending: str, options: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "many"
    (folder / "test").mkdir(parents=True)
    for path, rows in (("train-00000-of-00002", ROWS[:2]), ("train-00001-of-00002", ROWS[2:]), ("test/some", ROWS[:1])):
        write_table(folder / f"{path}.{ending}", rows)
    data = make_data(Config.from_dict({**options, "dataset": "hf/./many",
                                       "data_splits_map": {"train": "train", "test": "test"}}))
    assert [len(split) for split in data.splits.values()] == [3, 1]
    (x, y), = data.splits["train"].batches(3, None, 0)  # type: ignore[union-attr, misc]
    assert x["input_ids"][:, 1].tolist() == [8, 6, 12] and y.tolist() == [1, 0, 1]


def test_saved_dataset_is_read_with_its_class_names(options: dict[str, Any], tmp_path: Path) -> None:
    import datasets

    features = datasets.Features({"sentence": datasets.Value("string"), "y": datasets.ClassLabel(names=["n", "o", "p"]),
                                  "id": datasets.Value("int64")})
    table = datasets.Dataset.from_list([{"sentence": "bad", "y": 0, "id": 7}, {"sentence": "good", "y": 2, "id": 8}],
                                       features=features)
    datasets.DatasetDict({"train": table}).save_to_disk(tmp_path / "saved")
    data = make_data(Config.from_dict({**options, "dataset": "hf/./saved"}))
    assert data.classes == ("n", "o", "p") and data.about["label_column"] == "y"
    assert next(data.splits["train"].batches(2, None, 0))[1].tolist() == [0, 2]  # type: ignore[union-attr]
    numbers = make_data(Config.from_dict({**options, "dataset": "hf/./saved", "label_column": "id", "loss": "mse"}))
    assert next(numbers.splits["train"].batches(2, None, 0))[1].tolist() == [7, 8]  # type: ignore[union-attr]
    with pytest.raises(DataError, match="no split 'val'"):
        make_data(Config.from_dict({**options, "dataset": "hf/./saved", "data_splits_map": {"train": "val"}}))


def test_splits_are_cut_by_the_seed_and_joined(options: dict[str, Any], tmp_path: Path) -> None:
    write_csv(tmp_path / "all/train.csv", reviews(50))
    write_csv(tmp_path / "all/test.csv", reviews(10, seed=1))
    parts = {"train": "train[:80%]", "val": "train[80%:]", "both": "train[80%:]+test"}
    data = make_data(Config.from_dict({**options, "dataset": "hf/./all", "data_splits_map": parts}))
    rows = {name: split.rows for name, split in data.splits.items()}  # type: ignore[union-attr]
    assert sorted(torch.cat([rows["train"], rows["val"]]).tolist()) == list(range(50))
    assert rows["both"].tolist() == [*rows["val"].tolist(), *range(50, 60)]


def test_next_tokens(options: dict[str, Any], tmp_path: Path) -> None:
    gpt = make_folder(tmp_path / "gpt", "gpt2")
    (tmp_path / "book.txt").write_text("a good film\n\nbad\n" + "very " * 40 + "\n")
    data = make_data(Config.from_dict({**options, "dataset": "hf/book.txt", "model": f"hf/{gpt}",
                                       "targets": "next_token"}))
    assert (data.task, data.classes, data.n_classes) == ("next_token", (), None)
    assert data.about["texts"]["train"] == {"tokens": 4 + 2 + 24, "left_out": 1, "as_long_as_max_length": 1}
    (x, y), _ = data.splits["train"].batches(2, None, 0)  # type: ignore[union-attr, misc]
    assert x["input_ids"].tolist() == [[8, 4, 9, 3], [6, 3, 3, 3]]  # the end of a text is learned; GPT-2 pads with it
    assert y.tolist() == [[4, 9, 3, -100], [3, -100, -100, -100]]


@pytest.mark.parametrize(("rows", "changes", "message"), [
    (ROWS, {"text_column": "texts"}, "text_column: .* no column 'texts'; allowed: text, label; did you mean 'text'"),
    (ROWS, {"label_column": "y"}, "label_column: .* no column 'y'; allowed: text, label"),
    ([{"one": "a", "two": "b", "label": 1}], {}, "cannot tell which column .* has the texts; allowed: one, two, label"),
    ([{"text": "a", "x": 1, "z": 2}], {}, "cannot tell which column .* has the labels; allowed: text, x, z"),
    ([{"text": "a", "label": 0.5}], {}, "measured targets, and loss log needs classes; try loss: mse"),
    (ROWS, {"loss": "mse"}, "a target that is not a number: .*'pos'; try loss: log"),
    ([{"text": 3, "label": 1}], {}, "row 0 of split 'train' .* has no text in 'text': 3"),
    (ROWS, {"max_length": 2}, "max_length: 2 tokens are too few"),
    (ROWS, {"data_splits_map": {"train": "test"}}, "no split 'test'; allowed: train"),
    (ROWS, {"dataset": "hf/nowhere.csv"}, "nowhere.csv does not exist; relative names lie under data_dir"),
    (ROWS, {"dataset": "hf/./nothing"}, "no data in .*nothing; allowed: files .csv"),
    (ROWS, {"tokenizer": "./nothing"}, "tokenizer: './nothing' is not a tokenizer"),
    (ROWS, {"tokenizer": "./nowhere"}, "folder .*nowhere not found"),
    (ROWS, {"dataset": "hf/broken.json"}, "broken.json: cannot be read"),
])
def test_unreadable_text_data_is_refused(rows: list[dict[str, Any]], changes: dict[str, Any], message: str,
                             options: dict[str, Any], tmp_path: Path) -> None:
    write_csv(tmp_path / "reviews.csv", rows)
    (tmp_path / "nothing").mkdir()
    (tmp_path / "broken.json").write_text(json.dumps(ROWS)[:-5])
    with pytest.raises((DataError, ConfigError), match=message):
        make_data(Config.from_dict({**options, **changes}))


def test_labels_that_train_does_not_have_are_refused(options: dict[str, Any], tmp_path: Path) -> None:
    write_csv(tmp_path / "two/train.csv", ROWS)
    write_csv(tmp_path / "two/test.csv", [{"text": "film", "label": "both"}])
    with pytest.raises(DataError, match="row 0 .* the label 'both', which train does not have; allowed: neg"):
        make_data(Config.from_dict({**options, "dataset": "hf/./two",
                                    "data_splits_map": {"train": "train", "test": "test"}}))


def test_cells_such_as_na_are_texts_and_classes(options: dict[str, Any], tmp_path: Path) -> None:
    write_csv(tmp_path / "reviews.csv", [{"text": "NA", "label": "None"}, {"text": "null", "label": "NA"}])
    assert make_data(Config.from_dict(options)).classes == ("NA", "None")


LANGUAGE = {"dataset": "hf/imdb", "model": "hf/gpt2", "targets": "next_token"}


@pytest.mark.parametrize(("spec", "message"), [
    ({"dataset": "hf/imdb"}, "model linear/no_bias cannot read texts; allowed: hf/NAME"),
    ({"model": "hf/bert-base-uncased"}, "reads texts, and libsvm/a9a has none"),
    ({"dataset": "hf/imdb", "task": "train:warm_up"}, "texts need a tokenizer, and linear/no_bias has none"),
    ({"targets": "next_token"}, "targets: next_token needs texts and a language model"),
    ({**LANGUAGE, "loss": "mse"}, "loss mse is not for tokens"),
    ({**LANGUAGE, "metrics": ["f1"]}, "perplexity"),
    ({**LANGUAGE, "label_smoothing": 0.1}, "label_smoothing needs classification"),
    ({**LANGUAGE, "model_head_init": "zero"}, "may be shared with its first"),
    ({**LANGUAGE, "freeze": "backbone"}, "freeze: the last layer"),
    ({"dataset": "hf/a/b/c"}, "unknown family of data set"), ({"dataset": "hf/"}, "unknown family of data set"),
    ({"dataset": "hf/imdb", "model": "hf/a:b"}, "unknown model 'hf/a:b'"),
    ({"max_length": 0}, "max_length: 0 is too small"),
])
def test_refused_at_submission(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config.from_dict(spec)


def test_a_data_set_of_the_hub_is_saved_whole(options: dict[str, Any], tmp_path: Path,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    calls: list[Any] = []

    def load_dataset(*names: str | None, cache_dir: str) -> Any:
        calls.append(names)
        if names[0] == "me/broken":
            Path(cache_dir).mkdir()
            raise ValueError("half of it\nis here")
        return datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr("src.io.download.unreachable_reason", lambda url: None)
    config = Config.from_dict({**options, "dataset": "hf/me/reviews:small"})
    away = Config.from_dict({**options, "dataset": "hf/me/reviews:small", "data_download": False})
    with pytest.raises(DataError, match="hf/me/reviews:small is not here, and data_download is false; download .*pref"):
        make_data(away)
    assert fetch(config) == "hf/me/reviews:small: fetched"
    assert fetch(config) == "hf/me/reviews:small: present already"
    assert len(make_data(away).splits["train"]) == 3 and calls == [("me/reviews", "small")]
    with pytest.raises(DataError, match=r"hf/me/broken cannot be downloaded: ValueError: half of it is here"):
        make_data(Config.from_dict({**options, "dataset": "hf/me/broken"}))
    assert [path.name for path in (tmp_path / "hf").iterdir()] == ["me--reviews--small"]


def test_missing_library_is_named(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("datasets", "transformers"):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(DataError, match=f"need the library {name}, which is not installed; pip install {name}"):
            hub.import_library(name)


def test_prefetch_downloads_although_runs_must_not(options: dict[str, Any], tmp_path: Path,
                                                   monkeypatch: pytest.MonkeyPatch,
                                                   capsys: pytest.CaptureFixture[str]) -> None:
    import datasets

    monkeypatch.setattr(datasets, "load_dataset", lambda *_, cache_dir: datasets.DatasetDict(
        {"train": datasets.Dataset.from_list(ROWS)}))
    monkeypatch.setattr("src.io.download.unreachable_reason", lambda url: None)
    parameters = {**options, "dataset": "hf/me/reviews", "data_download": False, "base_lr": [0.1, 0.2]}
    (tmp_path / "job.yaml").write_text(json.dumps({"job_details": {"name": "x", "output_dir": str(tmp_path / "out")},
                                                   "parameters": parameters}))
    assert experiments.main(["prefetch", str(tmp_path / "job.yaml")]) == 0
    assert capsys.readouterr().out == (f"hf/me/reviews: fetched\n{options['model']}: settings are in the cache\n")
    assert len(make_data(Config.from_dict({**parameters, "base_lr": 0.1})).splits["train"]) == 3


def test_evaluation_sets_of_texts(options: dict[str, Any], tmp_path: Path) -> None:
    write_csv(tmp_path / "good.csv", [{"text": "good", "label": "pos"}, {"text": "fine", "label": "pos"}])
    write_csv(tmp_path / "stars.csv", [{"text": "good", "label": 5}, {"text": "bad", "label": 1}])
    further = {**options, "eval_datasets": {"good": "hf/good.csv@train", "stars": "hf/stars.csv@train[:100%]"}}
    data = make_data(Config.from_dict({**further, "eval_class_maps": {"stars": "0, 1"}}))
    y = {name: next(data.splits[name].batches(9, None, 0))[1].tolist() for name in data.splits}  # type: ignore[union-attr]
    assert y == {"train": [1, 0, 1], "good": [1, 1], "stars": [1, 0]} and data.columns == {"stars": (0, 1)}
    with pytest.raises(DataError, match="hf/stars.csv@train.* has labels that train does not have: 1, 5; allowed: neg"):
        make_data(Config.from_dict(further))
    with pytest.raises(ConfigError, match="eval_datasets, iris: sklearn/iris has features, and hf/.* has texts"):
        make_data(Config.from_dict({**options, "eval_datasets": {"iris": "sklearn/iris"}}))
