"""Errors that a user can correct, printed on one line: what is wrong, where, what is allowed, what to run next."""
from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterable, Sequence

ON = "GRIDIRON_ON"  # set in a command that was started with --on HOST: the user's name of this machine


class UserError(ValueError):
    """A mistake that the user can correct. Entry points print it on one line and exit with code 2.

    what: what is wrong, one sentence in lower case;
    where: a file, line, key or run;
    allowed: the permitted values;
    hint: what to do or to run next.
    """

    def __init__(self, what: str, *, where: str | None = None, allowed: Iterable[object] | str | None = None,
                 hint: str | None = None) -> None:
        self.what, self.where, self.hint = what, where, hint
        self.allowed_values = [allowed] if isinstance(allowed, str) else [str(value) for value in allowed or ()]
        self.allowed = ", ".join(self.allowed_values) or None
        super().__init__(what)

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        for part in (f"allowed: {self.allowed}" if self.allowed else None, self.hint):
            if part:
                text += f"{'' if text.endswith('?') else ';'} {part}"
        return text

    def document(self) -> dict[str, object]:
        """Return the error as commands print it with --json."""
        return {"error": self.what, "where": self.where, "allowed": self.allowed_values, "hint": self.hint}

    def at(self, where: str) -> UserError:
        """Return this error with `where` in front of the location that it names."""
        self.where = f"{where}, {self.where}" if self.where else where
        return self


class JobSpecError(UserError):
    """A job spec, or a parameter in it, is invalid."""


class ConfigError(UserError):
    """A spec has a parameter or a value that Config does not accept."""


class DataError(UserError):
    """A data set is missing, cannot be downloaded, or does not fit the config."""


class BatchError(UserError):
    """A batch folder is missing, exists already, or differs from the request."""


class SlurmError(UserError):
    """Slurm is not available or rejected a request; the message quotes it."""


class RemoteError(UserError):
    """A remote machine is unknown, does not answer, or lacks something."""


class PackError(UserError):
    """The Python environment of this process cannot be packed or copied."""


class ResultsError(UserError):
    """Results cannot be read: no such batch, column or metric."""


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the known name most similar to `name`, ignoring case; None if none is. cutoff 1.0: equal."""
    import difflib  # imported on demand: start-up time on a login node

    by_folded_name = {item.casefold(): item for item in known}
    matches = difflib.get_close_matches(name.casefold(), list(by_folded_name), n=1, cutoff=cutoff)
    return by_folded_name[matches[0]] if matches else None


def did_you_mean(name: str, known: Iterable[str], prefix: str = "", suffix: str = "",
                 cutoff: float = 0.6) -> str | None:
    """Return a hint with the nearest known name, or None; the name itself is never proposed.

    prefix, suffix: the other parts of what the user wrote, so that the proposal can be copied as it is.
    """
    match = nearest(name, known, cutoff)
    return f"did you mean '{prefix}{match}{suffix}'?" if match not in (None, name) else None


def listed(names: Sequence[str], limit: int, separator: str = ", ") -> str:
    """Return the first `limit` names in one text, and the number of the others: `a, b, c and 4 more`."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return separator.join(names[:limit]) + more


def shell_command(*words: str) -> str:
    """Return a command as a user would type it, quoted: `python submit_multiple.py -r 'my results/x'`.

    In a command that was started with --on HOST, the returned command has it too.
    """
    import shlex  # imported on demand: start-up time on a login node

    if ON in os.environ and words[0] == "python" and words[1] != "train.py" and "--on" not in words:
        words += ("--on", os.environ[ON])
    return shlex.join(words)


def experiments_command(*arguments: str) -> str:
    """Return a command of experiments.py as a user would type it."""
    return shell_command("python", "experiments.py", *arguments)


def retry_command(batch: str, *arguments: str) -> str:
    """Return the command that continues a batch."""
    return shell_command("python", "submit_multiple.py", "-r", batch, *arguments)


def one_line(text: str) -> str:
    """Return `text` with line breaks and other control characters escaped, so that it stays on one line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def exception_line(error: BaseException) -> str:
    """Return the last line of an exception's traceback, at most 2000 characters of it."""
    import traceback  # imported on demand: start-up time on a login node

    return one_line(traceback.format_exception_only(error)[-1].strip())[:2000]


def summarize(error: BaseException, limit: int = 300) -> str:
    """Return the message of an exception on one line, cut after `limit` characters; its class if there is none."""
    return " ".join(str(error).split())[:limit] or type(error).__name__


def discard_output() -> None:
    """Redirect stdout, which is closed, to nothing, so that the flush at exit does not fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def exits_on_user_error(main: Callable[..., int | None]) -> Callable[..., int]:
    """Decorate an entry point: a UserError is printed on one line of stderr, with exit code 2; Ctrl-C exits with 130.

    With --json on the command line it is a JSON object on stdout. An OSError that names a file is printed like a
    UserError. A closed pipe is not an error.
    """

    def print_error(error: UserError, arguments: Iterable[object]) -> int:
        if any("--json" in argument for argument in arguments if isinstance(argument, (list, tuple))):
            import json

            print(json.dumps(error.document(), ensure_ascii=False), flush=True)
        else:
            print(f"error: {one_line(str(error))}", file=sys.stderr)
        return 2

    @functools.wraps(main)
    def wrapped(*args: object, **kwargs: object) -> int:
        try:
            code = main(*args, **kwargs) or 0
            sys.stdout.flush()
            return code
        except UserError as error:
            return print_error(error, args)
        except KeyboardInterrupt:
            print("\nstopped", file=sys.stderr)
            return 130
        except BrokenPipeError:  # `… | head`
            discard_output()
            return 0
        except OSError as error:
            if error.filename is None:
                raise
            return print_error(UserError(str(error.strerror), where=str(error.filename)), args)

    return wrapped
