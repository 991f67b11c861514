"""Images from each kind of source, offline: the same splits, batches and errors whichever it is."""
from __future__ import annotations

import gzip
import io
import json
import os
import random
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from src.checks import splits
from src.config import Config
from src.datasets.data import Data
from src.datasets.factory import fetch, make_data
from src.datasets.transforms import _posterize, transforms_of
from src.errors import ConfigError, DataError

pytest.importorskip("timm")
PIL = pytest.importorskip("PIL.Image")
ImageOps = pytest.importorskip("PIL.ImageOps")

COLOURS = {"blue": (0, 0, 200), "green": (0, 200, 0), "red": (200, 0, 0)}  # a class each, in the order of their names


def image(name: str, number: int, size: tuple[int, int] = (12, 10)) -> Any:
    """An image of a class: its color, with a corner that differs from image to image."""
    pixels = np.full((size[1], size[0], 3), COLOURS[name], dtype=np.uint8)
    pixels[:3, :4] = number * 9 % 256
    return PIL.fromarray(pixels)


def make_folder(root: Path, splits: dict[str, int], **options: Any) -> Path:
    for split, number in splits.items():
        for name in COLOURS:
            (root / split / name).mkdir(parents=True)
            for index in range(number):
                image(name, index, **options).save(root / split / name / f"{index:03d}.png")
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_folder(tmp_path / "colors", {"train": 10, "test": 4})
    return tmp_path


def data(folder: Path, **options: Any) -> Data:
    return make_data(Config.from_dict({"dataset": "folder/colors", "data_dir": str(folder), "num_workers": 0,
                                       "model": "tiny/lenet", **options}))


def read(made: Data, split: str = "train", batch_size: int = 7, order: torch.Tensor | None = None, seed: int = 1
         ) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = zip(*made.splits[split].batches(batch_size, order, seed), strict=True)
    return torch.cat(x), torch.cat(y)


def test_image_folder_is_read_and_normalized(folder: Path) -> None:
    made = data(folder)
    assert (made.classes, made.input_shape, made.task) == (("blue", "green", "red"), (3, 10, 12), "classification")
    assert [len(split) for split in made.splits.values()] == [30, 12]
    x, y = read(made, "test")
    assert y.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    expected = (torch.tensor([0, 0, 200]) / 255 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor(
        [0.229, 0.224, 0.225])
    torch.testing.assert_close(x[0, :, -1, -1], expected)
    assert "normalise" in str(made.about["images"]["evaluation"])


def test_seeded_splits_are_disjoint(folder: Path) -> None:
    made = data(folder, data_splits_map={"train": "train[:80%]", "val": "train[80%:]", "both": "train[:10]+test"})
    assert [len(split) for split in made.splits.values()] == [24, 6, 22]
    seen = [{tuple(sample.flatten().tolist()) for sample in read(made, name)[0]} for name in ("train", "val")]
    assert not seen[0] & seen[1]


AUGMENTED = {"crop_padding": 2, "hflip": 0.5, "color_jitter": 0.4, "auto_augment": "rand-m9-mstd0.5",
             "random_erasing": 0.5}


@pytest.mark.parametrize("options", [AUGMENTED, {"scale": [0.3, 1.0], "vflip": 0.5, "auto_augment": "augmix-m3-w2"},
                                     {"auto_augment": "original", "aug_repeats": 3}], ids=["crop", "scale", "repeats"])
def test_augmentation_depends_only_on_seed_and_sample(options: dict[str, Any], folder: Path) -> None:
    """Not on loader processes, nor on where in a pass one begins, nor on what was drawn elsewhere; and it is noise."""
    alone, workers = data(folder, **options), data(folder, num_workers=2, **options)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(3))
    x, y = read(alone, order=order)
    state = torch.get_rng_state()
    again = read(workers, order=order)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(again[0], x)
    assert torch.equal(again[1], y)
    rest = read(workers, order=order[14:])
    assert torch.equal(rest[0], x[14:])
    assert not torch.equal(read(alone, order=order, seed=2)[0], x)
    if "aug_repeats" in options:
        assert len(set(y[:7].tolist())) <= 3
        assert len(x) == 30
    plain, _ = read(alone)
    assert torch.equal(read(workers)[0], plain)
    assert sorted(y.tolist()) == sorted(read(alone)[1].tolist()) or "aug_repeats" in options


@pytest.mark.parametrize("policy", ["rand-m9-mstd0.5-inc1", "original", "v0", "3a", "augmix-m5-w4-d2"])
@pytest.mark.parametrize("channels", [1, 3])
def test_each_policy_takes_grey_and_colored_images(policy: str, channels: int) -> None:
    config = Config(model="tiny/lenet", model_input_shape=[channels, 12, 10], auto_augment=policy, color_jitter=0.4)
    some = image("red", 5).convert("L" if channels == 1 else "RGB")
    transforms = transforms_of(config, some)
    torch.manual_seed(0)
    random.seed(0)
    assert {transforms.train(some).shape for _ in range(60)} == {(channels, 12, 10)}  # v0 has 25 parts


@pytest.mark.parametrize("bits", range(1, 9))
def test_posterize_is_that_of_pillow(bits: int) -> None:
    some = image("green", 7)
    assert _posterize(some, bits).tobytes() == ImageOps.posterize(some, bits).tobytes()
    assert not any(_posterize(some, 0).tobytes())


def test_small_images_grow_to_the_size_before_they_are_cropped(folder: Path) -> None:
    made = data(folder, model_input_shape=[3, 32, 32], crop_padding=2)  # from 12 x 10
    assert read(made, order=torch.arange(30))[0].shape == (30, 3, 32, 32)


def test_images_of_many_sizes_become_one(folder: Path) -> None:
    image("red", 1, (40, 30)).save(folder / "colors" / "train" / "red" / "large.jpg")
    image("red", 1).convert("L").save(folder / "colors" / "train" / "red" / "grey.png")
    made = data(folder, model_input_shape=[3, 16, 16], scale=[0.5, 1.0])
    assert read(made, order=torch.arange(32))[0].shape == (32, 3, 16, 16)
    assert read(made)[0].shape == (32, 3, 16, 16)
    assert data(folder, model="timm/resnet18").input_shape == (3, 224, 224)  # its own data config
    with pytest.raises(DataError, match="images of .* have different sizes"):
        data(folder, data_on_device=True)


def halves() -> Any:
    """Twice as wide as high; the outer quarters are white."""
    pixels = np.zeros((20, 40, 3), dtype=np.uint8)
    pixels[:, :10] = pixels[:, 30:] = 255
    return PIL.fromarray(pixels)


@pytest.mark.parametrize(("model", "shape", "white"), [
    ("tiny/lenet", [3, 20, 20], 0.0), ("tiny/lenet", [3, 10, 20], 0.5), ("tiny/lenet", [3, 20, 10], 0.0),
    ("tiny/lenet", [3, 10, 10], 0.0), ("clip/ViT-B-16-SigLIP", [3, 20, 20], 0.5)])
def test_images_of_another_shape_are_cropped_or_squashed(model: str, shape: list[int], white: float,
                                                         folder: Path) -> None:
    """The center, in its own shape; all of it, squashed, where the model was trained on such images."""
    pytest.importorskip("open_clip")
    image = transforms_of(Config(model=model, model_input_shape=shape), halves()).evaluation(halves())
    assert image.shape == tuple(shape) and (image > 127).double().mean().item() == pytest.approx(white, abs=0.06)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_corrupt_image_is_named(workers: int, folder: Path) -> None:
    path = folder / "colors" / "train" / "green" / "004.png"
    path.write_bytes(path.read_bytes()[:60])
    made = data(folder, num_workers=workers)
    for order in (None, torch.arange(30)):
        with pytest.raises(DataError, match=r"sample 14 of split 'train' of folder/colors \(.*green/004.png\) cannot"):
            read(made, order=order)


def test_a_pipe_in_place_of_an_image_is_named(folder: Path) -> None:
    path = folder / "colors" / "train" / "green" / "004.png"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DataError, match=r"green/004.png\) cannot be read: .*not a regular file"):
        read(data(folder, num_workers=0))


def test_an_image_of_too_many_pixels_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = data(folder, num_workers=0)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)
    with pytest.raises(DataError, match="cannot be read: Image size .* exceeds limit"):
        read(made)


@pytest.mark.parametrize(("options", "message"), [
    ({"data_splits_map": {"train": "training"}}, r"no folder .*colors/training; allowed: test, train"),
    ({"dataset": "folder/shapes"}, "no folder"), ({"loss": "mse"}, "has classes, and loss mse needs numbers"),
    ({"model_input_shape": [2, 3, 3]}, r"cannot be converted to \[2, 3, 3\]"),
    ({"auto_augment": "rand-m9-q7"}, "cannot read 'rand-m9-q7'"),
    ({"dataset": "timm/torch/nothing"}, "cannot be opened: Unknown torchvision dataset nothing")])
def test_impossible_image_options_are_refused(options: dict[str, Any], message: str, folder: Path) -> None:
    with pytest.raises((DataError, ConfigError), match=message):
        data(folder, **options)


@pytest.mark.parametrize(("options", "message"), [
    ({"data_on_device": True, "auto_augment": "v0"}, "auto_augment is for images that are loaded one by one"),
    ({"dataset": "timm/tfds/cifar10", "aug_repeats": 2}, "is streamed, each image once"),
    ({"auto_augment": "rnd"}, "unknown policy"), ({"aug_repeats": 0}, "too small")])
def test_invalid_image_options_are_refused_without_reading(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config.from_dict({"dataset": "folder/x", **options})


def test_images_of_every_format_are_read_and_hidden_folders_ignored(folder: Path, capsys: pytest.CaptureFixture[str]
                                                                    ) -> None:
    train = folder / "colors" / "train"
    for ending in (".BMP", ".webp", ".tif", ".gif", ".jpeg"):
        image("red", 3).save(train / "red" / f"x{ending}")
    for ignored in (".ipynb_checkpoints", "__MACOSX", "red/.ipynb_checkpoints", "red/@eaDir"):
        (train / ignored).mkdir()
        image("red", 3).save(train / ignored / "000.png")
    (train / "red" / "._000.png").write_bytes(b"resource fork")
    (train / ".DS_Store").touch()
    assert len((made := data(folder)).splits["train"]) == 35 and made.classes == ("blue", "green", "red")
    assert read(made)[1].tolist() == [0] * 10 + [1] * 10 + [2] * 15
    assert capsys.readouterr().err == ""
    for name in ("notes.txt", "red/labels.csv", "red/raw/000.csv"):
        (train / name).parent.mkdir(exist_ok=True)
        (train / name).touch()
    assert len(data(folder).splits["train"]) == 35
    assert capsys.readouterr().err == (
        "warning: split 'train' of folder/colors has 3 files that are not images and are ignored (.txt: 1, .csv: 2); "
        "classes found: blue: 10, green: 10, red: 15\n")


@pytest.mark.parametrize(("path", "message"), [
    ("loose.png", r"has 1 image outside of class folders \(loose.png\)"),
    ("red/sub/a.png", r"has 1 image in subfolders of class folders \(red/sub: 1\)"),
    ("group/violet/a.png", r"has 1 image in subfolders of class folders \(group/violet: 1\)"),
    ("violet/notes.txt", r"has class folders without images \(violet\)")])
def test_unexpected_files_of_an_image_folder_are_named_with_the_classes(path: str, message: str, folder: Path) -> None:
    target = folder / "colors" / "train" / path
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(folder / "colors" / "train" / "red" / "000.png", target)
    with pytest.raises(DataError, match=rf"{message}; classes found: blue: 10, green: 10, red: 10; allowed: CLASS/IMA"):
        data(folder)


def test_split_that_lacks_a_class_names_it(folder: Path) -> None:
    shutil.rmtree(folder / "colors" / "test" / "green")
    with pytest.raises(DataError, match="split 'test' .* has other classes than the split train: it lacks green;"):
        data(folder)


def test_split_with_a_further_class_names_it(folder: Path) -> None:
    (folder / "colors" / "test" / "violet").mkdir()
    shutil.copy(folder / "colors" / "test" / "red" / "000.png", folder / "colors" / "test" / "violet")
    with pytest.raises(DataError, match="has other classes than the split train: it has also violet"):
        data(folder)


def test_further_evaluation_sets_and_class_maps(folder: Path) -> None:
    make_folder(folder / "others", {"test": 2})
    shutil.rmtree(folder / "others" / "test" / "green")
    options = {"eval_datasets": {"others": "folder/others", "same": "folder/colors@train[:5]"},
               "eval_class_maps": {"others": "0, 2"}}
    made = data(folder, **options)
    assert made.columns == {"others": (0, 2)}
    assert read(made, "others")[1].tolist() == [0, 0, 1, 1]
    assert len(made.splits["same"]) == 5
    with pytest.raises(DataError, match="has other classes than folder/colors.*eval_class_maps"):
        data(folder, eval_datasets={"others": "folder/others"})


def test_images_on_the_device_equal_those_read_one_by_one(folder: Path) -> None:
    lazy, kept = data(folder), data(folder, data_on_device=True)
    for split in lazy.splits:
        (x, y), (kept_x, kept_y) = read(lazy, split), read(kept, split)
        recipe = kept.splits[split].recipe
        seen, kept_seen = (values * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None]
                           for values, mean, std in ((x, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
                                                     (kept_x, recipe.mean, recipe.std)))
        torch.testing.assert_close(kept_seen, seen, atol=1e-5, rtol=1e-5)
        assert torch.equal(kept_y, y)


def test_hugging_face_from_local_files(folder: Path) -> None:
    pytest.importorskip("datasets")
    made = data(folder, dataset="timm/hfds/colors", data_splits_map={"train": "train[:20]", "test": "test"})
    assert made.classes == ("blue", "green", "red")
    assert [len(split) for split in made.splits.values()] == [20, 12]
    torch.testing.assert_close(read(made, "test")[0], read(data(folder), "test")[0])


def test_webdataset_from_tars(folder: Path) -> None:
    pytest.importorskip("webdataset")
    (folder / "tars").mkdir()
    with tarfile.open(folder / "tars" / "train-0.tar", "w") as tar:
        for index in range(9):
            name = list(COLOURS)[index % 3]
            buffer = io.BytesIO()
            image(name, index).save(buffer, "PNG")
            for suffix, content in (("png", buffer.getvalue()), ("cls", str(index % 3).encode())):
                info = tarfile.TarInfo(f"{index:03d}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    (folder / "tars" / "_info.json").write_text(json.dumps({"splits": {"train": {
        "name": "train", "num_samples": 9, "filenames": ["train-0.tar"], "shard_lengths": [9]}}}))
    made = data(folder, dataset="timm/wds/tars", data_splits_map={"train": "train"}, hflip=0.5)
    assert read(made)[1].tolist() == [0, 1, 2] * 3
    order = torch.arange(9)
    x, y = read(made, batch_size=2, order=order)
    assert sorted(y.tolist()) == [0] * 3 + [1] * 3 + [2] * 3
    assert y.tolist() != [0, 1, 2] * 3
    assert torch.equal(read(made, batch_size=2, order=order[4:])[0], x[4:])

    whole, options = read(made), {"dataset": "timm/wds/tars", "hflip": 0.5}
    cut = data(folder, data_splits_map={"train": "train[:6]", "val": "train[6:]", "both": "train[6:]+train[:6]"},
               **options)
    assert [len(split) for split in cut.splits.values()] == [6, 3, 9]
    places = splits.permutation(9, Config().seed_split)
    for name, of_whole in (("train", np.sort(places[:6])), ("val", np.sort(places[6:])),
                           ("both", [*np.sort(places[6:]), *np.sort(places[:6])])):
        for found, expected in zip(read(cut, name), whole, strict=True):
            assert torch.equal(found, expected[of_whole])
    order = torch.arange(6)
    x, _ = read(cut, batch_size=2, order=order)
    assert len(x) == 6
    assert torch.equal(read(cut, batch_size=2, order=order[4:])[0], x[4:])
    kept = data(folder, data_splits_map={"train": "train[:6]", "val": "train[6:]"}, data_on_device=True, **options)
    assert [split.y.tolist() for split in kept.splits.values()] == [  # type: ignore[union-attr]
        (np.sort(part) % 3).tolist() for part in (places[:6], places[6:])]


def test_tensorflow_data_sets(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tfds = pytest.importorskip("tensorflow_datasets")

    class Colors(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self) -> Any:
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({
                "image": tfds.features.Image(shape=(10, 12, 3)),
                "label": tfds.features.ClassLabel(names=list(COLOURS))}))

        def _split_generators(self, _manager: Any) -> Any:
            return {"train": self._generate_examples(20), "test": self._generate_examples(6)}

        def _generate_examples(self, number: int) -> Any:
            for index in range(number):
                name = list(COLOURS)[index % 3]
                yield index, {"image": np.asarray(image(name, index)), "label": name}
    Colors(data_dir=str(folder)).download_and_prepare()
    options = {"dataset": "timm/tfds/colors", "data_splits_map": {"train": "train[:80%]", "val": "train[80%:]",
                                                                  "test": "test"}, "data_download": False}
    made = data(folder, **options, crop_padding=1)
    assert made.classes == ("blue", "green", "red")
    assert [len(split) for split in made.splits.values()] == [16, 4, 6]
    assert read(made, "test")[0].shape == (6, 3, 10, 12)
    order = torch.arange(16)
    x, _ = read(made, batch_size=5, order=order)
    assert torch.equal(read(made, batch_size=5, order=order)[0], x)
    assert "test has 6 images" in fetch(Config.from_dict({"data_dir": str(folder), **options}))


def test_torchvision_reads_mnist(shared_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("torchvision")
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for source in shared_data.glob("t10k-*.gz"):
        for name in (source.stem, source.stem.replace("t10k", "train")):
            with gzip.open(source) as packed:
                (raw / name).write_bytes(packed.read())
    made = data(tmp_path, dataset="timm/torch/mnist", data_download=False, data_splits_map={
        "train": "test[:80%]", "test": "test[80%:]"})
    assert (made.input_shape, made.n_classes) == ((1, 28, 28), 10)
    assert [len(split) for split in made.splits.values()] == [8000, 2000]
    x, y = next(iter(made.splits["train"].batches(64, torch.arange(8000), 0)))
    assert (x.shape, y.shape, y.dtype) == ((64, 1, 28, 28), (64,), torch.int64)


def test_torchvision_data_set_without_a_list_of_its_classes(tmp_path: Path) -> None:
    pytest.importorskip("torchvision")
    for number, kingdom in enumerate(("Animalia", "Plantae")):
        for index in range(3):
            path = tmp_path / "2021_train" / f"{number:05d}_{kingdom}_a_b_c_d_e_f" / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image("red", index).save(path)
    made = data(tmp_path, dataset="timm/torch/inaturalist", data_download=False, data_splits_map={"train": "train"})
    assert (made.classes, len(made.splits["train"])) == (("0", "1"), 6)


def test_missing_data_set_that_must_not_be_downloaded_is_an_error(tmp_path: Path) -> None:
    pytest.importorskip("torchvision")
    with pytest.raises(DataError, match=r"split 'train' of timm/torch/mnist cannot be opened: .*not found.*prefetch"):
        data(tmp_path, dataset="timm/torch/mnist", data_download=False)

