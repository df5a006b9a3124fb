"""A real browser without a window, driven over its own protocol: Chromium."""

import asyncio
import base64
import itertools
import os
import select
import shutil
import signal
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import IO, Any

import aiohttp

PROGRAMS = ("chromium-headless-shell", "chromium", "google-chrome")
ANSWER_S = 30.0  # on a machine under load
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--no-first-run",
    "--remote-debugging-port=0",
)  # fmt: skip


def program() -> str | None:
    """Where a browser is on this machine."""
    return next((found for name in PROGRAMS if (found := shutil.which(name))), None)


class Tab:
    """A tab of the browser, and what it complained about and asked for."""

    def __init__(self, browser: "Browser", session: str) -> None:
        self._browser = browser
        self.session = session
        self.complaints: list[str] = []
        self.asked: list[str] = []
        self.loaded = asyncio.Event()

    async def do(self, method: str, **parameters: Any) -> dict[str, Any]:
        return await self._browser.do(method, parameters, self.session)

    async def look(self, width: int = 1280, height: int = 800, *, dark: bool = False) -> None:
        """Through a window of that size, in a light or in a dark theme."""
        await self.do(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.do("Emulation.setEmulatedMedia", features=[theme])

    async def go(self, url: str) -> None:
        """Load a page."""
        self.loaded.clear()
        await self.do("Page.navigate", url=url)
        async with asyncio.timeout(ANSWER_S):
            await self.loaded.wait()

    async def run(self, script: str) -> Any:
        """The value of an expression in the page, awaited where it is a promise."""
        answer = await self.do(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def until(self, condition: str) -> None:
        """Wait for something in the page to come true."""
        async with asyncio.timeout(ANSWER_S):
            while not await self.run(condition):
                await self.run("new Promise(done => setTimeout(done, 50))")

    async def press(self, key: str, text: str = "") -> None:
        """A key, down and up."""
        for kind in ("keyDown", "keyUp"):
            await self.do("Input.dispatchKeyEvent", type=kind, key=key, code=key, text=text,
                          windowsVirtualKeyCode={"Tab": 9, "Enter": 13}.get(key, 0))  # fmt: skip

    async def picture(self, form: str = "png", **more: object) -> bytes:
        """What is seen, as `png`, `webp` or `jpeg`."""
        answer = await self.do("Page.captureScreenshot", format=form, **more)
        return base64.b64decode(answer["data"])

    def hear(self, method: str, told: dict[str, Any]) -> None:
        """What the browser says of this tab."""
        match method:
            case "Page.loadEventFired":
                self.loaded.set()
            case "Network.requestWillBeSent":
                self.asked.append(told["request"]["url"])
            case "Runtime.exceptionThrown":
                self.complaints.append(str(told["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if told["type"] in ("error", "warning", "assert"):
                self.complaints.append(str(told["args"]))
            case "Log.entryAdded" if told["entry"]["level"] in ("error", "warning"):
                self.complaints.append(f"{told['entry']['text']} {told['entry'].get('url', '')}")


class Browser:
    """A running browser, at the other end of a socket."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._tabs: dict[str, Tab] = {}

    async def do(
        self, method: str, parameters: dict[str, Any], session: str = ""
    ) -> dict[str, Any]:
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        message = {"id": number, "method": method, "params": parameters}
        await self._socket.send_json(message | ({"sessionId": session} if session else {}))
        async with asyncio.timeout(ANSWER_S):
            return await answer

    async def listen(self) -> None:
        async for message in self._socket:
            said = message.json()
            if "id" in said:
                answer = self._answers.pop(said["id"])
                if "error" in said:
                    answer.set_exception(AssertionError(said["error"]))
                else:
                    answer.set_result(said["result"])
            elif said.get("sessionId") in self._tabs:
                self._tabs[said["sessionId"]].hear(said["method"], said["params"])

    async def tab(self, *, scripts: bool = True) -> Tab:
        """A new one, with storage of its own."""
        context = await self.do("Target.createBrowserContext", {"disposeOnDetach": True})
        target = await self.do("Target.createTarget", {"url": "about:blank", **context})
        attached = await self.do("Target.attachToTarget", {**target, "flatten": True})
        tab = self._tabs[attached["sessionId"]] = Tab(self, attached["sessionId"])
        for domain in ("Page", "Network", "Runtime", "Log"):
            await tab.do(f"{domain}.enable")
        await tab.do("Emulation.setScriptExecutionDisabled", value=not scripts)
        return tab


@contextmanager
def started(folder: Path) -> Iterator[str]:
    """Start a browser that keeps its things in a folder, and end it; the URL of its protocol."""
    found = program()
    assert found is not None
    with subprocess.Popen(
        [found, *FLAGS, f"--user-data-dir={folder}", "about:blank"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, bufsize=0,
        env={**os.environ, "HOME": str(folder)}, start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        reading = threading.Thread(target=process.stderr.read)  # a full pipe would stop it
        try:
            url = _address(process.stderr)
            reading.start()
            yield url
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # and its helpers
            if reading.is_alive():
                reading.join()


def _address(said: IO[bytes]) -> str:
    while select.select([said], [], [], ANSWER_S)[0] and (line := said.readline().decode()):
        if line.startswith("DevTools listening on "):
            return line.removeprefix("DevTools listening on ").strip()
    raise AssertionError("the browser ended at once, or does not say where it listens")


@asynccontextmanager
async def joined(url: str) -> AsyncIterator[Browser]:
    """Drive a browser that runs; its tabs are closed at the end, and what they stored is gone."""
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(url, max_msg_size=2**26) as socket,
    ):
        made = Browser(socket)
        listening = asyncio.create_task(made.listen())
        yield made
        listening.cancel()
