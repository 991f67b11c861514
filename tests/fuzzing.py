"""Mutate files of a real batch, and call every reader on it in a process of its own, which may take 2 s and 200 MiB.

`python -m tests.fuzzing BATCH SECONDS SEED` prints, as JSON, how many files were read, and the first failure.
"""
from __future__ import annotations

import contextlib
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
from typing import Any, NamedTuple

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
_NOT_READ = ("executed",)  # of the tests
_SUFFIXES = (".yaml", ".json", ".jsonl", ".csv", ".log", ".out", ".npz", "")


class Reader(NamedTuple):
    """A function that reads files. may_refuse: it may raise an error with a message for the user."""

    name: str
    read: Callable[[], Any]
    may_refuse: bool = False
    is_slow: bool = False


def main(batch: Path, seconds: float, seed: int) -> None:
    """Read mutated files until the time is over. Print the counts and the different failures as JSON."""
    draw = random.Random(seed)
    counts, failures = Counter[str](), {}
    with open(os.devnull, "w") as null, contextlib.redirect_stderr(null):
        readers = all_readers(batch)
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
                problems = call(reader for reader in readers if slow or not reader.is_slow)
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
    return sorted(path for path in [*batch.rglob("*"), batch.parent / "x.yaml"]
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
        kind = draw.choice(sorted(_SPECIAL))
        _SPECIAL[kind](path)
        return kind
    kind, mutation = draw.choice([("bytes", _mutate_bytes), ("values", _mutate_values), ("text", _insert_text)])
    path.write_bytes(mutation(data, draw))
    return kind


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
        key = draw.choice(sorted(value))
        changed = {**value, key: _replaced(value[key], draw)}
        if draw.random() < 0.15:
            changed.pop(key)
            changed[draw.choice(("../x", "", "kind", "\0", "x" * 300))] = draw.choice(_VALUES)
        return changed
    if isinstance(value, list) and value and draw.random() < 0.8:
        at = draw.randrange(len(value))
        return [*value[:at], _replaced(value[at], draw), *value[at + 1:]]
    return draw.choice(_VALUES)


def all_readers(batch: Path) -> list[Reader]:
    """Return the readers of a batch and of the job spec beside it."""
    from src.submission.spec import grid, reader

    def read_job_spec(file: str) -> None:
        grid.expand_job_spec(reader.read_job_spec(file), {}, None, None, None)

    folders = sorted(str(path) for path in batch.iterdir() if path.name[0].isdigit())
    return [*_readers_of_results(batch, len(folders)), *_readers_of_submissions(str(batch)),
            Reader("job spec", lambda: read_job_spec(f"{batch.parent}/x.yaml"), may_refuse=True),
            Reader("batch's job spec", lambda: read_job_spec(f"{batch}/job.yaml"), may_refuse=True),
            *(reader for folder in folders for reader in _readers_of_run(folder))]


def _readers_of_results(batch: Path, runs: int) -> Iterator[Reader]:
    from src import metrics
    from src.analysis.reading import results, run_index
    from src.analysis.reading.runs import find_runs, is_done
    from src.analysis.tables import query, tables

    def read() -> None:
        read = results.read_results(batch)
        assert len(read.config) >= runs - 1, "a bad file leaves out its run alone"
        read.big_df()

    def analyse() -> None:
        read = results.read_results(batch)
        for kind in ("csv", "parquet"):
            read.export(batch.parent / "exported", kind)
        frame = read.big_df()
        columns = [name for name in read.long if name not in ("run", "epoch")]
        for column in metrics.ranking_columns(columns, frame.attrs.get("metric"))[:2]:
            tables.ranking(frame, column)
        query.query(tables.values_table(read.config, read.long), "base_lr > 0")

    def find() -> None:
        run_index._batches.clear()
        find_runs({"base_lr": 0.1}, batch)
        is_done({"base_lr": 0.1}, batch)

    yield Reader("results", read)
    yield Reader("index", find)
    yield Reader("metric", lambda: metrics.read_from_batch(batch))
    yield Reader("analysis", analyse, is_slow=True)


def _readers_of_submissions(batch: str) -> Iterator[Reader]:
    from src import notes
    from src.submission.batch import done_points, extension, journal, sync_markers
    from src.submission.status import efficiency, failures, observe, run_lookup, status, throughput
    from src.tracking import mlflow_run

    def show_status() -> None:
        observation, = observe.observe([batch])
        json.dumps(status.as_json(observation))
        status.render([observation], curves=True, now=time.time())
        throughput.progress_line([observation], time.time())
        failures.nodes_to_avoid(observation.runs.values())
        efficiency.usage_by_batch([observation])

    yield Reader("status", show_status)
    yield Reader("journals", lambda: journal.read_history(batch))
    yield Reader("plans", lambda: journal.plans_with_mapping("identity", batch))
    yield Reader("markers", lambda: sync_markers.read_host(batch, "far"))
    yield Reader("extension", lambda: extension.last_extension(batch))
    yield Reader("notes", lambda: [note.line() for note in notes.read(batch)])
    yield Reader("details", lambda: mlflow_run._details(batch))
    yield Reader("done points", lambda: done_points.done_points(os.path.dirname(batch)))
    yield Reader("lookup", lambda: run_lookup._runs_of_job(batch, "12"))


def _readers_of_run(folder: str) -> Iterator[Reader]:
    from src import logs, run_folder, stats_csv
    from src.analysis.reading import arrays, steps
    from src.config import Config
    from src.submission.batch import reproduce
    from src.tracking import mlflow_run

    def read_records() -> None:
        run = run_folder.RunFolder.read(folder)
        run.last_attempt()
        for ticket in run.claims:
            run.claim(ticket)
        run_folder.identity(folder)

    def read_logs() -> None:
        for log in logs.log_paths(folder):
            logs.normalize_error(logs.last_error(logs.tail(log)))

    def read_config(name: str) -> None:
        Config.from_dict(run_folder.read_spec(f"{folder}/{name}"))

    yield Reader("tags", lambda: run_folder.tags(folder))
    yield Reader("records", read_records, may_refuse=True)
    yield Reader("logs", read_logs, may_refuse=True)
    yield Reader("stats", lambda: stats_csv.read(folder))
    yield Reader("steps", lambda: steps.read_steps([folder], ["a run"]))
    yield Reader("rows", lambda: mlflow_run.read_rows(folder), may_refuse=True)
    yield Reader("reproduce", lambda: reproduce.plan_steps(folder, "/nowhere").lines(), may_refuse=True)
    yield Reader("config", lambda: read_config(run_folder.CONFIG), may_refuse=True)
    yield Reader("spec", lambda: read_config(run_folder.SPEC), may_refuse=True)
    yield Reader("arrays", lambda: arrays.read_arrays(folder, "val/last/matrix"), may_refuse=True)


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
