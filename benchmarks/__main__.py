"""`make bench`: run every benchmark, print the tables, and write them to docs/benchmarks.md."""
from __future__ import annotations

import importlib
import os
import platform
import sys
from datetime import date
from pathlib import Path

MODULES = ("startup", "startup_storm", "grid", "loop", "stacked", "resume", "data", "makespan", "gather", "status",
           "watch", "submission", "tracking", "workers", "slots", "ddp", "search", "page")
PAGE = Path("docs/benchmarks.md")
HEAD = """\
# Benchmarks

`make bench` writes this page. Most values are ratios of two timings in the same run on the same machine, so that they
can be compared across machines. Smaller is better; *limit* is the value that the project commits to.
`python -m benchmarks loop` measures one section again.

"""


def main(names: list[str]) -> int:
    """Measure the named modules, or all, and write their sections. Return 1 if a value exceeds its limit."""
    sections = read_sections()
    exceeded = 0
    for name in names or MODULES:
        module = importlib.import_module(f"benchmarks.{name}")
        rows = module.measure()
        exceeded += sum(limit is not None and value > limit for _, value, limit in rows)
        text = "\n".join(f"| {label} | {value:.3g} | {'' if limit is None else f'{limit:.3g}'} |"
                         for label, value, limit in rows)
        machine = f"{os.cpu_count()} CPUs ({platform.machine()}), Python {platform.python_version()}, {date.today()}"
        sections[name] = (f"## {name}\n\n{(module.__doc__ or '').splitlines()[0]}\nMeasured on {machine}.\n\n"
                          f"| measurement | value | limit |\n|---|---|---|\n{text}\n")
        print(sections[name], flush=True)
        PAGE.write_text(HEAD + "\n".join(sections[module] for module in MODULES if module in sections))
    print(f"{exceeded} values exceed their limit" if exceeded else "all values are within their limits")
    return 1 if exceeded else 0


def read_sections() -> dict[str, str]:
    """Return the current sections of the page by module name."""
    text = PAGE.read_text() if PAGE.exists() else ""
    return {part.partition("\n")[0]: f"## {part.rstrip()}\n" for part in text.split("\n## ")[1:]}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
