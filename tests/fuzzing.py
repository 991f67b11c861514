"""Mutate files of a real batch, and call every reader on it in a process of its own, which may take 2 s and 200 MiB.

`python -m tests.fuzzing BATCH SECONDS SEED` prints, as JSON, how many files were read, and the first failure.
"""
from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from tests.fuzz_readers import OUTSIDE, Reader, all_readers

CPU_SECONDS, WAITING_SECONDS, MEBIBYTES = 2.0, 60.0, 200
CASE = "GRIDIRON_FUZZ_CASE"  # variable: the file that names what is read now
_MAX_FAILURES = 20
_SPECIAL: dict[str, Callable[[Path], Any]] = {
    "pipe": os.mkfifo, "link to /dev/zero": lambda path: path.symlink_to("/dev/zero"), "folder": Path.mkdir,
    "link to itself": lambda path: path.symlink_to(path.name), "link to nothing": lambda path: path.symlink_to("none"),
    "sparse file of a terabyte": lambda path: (path.touch(), os.truncate(path, 2**40)), "empty file": Path.touch,
    "file without permissions": lambda path: (path.write_bytes(b"x"), path.chmod(0))}
_TEXTS = (
    "[" * 100_000, "{" * 50_000, "a: &a [*a]", "- " * 60_000, "9" * 5000, "0x" + "f" * 9000, "-" * 150_000, "=cmd()",
    "x" * 200_000, "\0", "\ufeff", "\x1b]52;c;YQ==\x07", "\r\n", "\ud800", "nan", "-inf", "1e999", "null", "~",
    "!!python/object:os.x {}", "&x", "*x", "<<: [*x, *x]", "? ", ": ", "%YAML 9.9\n---\n", "(a+)+$", "../../x", "true",
    "/dev/zero", "\u2028", "''", '"', "'", ",", "\n", "2026-11-20", "é" * 1000, "a: 1\na: 2\n", "!choice [1]",
    "range(10**9)", "[x for x in range(9999999)]", "9**9**9", "a" * 40 + "b")
_VALUES = (
    None, True, False, -1, 0, 2**63, 10**400, 1e308, 1.5, float("nan"), float("inf"), "", "x" * 50_000, "-" * 150_000,
    "../../x", "\0", "a\nb", [], {}, [[]], {"": {}}, [None] * 5000, "9" * 5000, ["a", 1, None], {"a": [{}]}, "(a+)+$",
    "2026-11-20", "range(10**9)")
_ALIASES = [", ".join([f"*b{level - 1}" if level else "*a"] * 9) for level in range(9)]
_BOMB = "a: &a {x: 1}\n" + "".join(
    f"b{level}: &b{level} {{<<: [{aliases}], y{level}: [{aliases}]}}\n" for level, aliases in enumerate(_ALIASES))
_NOT_READ = ("executed", "out", "err")  # of the tests; output of any length, which is sent in parts
_SUFFIXES = (".yaml", ".json", ".jsonl", ".csv", ".log", ".out", ".npz", "", ".toml", ".txt", ".pt", ".npy", ".gz",
             ".png", ".jpg", ".gif")


def main(batch: Path, seconds: float, seed: int) -> None:
    """Read mutated files until the time is over. Print the counts and the different failures as JSON."""
    draw = random.Random(seed)
    counts, failures = Counter[str](), {}
    with open(os.devnull, "w") as null, contextlib.redirect_stderr(null):
        readers = all_readers(batch)
        for reader in readers:  # without a limit: libraries are imported
            reader.read()
        problems = call(readers)
        assert not problems, problems
        baseline, end = peak(), time.monotonic() + seconds
        while time.monotonic() < end and len(failures) < _MAX_FAILURES:
            path = draw.choice(targets(batch))
            with mutated(path, draw) as kind:
                case = f"{path.name}: {kind}, seed {seed}, case {counts.total()}"
                Path(os.environ[CASE]).write_text(case)
                counts[kind] += 1
                slow = draw.random() < (0.3 if path.name in ("config.yaml", "stats.csv", "spec.yaml") else 0.03)
                name = os.path.relpath(path, batch.parent)
                problems = call(reader for reader in readers if (slow or not reader.is_slow) and reader.reads(name))
            if peak() - baseline > MEBIBYTES:
                problems.append(f"{peak() - baseline:.0f} MiB")
                baseline = peak()
            for problem in problems:
                failures.setdefault(problem.strip().splitlines()[-1][:100], f"{case}, reader {problem}")
    print(json.dumps({"counts": counts, "readers": len(readers), "failures": list(failures.values())}))


def peak() -> float:
    """Return the largest memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def targets(batch: Path) -> list[Path]:
    """Return the files of a batch that readers read, and the job spec beside it."""
    return sorted(path for path in [*batch.rglob("*"), *(batch.parent / OUTSIDE).rglob("*"), batch.parent / "x.yaml"]
                  if path.suffix in _SUFFIXES and path.name not in _NOT_READ and path.is_file())


@contextlib.contextmanager
def mutated(path: Path, draw: random.Random) -> Iterator[str]:
    """Replace a file by another one in the block. Yield what was done."""
    original = path.with_name(f".{path.name}.original")
    os.rename(path, original)
    try:
        yield _mutate(path, original.read_bytes(), draw)
    finally:
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        elif os.path.lexists(path):
            path.unlink()
        os.rename(original, path)


def _mutate(path: Path, data: bytes, draw: random.Random) -> str:
    """Write a mutation of the data. Return its kind."""
    if draw.random() < 0.15:
        # data sets are read as a whole, whatever their size
        kind = draw.choice(sorted(kind for kind in _SPECIAL if "terabyte" not in kind or "/data/" not in str(path)))
        _SPECIAL[kind](path)
        return kind
    mutations = [("bytes", _mutate_bytes), ("values", _mutate_values), ("text", _insert_text)]
    head, line, packed = data.partition(b"\n") if path.name.startswith("resume-") else (b"", b"", data)
    if path.suffix == ".pt":
        mutations = [("bytes", _mutate_bytes), ("content", _mutate_tensors)]
    kind, mutation = draw.choice(mutations)
    mutated_data = mutation(packed, draw)
    if head:  # the hash of the rest ends the first line
        head = head.rpartition(b" ")[0] + b" " + hashlib.blake2b(mutated_data).hexdigest().encode()
    path.write_bytes(head + line + mutated_data)
    return kind


def _mutate_tensors(data: bytes, draw: random.Random) -> bytes:
    """Replace a value of a file of torch.save."""
    packed = io.BytesIO()
    torch.save(_replaced(torch.load(io.BytesIO(data), weights_only=True), draw), packed)
    return packed.getvalue()


def _mutate_bytes(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 3, 30))):
        at = draw.randrange(len(changed) + 1)
        length = draw.choice((1, 2, 10, 100))
        piece = changed[at:at + length]
        changed[at:at + length] = draw.choice((
            b"", draw.randbytes(length), piece * 2, piece * 3000, piece[::-1], b"\0" * length))
    return bytes(changed)


def _insert_text(data: bytes, draw: random.Random) -> bytes:
    """Insert a text that is difficult for some parser: anywhere, in place of a cell or value, or as the whole file."""
    text = draw.choice((*_TEXTS, _BOMB)).encode(errors="surrogatepass")
    if draw.random() < 0.2:
        return text
    ends = [at for at, byte in enumerate(data) if byte in b",:\n {}[]"] or [0]
    at = draw.choice(ends) if draw.random() < 0.7 else draw.randrange(len(data) + 1)
    later = [end for end in ends if end > at]
    return data[:at + 1] + text + data[(later[0] if later and draw.random() < 0.8 else at + 1):]


def _mutate_values(data: bytes, draw: random.Random) -> bytes:
    """Replace values of a line in JSON, or of a line `key: value`, or cells of a table."""
    lines = data.decode(errors="replace").split("\n")
    at = draw.randrange(len(lines))
    with contextlib.suppress(ValueError):
        lines[at] = json.dumps(_replaced(json.loads(lines[at]), draw))
        return "\n".join(lines).encode(errors="surrogatepass")
    key, mark, value = lines[at].partition(": ")
    if mark:
        try:
            value = json.dumps(_replaced(json.loads(value), draw))
        except ValueError:
            value = str(draw.choice(_VALUES))
        lines[at] = f"{key}: {value}"
    else:
        cells = lines[at].split(",")
        cells[draw.randrange(len(cells))] = str(draw.choice(_VALUES)).replace("\n", " ")
        lines[at] = ",".join(cells)
    return "\n".join(lines).encode(errors="surrogatepass")


def _replaced(value: Any, draw: random.Random) -> Any:
    """Return a JSON value in which one part is another value."""
    if isinstance(value, dict) and value and draw.random() < 0.85:
        key = draw.choice(sorted(value, key=repr))
        changed = {**value, key: _replaced(value[key], draw)}
        if draw.random() < 0.15:
            changed.pop(key)
            changed[draw.choice(("../x", "", "kind", "\0", "x" * 300))] = draw.choice(_VALUES)
        return changed
    if isinstance(value, list) and value and draw.random() < 0.8:
        at = draw.randrange(len(value))
        return [*value[:at], _replaced(value[at], draw), *value[at + 1:]]
    return draw.choice(_VALUES)


def call(readers: Iterable[Reader]) -> list[str]:
    """Call the readers. Return the tracebacks of those that fail; one that takes too long kills the process."""
    from src.errors import UserError

    problems = []
    for reader in readers:
        Path(os.environ[CASE] + ".reader").write_text(reader.name)
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        signal.setitimer(signal.ITIMER_REAL, WAITING_SECONDS)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                reader.read()
        except Exception as error:
            is_message = isinstance(error, UserError) or isinstance(error, OSError) and error.filename is not None
            if not (reader.may_refuse and is_message):
                problems.append(f"{reader.name}: {traceback.format_exc(limit=-6)[-3000:]}")
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
    return problems


def run_in_process(batch: Path, seconds: float, seed: int) -> dict[str, Any]:
    """Fuzz a copy of a batch, and of the files beside it, in another process. Return the counts and the failures."""
    copy = batch.parent.parent / f"copy-{seed}" / batch.name
    shutil.copytree(batch.parent, copy.parent)
    case = copy.parent.parent / f"case-{seed}"
    done = subprocess.run([sys.executable, "-m", "tests.fuzzing", copy, str(seconds), str(seed)], capture_output=True,
                          text=True, env={**os.environ, CASE: str(case), "OMP_NUM_THREADS": "1"},
                          cwd=Path(__file__).parent.parent)
    if done.returncode:
        where = f"{case.read_text()}, reader {Path(f'{case}.reader').read_text()}" if case.exists() else "the start"
        return {"counts": {}, "failures": [f"exit code {done.returncode} at {where}\n{done.stderr[-3000:]}"]}
    answer: dict[str, Any] = json.loads(done.stdout)
    if not answer["failures"]:
        shutil.rmtree(copy.parent)
    return answer


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
