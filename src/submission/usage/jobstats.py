"""Princeton's jobstats: what a Slurm job used, which a site stores in the AdminComment of sacct.

The comment is `JS1:` and base64 of gzipped JSON: https://github.com/PrincetonUniversity/jobstats
"""
from __future__ import annotations

import base64
import binascii
import zlib
from typing import Any, NamedTuple

from src.io import files, records

_PREFIX = "JS1:"
_MAX_COMMENT, _MAX_TEXT = 2**18, 2**22  # characters, and bytes once decompressed: of jobs on thousands of nodes
_GZIP = 16 + zlib.MAX_WBITS


class JobStats(NamedTuple):
    """The use of a job.

    memory: the largest peak of a node, in bytes
    gpu: percent busy of all GPUs together, a mean over time; None if it was not measured
    """

    memory: float
    gpu: float | None


def parse(comment: str) -> JobStats | None:
    """Return the content of an AdminComment; None if it holds no such record, as of a short job, or is damaged."""
    if not comment.startswith(_PREFIX) or len(comment) > _MAX_COMMENT:
        return None
    decompressor = zlib.decompressobj(_GZIP)
    try:
        text = decompressor.decompress(base64.b64decode("".join(comment[len(_PREFIX):].split()), validate=True),
                                       _MAX_TEXT)
    except (binascii.Error, ValueError, zlib.error):
        return None
    if not decompressor.eof:  # cut, or larger than any record
        return None
    content = files.parse_json(text.decode(errors="replace"))
    nodes = content.get("nodes") if isinstance(content, dict) else None
    if not isinstance(nodes, dict):
        return None
    gpu = [percent for node in nodes.values() for percent in _gpu_utilization(node)]
    return JobStats(max((_number(node, "used_memory") for node in nodes.values()), default=0.0),
                    sum(gpu) if gpu else None)


def _number(node: Any, key: str) -> float:
    value: Any = node.get(key) if isinstance(node, dict) else None
    return float(value) if records.is_number(value) and value >= 0 else 0.0


def _gpu_utilization(node: Any) -> list[float]:
    """Return the percent in which each GPU of a node was busy."""
    values = node.get("gpu_utilization") if isinstance(node, dict) else None
    return [_number(values, name) for name in values] if isinstance(values, dict) else []
