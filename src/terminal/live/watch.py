"""The live screen of `watch`: a loop of keys and redraws, while threads read the batches and cancel runs."""
from __future__ import annotations

import os
import threading
from collections.abc import Callable

from src.errors import UserError, experiments_command
from src.submission.status import cancel as cancelling
from src.submission.status.observation import Observation, Run
from src.submission.status.observe import SlurmView, observe
from src.terminal.live.keys import KeyReader
from src.terminal.live.list_page import ListPage
from src.terminal.live.pages import Page
from src.terminal.live.reader import Batch, Reader
from src.terminal.live.screen import Screen

_ESCAPE_DELAY = 0.1  # seconds within which the rest of a key's sequence arrives, over slow connections too


def run(read: Callable[[SlurmView], list[Observation]], every: float, interval: float | None) -> list[Observation]:
    """Show batches until the user quits. Return them as they were last.

    read: observes them; every, interval: seconds between two looks at the files, and between queries of Slurm.
    """
    screen = Screen()
    reader = Reader(read, every, interval, screen.wake)
    with screen:
        reader.start()
        try:
            _loop(screen, reader)
        except (KeyboardInterrupt, EOFError):
            pass
        finally:
            reader.stop()
    return [batch.observation for batch in reader.snapshot.batches] if reader.snapshot else []


def _loop(screen: Screen, reader: Reader) -> None:
    def cancel(batch: Batch, cancelled: Run | None) -> None:
        threading.Thread(target=work, args=(batch.observation.path, cancelled and cancelled.path), daemon=True).start()

    def work(batch: str, cancelled: str | None) -> None:
        first.show_message(_cancel_now(batch, cancelled))
        reader.refresh()
        screen.wake()

    first, decoder = ListPage(reader, cancel), KeyReader()
    pages: list[Page] = [first]
    while pages:
        if reader.error:
            raise reader.error
        screen.paint(pages[-1].lines(*screen.size))
        data = screen.wait(_ESCAPE_DELAY if decoder.is_incomplete else pages[-1].interval)
        for key in decoder.feed(data) if data or decoder.is_incomplete else ():
            page = pages[-1].press(key)
            if page is None:
                pages.pop()
            elif page is not pages[-1]:
                pages.append(page)
            if not pages:
                return


def _cancel_now(batch: str, run: str | None) -> str:
    """Cancel a run by its path, or with None the batch, and wait a few seconds. Return a line about what happened."""
    batch = os.path.normpath(batch)
    batches, runs = ([], [os.path.normpath(run)]) if run else ([batch], [])
    try:
        observations = observe([batch])
        cancellation = cancelling.select(observations, batches, runs, None)
        unverified = cancelling.unverified(observations, batches, runs)
        if cancellation is None:
            if unverified:
                command = experiments_command("cancel", run or batch, "--by-id")
                return str(cancelling.unverified_error(unverified, command))
            return "nothing is pending or running"
        gone, left_alone = cancelling.cancel(cancellation)
        ending = [] if left_alone else cancelling.wait_for_ends(cancellation)
    except UserError as error:
        return f"not cancelled: {'; '.join(filter(None, (error.what, error.hint)))}"
    except OSError as error:
        return f"not cancelled: {error}"
    return "; ".join(["; ".join(cancelling.describe_end(cancellation.summary(), left_alone, ending)), *left_alone,
                      *([f"already ended or unknown to Slurm: {', '.join(gone)}"] if gone else [])])
