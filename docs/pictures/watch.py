"""The picture of `watch` in docs/submission.md: a real batch in a real terminal, photographed by `make watch-picture`.

Above is the list of runs while they train, below the learning curves of the selected one.
"""
from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.ansi import AnsiDecoder
from rich.console import Console

from docs.pictures.draw import with_palette
from src.errors import UserError, exits_on_user_error
from src.io import files
from tests.terminal.tmux import EXPERIMENTS, Terminal, terminal

_ROOT = Path(__file__).resolve().parents[2]
_PICTURE = Path(__file__).with_name("watch.png")
_COLUMNS, _LINES = 100, 24
_PAGE = (1000, 1040)  # pixels
_JOB = (sys.executable, str(_ROOT / "submit_multiple.py"), str(_ROOT / "jobs" / "digits-quickstart.yaml"), "--local",
        "--workers", "3", "-y", "--output-dir", "results", "--set", "train_length=60")
_ENDED = range(14, 22)  # of 24 runs, when the picture is taken


def screenshot(screen: Terminal) -> str:
    """Return what a terminal shows as an SVG."""
    console = Console(record=True, width=_COLUMNS, file=io.StringIO(), force_terminal=True)
    for line in list(AnsiDecoder().decode(screen.colored()))[:_LINES]:
        console.print(line, no_wrap=True, overflow="crop")
    return console.export_svg(title="python experiments.py watch")


def take(folder: Path) -> list[str]:
    """Run a batch in a folder, and return pictures of the list of its runs and of the curves of one."""
    with subprocess.Popen(_JOB, cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"},
                          stdout=subprocess.DEVNULL) as submission:
        try:
            with terminal(folder, _COLUMNS, _LINES) as screen:
                screen.run(f"until ls results/*/submissions; do sleep 0.1; done; {EXPERIMENTS} watch --every 1")
                screen.wait_for("q quit")
                screen.wait(lambda rows: any(f" {number}/24 runs" in row for number in _ENDED for row in rows))
                pictures = [screenshot(screen)]
                screen.press("End", "c")
                screen.wait_for("other metrics")
                return [*pictures, screenshot(screen)]
        finally:
            submission.terminate()


@exits_on_user_error
def main() -> None:
    """Write docs/pictures/watch.png."""
    for program in ("tmux", "chromium"):
        if not shutil.which(program):
            raise UserError(f"{program} is required for the picture of watch")
    with tempfile.TemporaryDirectory(prefix="gridiron-watch-") as name:
        folder = Path(name)
        page = folder / "page.html"
        page.write_text("<body style='margin: 8px'>" + "".join(
            f"<div style='margin-bottom: 8px'>{picture}</div>" for picture in take(folder)), "utf-8")
        subprocess.run(["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                        f"--window-size={_PAGE[0]},{_PAGE[1]}", f"--screenshot={folder / 'page.png'}", page.as_uri()],
                       check=True, capture_output=True)
        files.write_atomic(_PICTURE, with_palette(str(folder / "page.png"), 200), sync=False)
    print(_PICTURE.relative_to(_ROOT))


if __name__ == "__main__":
    sys.exit(main())
