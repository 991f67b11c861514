"""Control headless Chromium by its debugging pipe: requests, console messages and results of a page."""
from __future__ import annotations

import json
import os
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_CODES = {"Enter": 13, "Escape": 27, "Tab": 9, "ArrowDown": 40, "ArrowUp": 38, "End": 35, "Home": 36, " ": 32}


class Tab:
    """One page. events: all that the browser has told, as {"method": …, "params": …}, in order."""

    def __init__(self, to: int, of: int) -> None:
        self._to, self._of, self._last, self._rest = to, of, 0, b""
        self._session: str | None = None
        self._opened = 0
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for part in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{part}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """The answer to a command of the DevTools protocol; an error fails the test, so does a minute without one."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._last:
                assert "error" not in answer, answer
                return dict(answer["result"])
            self.events.append(answer)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            assert select.select([self._of], [], [], 60)[0], "the page does not answer"
            part = os.read(self._of, 1 << 20)
            assert part, "Chromium has ended"
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(message))

    def open(self, path: str, fragment: str = "") -> None:
        """Load a file, scripts and pictures too, and forget earlier events. fragment: with its #."""
        self._opened += 1  # a new address each time: another fragment alone would load nothing
        self.visit(f"{Path(path).as_uri()}?{self._opened}{fragment}")

    def visit(self, url: str) -> None:
        """Load an address, and forget earlier events."""
        self.events.clear()
        self.call("Page.navigate", url=url)
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def js(self, expression: str) -> Any:
        """The value of an expression in the page."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, expression: str, seconds: float = 300) -> Any:
        """Evaluate an expression until it is true, and return its value."""
        deadline = time.monotonic() + seconds
        while not (value := self.js(f"(value => value instanceof Element || value)({expression})")):
            assert time.monotonic() < deadline, f"never true: {expression}"
            time.sleep(0.05)
        return value

    def press(self, key: str, *, shift: bool = False, control: bool = False) -> None:
        """Press a key, as Enter or a, where the focus is."""
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        modifiers = 8 * shift + 2 * control
        if control:
            text = ""
        for kind, typed in (("keyDown", {"text": text} if text else {}), ("keyUp", {})):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, modifiers=modifiers,
                      windowsVirtualKeyCode=_CODES.get(key, 0), **typed)

    def resize(self, width: int, height: int, scale: float = 1) -> None:
        """Set the size of the window in CSS pixels."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale,
                  mobile=width < 600)

    def complaints(self) -> list[dict[str, Any]]:
        """Errors, and warnings on the console."""
        return [*self.of("Runtime.exceptionThrown"), *(
            event for event in self.of("Log.entryAdded") if event["entry"]["level"] in ("error", "warning")), *(
            event for event in self.of("Runtime.consoleAPICalled") if event["type"] in ("error", "warning"))]

    def of(self, *methods: str) -> list[dict[str, Any]]:
        """The events of some kinds."""
        return [event["params"] for event in self.events if event["method"] in methods]


@contextmanager
def chromium(program: str, profile: Path) -> Iterator[Tab]:
    """A browser of its own, ended with the block."""
    inner_in, to = os.pipe()
    of, inner_out = os.pipe()
    # the pipe is expected at 3 and 4; root has no sandbox, and the page is our own
    command = ["bash", "-c", f'exec "$@" 3<&{inner_in} 4>&{inner_out}', "bash", program, "--headless", "--no-sandbox",
               "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe", f"--user-data-dir={profile}"]
    process = subprocess.Popen(command, pass_fds=(inner_in, inner_out), stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    os.close(inner_in)
    os.close(inner_out)
    try:
        yield Tab(to, of)
    finally:
        process.terminate()
        process.wait(30)
        os.close(to)
        os.close(of)
        time.sleep(0.1)
