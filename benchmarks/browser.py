"""A headless Chromium that draws pages as pictures, by its DevTools protocol."""

import asyncio
import base64
import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import ClientSession, ClientWebSocketResponse

from tuning_common.errors import RequestError, WorkError

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
_OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-port=0")
_ANSWER_S = 120.0


def program() -> str | None:
    """Returns the path of a Chromium; None where there is none."""
    return next((path for name in PROGRAMS if (path := shutil.which(name))), None)


class Browser:
    """One tab."""

    def __init__(self, socket: ClientWebSocketResponse) -> None:
        self._socket, self._asked = socket, 0

    async def call(self, method: str, **parameters: object) -> Mapping[str, object]:
        """Calls a method of the protocol.

        Raises:
            WorkError: When Chromium refuses it, or does not answer.
        """
        self._asked += 1
        await self._socket.send_json({"id": self._asked, "method": method, "params": parameters})
        async with asyncio.timeout(_ANSWER_S):
            while True:
                answer: dict[str, object] = await self._socket.receive_json()
                if answer.get("id") == self._asked:
                    break
        if "error" in answer:
            raise WorkError(f"Chromium: {method}: {answer['error']}")
        result = answer["result"]
        assert isinstance(result, dict)
        return result

    async def value(self, expression: str) -> object:
        """Returns the value of an expression in the page."""
        found = (await self.call("Runtime.evaluate", expression=expression, returnByValue=True))["result"]
        assert isinstance(found, dict)
        return found.get("value")

    async def open(self, url: str, width: int, *, dark: bool = False, ready: str = "true") -> None:
        """Shows a page.

        Args:
            url: Of the page.
            width: Of the window, in CSS pixels.
            dark: Whether the browser asks for the dark scheme.
            ready: An expression that is true when the page is complete.

        Raises:
            WorkError: When the page is not complete after two minutes.
        """
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        await self.call("Emulation.setEmulatedMedia", features=scheme)
        await self.call("Page.navigate", url=url)
        try:
            async with asyncio.timeout(_ANSWER_S):
                while not await self.value(f"document.readyState === 'complete' && Boolean({ready})"):
                    await asyncio.sleep(0.2)
        except TimeoutError:
            raise WorkError(f"{url}: not complete after {_ANSWER_S:g} s: {ready}") from None

    async def overflow(self) -> int:
        """Returns by how many CSS pixels the page is wider than its window."""
        return int(str(await self.value("document.documentElement.scrollWidth - document.documentElement.clientWidth")))

    async def picture(self, width: int, height: int | None = None) -> bytes:
        """Returns the page from its top as PNG; all of it where no height is given."""
        whole = int(str(await self.value("Math.ceil(document.documentElement.getBoundingClientRect().height)")))
        clip = {"x": 0, "y": 0, "width": width, "height": min(whole, height or whole), "scale": 1}
        shot = await self.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        return base64.b64decode(str(shot["data"]))


@asynccontextmanager
async def browser() -> AsyncIterator[Browser]:
    """Starts a Chromium with one empty tab.

    Raises:
        RequestError: When none is installed.
    """
    path = program()
    if path is None:
        raise RequestError("no Chromium is installed here: apt-get install chromium fonts-noto-cjk")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            path, *_OPTIONS, f"--user-data-dir={profile}", "about:blank",
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            async with (
                ClientSession() as session,
                session.ws_connect(await _tab(session, Path(profile)), max_msg_size=0) as socket,
            ):
                yield Browser(socket)
        finally:
            process.terminate()
            await process.wait()


async def _tab(session: ClientSession, profile: Path) -> str:
    async with asyncio.timeout(_ANSWER_S):
        while not (told := profile / "DevToolsActivePort").exists() or not told.read_text():
            await asyncio.sleep(0.1)
    port = told.read_text().split()[0]
    async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
        tabs = json.loads(await answer.text())
    return next(str(tab["webSocketDebuggerUrl"]) for tab in tabs if tab["type"] == "page")
