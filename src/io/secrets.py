"""Recognise secrets: by the names of variables and files, by the shape of values, and in URLs; and redact them."""
from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

# Parts of names, between underscores, hyphens and the like. The second list is recognised anywhere in a name, as in
# PGPASSWORD. TOKENIZERS_PARALLELISM is no secret.
_SECRET_NAME = re.compile(
    r"(?:^|[^A-Za-z0-9])(?:KEYS?|PAT|PASS|PWD|AUTH|DSN|COOKIES?|NOTIFY|APPRISE_URLS?)(?:$|[^A-Za-z0-9])"
    r"|TOKEN(?!IZ)|SECRET|PASSW|PASSPHRASE|SSHPASS|API_?KEY|PRIVATE_?KEY|CREDENTIAL", re.IGNORECASE)
_WORKING_FOLDERS = frozenset(("PWD", "OLDPWD"))  # of the shell
_SECRET_FILE = re.compile(
    r"secret|credential|passw|api_?key|token(?!iz)|service[-_.]?account|rclone|kubeconfig|\.netrc|\.pgpass|htpasswd"
    r"|id_(?:rsa|dsa|ecdsa|ed25519)|(?:^|/)\.env(?:$|\.)|(?:^|/)\.(?:npmrc|pypirc)$|\.(?:pem|key|p12|pfx|ppk)$",
    re.IGNORECASE)
_MIN_LENGTH = 8  # characters; a shorter value is hardly a secret, and would match ordinary words

_SECRET_PARAMETER = rb"(?:[\w.-]{0,80}(?:token|secret|passw|api_?key|signature)[\w.-]{0,80}|key|pass|pwd|auth|sig)"
# Values that are secrets by their shape: tokens of common services, private keys, and addresses with a password. The
# group is kept.
_SHAPES = tuple(map(re.compile, (
    rb"()\b(?:gh[pousr]_[A-Za-z0-9]{30,255}|github_pat_\w{30,255}|glpat-[\w-]{18,255}|hf_[A-Za-z0-9]{30,255}"
    rb"|wandb_v\d_\w{20,255}|sk-[A-Za-z0-9]{32,255}|sk-(?:proj|ant|or|svcacct)-[\w-]{20,255}|xox[abeprs]-[\w-]{10,255}|npm_[A-Za-z0-9]{30,255}"
    rb"|AKIA[A-Z0-9]{16}|AIza[\w-]{35}|ya29\.[\w-]{20,255}|eyJ[\w-]{10,2000}\.eyJ[\w-]{10,4000}\.[\w-]{10,1000})",
    rb"(-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----)(?:(?!-----)[\s\S]){20,20000}",
    rb"(\b[A-Za-z][A-Za-z0-9+.-]{1,20}://)[^\s@/'\"<>{}]{0,200}:[^\s'\"<>{}]{1,500}(?=@[\w\[])",
    rb"([?&]" + _SECRET_PARAMETER + rb"=)[^\s&#'\"<>{}]{1,500}")))


def is_secret_name(name: str) -> bool:
    """Return whether the name of a variable suggests that it holds a secret."""
    return name not in _WORKING_FOLDERS and _SECRET_NAME.search(name) is not None


def is_secret_file(name: str) -> bool:
    """Return whether the path of a file suggests that it holds a secret."""
    return _SECRET_FILE.search(name) is not None


def secret_values(environment: Mapping[str, str]) -> dict[str, str]:
    """Map the secrets in an environment to the names of their variables; the longest first.

    They are recognised by name, unless the value is the path of a file, or by shape, as in DATABASE_URL.
    """
    values = {value: name for name, value in environment.items() if len(value) >= _MIN_LENGTH and (
        is_secret_name(name) and not os.path.exists(value) or has_secret_shape(value))}
    return dict(sorted(values.items(), key=lambda item: -len(item[0])))


def has_secret_shape(text: str) -> bool:
    """Return whether a text contains a value that is a secret by its shape."""
    data = os.fsencode(text)
    return any(shape.search(data) for shape in _SHAPES)


def redact(data: bytes, secrets: Iterable[str]) -> bytes:
    """Replace each secret, and each value with the shape of one, by `***`."""
    for secret in secrets:
        data = data.replace(os.fsencode(secret), b"***")
    for shape in _SHAPES:
        data = shape.sub(rb"\1***", data)
    return data


def redact_json(value: Any, secrets: Iterable[str]) -> Any:
    """Replace secrets, as `redact` does, in the strings of a JSON value; keys of mappings stay."""
    if isinstance(value, dict):
        return {key: redact_json(item, secrets) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [redact_json(item, secrets) for item in value]
    if isinstance(value, str):
        return redact(value.encode(errors="surrogateescape"), secrets).decode(errors="replace")
    return value


def public_url(url: str) -> str:
    """Return scheme, host, port and path of a URL, or of an address in the form of scp, which keeps its user name.

    User name, password, query and fragment are dropped. A password may contain @, / and ?, so that the host begins
    after the last @; if the address is ambiguous, only its scheme is returned.
    """
    scheme, mark, rest = url.partition("://")
    if not mark:
        user, at, host = url.rpartition("@")
        return f"{user}@{_path(host)}" if at and re.fullmatch(r"[\w.-]+", user) else _path(host)
    if "@" in rest and re.search(r"[?#]", rest.rpartition("@")[0]):
        return f"{scheme}://***"
    return f"{scheme}://{_path(rest.rpartition('@')[2])}"


def has_credentials(url: str) -> bool:
    """Return whether a URL has a user name or password, or a query with a secret."""
    rest = url.partition("://")[2]
    return not rest.startswith("/") and "@" in re.split(r"[?#]", rest, maxsplit=1)[0] or has_secret_shape(url)


def _path(text: str) -> str:
    """Return a URL without its query and fragment."""
    return re.split(r"[?#]", text, maxsplit=1)[0]
