"""Signals that a run receives: save the state (USR1), stop (TERM from Slurm and workers, INT from Ctrl-C)."""
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
    """A signal requested that this process ends."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


class Waker:
    """Context manager that sleeps until a signal arrives or a child process ends. For the main thread.

    A blocking call is not enough: another thread may take the signal, and the signal may arrive just before the call.
    The handlers run in the main thread once it is awake.
    """

    def __enter__(self) -> Waker:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        self._previous_fd = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._previous_handler = signal.signal(signal.SIGCHLD, lambda *_: None)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGCHLD, self._previous_handler)
        signal.set_wakeup_fd(self._previous_fd)
        os.close(self._reader)
        os.close(self._writer)

    def wait(self, seconds: float | None, *descriptors: int) -> list[int]:
        """Sleep until woken, for at most `seconds` (None: no limit). Return the descriptors that are ready to be read,
        which end the sleep too.
        """
        poll = select.poll()
        for descriptor in (self._reader, *descriptors):
            poll.register(descriptor, select.POLLIN)
        ready = [descriptor for descriptor, _ in poll.poll(None if seconds is None else seconds * 1000)]
        with contextlib.suppress(BlockingIOError):
            while os.read(self._reader, 4096):
                pass
        return [descriptor for descriptor in ready if descriptor != self._reader]


class Signals:
    """The signals that this process has received since `listen`.

    A stop raises Stopped at once, unless a callback is set by `on_stop`: then the run saves itself before it stops.
    """

    def __init__(self) -> None:
        self.warned = False  # the time limit is near
        self.stop_signal: int | None = None  # the first signal that requested a stop
        self._callback: Callable[[], None] | None = None

    def listen(self) -> None:
        """Install the handlers: TERM and INT stop the run, USR1 sets `warned`."""
        self.warned, self.stop_signal, self._callback = False, None, None
        for number in STOP_SIGNALS:
            signal.signal(number, self._on_stop_signal)
        signal.signal(signal.SIGUSR1, self._on_warning)
        self.register_with_host()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

    def register_with_host(self) -> None:
        """In a container, have the host process forward signals to this process. Elsewhere do nothing."""
        if RELAY_SOCKET in os.environ:
            container_relay.register_for_signals()

    def time_is_short(self) -> bool:
        """Return whether Slurm has warned that the time limit is near: a run that can resume saves itself then."""
        return self.warned

    @contextlib.contextmanager
    def on_stop(self, callback: Callable[[], None]) -> Iterator[None]:
        """In the block, call `callback` when a signal arrives, and let the run continue to where it can stop; after the
        block call `raise_if_stopped`.
        """
        self._callback = callback
        if self.warned:  # while the training was being built
            callback()
        try:
            yield
        finally:
            self._callback = None

    @contextlib.contextmanager
    def ignore_stops(self) -> Iterator[None]:
        """Ignore signals that request a stop in the block."""
        handlers = {number: signal.signal(number, signal.SIG_IGN) for number in STOP_SIGNALS}
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def raise_if_stopped(self) -> None:
        """Raise Stopped if a signal has requested a stop."""
        if self.stop_signal is not None:
            raise Stopped(self.stop_signal)

    def _on_stop_signal(self, number: int, _frame: object) -> None:
        # a second Ctrl-C ends the process at once; TERM comes from both Slurm and the worker, and counts once
        signal.signal(number, signal.SIG_DFL if number == signal.SIGINT else signal.SIG_IGN)
        self.stop_signal = self.stop_signal or number
        if self._callback is None:
            raise Stopped(number)
        self._callback()

    def _on_warning(self, _number: int, _frame: object) -> None:
        if self.warned:
            return
        self.warned = True  # first: a stop may arrive while the message is printed
        with contextlib.suppress(OSError):  # not print(), which the signal may have interrupted
            os.write(2, b"asked to save the run and stop, as before a time limit (USR1)\n")
        if self._callback:
            self._callback()


signals = Signals()  # of this process
