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

`make bench` wrote this page: it measures each promise of speed as a ratio within one run on one machine, so that the
figures mean the same on another machine. Smaller is better throughout; *most* is what the project holds itself to.
Run one part alone with `python -m benchmarks loop`.

"""


def main(names: list[str]) -> int:
    """Measure the named modules, or all. 1 if a figure is over its bound. All together rewrite the page."""
    sections = []
    missed = 0
    for name in names or MODULES:
        module = importlib.import_module(f"benchmarks.{name}")
        rows = module.measure()
        missed += sum(most is not None and figure > most for _, figure, most in rows)
        text = "\n".join(f"| {what} | {figure:.3g} | {'' if most is None else f'{most:.3g}'} |"
                         for what, figure, most in rows)
        section = (f"## {name}\n\n{(module.__doc__ or '').splitlines()[0]}\n\n"
                   f"| what | figure | most |\n|---|---|---|\n{text}\n")
        print(section, flush=True)
        sections.append(section)
    if not names:
        machine = (f"Measured on {date.today()}: {os.cpu_count()} CPUs ({platform.machine()}), Python "
                   f"{platform.python_version()}.\n\n")
        PAGE.write_text(HEAD + machine + "\n".join(sections))
        print(f"written to {PAGE}")
    print(f"{missed} figures over their bound" if missed else "all figures within their bounds")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
