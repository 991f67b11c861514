from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from src.config import Config
from src.datasets.factory import make_data
from src.datasets.texts import Texts
from src.errors import ConfigError, DataError
from src.models.factory import fetch, make_model, trained_head
from src.optimizers.layers import Freeze, layer_scales
from src.training.steps.losses import make_loss
from tests.texts import WORDS, make_folder, reviews, write_csv

pytest.importorskip("transformers")
pytest.importorskip("datasets")


@pytest.fixture(params=["bert", "gpt2", "next_token"])
def options(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """A classifier that looks at both sides, one that looks back, and a language model."""
    folder = make_folder(tmp_path / "model", "bert" if request.param == "bert" else "gpt2")
    write_csv(tmp_path / "reviews.csv", reviews(20))
    return {"dataset": "hf/reviews.csv", "model": f"hf/{folder}", "data_dir": str(tmp_path),
            "data_splits_map": {"train": "train"},
            **({"targets": "next_token"} if request.param == "next_token" else {})}


def texts(config: Config) -> Texts:
    made = make_data(config).splits["train"]
    assert isinstance(made, Texts)
    return made


def test_padding_changes_no_output_and_no_loss(options: dict[str, Any]) -> None:
    config = Config.from_dict(options)
    split, model = texts(config), make_model(config, (), 2).eval()
    loss = make_loss(config.loss, config.targets)
    (x, y), = split.batches(20, None, 0)
    counts, losses = [], []
    with torch.no_grad():
        together = model(x)
        for (alone, label), padded in zip(split.batches(1, None, 0), together, strict=True):
            output = model(alone)
            length = alone["input_ids"].shape[1]
            assert torch.allclose(output[0], padded[:length] if output.dim() == 3 else padded, atol=1e-5)
            counts.append(int((label != -100).sum()))
            losses.append(loss(output, label) * counts[-1])
        assert torch.allclose(loss(together, y), sum(losses) / sum(counts), atol=1e-5)  # type: ignore[arg-type]
    assert together.shape[-1] == (len(WORDS) if config.targets else 2)


def test_weights_come_from_safetensors(options: dict[str, Any], tmp_path: Path) -> None:
    config = Config.from_dict(options)
    first = make_model(config, (), 2)
    pretrained = Config.from_dict({**options, "model_pretrained": True})
    with pytest.raises(ConfigError, match="model: .* cannot be created: .*no file named model.safetensors"):
        make_model(pretrained, (), 2)
    first.model.half().save_pretrained(tmp_path / "model")  # type: ignore[union-attr, operator]
    torch.manual_seed(1)
    again = make_model(pretrained, (), 2)
    for name, weight in again.state_dict().items():
        assert weight.dtype == torch.float32  # as all training is, whatever the file has
        assert torch.equal(weight, first.state_dict()[name].float())
    if not config.targets:  # a head for other classes is a new one
        assert make_model(pretrained, (), 5)(next(texts(config).batches(3, None, 0))[0]).shape == (3, 5)
    assert fetch(pretrained).endswith("weights are in the cache")


def test_a_pickle_is_not_loaded(options: dict[str, Any], tmp_path: Path) -> None:
    torch.save(make_model(Config.from_dict(options), (), 2).model.state_dict(),  # type: ignore[union-attr, operator]
               tmp_path / "model" / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="model.safetensors"):
        make_model(Config.from_dict({**options, "model_pretrained": True}), (), 2)


def test_heads_seeds_and_bad_folders(options: dict[str, Any], tmp_path: Path) -> None:
    config = Config.from_dict(options)
    made = []
    for _ in range(2):
        torch.manual_seed(3)
        made.append(make_model(config, (), 2).state_dict())
    assert all(torch.equal(weight, made[1][name]) for name, weight in made[0].items())
    if not config.targets:
        zero = make_model(Config.from_dict({**options, "model_head_init": "zero"}), (), 2)
        assert not zero(next(texts(config).batches(3, None, 0))[0]).any()
    (tmp_path / "model/config.json").write_text('{"model_type": "of_nobody"}')
    with pytest.raises(ConfigError, match="has no config.json of a known model"):
        make_model(config, (), 2)
    with pytest.raises(DataError, match="folder .*nowhere not found"):
        make_model(Config.from_dict({**options, "model": "hf/./nowhere"}), (), 2)


def test_layers_and_the_head(options: dict[str, Any]) -> None:
    made = make_model(Config.from_dict(options), (), 2)
    scales = layer_scales(made, 0.5, trained_head(made, "it"))
    found = {name: scales[parameter] for name, parameter in made.named_parameters()}
    tied = bool(options.get("targets"))
    for name, scale in found.items():
        block = re.search(r"\.(?:layer|h)\.(\d)\.", name)
        expected = 0.5 ** (2 - int(block[1])) if block else 0.125 if re.search("embed|wte|wpe", name) else 1
        assert scale == (1 if tied and "wte" in name else expected), name
    if not tied:
        freeze = Freeze(made, trained_head(made, "it"), None)
        freeze.apply(1)
        learning = [name for name, parameter in made.named_parameters() if parameter.requires_grad]
        assert learning == [name for name in found if name.startswith(("model.classifier", "model.score"))]


def test_a_tokenizer_with_more_tokens_than_the_model(options: dict[str, Any], tmp_path: Path) -> None:
    import transformers

    settings = transformers.AutoConfig.from_pretrained(tmp_path / "model")
    settings.vocab_size = 9
    settings.save_pretrained(tmp_path / "model")
    with pytest.raises(ConfigError, match="has 9 tokens, and the tokenizer has 14"):
        make_model(Config.from_dict(options), (), 2)
