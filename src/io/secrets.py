"""Recognise environment variables that hold secrets, and redact their values."""
from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

_SECRET_NAME = re.compile(
    r"(^|_)(API_?KEY|KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASS|CREDENTIALS?|NOTIFY|APPRISE_URLS?)(_|$)", re.IGNORECASE)
_MIN_LENGTH = 8  # characters; a shorter value is hardly a secret, and would match ordinary words


def is_secret_name(name: str) -> bool:
    """Return whether the name of a variable suggests that it holds a secret."""
    return _SECRET_NAME.search(name) is not None


def secret_values(environment: Mapping[str, str]) -> dict[str, str]:
    """Map the secrets in an environment to the names of their variables; the longest first."""
    values = {value: name for name, value in environment.items()
              if len(value) >= _MIN_LENGTH and is_secret_name(name)}
    return dict(sorted(values.items(), key=lambda item: -len(item[0])))


def redact(data: bytes, secrets: Iterable[str]) -> bytes:
    """Replace each secret by `***`."""
    for secret in secrets:
        data = data.replace(os.fsencode(secret), b"***")
    return data


def redact_json(value: Any, secrets: Iterable[str]) -> Any:
    """Replace each secret by `***` in the strings of a JSON value; keys of mappings stay."""
    if isinstance(value, dict):
        return {key: redact_json(item, secrets) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [redact_json(item, secrets) for item in value]
    if isinstance(value, str):
        return redact(value.encode(errors="surrogateescape"), secrets).decode(errors="replace")
    return value
