"""Serve the live page on the loopback interface: the page, its document, changes, details of runs, and notes."""
from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import tornado.httpserver
import tornado.iostream
import tornado.netutil
import tornado.web

from src import loopback
from src.analysis.page import document
from src.dashboard.guard import TOKEN, Guard, GuardedHandler, Refusal
from src.dashboard.live import Live
from src.errors import UserError, one_line
from src.printable import printable

_WAIT_SECONDS = 25.0  # for which a request waits for changes
_READ_SECONDS = 300.0  # for which the first request waits for the document
_SEND_SECONDS = 60.0  # for which a browser may take to receive an answer
_MAX_CONNECTIONS = 64
_MAX_BODY, _MAX_HEADERS = 64 * 1024, 16 * 1024  # bytes of a request
_MAX_NOTE = 4000  # characters
AddNote = Callable[[str, str], object]  # of a batch and a text


class Server:
    """The page of some batches, on a port of the loopback interface.

    port: 0 for a free one; page: its HTML; policy: its Content-Security-Policy; add_note: stores a note on a batch,
    and raises OSError or UserError if it cannot. OSError if the port is taken.
    """

    def __init__(self, live: Live, port: int, page: str, policy: str, add_note: AddNote) -> None:
        self.live, self.page, self.policy, self.add_note, self.guard = live, page, policy, add_note, Guard()
        self.threads = ThreadPoolExecutor(2, thread_name_prefix="dashboard")
        self._sockets = tornado.netutil.bind_sockets(port, loopback.ADDRESS)
        self.port: int = self._sockets[0].getsockname()[1]
        arguments = {"server": self}
        self._application = tornado.web.Application(
            [(self.guard.folder + name, handler, arguments) for name, handler in (
                ("", _Page), ("document", _Document), ("changes", _Changes), ("run", _Run), ("curves", _Curves),
                ("note", _Note))],
            default_handler_class=_Nothing, default_handler_args=arguments, compress_response=True,
            log_function=lambda _: None)

    @property
    def address(self) -> str:
        """The address of the page, with its token."""
        return f"http://{loopback.ADDRESS}:{self.port}{self.guard.folder}?{TOKEN}={self.guard.token}"

    def run(self) -> None:
        """Serve until SIGINT, SIGTERM or SIGHUP."""
        asyncio.run(self._serve())

    def stop(self) -> None:
        """End `run`, from any thread."""
        self._loop.call_soon_threadsafe(self._has_ended.set)

    async def _serve(self) -> None:
        self._loop = loop = asyncio.get_running_loop()
        self.changed, self._has_ended = asyncio.Event(), asyncio.Event()
        http = _HTTPServer(self._application, max_body_size=_MAX_BODY, max_header_size=_MAX_HEADERS,
                           idle_connection_timeout=2 * _WAIT_SECONDS, body_timeout=10)
        http.add_sockets(self._sockets)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP
                loop.add_signal_handler(number, self._has_ended.set)
        self.live.on_change = lambda: loop.call_soon_threadsafe(self._wake)
        self.live.start()
        await self._has_ended.wait()
        http.stop()
        self.live.on_change = lambda: None
        self.threads.shutdown(wait=False, cancel_futures=True)
        self.live.stop()
        await http.close_all_connections()

    def _wake(self) -> None:
        """Wake the requests that wait for a change."""
        self.changed.set()
        self.changed = asyncio.Event()


class _HTTPServer(tornado.httpserver.HTTPServer):
    """A server that refuses connections beyond a number."""

    def handle_stream(self, stream: tornado.iostream.IOStream, address: tuple[Any, ...]) -> None:
        """Serve a new connection."""
        if len(self._connections) >= _MAX_CONNECTIONS:
            stream.close()
        else:
            super().handle_stream(stream, address)


class _Handler(GuardedHandler):
    def initialize(self, server: Server) -> None:  # type: ignore[override]
        super().initialize(server.guard, server.policy)
        self.server, self.live = server, server.live

    def prepare(self) -> None:
        super().prepare()
        self.live.touch()

    async def in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return the result of a function that reads files."""
        return await asyncio.get_running_loop().run_in_executor(self.server.threads, function, *arguments)

    async def wait(self, changed: asyncio.Event) -> None:
        """Wait for a change, but not for ever."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(changed.wait(), _WAIT_SECONDS)

    async def send(self, body: bytes | str, kind: str = "application/json") -> None:
        """Send an answer. A browser that does not take it is disconnected."""
        self.set_header("Content-Type", f"{kind}; charset=utf-8")
        with contextlib.suppress(tornado.iostream.StreamClosedError):
            try:
                await asyncio.wait_for(self.finish(body), _SEND_SECONDS)
            except TimeoutError:
                self.detach().close()

    async def send_json(self, value: Any) -> None:
        """Send a value of the document."""
        await self.send(document.to_json(value))


class _Nothing(_Handler):
    def get(self) -> None:
        raise Refusal(404, "there is nothing at this address")


class _Page(_Handler):
    def has_token(self) -> bool:
        return self.server.guard.is_token(self.get_query_argument(TOKEN, ""))

    async def get(self) -> None:
        if self.has_token():
            self.guard.set_cookie(self)
            self.redirect(self.guard.folder)
        else:
            await self.send(self.server.page, "text/html")


class _Document(_Handler):
    async def get(self) -> None:
        end = time.monotonic() + _READ_SECONDS
        while not self.live.published.version and time.monotonic() < end:
            await self.wait(self.server.changed)
        version, body = self.live.published.encoded()
        if not version:
            raise Refusal(503, "the results are still being read")
        self.set_header("ETag", f'"{version}"')
        self.set_header("Vary", "Accept-Encoding")
        if self.check_etag_header():
            self.set_status(304)
        elif "gzip" in self.request.headers.get("Accept-Encoding", ""):
            self.set_header("Content-Encoding", "gzip")
            await self.send(body)
        else:
            await self.send(await self.in_thread(gzip.decompress, body))


class _Changes(_Handler):
    async def get(self) -> None:
        changed, since = self.server.changed, self.get_query_argument("since", "")
        if since == self.live.published.version:
            await self.wait(changed)
        await self.send_json(self.live.published.since(since))


class _Run(_Handler):
    async def get(self) -> None:
        details = await self.in_thread(self.live.details, self.get_query_argument("key", ""))
        if details is None:
            raise Refusal(404, "no run of these batches has this key")
        await self.send_json(details)


class _Curves(_Handler):
    async def get(self) -> None:
        curves = await self.in_thread(self.live.curves, self.get_query_argument("metric", ""))
        if curves is None:
            raise Refusal(404, "no run has this metric, or runs came or went meanwhile")
        await self.send_json(curves)


class _Note(_Handler):
    def prepare(self) -> None:
        super().prepare()
        kind = self.request.headers.get("Content-Type", "").partition(";")[0].strip()
        if self.request.headers.get("X-Gridiron") != "1" or kind != "application/json":  # a form cannot send these
            raise Refusal(403, "only the page itself adds notes")

    async def post(self) -> None:
        batch, text = self._parse()
        try:
            await self.in_thread(self.server.add_note, self.live.batches[batch], text)
        except OSError as error:
            raise Refusal(403, f"the note cannot be stored: {error.strerror}") from None
        except UserError as error:
            raise Refusal(403, f"the note cannot be stored: {one_line(str(error))}") from None
        await self.send_json({"notes": await self.in_thread(self.live.notes, batch)})

    def _parse(self) -> tuple[int, str]:
        """Return the index of a batch, and the text."""
        try:
            note = json.loads(self.request.body)
        except (ValueError, RecursionError):
            note = None
        batch, text = (note.get("batch"), note.get("text")) if isinstance(note, dict) else (None, None)
        if type(batch) is not int or not 0 <= batch < len(self.live.batches) or not isinstance(text, str):
            raise Refusal(400, "a note needs the index of a batch, and a text")
        if not text.strip() or len(text) > _MAX_NOTE:
            raise Refusal(400, f"a note has 1 to {_MAX_NOTE:,} characters")
        return batch, printable(text.strip())
