"""Comet: online with COMET_API_KEY, else an archive in RUN/comet that `comet upload` sends later"""
from __future__ import annotations

import glob
import os
from collections.abc import Mapping
from typing import Any

from src import run_folder
from src.config import Config
from src.io import yaml_io
from src.tracking.tracker import Tracker, TrackerUnavailable


class CometTracker(Tracker):
    """An experiment of Comet with the config, facts as `facts/NAME`, TAGS as its tags, and a point per epoch over the
    optimizer's steps.

    Online, a run that goes on is the same experiment; offline each start has an archive, which are one when they are
    sent, by their key.
    """

    def start(self, config: Config, facts: Mapping[str, Any], folder: str | None) -> None:
        """Begin, or go on."""
        if folder is None:
            raise TrackerUnavailable("there is no run folder")
        for name, value in (("COMET_LOGGING_CONSOLE", "CRITICAL"), ("COMET_DISABLE_AUTO_LOGGING", "1"),
                            ("COMET_ERROR_TRACKING_ENABLE", "0"), ("COMET_DISABLE_ANNOUNCEMENT", "1")):
            os.environ.setdefault(name, value)
        import comet_ml

        key = 2 * run_folder.identity(folder)  # Comet wants 32 characters or more
        place = os.path.join(folder, run_folder.COMET)
        home = {"project_name": config.comet_project, "workspace": config.comet_workspace}
        # what a run is stands in its config; of its machine Comet would ask three clouds, where nobody may answer
        quiet = {"display_summary_level": 0, "auto_output_logging": False, **dict.fromkeys((
            "log_code", "log_git_metadata", "log_git_patch", "log_env_details", "parse_args"), False)}
        if os.environ.get("COMET_API_KEY"):
            self._experiment = comet_ml.start(
                **home, experiment_key=key, mode="get_or_create", experiment_config=comet_ml.ExperimentConfig(**quiet))
        elif glob.glob(os.path.join(glob.escape(place), "*.zip")):
            self._experiment = comet_ml.ExistingOfflineExperiment(
                **home, **quiet, previous_experiment=key, offline_directory=place)
        else:
            self._experiment = comet_ml.OfflineExperiment(
                **home, **quiet, experiment_key=key, offline_directory=place)
        self._experiment.set_name(os.path.basename(os.path.abspath(folder)))
        if tags := run_folder.tags(folder):
            self._experiment.add_tags(tags)
        told = {**config.to_dict(), **{f"facts/{name}": value for name, value in facts.items()}}
        self._experiment.log_parameters({name: value if isinstance(value, (bool, int, float, str)) else
                                         yaml_io.dump_value(value) for name, value in told.items()})

    def log(self, row: Mapping[str, float], step: int) -> None:
        """The cells of an epoch."""
        self._experiment.log_metrics(dict(row), step=step, epoch=int(row["epoch"]))

    def finish(self, end: str | None) -> None:
        """How it ended; offline, the archive."""
        self._experiment.log_other("end", end)
        self._experiment.end()
