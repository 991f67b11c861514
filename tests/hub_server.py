"""The fixture `hub_server`: a Hugging Face hub on loopback that real downloads go to."""
from __future__ import annotations

import hashlib
import http.server
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.texts import make_folder

COMMIT = "c" * 40


class Hub(http.server.ThreadingHTTPServer):
    """A hub with one model, `me/tiny`. Downloads are slow, and counted by file in `downloads`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}
        self.downloads: Counter[str] = Counter()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def environment(self, cache: Path) -> dict[str, str]:
        """Return environment variables with which a process downloads from this hub into the folder `cache`."""
        return {"HF_HOME": str(cache), "HF_ENDPOINT": self.url, "HF_HUB_DISABLE_XET": "1"}


class Handler(http.server.BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if re.fullmatch(r"/api/models/me/tiny(/revision/\w+)?", path):
            self._send(json.dumps({"id": "me/tiny", "sha": COMMIT, "siblings": [
                {"rfilename": name} for name in self.server.files]}).encode())
        elif path.startswith("/api/models/me/tiny/tree/"):
            self._send(json.dumps([{"type": "file", "path": name, "size": len(content), "oid": _etag(content)}
                                   for name, content in self.server.files.items()]).encode())
        elif match := re.fullmatch(r"/me/tiny/resolve/\w+/(\S+)", path):
            content = self.server.files[match[1]]
            if self.command == "GET":
                self.server.downloads[match[1]] += 1
                time.sleep(0.3)  # long enough for concurrent requests to overlap
            self._send(content, ETag=f'"{_etag(content)}"', **{"X-Repo-Commit": COMMIT})
        else:
            self.send_error(404)

    def _send(self, content: bytes, **headers: str) -> None:
        self.send_response(200)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def _etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@pytest.fixture
def hub_server(tmp_path: Path) -> Iterator[Hub]:
    pytest.importorskip("transformers")
    make_folder(tmp_path / "served")
    server = Hub(tmp_path / "served")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()
