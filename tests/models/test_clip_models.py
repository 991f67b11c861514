from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import experiments
import train
from src.checks.registered_names import TEMPLATES
from src.config import Config, check_parameters
from src.errors import ConfigError, DataError
from src.models.clip_models import ImageClassifier
from src.models.factory import fetch, make_model
from src.optimizers.layers import layer_scales
from src.training.components import build
from src.training.setup import facts
from tests.datasets.test_images import make_folder
from tests.models.test_timm_models import stripes
from tests.training.toys import make_toy
from tests.training.toys import train_toy as run

open_clip = pytest.importorskip("open_clip")

SETTINGS = {"embed_dim": 12,
            "vision_cfg": {"image_size": 8, "layers": 2, "width": 32, "head_width": 16, "patch_size": 4},
            "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}}
NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
DIGITS = {"dataset": "sklearn/digits", "data_splits_map": {"train": "train[:80%]", "val": "train[80%:]"},
          "model": "clip/small@mine", "model_head_init": "zero_shot", "class_names": NAMES}


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A small model that open_clip knows as small, with weights `mine`; the whole of it."""
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "small", SETTINGS)
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "small", {
        "mine": open_clip.pretrained._pcfg(hf_hub="me/small/weights.pt")})
    torch.manual_seed(5)
    model = open_clip.create_model("small")
    for block in model.transformer.resblocks:  # at first all texts are nearly alike
        nn.init.normal_(block.attn.in_proj_weight)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    monkeypatch.setattr(open_clip, "download_pretrained", lambda _: str(tmp_path / "weights.pt"))
    return model.eval()


def make(name: str = "clip/small", shape: tuple[int, ...] = (3, 8, 8), output_dim: int = 3, **other: Any
         ) -> ImageClassifier:
    made = make_model(Config.from_dict({"model": name, **other}), shape, output_dim)
    assert isinstance(made, ImageClassifier)
    return made


@torch.no_grad()
def by_hand(model: Any, images: Tensor, names: list[str], templates: tuple[str, ...]) -> Tensor:
    """Scaled cosines of images and classes; a class is the normalized mean of its texts' normalized embeddings."""
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    rows = []
    for name in names:
        vectors = [model.encode_text(tokenizer([template.replace("{}", name)]))[0] for template in templates]
        mean = torch.stack([vector / vector.square().sum().sqrt() for vector in vectors]).mean(0)
        rows.append(mean / mean.square().sum().sqrt())
    features = model.encode_image(images)
    cosines = features @ torch.stack(rows).T / features.square().sum(1, keepdim=True).sqrt()
    return cosines * model.logit_scale.exp()


@pytest.mark.parametrize("templates", [TEMPLATES, ("{}",)])
def test_a_zero_shot_head_is_what_clip_says_of_images_and_texts(small: Any, templates: tuple[str, ...]) -> None:
    made = make("clip/small@mine", output_dim=10, model_head_init="zero_shot", class_names=NAMES,
                zero_shot_templates=list(templates)).eval()
    x = torch.rand(6, 3, 8, 8)
    expected = by_hand(small, x, NAMES, templates)
    assert torch.allclose(made(x), expected, atol=1e-4)
    assert expected.std(1).min() > 0.01  # classes differ


def test_zero_shot_evaluation_and_what_follows(small: Any) -> None:
    """train_length: 0 evaluates the head as it is; training then begins with it."""
    options = {**DIGITS, "seed_model": 0, "seed_training": 0, "batch_size": 50, "optim_alg": "adam", "base_lr": 3e-3}
    (stats, model), = train.experiment_generator(Config.from_dict({**options, "train_length": 0}))
    assert facts.pretrained_weights(Config.from_dict({**options, "model": "clip/small", "model_pretrained": True})) == {
        "weights": "mine"}
    split = build(Config.from_dict(options), None).data.splits["val"]
    output = by_hand(small, split.x.expand(-1, 3, -1, -1), NAMES, TEMPLATES)  # type: ignore[union-attr]
    right = (output.argmax(1) == split.y).double().mean().item()  # type: ignore[union-attr]
    assert stats["epoch"].tolist() == [0] and stats["val/last/accuracy"].tolist() == [pytest.approx(right)]
    loss = functional.cross_entropy(output, split.y).item()  # type: ignore[union-attr]
    assert stats["val/last/loss"].tolist() == [pytest.approx(loss, rel=1e-4)]
    assert not hasattr(model, "transformer")  # the texts' part is gone
    trained, _ = list(train.experiment_generator(Config.from_dict({**options, "train_length": 2})))[-1]
    assert trained["val/last/loss"].iloc[-1] < 0.8 * loss


def test_a_saved_model_needs_no_published_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = Config.from_dict({**DIGITS, "train_length": 1, "save_freq": 1, "output_dir": str(tmp_path / "run")})
    (_, model), = train.experiment_generator(config)
    monkeypatch.setattr(open_clip, "download_pretrained", lambda _: pytest.fail("the published weights were asked for"))
    again, _ = train.load_model(str(tmp_path / "run"))
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(model(x), again(x))


def test_names_of_the_data_and_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("a cat\n\nhot dog\n")
    told = {"model": "clip/small@mine", "model_head_init": "zero_shot"}
    of_data = make_model(Config.from_dict(told), (3, 8, 8), 2, ("a_cat", "hot_dog"))
    for given in (str(tmp_path / "names.txt"), ["a cat", "hot dog"]):
        config = Config.from_dict({**told, "class_names": given})
        assert torch.equal(make_model(config, (3, 8, 8), 2, (0, 1)).head.weight, of_data.head.weight)  # type: ignore[union-attr]
    for options, classes, message in (
            ({}, (0, 1), "class_names: the classes of libsvm/a9a have no names; allowed: a list of them"),
            ({}, ("0", "1"), "have no names"), ({"class_names": ["cat"]}, (0, 1), "1 names for 2 classes"),
            ({"class_names": "nowhere.txt"}, (0, 1), "the file cannot be read")):
        with pytest.raises(ConfigError, match=message):
            make_model(Config.from_dict({**told, **options}), (3, 8, 8), 2, classes)


def test_names_of_folders(small: Any, tmp_path: Path) -> None:
    """Images of a folder come in the model's own size and normalization, and their classes with names."""
    make_folder(tmp_path / "colors", {"test": 4})
    config = Config.from_dict({"model": "clip/small@mine", "model_head_init": "zero_shot", "train_length": 0,
                               "dataset": "folder/colors", "data_dir": str(tmp_path), "num_workers": 0,
                               "data_splits_map": {"test": "test"}, "zero_shot_templates": ["a {} thing"]})
    (stats, _), = train.experiment_generator(config)
    x, y = next(build(config, None).data.splits["test"].batches(12, None, 0))  # type: ignore[union-attr]
    assert x.shape == (12, 3, 8, 8)
    assert x[0, 0, -1, -1].item() == pytest.approx((0 - 0.48145466) / 0.26862954)  # blue without red
    output = by_hand(small, x, ["blue", "green", "red"], ("a {} thing",))
    assert stats["test/last/loss"].tolist() == [pytest.approx(functional.cross_entropy(output, y).item(), rel=1e-4)]


def test_a_short_run_learns() -> None:
    torch.manual_seed(0)
    model = make(shape=(1, 32, 32), model_kwargs={"patch_size": 8})
    rows, end = run(make_toy({"train": stripes(96, 0), "test": stripes(60, 1)}, model, optim_alg="adamw", base_lr=3e-3,
                          train_length=4))
    assert end == "completed"
    assert rows[-1]["test/last/accuracy"] > 0.8  # 0.33 by chance


def test_pretrained_weights_by_tag_or_the_first(small: Any) -> None:
    x = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        features = small.encode_image(x)
        for name, options in (("clip/small@mine", {}), ("clip/small", {"model_pretrained": True})):
            made = make(name, **options).eval()
            assert torch.allclose(made(x), made.head(features), atol=1e-5)
    assert not torch.allclose(make().visual.proj, small.visual.proj)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "shape"), [("clip/small", (3, 8, 8)), ("clip/small@mine", (3, 16, 16)),
                                             ("clip/small@mine", (3, 12, 8)), ("clip/small", (1, 8, 8))])
def test_sizes_channels_and_heads(name: str, shape: tuple[int, ...]) -> None:
    made = make(name, shape, 4, model_head_init="zero")
    out = made(torch.rand(2, *shape))
    assert out.shape == (2, 4) and not out.any()
    assert all(module.training for module in made.modules())


def test_grey_images_are_what_three_equal_channels_are() -> None:
    torch.manual_seed(0)
    colors = make("clip/small@mine").eval()
    torch.manual_seed(0)
    grey = make("clip/small@mine", (1, 8, 8)).eval()
    x = torch.rand(2, 1, 8, 8)
    assert torch.allclose(grey(x), colors(x.expand(-1, 3, -1, -1)), atol=1e-5)


def test_seeds_and_silence(caplog: pytest.LogCaptureFixture) -> None:
    def drawn() -> list[Tensor]:
        torch.manual_seed(3)
        return list(make().state_dict().values())
    with caplog.at_level(logging.DEBUG):
        assert all(map(torch.equal, drawn(), drawn()))
    assert not caplog.records  # random weights are what was asked for


def test_towers_of_other_kinds() -> None:
    resnet = make("clip/RN50", (3, 32, 32), model_kwargs={"layers": [1, 1, 1, 1], "width": 8})
    assert resnet(torch.rand(2, 3, 32, 32)).shape == (2, 3)
    with pytest.raises(ConfigError, match="grad_checkpointing: open_clip cannot recompute activations of clip/RN50"):
        make("clip/RN50", (3, 32, 32), model_kwargs={"layers": [1, 1, 1, 1], "width": 8}, grad_checkpointing=True)
    of_timm = make("clip/convnext_tiny", (3, 32, 32), model_kwargs={"timm_model_name": "test_vit", "timm_pool": ""})
    assert of_timm(torch.rand(2, 3, 32, 32)).shape == (2, 3)


def test_layers_are_blocks() -> None:
    made = make()
    scales = layer_scales(made, 0.5, made.head)
    found = {name: scales[parameter] for name, parameter in made.named_parameters()}
    assert {found[f"visual.{name}"] for name in ("conv1.weight", "class_embedding", "positional_embedding")} == {1 / 8}
    assert found["visual.transformer.resblocks.0.ln_1.bias"] == 1 / 4
    assert found["visual.transformer.resblocks.1.ln_1.bias"] == 1 / 2
    assert found["visual.proj"] == found["head.weight"] == 1


def test_gradient_checkpointing() -> None:
    torch.manual_seed(0)
    usual = make()
    torch.manual_seed(0)
    other = make(grad_checkpointing=True)
    x = torch.rand(4, 3, 8, 8)
    for model in (usual, other):
        model(x).square().sum().backward()
    assert other.visual.transformer.grad_checkpointing  # type: ignore[union-attr]
    assert all(torch.equal(mine.grad, theirs.grad) for mine, theirs in zip(  # type: ignore[arg-type]
        usual.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize(("spec", "message"), [
    ({"model": "clip/ViT-B-23"}, "model: open_clip has no model 'ViT-B-23'; did you mean 'clip/ViT-B-32'"),
    ({"model": "clip/ViT-B-32@openia"}, "model: open_clip has no weights 'openia' of ViT-B-32; allowed: openai, .*"
                                        "did you mean 'clip/ViT-B-32@openai'"),
    ({"model": "clip/ViT-S-32", "model_pretrained": True}, "model_pretrained: open_clip has no pretrained weights of"),
    ({"model": "clip/small", "model_kwargs": {"pach_size": 2}}, "has no option 'pach_size'; .*did you mean 'patch_"),
])
def test_unknown_open_clip_names_are_refused(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_model(Config.from_dict(spec), (3, 8, 8), 3)


@pytest.mark.parametrize(("shape", "message"), [((10,), "needs images"), ((3, 2, 2), r"cannot take images of 2 × 2.*"
                                                r"its default size is model_input_shape: \[3, 8, 8\]")])
def test_images_that_do_not_fit(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(shape=shape)


@pytest.mark.parametrize(("spec", "message"), [
    ({"model": "timm/resnet18"}, "timm/resnet18 cannot be initialized from class names; allowed: null"),
    ({"model": "clip/ViT-B-32", "loss": "mse"}, "zero_shot needs classification, and this is regression"),
    ({"model": "clip/ViT-B-32", "task": "tests.training.tasks:Autoencoder"}, "zero_shot needs classification"),
    ({"model": "clip/ViT-B-32", "zero_shot_templates": ["a photo"]}, "'a photo' has no placeholder for the class name"),
    ({"model": "clip/ViT-B-32", "zero_shot_templates": ["{} or {}"]}, "'{} or {}' has no placeholder .*; allowed"),
    ({"model": "clip/ViT-B-32", "zero_shot_templates": ["{} {0.x}"]}, "no placeholder for the class name"),
    ({"model": "clip/ViT-B-32", "zero_shot_templates": []}, "the list is empty"),
])
def test_before_submission(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_parameters({"model_head_init": "zero_shot", **spec})


def test_weights_are_downloaded_once_or_reported_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    fetched = []

    def download(settings: dict[str, Any]) -> str:
        if constants.is_offline_mode() and not fetched:
            raise FileNotFoundError("not in the cache")
        if not constants.is_offline_mode():
            fetched.append(settings["hf_hub"])
        return str(tmp_path / "weights.pt")
    monkeypatch.setattr(open_clip, "download_pretrained", download)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("src.io.download.unreachable_reason", lambda url: "the hub cannot be reached")
    config = Config(model="clip/small@mine", model_head_init="zero_shot")
    with pytest.raises(DataError, match="the pretrained clip/small@mine is not here, and the hub cannot be reached; "
                                        ".*experiments.py prefetch"):
        make(config.model)
    monkeypatch.setattr("src.io.download.unreachable_reason", lambda url: None)
    assert [fetch(config) for _ in range(2)] == ["clip/small@mine: weights mine are in the cache"] * 2
    assert fetched == ["me/small/weights.pt"] and fetch(Config(model="clip/small")).endswith("no weights to fetch")


def test_prefetch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each model once, whatever else varies; that runs must not download does not keep prefetch from it."""
    (tmp_path / "job.yaml").write_text(json.dumps({"job_details": {"name": "t"}, "parameters": {
        "dataset": "sklearn/digits", "data_splits_map": {"train": "train"}, "data_download": False, "base_lr": [1, 2],
        "LIST": [{"model": "clip/small@mine"}, {"model": "torchvision/resnet18", "model_pretrained": True},
                 {"model": "linear"}, {"model": "timm/test_resnet"}]}}))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("src.io.download.unreachable_reason", lambda url: None)
    fetched: list[str] = []

    def load(url: str, **_: Any) -> None:
        fetched.append(url)
        (tmp_path / "hub/checkpoints" / url.rpartition("/")[2]).write_bytes(b"x")
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", load)
    assert experiments.main(["prefetch", str(tmp_path / "job.yaml")]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "clip/small@mine: weights mine are in the cache", "torchvision/resnet18: pretrained weights are in the cache",
        "timm/test_resnet: no weights to fetch"]
    assert len(fetched) == 1
    for family, name in (("timm", "test_vot"), ("torchvision", "resnt18")):
        with pytest.raises(ConfigError, match="did you mean"):
            fetch(Config(model=f"{family}/{name}"))


def test_texts_that_need_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Some models read texts by a transformer of the hub, whose settings even random weights need."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("src.io.download.unreachable_reason", lambda url: "the hub cannot be reached")
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "reader", {
        **SETTINGS, "text_cfg": {"hf_model_name": "nobody/has-this", "hf_tokenizer_name": "nobody/has-this"}})
    with pytest.raises(DataError, match="'nobody/has-this', which clip/reader needs, is not here, and the hub"):
        make("clip/reader")


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(ConfigError, match="pip install open-clip-torch"):
        make()
