"""A small tokenizer, small transformers and texts, made here: nothing is fetched."""
from __future__ import annotations

import csv
import random
from pathlib import Path
from typing import Any

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "fine", "bad", "poor", "a", "film", "so", "very", "it", "was")


def make_folder(folder: Path, kind: str = "bert", end: str | None = "[SEP]") -> str:
    """A folder with the config.json of a tiny model and a tokenizer of words."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if kind == "bert":
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", eos_token=end,
        **({"pad_token": "[PAD]"} if kind == "bert" else {}), model_input_names=[
            "input_ids", *(["token_type_ids"] if kind == "bert" else []), "attention_mask"])
    made.save_pretrained(folder)
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    if kind == "bert":
        transformers.BertConfig(vocab_size=len(WORDS), intermediate_size=32, max_position_embeddings=24,
                                **size).save_pretrained(folder)
    else:
        transformers.GPT2Config(vocab_size=len(WORDS), n_embd=16, n_layer=2, n_head=2,
                                n_positions=24).save_pretrained(folder)
    return str(folder)


def reviews(n: int, seed: int = 0) -> list[dict[str, Any]]:
    """Texts of 1 to 15 words, whose label is by their last word but for the filling."""
    draw = random.Random(seed)
    found = []
    for _ in range(n):
        label = draw.choice(("neg", "pos"))
        filling = draw.choices(WORDS[8:], k=draw.randrange(15))
        found.append({"text": " ".join([*filling, draw.choice(WORDS[4:6] if label == "pos" else WORDS[6:8])]),
                      "label": label})
    return found


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
