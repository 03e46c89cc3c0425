"""A real Chromium without a window, driven by its DevTools protocol over a pipe.

Chromium finds no way out of this machine: whatever is not loopback goes to a proxy that takes note of it and answers nothing.

Python 3.11, standard library only.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness import PATIENCE, Disproved

FLAGS = """
--headless=new --remote-debugging-pipe --no-first-run --no-default-browser-check --disable-background-networking
--disable-component-update --disable-default-apps --disable-extensions --disable-sync --disable-domain-reliability
--disable-client-side-phishing-detection --disable-gpu --disable-dev-shm-usage --hide-scrollbars --mute-audio
--metrics-recording-only --password-store=basic --use-mock-keychain --lang=en
--disable-features=OptimizationHints,MediaRouter,Translate,CertificateTransparencyComponentUpdater,AutofillServerCommunication
""".split()


class Page:
    """The one page of a browser, with all that it asked for and complained of."""

    def __init__(self, write: int, read: int) -> None:
        self._write, self._read = write, read
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.dialogs: list[str] = []
        self._loads = 0
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime", "DOM"):
            self._call(f"{domain}.enable")

    def go(self, url: str) -> None:
        """Goes there and waits until all of it is loaded."""
        before = self._loads
        self._call("Page.navigate", url=url)
        self._until("the page is loaded", lambda: self._loads > before)

    def reloaded(self, patience: float) -> None:
        """Waits until the page has reloaded itself."""
        before = self._loads
        self._until("the page reloads itself", lambda: self._loads > before, patience)

    def wait(self, seconds: float) -> int:
        """Lets time pass; tells how often the page was loaded meanwhile."""
        before, deadline = self._loads, time.monotonic() + seconds
        while time.monotonic() < deadline:
            self._take(deadline - time.monotonic())
        return self._loads - before

    def click(self, selector: str) -> None:
        """Clicks at the middle of the first element, as a mouse does."""
        place = self.tell(f"""(() => {{ const it = document.querySelector({json.dumps(selector)});
            it.scrollIntoView({{block: 'center'}}); const box = it.getBoundingClientRect();
            return [box.x + box.width / 2, box.y + box.height / 2] }})()""")
        for kind in ("mousePressed", "mouseReleased"):
            self._call("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1)

    def follow(self, selector: str) -> None:
        """Clicks on what leads to a page, and waits for it."""
        before = self._loads
        self.click(selector)
        self._until("the next page is loaded", lambda: self._loads > before)

    def tell(self, expression: str) -> Any:
        """What an expression is in the page; the page's own policy does not bind who holds the tools."""
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in answer:
            raise Disproved(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def look(self, width: int, height: int, scheme: str) -> None:
        """Has the window that size, in CSS pixels, and the person like that colour scheme."""
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self._call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def picture(self) -> bytes:
        """What of the page is in its window, as PNG."""
        return base64.b64decode(self._call("Page.captureScreenshot")["data"])

    def _until(self, what: str, look: Callable[[], Any], patience: float = PATIENCE) -> None:
        deadline = time.monotonic() + patience
        while not look():
            if time.monotonic() > deadline:
                raise Disproved(f"{what}: not within {patience:g} s")
            self._take(0.1)

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + PATIENCE
        while True:
            if time.monotonic() > deadline:
                raise Disproved(f"{method}: no answer within {PATIENCE:g} s")
            for message in self._take(0.5):
                if message.get("id") == number:
                    if "error" in message:
                        raise Disproved(f"{method}: {message['error']}")
                    return message["result"]

    def _take(self, patience: float) -> list[dict[str, Any]]:
        """Reads what the browser says within that time."""
        ready, _, _ = select.select([self._read], [], [], max(0, patience))
        if not ready:
            return []
        piece = os.read(self._read, 1 << 20)
        if not piece:
            raise Disproved("the browser has ended")
        *texts, self._buffer = (self._buffer + piece).split(b"\0")
        messages = [json.loads(it) for it in texts]
        for message in messages:
            self._note(message.get("method"), message.get("params", {}))
        return messages

    def _note(self, method: str | None, event: dict[str, Any]) -> None:
        match method:
            case "Network.requestWillBeSent":
                self.requests.append(event["request"]["url"])
            case "Network.webSocketCreated":
                self.requests.append(event["url"])
            case "Log.entryAdded":
                self.complaints.append(f"{event['entry']['source']}: {event['entry']['text']}")
            case "Runtime.consoleAPICalled":
                self.complaints.append(f"console: {event['args']}")
            case "Runtime.exceptionThrown":
                self.complaints.append(f"exception: {event['exceptionDetails']}")
            case "Page.javascriptDialogOpening":
                self.dialogs.append(event["message"])
                self._number += 1
                closing = {"id": self._number, "method": "Page.handleJavaScriptDialog", "params": {"accept": True}}
                os.write(self._write, json.dumps({**closing, "sessionId": self._session}).encode() + b"\0")
            case "Page.loadEventFired":
                self._loads += 1


class Outside:
    """A proxy for all that is not loopback: it takes note of each attempt, and answers nothing."""

    def __init__(self) -> None:
        self.attempts: list[str] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:{}".format(self._socket.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._socket.accept()
            with connection:
                connection.settimeout(5)
                self.attempts.append(connection.recv(4096).decode(errors="replace").partition("\r\n")[0])


@contextmanager
def browser(directory: Path) -> Iterator[tuple[Page, Outside]]:
    """Starts Chromium with a profile in `directory`, and ends it."""
    outside = Outside()
    to_browser, from_us = os.pipe()
    to_us, from_browser = os.pipe()
    program = shutil.which("chromium")
    command = [str(program), *FLAGS, f"--user-data-dir={directory}", f"--proxy-server=http://{outside.address}", "about:blank"]
    if os.geteuid() == 0:
        # Its sandbox does not work for root; what is shown to it is ours.
        command.insert(1, "--no-sandbox")

    # The protocol is spoken on the file descriptors 3 and 4, which a shell sees to.
    adopt = f'exec "$@" 3<&{to_browser} 4>&{from_browser}'
    process = subprocess.Popen(
        ["bash", "-c", adopt, "bash", *command],
        env={"PATH": os.environ["PATH"], "HOME": str(directory)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(to_browser, from_browser),
        start_new_session=True,
    )
    os.close(to_browser)
    os.close(from_browser)
    try:
        yield Page(from_us, to_us), outside
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(from_us)
        os.close(to_us)
