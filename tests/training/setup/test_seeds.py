from __future__ import annotations

from pathlib import Path

import torch

from src.config import Config
from src.io import yaml_io
from src.training.setup.seeds import derive_seed, fill_seeds, seed_generators


def test_null_seeds_are_drawn_and_others_kept() -> None:
    config, drawn = fill_seeds(Config(seed_model=5), None)
    assert drawn == ["seed_training"]
    assert config.seed_model == 5
    assert 0 <= config.seed_training < 2**31
    assert fill_seeds(Config(), None)[0].seed_model != fill_seeds(Config(), None)[0].seed_model


def test_a_later_attempt_uses_the_seeds_of_the_first(tmp_path: Path) -> None:
    first, _ = fill_seeds(Config(seed_model=5), str(tmp_path))
    (tmp_path / "config.yaml").write_text(yaml_io.dump_flat({**first.to_dict(), "facts": {}}))
    assert fill_seeds(Config(seed_model=5), str(tmp_path)) == (first, ["seed_training"])
    assert fill_seeds(Config(seed_model=6), str(tmp_path))[0].seed_model == 6  # what is given goes before


def test_derived_seeds_are_stable_and_do_not_collide() -> None:
    assert derive_seed("order", 0, 0) == 8073061470549175911  # a change would change every run
    seeds = {derive_seed(use, seed, number) for use in ("order", "noise") for seed in range(30) for number in range(30)}
    assert len(seeds) == 2 * 30 * 30
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_seed_generators_equals_torch_manual_seed() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    seed_generators(3, torch.device("cpu"))
    assert torch.equal(torch.rand(4), expected)
