"""Models and tokenizers of Hugging Face execute no code that comes with them."""
from __future__ import annotations

import json
from pathlib import Path

import pytest

from src.config import Config
from src.errors import ConfigError
from src.pretrained import hub

pytest.importorskip("transformers")


@pytest.mark.parametrize("kind", ["settings", "tokenizer"])
def test_code_beside_a_model_is_not_executed(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "evil"
    folder.mkdir()
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'pwned')!r}, 'w')\n"
                                    "class Config: pass\nclass Tokenizer: pass\n")
    (folder / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": {
        "AutoConfig": "evil.Config", "AutoModel": "evil.Config", "AutoTokenizer": ["evil.Tokenizer", None]}}))
    (folder / "tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "Tokenizer", "auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}}))
    config = Config(model=f"hf/{folder}", data_dir=str(tmp_path))
    with pytest.raises(ConfigError):
        getattr(hub, kind)(config)
    assert not (tmp_path / "pwned").exists()
