"""`make bench`: runs every benchmark, prints one table, and writes it to docs/benchmarks.md."""
from __future__ import annotations

import importlib
import os
import platform
import sys
from datetime import date
from pathlib import Path

MODULES = ("startup", "grid", "loop", "resume", "data", "makespan", "gather", "status", "submission", "tracking",
           "workers", "ddp")
PAGE = Path("docs/benchmarks.md")
HEAD = """\
# Benchmarks

`make bench` writes this page: it measures each promise of speed as a ratio within one run on one machine, so that the
figures mean the same on another machine. Smaller is better throughout; *most* is what the project holds itself to.
`python -m benchmarks loop` measures one part alone again.

"""


def main(names: list[str]) -> int:
    """Measure the named modules, or all, and write their sections of the page. 1 if a figure is over its bound."""
    sections = read_sections()
    missed = 0
    for name in names or MODULES:
        module = importlib.import_module(f"benchmarks.{name}")
        rows = module.measure()
        missed += sum(most is not None and figure > most for _, figure, most in rows)
        text = "\n".join(f"| {what} | {figure:.3g} | {'' if most is None else f'{most:.3g}'} |"
                         for what, figure, most in rows)
        machine = f"{os.cpu_count()} CPUs ({platform.machine()}), Python {platform.python_version()}, {date.today()}"
        sections[name] = (f"## {name}\n\n{(module.__doc__ or '').splitlines()[0]}\nMeasured on {machine}.\n\n"
                          f"| what | figure | most |\n|---|---|---|\n{text}\n")
        print(sections[name], flush=True)
        PAGE.write_text(HEAD + "\n".join(sections[known] for known in MODULES if known in sections))
    print(f"{missed} figures over their bound" if missed else "all figures within their bounds")
    return 1 if missed else 0


def read_sections() -> dict[str, str]:
    """The sections of the page as it is, by the names of their modules."""
    text = PAGE.read_text() if PAGE.exists() else ""
    return {part.partition("\n")[0]: f"## {part.rstrip()}\n" for part in text.split("\n## ")[1:]}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
