"""Suggestions in messages about parameters: none that names something else, each as it can be copied."""
from __future__ import annotations

import pytest

from src.config import _OTHER_NAMES, FIELDS, check_parameters
from src.errors import ConfigError


def message_of(spec: dict[str, object]) -> str:
    with pytest.raises(ConfigError) as error:
        check_parameters(spec)
    return str(error.value)


@pytest.mark.parametrize(("spec", "suggestion"), [
    ({"dataset": "sklearn/digit"}, "did you mean 'sklearn/digits'?"),
    ({"dataset": "libsmv/a9a"}, "did you mean 'libsvm/a9a'?"),
    ({"dataset": "trian:make"}, "did you mean 'train:make'?"),
    ({"model": "torchvison/resnet18"}, "did you mean 'torchvision/resnet18'?"),
    ({"model": "tiny/lenett"}, "did you mean 'tiny/lenet'?"),
    ({"model": "Linear"}, "did you mean 'linear'?"),
    ({"lr_schedule": "cosin_3"}, "did you mean 'cosine_3'?"),
    ({"averaging": "emma_0.9"}, "did you mean 'ema_0.9'?"),
    ({"optim_alg": "SGD"}, "did you mean 'sgd'?"),
    ({"optim_alg": "lion"}, "did you mean 'timm/lion'?"),
    ({"batchsize": 3}, "did you mean 'batch_size'?"),
    ({"lr": 3}, "here it is base_lr"), ({"epochs": 3}, "here it is train_length"),
    ({"max_steps": 3}, "here it is train_length, with train_length_unit: step"),
    ({"image_size": 3}, "here it is model_input_shape"), ({"test_size": 3}, "here it is data_splits_map"),
    ({"n_epochs": 3}, "here it is train_length"), ({"betas": 3}, "here it is momentum"),
])
def test_suggestion_names_the_parameter_or_value_that_is_meant(spec: dict[str, object], suggestion: str) -> None:
    assert message_of(spec).endswith(f" {suggestion}")


@pytest.mark.parametrize("spec", [
    {"lr_schedule": "cosine_x"}, {"averaging": "ema_2"}, {"verbose": 3}, {"depth": 3}, {"dataset": "timm/cifar10"}])
def test_no_suggestion_where_nothing_similar_is_meant(spec: dict[str, object]) -> None:
    assert "did you mean" not in message_of(spec)


def test_names_of_other_programs_lead_to_fields() -> None:
    assert not _OTHER_NAMES.keys() & FIELDS.keys()
    assert all(any(field in meaning for field in FIELDS) for meaning in _OTHER_NAMES.values())
