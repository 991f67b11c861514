"""What a submission says on the terminal: the grid, its axes, the resources, and one progress bar."""
from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from src.submission.batch.task_files import WorkerGroup
from src.submission.slurm import directives
from src.submission.spec.naming import format_value as short
from src.submission.system.terminal import count, table


def grid_lines(specs: Sequence[Mapping[str, Any]], axes: Sequence[tuple[str, int]], varying: Sequence[str],
               names: Sequence[str]) -> list[str]:
    """`108 configurations: 6 batch_size x 18 LIST`, a table of the varying parameters, the first and last run names."""
    product = " x ".join(f"{number} {key}" for key, number in axes)
    lines = [f"{count(len(specs), 'configuration')}{f': {product}' if product else ''}"]
    lines += subtests(specs)
    rows = [(key, f"{len(values)}", _clip(values, 88)) for key in varying
            for values in [list(dict.fromkeys(_word(spec[key]) for spec in specs if key in spec))]]
    lines += table(rows, indent="  ")
    if names:
        lines.append(f"first run  {names[0]}")
    if len(names) > 1:
        lines.append(f"last run   {names[-1]}")
    return lines


def subtests(specs: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each subtest of a composite, with how many runs it has; those that it shares count for each."""
    numbers = Counter(name for spec in specs if "SUBTESTS" in spec for name in spec["SUBTESTS"])
    return table([("subtest", name, count(number, "run")) for name, number in numbers.items()], indent="  ")


def workers(teams: Sequence[WorkerGroup]) -> str:
    """`2 for adam small, 1 for sgd, 4 for the rest`, or `4`."""
    if len(teams) < 2 and not any(team.name for team in teams):
        return str(sum(team.workers for team in teams))
    return ", ".join(f"{team.workers} for {team.name.replace(',', ' ') or 'the rest'}" for team in teams)


def _word(value: Any) -> str:
    if isinstance(value, str):
        return f"'{value}'" if "," in value else value
    return short(value)


def _clip(values: Sequence[str], width: int) -> str:
    """The values in a row; if that is too wide, the first two thirds and the last third of those that fit."""
    text = ", ".join(values)
    if len(text) <= width:
        return text
    values = [value if len(value) <= width // 2 - 3 else f"{value[:width // 2 - 4]}…" for value in values]
    for number in range(min(len(values), width), 1, -1):
        last = number // 3
        text = ", ".join([*values[:number - last], *["…"] * (number < len(values)), *values[len(values) - last:]])
        if len(text) <= width:
            break
    return text


def resources(script: str, text: str, options: Iterable[str]) -> str:
    """`submit_2080.sh: partition killable, cpus-per-task 4, mem 8G`: what its directives and the options ask for."""
    asked: dict[str, str] = {}
    for name, value in directives.effective(text, options).items():
        if name not in ("requeue", "open-mode", "signal", "output", "error", "job-name"):
            asked[name] = value
    return f"{script}: {', '.join(f'{name} {value}'.strip() for name, value in asked.items()) or 'no directives'}"


def point_options(specs: Iterable[Mapping[str, Any]]) -> list[str]:
    """What single grid points ask for instead, and how many do: `12 runs: mem 16G, script big.sh`."""
    asked: dict[str, int] = {}
    for spec in specs:
        words = [f"{key} {value}" for key, value in (spec.get("SBATCH") or {}).items()]
        words += [f"script {spec['SCRIPT']}"] if spec.get("SCRIPT") else []
        if words:
            asked[", ".join(words)] = asked.get(", ".join(words), 0) + 1
    return [f"{count(number, 'run')}: {words}" for words, number in asked.items()]
