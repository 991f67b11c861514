"""Train a stack to its end: epochs, recording of each member, its end, and the stop of all."""
from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from torch import OutOfMemoryError

from src import run_folder
from src.datasets.data import Split
from src.training.output.resume import SavedAndExit
from src.training.stacked.member import Member
from src.training.stacked.stack import Stack
from src.training.steps.forward import matmul_precision

Outcome = str | BaseException  # how a run ended; or the error that ended it
OnStop = Callable[[Callable[[], None]], contextlib.AbstractContextManager[None]]


def train_members(members: Sequence[Member], on_stop: OnStop | None = None,
                  on_saved: Callable[[float], None] | None = None) -> Iterator[tuple[int, Outcome]]:
    """Train runs together. Yield the index and outcome of each as soon as it has ended.

    An outcome is completed, early_stopped or diverged; requeued, if a stop was requested and the run has saved its
    state; or the error that ended this run alone. Runs that an earlier start left at another step than most others
    are not trained, and not yielded. OutOfMemoryError if the stack is too large.

    on_stop, on_saved: as for run_epochs; on_saved is given the time that all members take.
    """
    if not members:
        return
    training = _StackTraining(members, on_saved)
    with (matmul_precision(members[0].components.config.precision),
          on_stop(training.request_exit) if on_stop else contextlib.nullcontext()):
        try:
            yield from training.run()
        except BaseException as error:
            for member in training.members:
                member.abandon(error)
            raise


class _StackTraining:
    """The training of a stack, and the Observer of its steps.

    members: those that are still trained. due: when progress is logged next, by perf_counter.
    """

    def __init__(self, members: Sequence[Member], on_saved: Callable[[float], None] | None) -> None:
        self.members = list(members)
        self.due = math.inf
        self._on_saved = on_saved
        self._ended: list[tuple[int, Outcome]] = []  # members that have ended and were not yielded yet
        self._exits = False
        self._save_due, self._save_due_step = math.inf, 0
        self._stack: Stack | None = None
        self._stacked: list[Member] = []  # the members of `stack`, some of which may have failed since

    def request_exit(self) -> None:
        """Make the next step save all states and end the training. Signal handlers may call it."""
        self._exits = True
        for member in self.members:
            if hasattr(member, "experiment"):
                member.experiment.saver.request_exit()

    def run(self) -> Iterator[tuple[int, Outcome]]:
        """Train until no member is left."""
        self._start_members()
        yield from self._take_ended()
        while self.members:
            try:
                yield from self._run_epoch()
            except SavedAndExit as exit_request:
                for member in self.members:
                    member.abandon(exit_request)
                    yield member.index, run_folder.REQUEUED
                self.members = []
            yield from self._take_ended()

    def _start_members(self) -> None:
        """Start the members, and leave out those that are at another step than most. Open the outputs of the others."""
        for member in [*self.members]:
            with self._guard(member):
                member.start()
                if member.experiment.has_passed(member.pause_after):
                    member.close()
                    self.members.remove(member)
                    self._ended.append((member.index, run_folder.PAUSED))
        steps = Counter(member.experiment.saver.step for member in self.members)
        for member in [*self.members]:
            if member.experiment.saver.step != steps.most_common(1)[0][0]:
                self.members.remove(member)
                member.close()
        for member in [*self.members]:
            with self._guard(member):
                member.open(len(self.members))
                member.experiment.saver.on_saved = self._report_saving
        if self._exits:
            self.request_exit()
        self._schedule_save()

    def _run_epoch(self) -> Iterator[tuple[int, Outcome]]:
        """Train and record an epoch of all members. Yield those that end with it."""
        epoch = self.members[0].experiment.epochs[0]
        ranges = [member.begin_epoch(epoch) for member in self.members]
        steps = ranges[0]
        if self._stack:
            self._stack.begin_epoch()
        while self.members:
            stack = self._current_stack(steps.start)
            self._schedule_report()
            progress = stack.train(steps, self)
            yield from self._take_ended()
            diverged = {self._stacked[place] for place in progress.diverged}
            is_over = progress.last_step + 1 >= steps.stop
            for place, member in enumerate(self._stacked):
                if member in self.members and (is_over or member in diverged):
                    member.experiment.saver.step = progress.last_step + 1
                    stack.seed_generators(place, progress.last_step + 1)
                    yield from self._finish_epoch(member, epoch, progress.last_step)
            if is_over:
                break
            steps = range(progress.last_step + 1, steps.stop)
        for member in self.members:
            member.experiment.epochs = member.experiment.epochs[1:]

    def _finish_epoch(self, member: Member, epoch: int, last_step: int) -> Iterator[tuple[int, Outcome]]:
        """Evaluate and record a member. Yield it if it ends. If an exit is requested, save all others too."""
        outcome = None
        try:
            with self._guard(member):
                outcome = member.finish_epoch(epoch, last_step)
                if outcome:
                    member.close()
        except SavedAndExit:
            self._save([other for other in self.members if other is not member], last_step + 1)
            raise
        if outcome and member in self.members:
            self.members.remove(member)
            yield member.index, outcome
        yield from self._take_ended()

    def _current_stack(self, step: int) -> Stack:
        """Return the stack of the members that are left; a new one if some have ended."""
        if self._stack is None or self._stacked != self.members:
            self._stack = None  # frees its memory, as the new one copies what is left
            self._stacked = [*self.members]
            components = [member.components for member in self._stacked]
            phases = [member.experiment.training for member in self._stacked]
            split = phases[0].split
            assert isinstance(split, Split)
            self._stack = Stack(components, phases, split, step)
        return self._stack

    # the Observer of the steps

    def report(self, done: int, total: int) -> None:
        for member in self.members:
            member.progress.report(done, total)
        self._schedule_report()

    def is_save_due(self, now: float, step: int) -> bool:
        return self._exits or now >= self._save_due or step >= self._save_due_step

    def save(self, step: int) -> None:
        """Save the states of all members, as copies. SavedAndExit if an exit was requested."""
        self._save(self.members, step)
        self._schedule_save()
        if self._exits:
            raise SavedAndExit

    def _save(self, members: Sequence[Member], step: int) -> None:
        assert self._stack
        for member in [*members]:
            self._stack.seed_generators(self._stacked.index(member), step)
            with self._guard(member), contextlib.suppress(SavedAndExit):
                member.save(step)

    def _schedule_report(self) -> None:
        self.due = min((member.progress.due for member in self.members), default=math.inf)

    def _schedule_save(self) -> None:
        savers = [member.experiment.saver for member in self.members]
        self._save_due = min((saver.due for saver in savers), default=math.inf)
        self._save_due_step = min((saver.due_step for saver in savers), default=1 << 62)

    def _report_saving(self, seconds: float) -> None:
        if self._on_saved:
            self._on_saved(seconds * len(self.members))

    @contextlib.contextmanager
    def _guard(self, member: Member) -> Iterator[None]:
        """Take a member out of the stack if the body raises, with its error as the outcome; the others go on."""
        try:
            yield
        except (SavedAndExit, OutOfMemoryError):
            raise
        except Exception as error:
            self.members.remove(member)
            member.abandon(error)
            self._ended.append((member.index, error))

    def _take_ended(self) -> Iterator[tuple[int, Outcome]]:
        ended, self._ended = self._ended, []
        yield from ended
