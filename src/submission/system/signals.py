"""What Slurm, the worker and the user say to a run by signals: time is short (USR1), stop (TERM, Ctrl-C)."""
from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Callable, Iterator

from src.submission.system import container_relay
from src.submission.system.process import RELAY_SOCKET

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(BaseException):
    """A signal asked this process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


class Waker:
    """Sleeps until a signal comes, or a child ends: in a `with` block, of the main thread.

    A call that blocks may sleep on, for another thread can take a signal, as one does that begins at that moment; and
    the handlers are for the main thread to run, once it is awake.
    """

    def __enter__(self) -> Waker:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        self._fd_before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._handler_before = signal.signal(signal.SIGCHLD, lambda *_: None)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGCHLD, self._handler_before)
        signal.set_wakeup_fd(self._fd_before)
        os.close(self._reader)
        os.close(self._writer)

    def wait(self, seconds: float | None, *descriptors: int) -> list[int]:
        """Sleep for at most `seconds` (None: without limit); return those of the descriptors that can be read, which
        end the sleep too."""
        poll = select.poll()
        for descriptor in (self._reader, *descriptors):
            poll.register(descriptor, select.POLLIN)
        ready = [descriptor for descriptor, _ in poll.poll(None if seconds is None else seconds * 1000)]
        with contextlib.suppress(BlockingIOError):
            while os.read(self._reader, 4096):
                pass
        return [descriptor for descriptor in ready if descriptor != self._reader]


class Signals:
    """The signals that this process has got since it listens, each told to whoever looks out for them.

    A stop ends the process at once, by Stopped, unless somebody looks out: that may save first, and then leaves.
    """

    def __init__(self) -> None:
        self.warned = False  # the time limit is near
        self.stop_signal: int | None = None  # the first signal that said stop
        self._tell: Callable[[], None] | None = None

    def listen(self) -> None:
        """TERM and INT end the run with a record; USR1 (the time limit is near) is for the run to ask about."""
        self.warned, self.stop_signal, self._tell = False, None, None
        for number in STOP_SIGNALS:
            signal.signal(number, self._stop)
        signal.signal(signal.SIGUSR1, self._warn)
        self.register_with_host()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

    def register_with_host(self) -> None:
        """In a container: from now on signals may be handed to this process. Elsewhere nothing."""
        if RELAY_SOCKET in os.environ:

            container_relay.register_for_signals()

    def time_is_short(self) -> bool:
        """Whether Slurm has said so: a run that can go on later saves itself and returns `requeued`."""
        return self.warned

    @contextlib.contextmanager
    def on_stop(self, tell: Callable[[], None]) -> Iterator[None]:
        """In the block a signal calls `tell` and lets the work go on to where it can be left: see `leave`."""
        self._tell = tell
        if self.warned:  # while the training was being built
            tell()
        try:
            yield
        finally:
            self._tell = None

    @contextlib.contextmanager
    def ignore_stops(self) -> Iterator[None]:
        """A stop in the block comes too late."""
        kept = {number: signal.signal(number, signal.SIG_IGN) for number in STOP_SIGNALS}
        try:
            yield
        finally:
            for number, handler in kept.items():
                signal.signal(number, handler)

    def raise_if_stopped(self) -> None:
        """Raise Stopped if it was a stop that `tell` was called for."""
        if self.stop_signal is not None:
            raise Stopped(self.stop_signal)

    def _stop(self, number: int, _frame: object) -> None:
        # a second Ctrl-C ends it at once; TERM comes from Slurm and from the worker, and counts once
        signal.signal(number, signal.SIG_DFL if number == signal.SIGINT else signal.SIG_IGN)
        self.stop_signal = self.stop_signal or number
        if self._tell is None:
            raise Stopped(number)
        self._tell()

    def _warn(self, _number: int, _frame: object) -> None:
        if self.warned:
            return
        self.warned = True  # first: a stop may come while this is printed
        with contextlib.suppress(OSError):  # no print: the signal may have come in the midst of another
            os.write(2, b"the time limit of this Slurm job is near (USR1)\n")
        if self._tell:
            self._tell()


signals = Signals()  # of this process
