from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from src.config import Config
from src.training.output import checkpoint
from tests.training.toys import make_toy

JUDGEMENT = {"weights": "last", "epoch": 3, "metric": "val/last/loss", "value": 0.5, "goal": "minimize"}


def test_checkpoint_is_loaded_without_executing_code(tmp_path: Path) -> None:
    made = make_toy(averaging="poly")
    path = tmp_path / "checkpoint-00003.pt"
    checkpoint.save(str(path), made.config, {"epoch": 3, "step": 12}, made.model, made.average.module(),
                    JUDGEMENT)
    content = torch.load(path, weights_only=True)
    assert (content["epoch"], content["step"], content["judgement"]) == (3, 12, JUDGEMENT)
    assert Config.from_dict(content["config"]) == made.config
    torch.testing.assert_close(checkpoint.load(str(path))["model"], made.model.state_dict())
    torch.testing.assert_close(content["averaged"], made.average.module().state_dict())
    assert os.listdir(tmp_path) == [path.name]


def test_failed_save_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_toy()
    path = tmp_path / "best_checkpoint.pt"
    checkpoint.save(str(path), made.config, {"epoch": 1, "step": 4}, made.model, None, JUDGEMENT)

    def half_written(_content: object, file: object) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", half_written)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(str(path), made.config, {"epoch": 2, "step": 8}, made.model, None, JUDGEMENT)
    assert checkpoint.load(str(path))["epoch"] == 1
    assert os.listdir(tmp_path) == [path.name]
