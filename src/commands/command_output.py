"""The output of a command: text for people, or with --json one document for programs (`documents.py`)."""
from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple


class Output(NamedTuple):
    """The result of a command.

    lines: its text, printed as it comes;
    document: its JSON document; None for {"lines": […]}; an iterator of documents that are printed as they come;
    exit_code: 0, or as docs/reference/exit-codes.md says.
    """

    lines: Iterable[str]
    document: Any = None
    exit_code: int = 0


def show(output: Output, as_json: bool) -> int:
    """Print the result of a command. Return its exit code."""
    if not as_json:
        for line in output.lines:
            print(line, flush=True)
    elif isinstance(output.document, Iterator):
        for document in output.document:
            print_document(document)
    else:
        print_document({"lines": list(output.lines)} if output.document is None else output.document)
    return output.exit_code


@contextlib.contextmanager
def redirected_output(is_redirected: bool) -> Iterator[None]:
    """Have what this process prints in the block, and what programs that it starts print, go to standard error."""
    if not is_redirected:
        yield
        return
    sys.stdout.flush()
    saved = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)


def print_document(document: object) -> None:
    """Print a document on one line. Numbers that JSON does not have (NaN, infinity) are null."""
    print(json.dumps(_plain(document), ensure_ascii=False, default=str, allow_nan=False), flush=True)


def _plain(value: object) -> object:
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
