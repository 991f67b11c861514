"""job_details.notify and idle_gpu: parse where notifications are sent, and when a GPU counts as idle."""
from __future__ import annotations

import os
import re
import stat
from typing import TYPE_CHECKING, Any, NamedTuple

from src.errors import JobSpecError
from src.io import files

if TYPE_CHECKING:
    from src.monitoring.gpu_idle import Limits

# where the addresses are stored unless the job spec names another place
ADDRESS_VARIABLE = "GRIDIRON_NOTIFY"
ADDRESS_FILE = "~/.gridiron-notify"

_ALLOWED = (f"true (uses ${ADDRESS_VARIABLE} or {ADDRESS_FILE}), an environment variable such as $SLACK, a file, or "
            "{to: …, digest: hours}")


class Notify(NamedTuple):
    """Where notifications are sent, and how often.

    to: `$NAME` or a file, which holds addresses in the form of apprise; None: the default variable or file;
    digest: hours between digests; None: no digests.
    """

    to: str | None = None
    digest: float | None = None

    def addresses(self) -> list[str]:
        """Return the addresses, which are secrets. JobSpecError if there are none, or if others can read the file."""
        to = self.to or (f"${ADDRESS_VARIABLE}" if os.environ.get(ADDRESS_VARIABLE) else ADDRESS_FILE)
        if to.startswith("$"):
            text, hint = os.environ.get(to[1:], ""), f"export {to[1:]}='slack://…'"
        else:
            path = os.path.expanduser(to)
            text = files.read_text(path) or ""
            hint = f"write them to {to}, one per line; or export {ADDRESS_VARIABLE}"
            if text and stat.S_IMODE(os.stat(path).st_mode) & 0o077:
                raise JobSpecError("other users can read this file, and it contains secrets", where=path,
                                   hint=f"chmod 600 {to}")
        addresses = [word for word in text.split() if "://" in word]
        if not addresses:
            raise JobSpecError(f"no addresses in {to}", where="notify", hint=hint)
        return addresses


def parse_notify(value: Any, where: str) -> Notify | None:
    """Parse job_details.notify. JobSpecError if it is invalid, above all if it is an address itself."""
    if value is False:
        return None
    mapping = value if isinstance(value, dict) else {} if value is True else {"to": value}
    to, digest = mapping.get("to"), mapping.get("digest")
    if isinstance(to, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", to):  # apprise accepts mailto:user:password@host
        raise JobSpecError("an address is a secret, and job specs are stored with the results", where=where,
                           hint=f"export {ADDRESS_VARIABLE}='{to.partition(':')[0]}://…', and write notify: true")
    if mapping.keys() - {"to", "digest"} or not (to is None or isinstance(to, str) and to) or not (
            digest is None or isinstance(digest, (int, float)) and digest > 0 and digest is not True):
        raise JobSpecError(f"invalid notify {value!r}", where=where, allowed=_ALLOWED)
    return Notify(to, digest)


def parse_idle_gpu(value: Any, where: str) -> Limits | None:
    """Parse job_details.idle_gpu: false, or a mapping of `below`, in percent, and `minutes`. None: the default."""
    from src.monitoring.gpu_idle import Limits  # few job specs set them

    if value is True:
        return None
    mapping = {"below": 0} if value is False else value
    limits = {**Limits()._asdict(), **(mapping if isinstance(mapping, dict) else {"": 0})}
    if limits.keys() - set(Limits._fields) or not all(
            type(number) in (int, float) and 0 <= number < 1e6 for number in limits.values()) or not limits["minutes"]:
        raise JobSpecError(f"invalid idle_gpu {value!r}", where=where, allowed="false (no warning), or a mapping such "
                           "as {below: 10, minutes: 15}: percent and minutes")
    return Limits(**limits)
