"""Transformers of Hugging Face: classifiers of texts and causal language models, random or pretrained (safetensors)."""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from src import hub
from src.config import Config
from src.errors import ConfigError
from src.models import options

# of a config.json: what says which model it is, and how texts become numbers
_NOT_OPTIONS = frozenset(("architectures", "model_type", "vocab_size", "id2label", "label2id", "transformers_version",
                          "dtype", "torch_dtype", "problem_type", "_name_or_path", "return_dict"))


class Transformer(nn.Module):
    """A transformer that gives its logits: x, a mapping of its arguments to [n, tokens] -> [n, output_dim], or
    [n, tokens, vocabulary] of a language model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Mapping[str, Tensor]) -> Tensor:
        return self.model(**x).logits

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """How timm tells the layers apart, by the names of parameters: embeddings first, then the blocks, then the
        rest."""
        return {"stem": r".*(?:embed|\.wte\.|\.wpe\.)", "blocks": r".*?\.(?:layers?|h|blocks?)\.(\d+)\."}

    def head(self) -> nn.Module:
        """What is put on top of the transformer that all its tasks share: one layer or several."""
        base = self.model.base_model
        return nn.ModuleList(child for child in self.model.children() if child is not base)


def make(config: Config, output_dim: int) -> nn.Module:
    """The model for the targets of the config: next_token, or else one vector [output_dim] for each text.

    Weights are float32, of safetensors files alone, and no code comes with them. ConfigError or DataError if the model
    cannot be had, or has not room for all tokens.
    """
    transformers = hub.import_library("transformers")
    changes = {} if config.targets == "next_token" else {"num_labels": output_dim}
    settings = hub.settings(config, **changes)
    chosen = options.from_config(config)
    options.check(config, [key for key in settings.to_dict() if key not in _NOT_OPTIONS])
    for key, value in chosen.items():
        setattr(settings, key, list(value) if isinstance(value, tuple) else value)
    settings.use_cache = False  # of no use but to generate
    tokenizer = hub.tokenizer(config)
    settings.pad_token_id = hub.pad_token(tokenizer)  # where a model looks for the last token of a text
    if settings.vocab_size < len(tokenizer):
        raise ConfigError(f"{config.model} knows {settings.vocab_size} tokens, and the tokenizer has {len(tokenizer)}",
                          where="tokenizer", hint="leave it out for the model's own")
    kind: Any = (transformers.AutoModelForCausalLM if config.targets == "next_token" else
                 transformers.AutoModelForSequenceClassification)
    with hub.report_errors(f"{config.model} cannot be made", "model"):
        if not config.model_pretrained:
            return Transformer(kind.from_config(settings, dtype=torch.float32, trust_remote_code=False))
        return Transformer(kind.from_pretrained(
            hub.folder(config, config.model.removeprefix("hf/"), weights=True), config=settings, dtype=torch.float32,
            use_safetensors=True, trust_remote_code=False,
            ignore_mismatched_sizes=config.targets != "next_token"))  # a head for other classes begins anew


def fetch(config: Config) -> str:
    """Make the model's settings, and its weights if they are asked for, present in the cache. Errors as in make."""
    hub.settings(config)
    return f"{config.model}: {'weights' if config.model_pretrained else 'settings'} are in the cache"
