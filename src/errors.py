"""What a user did wrong, told in one line: what, where, what is allowed, what to type next."""
from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterable

ON = "GRIDIRON_ON"  # set in a command that was given on another machine: what the user calls this one


class UserError(ValueError):
    """A mistake that the user can mend. Entry points print it on one line and exit with 2.

    what: one sentence; where: a file, line, key or run; allowed: the permitted values; hint: what to type next.
    """

    def __init__(self, what: str, *, where: str | None = None, allowed: Iterable[object] | str | None = None,
                 hint: str | None = None) -> None:
        self.what, self.where, self.hint = what, where, hint
        self.allowed = allowed if isinstance(allowed, str) or allowed is None else ", ".join(map(str, allowed))
        super().__init__(what)

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        for part in (f"allowed: {self.allowed}" if self.allowed else None, self.hint):
            if part:
                text += f"{'' if text.endswith('?') else ';'} {part}"
        return text

    def at(self, where: str) -> UserError:
        """The same error, with a place in front of the one it names."""
        self.where = f"{where}, {self.where}" if self.where else where
        return self


class JobSpecError(UserError):
    """A job spec, or a parameter in it, cannot be used as it is written."""


class ConfigError(UserError):
    """A spec names a parameter or a value that Config does not know."""


class DataError(UserError):
    """A data set is missing, cannot be fetched, or does not fit the config."""


class BatchError(UserError):
    """A batch folder is missing, exists already, or differs from what was asked for."""


class SlurmError(UserError):
    """Slurm is absent or refused; its own words are part of the message."""


class RemoteError(UserError):
    """A machine that is reached by ssh is not known, does not answer, or lacks something."""


class ResultsError(UserError):
    """Results cannot be read as asked: no such batch, column or metric."""


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known name most like `name`, or None if none is close (cutoff 1.0: equal)."""
    import difflib  # imported where it is needed: a login node feels each millisecond

    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return matches[0] if matches else None


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """A hint that names the nearest known name, or None."""
    match = nearest(name, known)
    return f"did you mean '{match}'?" if match else None


def to_type(*words: str) -> str:
    """A command as a user would type it: `python submit_multiple.py -r 'my results/x'`; with --on, if they do that on
    another machine."""
    import shlex  # likewise

    if ON in os.environ and words[0] == "python" and words[1] != "train.py" and "--on" not in words:
        words += ("--on", os.environ[ON])
    return shlex.join(words)


def one_line(text: str) -> str:
    """Line breaks and other control characters made visible, so that a message stays on its line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def exits_on_user_error(main: Callable[..., int | None]) -> Callable[..., int]:
    """Wrap an entry point: a UserError becomes one line on stderr and exit code 2, Ctrl-C a word and 130.

    A file that the system refuses is told in one line too; a closed pipe is no error.
    """

    @functools.wraps(main)
    def wrapped(*args: object, **kwargs: object) -> int:
        try:
            code = main(*args, **kwargs) or 0
            sys.stdout.flush()
            return code
        except UserError as error:
            print(f"error: {one_line(str(error))}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("\nstopped", file=sys.stderr)
            return 130
        except BrokenPipeError:  # `… | head`: point stdout elsewhere so that the exit flush is silent
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except OSError as error:
            if error.filename is None:
                raise
            print(f"error: {one_line(str(error.filename))}: {error.strerror}", file=sys.stderr)
            return 2

    return wrapped
