"""Recognise environment variables that hold secrets, and redact their values."""
from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

_PRIVATE_VARIABLE = re.compile(
    r"(^|_)(API_?KEY|KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASS|CREDENTIALS?|NOTIFY|APPRISE_URLS?)(_|$)", re.IGNORECASE)

_SHORT = 8  # a value of fewer characters is no secret, and would be found in innocent words


def is_secret_name(name: str) -> bool:
    """Whether the name of a variable says that its value is nobody's business."""
    return _PRIVATE_VARIABLE.search(name) is not None


def secret_values(environment: Mapping[str, str]) -> dict[str, str]:
    """The values of variables whose names say that they are nobody's business, and those names; the longest first."""
    found = {value: name for name, value in environment.items()
             if len(value) >= _SHORT and is_secret_name(name)}
    return dict(sorted(found.items(), key=lambda item: -len(item[0])))


def redact(data: bytes, private: Iterable[str]) -> bytes:
    """The same with `***` for each secret."""
    for secret in private:
        data = data.replace(os.fsencode(secret), b"***")
    return data


def redact_json(value: Any, private: Iterable[str]) -> Any:
    """A JSON value with `***` for each secret in its strings."""
    if isinstance(value, dict):
        return {key: redact_json(item, private) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [redact_json(item, private) for item in value]
    return redact(value.encode(errors="surrogateescape"), private).decode(errors="replace") if isinstance(
        value, str) else value
