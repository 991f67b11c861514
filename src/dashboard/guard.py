"""Authorization of the live page: a browser needs the token of its address, or the cookie that it got for the token."""
from __future__ import annotations

import hmac
import re
import secrets
from typing import Any

import tornado.web

from src import loopback

_HOST = re.compile(r"(127\.0\.0\.1|localhost)(:[0-9]{1,5})?")  # the port may be another one at the near end of a tunnel
TOKEN = "token"  # its name in the address


class Refusal(tornado.web.HTTPError):
    """An error that the page shows."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(status)
        self.text = text


class Guard:
    """The secrets of a server.

    folder: begins all paths, so that the cookie is not sent to other servers of the same host: browsers do not
    distinguish ports.
    """

    def __init__(self) -> None:
        self.folder = f"/{secrets.token_hex(8)}/"
        self.token, self._session = secrets.token_hex(loopback.TOKEN_BYTES), secrets.token_hex(loopback.TOKEN_BYTES)

    def is_token(self, text: str) -> bool:
        """Return whether a text is the token."""
        return hmac.compare_digest(text.encode(), self.token.encode())

    def has_cookie(self, handler: tornado.web.RequestHandler) -> bool:
        """Return whether a request is of a browser that got the cookie."""
        return hmac.compare_digest((handler.get_cookie("gridiron") or "").encode(), self._session.encode())

    def set_cookie(self, handler: tornado.web.RequestHandler) -> None:
        """Let this browser in from now on. Scripts cannot read the cookie, and other sites cannot use it."""
        handler.set_cookie("gridiron", self._session, path=self.folder, httponly=True, samesite="Strict")


class GuardedHandler(tornado.web.RequestHandler):
    """Refuses requests without the cookie, by a foreign name of the host, or from another site."""

    def initialize(self, guard: Guard, policy: str) -> None:
        self.guard, self._policy = guard, policy
        self.set_default_headers()

    def set_default_headers(self) -> None:
        """Set the headers of every answer, errors included."""
        self.clear_header("Server")
        for name, value in (("Content-Security-Policy", getattr(self, "_policy", "default-src 'none'")),
                            ("X-Content-Type-Options", "nosniff"), ("X-Frame-Options", "DENY"),
                            ("Referrer-Policy", "no-referrer"), ("Cache-Control", "no-store"),
                            ("Cross-Origin-Opener-Policy", "same-origin"),
                            ("Cross-Origin-Resource-Policy", "same-origin")):
            self.set_header(name, value)

    def prepare(self) -> None:
        """Check a request before it is handled."""
        host, origin = self.request.headers.get("Host", ""), self.request.headers.get("Origin")
        if not _HOST.fullmatch(host):
            raise Refusal(403, "this host name is not served")
        if origin is not None and origin != f"http://{host}":
            raise Refusal(403, "requests from other sites are refused")
        if self.has_token():
            return
        if self.request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            raise Refusal(403, "requests from other sites are refused")
        if not self.guard.has_cookie(self):
            raise Refusal(403, "open the address that the command printed, with its token")

    def has_token(self) -> bool:
        """Return whether the request has the token, where a handler accepts it instead of the cookie."""
        return False

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer an error as JSON. It repeats nothing of the request."""
        error = kwargs["exc_info"][1] if "exc_info" in kwargs else None
        self.finish({"error": error.text if isinstance(error, Refusal) else self._reason})
