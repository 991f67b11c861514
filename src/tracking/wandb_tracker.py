"""Weights & Biases. Never asks for a key: without one a run goes on untracked. WANDB_MODE=offline needs none."""
from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from src.config import Config


class WandbTracker:
    """A W&B run with the config and facts of ours, and a point per epoch over the optimizer's steps."""

    def start(self, config: Config, facts: Mapping[str, Any], folder: str | None) -> None:
        """Raises RuntimeError if there is no key."""
        import wandb

        mode = wandb.setup().settings.mode  # of WANDB_MODE, or a file that `wandb offline` wrote
        if mode not in ("offline", "dryrun", "disabled") and not wandb.login(prompt=False):
            raise RuntimeError("no API key: set WANDB_API_KEY or run `wandb login` once, or set WANDB_MODE=offline")
        self._run = wandb.init(
            entity=config.wandb_entity, project=config.wandb_project_name, tags=config.wandb_tags,
            name=config.wandb_run_name or (os.path.basename(os.path.abspath(folder)) if folder else None),
            dir=folder, config={**config.to_dict(), "facts": dict(facts)})

    def log(self, row: Mapping[str, float], step: int) -> None:
        """Send the cells of an epoch."""
        self._run.log(dict(row), step=step)

    def finish(self, end: str | None) -> None:
        """Close the W&B run; one that was broken off is shown as failed."""
        self._run.summary["end"] = end
        self._run.finish(exit_code=0 if end else 1)
