"""job_details.container: the image and what it mounts, checked."""
from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from typing import Any

from src.errors import JobSpecError, nearest

_NAME = r"[A-Za-z_][A-Za-z0-9_]*"

_OWN = ("HOME", "PATH", "PREPEND_PATH", "APPEND_PATH")  # which the runtime makes itself

_BIND = r"[^:]+(:/[^:]*(:(ro|rw))?)?"


@dataclass(frozen=True)
class Container:
    """image: its file, or the folder of a sandbox; binds: SOURCE[:DESTINATION[:ro]]; env: variables, None for one that
    is passed on from outside; python: a program in the container, None for that of the environment outside, where there
    is one; options: further words for the runtime; folders: of the project and its data, seen inside as outside.

    `~` and `$VAR` in binds and folders are filled in where the run runs.
    """

    image: str
    binds: list[str] = field(default_factory=list)
    env: dict[str, str | None] = field(default_factory=dict)
    python: str | None = None
    options: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)


def parse_container(value: Any, where: str) -> Container:
    """The container in a job spec: a string, or a mapping. JobSpecError, at `where`, if a key or a value is wrong."""
    known = [name.name for name in fields(Container) if name.name != "folders"]
    asked = {"image": value} if isinstance(value, str) else value
    if not isinstance(asked, dict):
        raise JobSpecError(f"{value!r} is no container", where=where, allowed=f"an image, or a mapping of "
                           f"{', '.join(known)}", hint="as container: image.sif")
    for key in asked:
        if key not in known:
            meant = nearest(str(key), known)
            raise JobSpecError(f"unknown key '{key}'", where=where, allowed=None if meant else known,
                               hint=f"did you mean '{meant}'?" if meant else None)
    if "image" not in asked:
        raise JobSpecError("there is no image", where=where, hint="as {image: image.sif}")
    binds = _words(asked.get("binds"), f"{where}, binds")
    for bind in binds:
        if not re.fullmatch(_BIND, bind):
            raise JobSpecError(f"{bind!r} is nothing to bind", where=f"{where}, binds",
                               allowed="SOURCE, SOURCE:/DESTINATION or SOURCE:/DESTINATION:ro")
    return Container(check_image(asked["image"], where), binds,
                     _env(asked.get("env"), f"{where}, env"),
                     _word(asked["python"], f"{where}, python") if asked.get("python") else None,
                     _words(asked.get("options"), f"{where}, options"))


def check_image(value: Any, where: str) -> str:
    """The image as it is written. JobSpecError if it is no path."""
    image = _word(value, where)
    if re.match(r"[a-z]+://", image):
        raise JobSpecError(f"{image} would be fetched again on each node", where=where,
                           hint=f"fetch it once, `apptainer pull image.sif {image}`, and name that file")
    return image


def _word(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value or not value.isprintable():
        raise JobSpecError(f"{value!r} is not a string", where=where)
    return value


def _words(value: Any, where: str) -> list[str]:
    return [_word(word, where) for word in (value if isinstance(value, list) else [] if value is None else [value])]


def _env(value: Any, where: str) -> dict[str, str | None]:
    """Variables as a mapping; of a list, all are passed on. A key is passed on too, and never written down."""
    asked = dict.fromkeys(_words(value, where)) if isinstance(value, list) else {} if value is None else value
    if not isinstance(asked, dict):
        raise JobSpecError(f"{value!r} is no environment", where=where,
                           allowed="a list of names, or a mapping of names to values, null to pass one on")
    from src.submission.system.secrets import is_secret_name  # runs need none of it

    for name, text in asked.items():
        if not isinstance(name, str) or not re.fullmatch(_NAME, name) or name in _OWN:
            raise JobSpecError(f"{name!r} is no variable that can be set", where=where,
                               allowed="letters, digits and _; the runtime itself sets HOME and PATH")
        if text is not None and is_secret_name(name):
            raise JobSpecError(f"the value of {name} would be written into the batch", where=where,
                               hint=f"export it where you submit, and write `{name}: null`, which passes it on")
        if isinstance(text, (bool, list, dict)):
            raise JobSpecError(f"the value of {name} is {text!r}", where=where, allowed="a string, a number or null")
    return {name: text if text is None else str(text) for name, text in asked.items()}
