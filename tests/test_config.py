from __future__ import annotations

from pathlib import Path

import pytest

from src.config import Config
from src.errors import ConfigError
from src.io import yaml_io

GOLDEN = Path(__file__).parent / "golden" / "config_defaults.yaml"
REFRESH = ("python -c 'from src.config import Config; from src.io import yaml_io; "
           "print(yaml_io.dump_flat(Config().to_dict()), end=\"\")' > tests/golden/config_defaults.yaml")


def test_no_default_ever_changes() -> None:
    """A run that leaves a parameter out must mean the same next year."""
    golden = yaml_io.load_flat(GOLDEN.read_text("utf-8"), str(GOLDEN))
    now = Config().to_dict()
    changed = {name: (value, now.get(name, "gone")) for name, value in golden.items()
               if name not in now or (type(now[name]), now[name]) != (type(value), value)}
    assert not changed, (f"defaults changed (before, now): {changed}. A released default keeps its value: give the new "
                         "behavior a new value or a new parameter, whose default is the old behavior")
    new = [name for name in now if name not in golden]
    assert not new, f"new parameters {new}: if their defaults keep the old behavior, refresh the file:\n{REFRESH}"


def test_a_config_survives_its_file() -> None:
    config = Config(base_lr=1e-5, optim_alg="adam", momentum="0.9,0.99", wandb_tags=["a", "b: c"],
                    model_input_shape=[1, 28, 28], data_splits_map={"train": "train[:90%]"}, averaging=None,
                    max_allowed_loss=float("inf"))
    assert Config.from_dict(yaml_io.load_flat(yaml_io.dump_flat(config.to_dict()))) == config
    assert config != Config() and config != config.to_dict()
    assert repr(Config(base_lr=0.2, device="cpu")) == "Config(device='cpu', base_lr=0.2)"


@pytest.mark.parametrize(("spec", "message"), [
    ({"seed_model": 1e30}, "seed_model: 1e\\+30 is too large"), ({"batch_size": 2**63}, "batch_size: .* too large"),
    ({"train_length": 0, "data_splits_map": {"train": "train"}}, "no split to evaluate"),
    ({"train_length": 0, "data_splits_map": {}}, "no split to evaluate")])
def test_invalid_config_is_rejected(spec: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config.from_dict(spec)


def test_mistakes_in_several_parameters_are_named_together() -> None:
    with pytest.raises(ConfigError) as caught:
        Config.from_dict({"base_lr": 0.1, "model": "tiny/lenett", "base_lrr": 1, "train_length": "long"}, "a.yaml")
    assert caught.value.where == "a.yaml, model"
    assert caught.value.hint == ("did you mean 'tiny/lenet'? also wrong: unknown parameter 'base_lrr', did you mean "
                                 "'base_lr'? and train_length: 'long' has the wrong type")
    with pytest.raises(ConfigError, match="also wrong: .*'x3'.* and 1 more$"):
        Config.from_dict({f"x{number}": 1 for number in range(5)})
    with pytest.raises(ConfigError) as caught:
        Config.from_dict({"base_lrr": 1})
    assert "also wrong" not in str(caught.value)


def test_evaluation_alone_of_train() -> None:
    Config.from_dict({"train_length": 0, "data_splits_map": {"train": "train"}, "eval_at_end": ["train"]})
