"""The command dashboard: a page on the loopback interface that shows batches while they run."""
from __future__ import annotations

import argparse
import getpass
import logging
import os
import platform
import shlex
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from src import loopback, notes
from src.commands.command_output import Output
from src.commands.common import add_batches, add_interval, observe_batches, page_rows
from src.commands.records import project_commit
from src.errors import BatchError
from src.submission.batch import batch_folder
from src.submission.status import retry_policy, run_lookup
from src.submission.status.observation import Observation

if TYPE_CHECKING:
    from src.commands import documents
    from src.dashboard.live import Live
    from src.dashboard.server import Server


def add_dashboard(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=dashboard)
    add_batches(parser, "those under results/ with runs that are submitted or running; if there is none, the newest; "
                "and those that are submitted later")
    parser.add_argument("--port", type=int, default=0, metavar="P", help="default: a free one")
    add_interval(parser)


def dashboard(options: argparse.Namespace) -> Output:
    """Serve the page until Ctrl-C."""
    if not 0 <= options.port < 2**16:
        raise BatchError(f"invalid port {options.port}", where="--port", allowed="1024 to 65535",
                         hint="leave the option out for a free port")
    submitted = None if options.batches else Submitted(batch_folder.results_folder())
    batches = [batch_folder.require_batch(path) for path in options.batches] or _active_batches()
    server = _make_server(batches, options, submitted)
    return Output((_instructions(server, path) for path in _serve(server)),
                  (_document(server, path) for path in _serve(server)))


def _active_batches() -> list[str]:
    """Return the batches with runs that are alive; the newest one if there is none."""
    observations = observe_batches([])
    active = [observation.path for observation in observations if observation.count(retry_policy.ALIVE)]
    newest = run_lookup.newest_batch(observation.path for observation in observations)
    return active or ([newest] if newest else [])


class Submitted:
    """The batches of a folder to which runs are submitted after this was created."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._before = self._submissions()

    def find(self) -> list[str]:
        """Return their paths."""
        return [batch for batch, last in self._submissions().items() if last != self._before.get(batch, "")]

    def _submissions(self) -> dict[str, str]:
        """The last submission of each batch."""
        return {batch: run_lookup.last_submission(batch) for batch in batch_folder.all_batches(self._folder)}


def _make_server(batches: Sequence[str], options: argparse.Namespace, submitted: Submitted | None = None) -> Server:
    from src.analysis.page import write
    from src.dashboard.server import Server

    try:
        return Server(make_live(batches, options.interval, submitted), options.port, write.page(None), write.policy(),
                      lambda batch, text: notes.add(batch, text, project_commit()))
    except OSError as error:
        raise BatchError(f"port {options.port} cannot be used: {error.strerror}", where="--port",
                         hint="leave the option out for a free port") from None


def make_live(batches: Sequence[str], interval: float | None, submitted: Submitted | None = None) -> Live:
    """Return the document of batches, which follows their files.

    interval: seconds between queries of Slurm; submitted: batches that are shown too once they are there.
    """
    from src.dashboard.live import Live

    status = _Status(interval)
    return Live(batches, status.rows, status.resources, submitted.find if submitted else list)


class _Status:
    """The status of batches, from their files each time, and from Slurm as often as `watch` queries it."""

    def __init__(self, interval: float | None) -> None:
        from src.submission.status.wait import Poller

        self._poller = Poller(interval)
        self._observations: list[Observation] = []

    def rows(self, batches: Sequence[str]) -> list[dict[str, Any]]:
        """Return a row for each run."""
        from src.submission.status.observe import observe

        self._observations = self._poller.poll(lambda slurm: observe(batches, slurm, read_only=True))
        return [row for observation in self._observations for row in page_rows(observation)]

    def resources(self) -> dict[str, Sequence[Sequence[str]]]:
        """Return what the Slurm jobs of the batches that were observed last used and requested."""
        from src.submission.status import efficiency

        return {path: usage.resources() for path, usage in efficiency.usage_by_batch(self._observations).items()}


def _serve(server: Server) -> Iterator[str]:
    """Yield the file with the address, then serve."""
    with loopback.address_file("dashboard", server.address) as path:
        yield path
        logging.getLogger("src.analysis").setLevel(logging.ERROR)  # the page has the warnings
        server.run()


def _instructions(server: Server, path: str) -> str:
    """Return how to open the page. The address itself, with its token, is shown on a terminal alone."""
    batches = server.live.batches
    title = f"Dashboard of {batches[0] if len(batches) == 1 else f'{len(batches):,} batches'}"
    user, node = getpass.getuser(), platform.node()
    if not sys.stdout.isatty():
        return loopback.connection_instructions(title, server.port, path, user, node, os.environ)
    tunnel = shlex.join(loopback.tunnel(server.port, user, node, os.environ))
    return (f"{title}:\n  {server.address}\nFrom another machine, keep this running there, then open the same address:"
            f"\n  {tunnel}\nIt stops with Ctrl-C.")


def _document(server: Server, path: str) -> documents.Dashboard:
    tunnel = loopback.tunnel(server.port, getpass.getuser(), platform.node(), os.environ)
    return {"address_file": path, "port": server.port, "tunnel": shlex.join(tunnel),
            "batches": list(server.live.batches)}
