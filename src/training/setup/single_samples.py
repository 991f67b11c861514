"""Check before the training that no step has a single sample, of which a batch norm may compute no variance."""
from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from src.checks.known_data import single_sample_error, smallest_micro_batch
from src.config import Config
from src.optimizers.layers import Freeze
from src.training.setup.facts import micro_batch_size
from src.training.setup.length import Length, limit_batches
from src.training.setup.seeds import preserve_generators

TORCH_MESSAGE = "more than 1 value per channel"  # a part of torch's error


def smallest_batch(config: Config, length: Length) -> int:
    """Return the smallest number of samples that the model is called with in training mode."""
    samples, batch_size = length.samples, length.batch_size
    batches = -(-samples // batch_size)
    size = smallest_micro_batch(samples, batch_size, micro_batch_size(config), length.total_steps >= batches)
    if config.recompute_batch_norm:  # by a pass of whole batches
        is_whole = not config.fast_dev_run and limit_batches(batches, config.limit_train_batches) >= batches
        size = min(size, smallest_micro_batch(samples, batch_size, batch_size, is_whole))
    return size


def check(model: nn.Module, freeze: Freeze | None, config: Config, length: Length, input_shape: tuple[int, ...],
          device: torch.device) -> None:
    """Raise ConfigError if a step has a single sample, and a batch norm of the model then sees one value per channel.

    The model is called with meta tensors, so that neither it nor a random generator changes. A model that does not
    accept them is not checked.
    """
    if not length.total_steps or smallest_batch(config, length) > 1 or not any(
            isinstance(module, _BatchNorm) for module in model.modules()):
        return
    was_training = model.training
    model.train()
    if freeze:
        freeze.set_eval_mode()
    state = {name: value.to("meta") for name, value in (*model.named_parameters(), *model.named_buffers())}
    try:
        with torch.no_grad(), preserve_generators(device):
            torch.func.functional_call(model, state, (torch.zeros(1, *input_shape, device="meta"),))
    except Exception as error:
        if TORCH_MESSAGE in str(error):
            raise single_sample_error(length.samples) from None
    finally:
        model.train(was_training)
