"""Pause garbage collection while very many objects are created, none of which is garbage."""
from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def paused(freeze: bool = False) -> Iterator[None]:
    """Disable garbage collection in the block, which would visit each of a hundred thousand new objects repeatedly.

    freeze: leave all objects that exist afterwards out of later collections.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if freeze:
            gc.freeze()
        if was_enabled:
            gc.enable()
