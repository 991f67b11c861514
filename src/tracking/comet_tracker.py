"""Comet: online with COMET_API_KEY, otherwise an archive in RUN/comet for `comet upload`."""
from __future__ import annotations

import glob
import os
from collections.abc import Mapping, Sequence
from typing import Any

from src import run_folder
from src.config import Config
from src.io import yaml_io
from src.tracking.tracker import Tracker, TrackerUnavailable, step_metrics


class CometTracker(Tracker):
    """A Comet experiment with the config, facts as `facts/NAME`, TAGS as tags, and a point per epoch over the steps.

    Online, a resumed run continues the same experiment. Offline, each start writes an archive; archives with the same
    key become one experiment when they are uploaded.
    """

    def start(self, config: Config, facts: Mapping[str, Any], folder: str | None) -> None:
        """Create the experiment, or continue it."""
        if folder is None:
            raise TrackerUnavailable("Comet needs a run folder")
        for name, value in (("COMET_LOGGING_CONSOLE", "CRITICAL"), ("COMET_DISABLE_AUTO_LOGGING", "1"),
                            ("COMET_ERROR_TRACKING_ENABLE", "0"), ("COMET_DISABLE_ANNOUNCEMENT", "1")):
            os.environ.setdefault(name, value)
        import comet_ml

        key = 2 * run_folder.identity(folder)  # Comet requires 32 characters or more
        archive_folder = os.path.join(folder, run_folder.COMET)
        project = {"project_name": config.comet_project, "workspace": config.comet_workspace}
        # no environment details: to find them, Comet would query three cloud providers, which may not answer
        options = {"display_summary_level": 0, "auto_output_logging": False, **dict.fromkeys((
            "log_code", "log_git_metadata", "log_git_patch", "log_env_details", "parse_args"), False)}
        if os.environ.get("COMET_API_KEY"):
            self._experiment = comet_ml.start(**project, experiment_key=key, mode="get_or_create",
                                              experiment_config=comet_ml.ExperimentConfig(**options))
        elif glob.glob(os.path.join(glob.escape(archive_folder), "*.zip")):
            self._experiment = comet_ml.ExistingOfflineExperiment(
                **project, **options, previous_experiment=key, offline_directory=archive_folder)
        else:
            self._experiment = comet_ml.OfflineExperiment(
                **project, **options, experiment_key=key, offline_directory=archive_folder)
        self._experiment.set_name(os.path.basename(os.path.abspath(folder)))
        if tags := run_folder.tags(folder):
            self._experiment.add_tags(tags)
        parameters = {**config.to_dict(), **{f"facts/{name}": value for name, value in facts.items()}}
        self._experiment.log_parameters({name: value if isinstance(value, (bool, int, float, str)) else
                                         yaml_io.dump_value(value) for name, value in parameters.items()})

    def log(self, row: Mapping[str, float], step: int) -> None:
        """Send the cells of an epoch."""
        self._experiment.log_metrics(dict(row), step=step, epoch=int(row["epoch"]))

    def log_steps(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Send the cells of steps."""
        for row in rows:
            self._experiment.log_metrics(step_metrics(row), step=int(row["step"]), epoch=int(row["epoch"]))

    def finish(self, end: str | None) -> None:
        """Send how the run ended; offline, close the archive."""
        self._experiment.log_other("end", end)
        self._experiment.end()
