"""What a submission reports while it is executed: commands to type next, and messages to the user's addresses."""
from __future__ import annotations

import contextlib
from collections.abc import Iterator

from src.errors import BatchError
from src.submission.status.notify import Notifier
from src.submission.system import terminal


def next_steps(*steps: tuple[str, str]) -> str:
    """Return pairs of a command and what it does as aligned lines."""
    return "\n".join(terminal.table(steps, indent="  "))


@contextlib.contextmanager
def failure_sent(notifier: Notifier) -> Iterator[None]:
    """Send a message if a BatchError stops the submission."""
    try:
        yield
    except BatchError as error:
        notifier.send("failed", error.what)
        raise
