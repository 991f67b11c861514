"""job_details.container: parse the image and its mounts."""
from __future__ import annotations

import re
from typing import Any

from src.errors import JobSpecError, did_you_mean
from src.frozen import Frozen, field

_VARIABLE = r"[A-Za-z_][A-Za-z0-9_]*"
_SET_BY_RUNTIME = ("HOME", "PATH", "PREPEND_PATH", "APPEND_PATH")
_BIND = r"[^:]+(:/[^:]*(:(ro|rw))?)?"


class Container(Frozen):
    """A container image, and how it is started.

    image: its file, or the folder of a sandbox;
    binds: SOURCE[:DESTINATION[:ro]];
    env: variables; None: passed on from the host;
    python: interpreter in the container; None: that of the host's environment, if there is one;
    options: additional arguments of the runtime;
    folders: of the project and its data, mounted at the same paths.

    `~` and `$VAR` in binds and folders are expanded where the run runs.
    """

    image: str
    binds: list[str] = field(default_factory=list)
    env: dict[str, str | None] = field(default_factory=dict)
    python: str | None = None
    options: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)


def parse_container(value: Any, where: str) -> Container:
    """Parse job_details.container: an image, or a mapping. JobSpecError if a key or a value is invalid."""
    keys = [name for name in Container._fields if name != "folders"]
    mapping = {"image": value} if isinstance(value, str) else value
    if not isinstance(mapping, dict):
        raise JobSpecError(f"invalid container {value!r}", where=where, hint="for example container: image.sif",
                           allowed=f"an image, or a mapping of {', '.join(keys)}")
    for key in mapping:
        if key not in keys:
            raise JobSpecError(f"unknown key '{key}'", where=where, allowed=keys, hint=did_you_mean(str(key), keys))
    if "image" not in mapping:
        raise JobSpecError("image is required", where=where, hint="for example {image: image.sif}")
    binds = _check_texts(mapping.get("binds"), f"{where}, binds")
    for bind in binds:
        if not re.fullmatch(_BIND, bind):
            raise JobSpecError(f"invalid bind {bind!r}", where=f"{where}, binds",
                               allowed="SOURCE, SOURCE:/DESTINATION or SOURCE:/DESTINATION:ro")
    return Container(check_image(mapping["image"], where), binds,
                     _parse_env(mapping.get("env"), f"{where}, env"),
                     _check_text(mapping["python"], f"{where}, python") if mapping.get("python") else None,
                     _check_texts(mapping.get("options"), f"{where}, options"))


def check_image(value: Any, where: str) -> str:
    """Return the path of the image as it is written. JobSpecError if it is a URL."""
    image = _check_text(value, where)
    if re.match(r"[a-z]+://", image):
        raise JobSpecError(f"{image} would be downloaded again on each node", where=where,
                           hint=f"download it once, `apptainer pull image.sif {image}`, and name that file")
    return image


def _check_text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value or not value.isprintable():
        raise JobSpecError(f"{value!r} is not a string", where=where)
    return value


def _check_texts(value: Any, where: str) -> list[str]:
    items = value if isinstance(value, list) else [] if value is None else [value]
    return [_check_text(item, where) for item in items]


def _parse_env(value: Any, where: str) -> dict[str, str | None]:
    """Return the variables by name; those of a list are all passed on. Secrets are passed on, never stored."""
    variables = dict.fromkeys(_check_texts(value, where)) if isinstance(value, list) else {} if value is None else value
    if not isinstance(variables, dict):
        raise JobSpecError(f"invalid environment {value!r}", where=where,
                           allowed="a list of names, or a mapping of names to values, null to pass one on")
    from src.io.secrets import is_secret_name  # imported on demand: runs do not need it

    for name, text in variables.items():
        if not isinstance(name, str) or not re.fullmatch(_VARIABLE, name) or name in _SET_BY_RUNTIME:
            raise JobSpecError(f"{name!r} is not a variable that can be set", where=where,
                               allowed="letters, digits and _; the runtime itself sets HOME and PATH")
        if text is not None and is_secret_name(name):
            raise JobSpecError(f"the value of {name} would be stored in the batch", where=where,
                               hint=f"export it where you submit, and write `{name}: null`, which passes it on")
        if isinstance(text, (bool, list, dict)):
            raise JobSpecError(f"the value of {name} is {text!r}", where=where, allowed="a string, a number or null")
    return {name: text if text is None else str(text) for name, text in variables.items()}
