"""Transformers of Hugging Face: text classifiers and causal language models, random or pretrained (safetensors)."""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from src.config import Config
from src.errors import ConfigError
from src.models import options
from src.pretrained import hub

# keys of config.json that identify the model or belong to the tokenizer and the labels
_NOT_OPTIONS = frozenset(("architectures", "model_type", "vocab_size", "id2label", "label2id", "transformers_version",
                          "dtype", "torch_dtype", "problem_type", "_name_or_path", "return_dict"))


class Transformer(nn.Module):
    """A transformer that returns its logits.

    x, a mapping of its arguments to [n, tokens] -> [n, output_dim]; of a language model [n, tokens, vocabulary].
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Mapping[str, Tensor]) -> Tensor:
        return self.model(**x).logits

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Return timm's patterns of parameter names: embeddings, and blocks; the head is the rest."""
        return {"stem": r".*(?:embed|\.wte\.|\.wpe\.)", "blocks": r".*?\.(?:layers?|h|blocks?)\.(\d+)\."}

    def head(self) -> nn.Module:
        """Return the layers on top of the base model."""
        base = self.model.base_model
        return nn.ModuleList(child for child in self.model.children() if child is not base)


def make(config: Config, output_dim: int) -> nn.Module:
    """Return a language model if the targets are next_token, else a model with output_dim outputs for each text.

    Weights are float32 and loaded from safetensors files only; code of the hub is never run. ConfigError or DataError
    if the model is unavailable, or its vocabulary is smaller than that of the tokenizer.
    """
    transformers = hub.import_library("transformers")
    changes = {} if config.targets == "next_token" else {"num_labels": output_dim}
    settings = hub.settings(config, **changes)
    chosen = options.from_config(config)
    options.check(config, [key for key in settings.to_dict() if key not in _NOT_OPTIONS])
    for key, value in chosen.items():
        setattr(settings, key, list(value) if isinstance(value, tuple) else value)
    settings.use_cache = False  # it only serves generation
    tokenizer = hub.tokenizer(config)
    settings.pad_token_id = hub.pad_token(tokenizer)  # by which a model finds the last token of a text
    if settings.vocab_size < len(tokenizer):
        raise ConfigError(f"{config.model} has {settings.vocab_size} tokens, and the tokenizer has {len(tokenizer)}",
                          where="tokenizer", hint="leave it out for the model's own")
    kind: Any = (transformers.AutoModelForCausalLM if config.targets == "next_token" else
                 transformers.AutoModelForSequenceClassification)
    with hub.report_errors(f"{config.model} cannot be created", "model"):
        if not config.model_pretrained:
            return Transformer(kind.from_config(settings, dtype=torch.float32, trust_remote_code=False))
        return Transformer(kind.from_pretrained(
            hub.folder(config, config.model.removeprefix("hf/"), weights=True), config=settings, dtype=torch.float32,
            use_safetensors=True, trust_remote_code=False,
            ignore_mismatched_sizes=config.targets != "next_token"))  # a head for other classes is initialized randomly


def fetch(config: Config) -> str:
    """Download the model's settings, and with model_pretrained its weights, into the cache. Errors as in make."""
    hub.settings(config)
    return f"{config.model}: {'weights' if config.model_pretrained else 'settings'} are in the cache"
