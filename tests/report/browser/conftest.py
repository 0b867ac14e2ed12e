"""A real headless Chromium, driven over its debugging pipe: real keys, every console message."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

BY_VALUE = {"awaitPromise": True, "returnByValue": True}
CODES = {"Tab": 9, "Enter": 13, "Escape": 27, "ArrowRight": 39, "ArrowLeft": 37, " ": 32}


class NavigatedError(Exception):
    """The page was left while a script ran in it."""


class Browser:
    """One page of a browser at a time; messages are JSON that ends with a zero byte (Chromium's
    `--remote-debugging-pipe`: it reads from descriptor 3 and writes to 4)."""

    def __init__(self, program: str, profile: Path) -> None:
        to_read, self._to = os.pipe()
        self._from, to_write = os.pipe()
        for descriptor in (to_read, to_write):
            os.set_inheritable(descriptor, True)
        # A shell moves the descriptors to where Chromium expects them.
        script = f'exec "$0" "$@" 3<&{to_read} 4>&{to_write}'
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
        self._process = subprocess.Popen(
            ["bash", "-c", script, program, *flags, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(to_read, to_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(to_write)
        self._buffer = b""
        self._count = 0
        self._session = self._context = ""
        self.events: list[dict[str, Any]] = []

    def open_page(self) -> None:
        """Opens a page with cookies, storage and window of its own."""
        self._context = self.send("Target.createBrowserContext")["browserContextId"]
        place = {"url": "about:blank", "browserContextId": self._context}
        target = self.send("Target.createTarget", **place)["targetId"]
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Runs a command of the DevTools protocol; events that come meanwhile are kept."""
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._count:
                if answer.get("error", {}).get("message", "").startswith("Inspected target nav"):
                    raise NavigatedError
                assert "error" not in answer, (method, answer["error"])
                result: dict[str, Any] = answer["result"]
                return result
            self._keep(answer)

    def close_page(self) -> None:
        """Closes the page; events of it that come later are not those of the next one."""
        self._session = ""
        self.send("Target.disposeBrowserContext", browserContextId=self._context)
        self.events.clear()

    def _keep(self, message: dict[str, Any]) -> None:
        if message.get("sessionId", "") == self._session:
            self.events.append(message)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            piece = os.read(self._from, 1 << 20)
            assert piece, "Chromium ended"
            self._buffer += piece
        text, self._buffer = self._buffer.split(b"\0", 1)
        message: dict[str, Any] = json.loads(text)
        return message

    def open(self, url: str) -> None:
        """Loads a page to its end."""
        self.events.clear()
        self.send("Page.navigate", url=url)
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self._keep(self._read())

    def eval(self, script: str) -> Any:
        """The value of a JavaScript expression; two frames are painted before it.

        If the page is left meanwhile, the next page is asked.
        """
        paint = "new Promise(d => requestAnimationFrame(() => requestAnimationFrame(d)))"
        expression = {"expression": f"{paint}.then(() => ({script}))"}
        try:
            answer = self.send("Runtime.evaluate", **expression, **BY_VALUE)
        except NavigatedError:
            return self.eval(script)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, *keys: str) -> None:
        """Real keys, as from a keyboard."""
        for key in keys:
            text = {"Enter": "\r", "Tab": ""}.get(key, key if len(key) == 1 else "")
            code = {"key": key, "windowsVirtualKeyCode": CODES.get(key, ord(key.upper()[0]))}
            self.send("Input.dispatchKeyEvent", type="keyDown", text=text, **code)
            self.send("Input.dispatchKeyEvent", type="keyUp", **code)

    def mouse(self, kind: str, element: str) -> None:
        """A real `mousePressed` or `mouseReleased` at the middle of an element, a JS expression."""
        middle = "(b => ({x: b.x + b.width / 2, y: b.y + b.height / 2}))"
        place = self.eval(f"{middle}({element}.getBoundingClientRect())")
        self.send("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place)

    def errors(self) -> list[str]:
        """What a console would show: exceptions, warnings and errors, refused or failed loads.

        A load that the page itself ends is no failure.
        """
        found = []
        for event in self.events:
            method, params = event.get("method"), event.get("params", {})
            if params.get("canceled") and "blockedReason" not in params:
                continue
            if method in ("Runtime.exceptionThrown", "Log.entryAdded", "Network.loadingFailed"):
                found.append(json.dumps(params))
            if method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
                found.append(json.dumps(params))
        return found

    def requests(self) -> list[str]:
        """Addresses that the page asked for."""
        return [
            event["params"]["request"]["url"]
            for event in self.events
            if event.get("method") == "Network.requestWillBeSent"
        ]

    def close(self) -> None:
        self._session = ""
        self.send("Browser.close")
        self._process.wait(timeout=30)
        os.close(self._to)
        os.close(self._from)


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of a browser. Where there is none the tests are skipped, in CI they fail."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    missing = "no Chromium here: the report was not opened in a browser"
    if os.environ.get("CI"):
        pytest.fail(missing)  # .ci/run installs it
    pytest.skip(missing)


@pytest.fixture(scope="session")
def running_browser(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser takes two seconds to start and to end, a page of it takes no time."""
    opened = Browser(chromium, tmp_path_factory.mktemp("chromium"))
    yield opened
    opened.close()


@pytest.fixture
def browser(running_browser: Browser) -> Iterator[Browser]:
    running_browser.open_page()
    yield running_browser
    running_browser.close_page()


@pytest.fixture
def open_report(
    browser: Browser, vram_search: Callable[..., Any], tmp_path: Path
) -> Callable[[str], Browser]:
    """Writes a study's report with the command line and opens it from disk."""

    def open_it(study: str) -> Browser:
        file = tmp_path / "report.html"
        done = vram_search("report", study, "-o", file)
        assert done.returncode == 0, done.stdout
        browser.open(file.as_uri())
        return browser

    return open_it
