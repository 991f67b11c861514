"""job_details.notify: where messages go, checked."""
from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import Any

from src.errors import JobSpecError
from src.io import files

VARIABLE, FILE = "GRIDIRON_NOTIFY", "~/.gridiron-notify"  # where the addresses are, unless the job spec says

_ALLOWED = f"true (${VARIABLE}, or {FILE}), the name of a variable as $SLACK, a file, or {{to: …, digest: hours}}"


@dataclass(frozen=True)
class Notify:
    """to: `$NAME` or a file, with addresses of apprise; digest: hours between digests, None: none."""

    to: str | None = None
    digest: float | None = None

    def addresses(self) -> list[str]:
        """The addresses, which are keys. JobSpecError if there are none, or others can read them."""
        to = self.to or (f"${VARIABLE}" if os.environ.get(VARIABLE) else FILE)
        if to.startswith("$"):
            text, hint = os.environ.get(to[1:], ""), f"export {to[1:]}='slack://…'"
        else:
            path = os.path.expanduser(to)
            text, hint = files.read_text(path) or "", f"write them into {to}, one on each line; or export {VARIABLE}"
            if text and stat.S_IMODE(os.stat(path).st_mode) & 0o077:
                raise JobSpecError("others can read this file, and it holds keys", where=path, hint=f"chmod 600 {to}")
        found = [word for word in text.split() if "://" in word]
        if not found:
            raise JobSpecError(f"there are no addresses in {to}", where="notify", hint=hint)
        return found


def check(value: Any, where: str) -> Notify | None:
    """What job_details.notify says. JobSpecError, at `where`, if it is wrong: above all if it is an address itself."""
    if value is False:
        return None
    given = value if isinstance(value, dict) else {} if value is True else {"to": value}
    to, digest = given.get("to"), given.get("digest")
    if isinstance(to, str) and "://" in to:
        raise JobSpecError("an address is a key, and a job spec is kept with the results", where=where,
                           hint=f"export {VARIABLE}='{to.partition(':')[0]}://…', and write notify: true")
    if given.keys() - {"to", "digest"} or not (to is None or isinstance(to, str) and to) or not (
            digest is None or isinstance(digest, (int, float)) and digest > 0 and digest is not True):
        raise JobSpecError(f"{value!r} says nothing of messages", where=where, allowed=_ALLOWED)
    return Notify(to, digest)
