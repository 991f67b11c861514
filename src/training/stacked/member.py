"""A member of a stack: a run with its own experiment, outputs and resume checkpoints, trained together with others."""
from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field

from src import run_folder
from src.training.components import TrainingComponents
from src.training.experiment import Experiment, Outputs, open_outputs, start_experiment
from src.training.output.log import Progress
from src.training.output.resume import Paused


@dataclass(eq=False)
class Member:
    """A run of a stack. `start` makes its experiment, `open` its outputs, `close` or `abandon` end it.

    index: of the run among those that the caller gave.
    folder: run folder; None writes nothing. check: raises if a later attempt has taken over the run.
    pause_after: epoch after which its search pauses the run; None: it does not.
    """

    index: int
    components: TrainingComponents
    folder: str | None
    check: Callable[[], None]
    pause_after: int | None = None
    experiment: Experiment = field(init=False)
    outputs: Outputs = field(init=False)
    progress: Progress = field(init=False)
    _warnings: list[str] = field(init=False)
    _contexts: contextlib.ExitStack = field(init=False, default_factory=contextlib.ExitStack)

    def start(self) -> None:
        """Make the experiment, resumed from the newest saved state in the folder."""
        self.experiment, self._warnings = start_experiment(self.components, self.folder, self.check)
        self._contexts.callback(self.experiment.close)

    def open(self, stacked: int) -> None:
        """Open the outputs, and write config.yaml and the head of the log. stacked: the number of members."""
        self.experiment.facts["stacked"] = stacked
        self.outputs = self._contexts.enter_context(open_outputs(self.experiment, self.folder, self.check, False))
        self.outputs.write_header(self.experiment, self._warnings)

    def begin_epoch(self, number: int) -> range:
        """Begin an epoch. Return the steps that are left."""
        steps = self.experiment.begin_epoch(number)
        self.progress = Progress(self.outputs.log, f"epoch {number}", self.components.config.log_interval)
        return steps

    def finish_epoch(self, number: int, last_step: int) -> str | None:
        """Evaluate and record an epoch after its steps. Return how the training ended with it, or None.

        paused is an end too: the state has been saved.
        """
        experiment, phase = self.experiment, self.experiment.training
        phase.meter.means()  # counts its samples
        time = phase.elapsed.time
        timing = {"time": time, "data_time": phase.elapsed.data,
                  "examples_per_second": phase.meter.samples / max(time, 1e-9)}
        trained = phase.finish(number, last_step, timing, self.outputs.log)
        row = experiment.finish_epoch(number, trained, self.outputs.log)
        self.outputs.write_epoch(experiment, number, row)
        if number == self.pause_after and not experiment.outcome:
            self.outputs.write_pause(number)
            with contextlib.suppress(Paused):
                experiment.pause(number)
            return run_folder.PAUSED
        return experiment.outcome

    def save(self, step: int) -> None:
        """Save the state after `step` steps. resume.SavedAndExit if an exit was requested."""
        self.experiment.saver.agree_to_exit()
        self.experiment.saver.save(step)

    def close(self) -> None:
        """Close the outputs, after the last epoch. Raises the error of a state that could not be written."""
        self._contexts.close()

    def abandon(self, error: BaseException) -> None:
        """Close the outputs because of an error, or since the run is continued by another start."""
        with contextlib.suppress(Exception):  # the first error counts
            self._contexts.__exit__(type(error), error, error.__traceback__)
