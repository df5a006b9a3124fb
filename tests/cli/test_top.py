"""The status in the terminal: the figures of the page, and a terminal left as it was."""

import asyncio
import contextlib
import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from idservice.cli import http_get, top
from idservice.cli.board import COLUMNS, Board
from idservice.observability import format
from idservice.observability.status import StatusQuery, status
from tests.processes import STORE, Serving, command, environment
from tests.web.scenes import SCENES, Scene, shown

URL = "http://127.0.0.1:8080"


async def told(name: str, at: float = 0.0, **more: Any) -> dict[str, Any]:
    scene = Scene(SCENES[name], **more)
    scene.now += at
    said = status(
        await scene.snapshot(),
        StatusQuery(),
        store=STORE,
        time=scene.now,
        authority="127.0.0.1:8080",
    )
    body: dict[str, Any] = msgspec.to_builtins(said)
    return body


# --- what is shown -------------------------------------------------------------------------------


async def test_the_figures_are_those_of_the_page_in_the_same_order() -> None:
    said = await told("trouble")
    lines = [line.text for line in Board().lines(said, 1000)]
    assert lines[0] == said["verdict"]
    start = next(at for at, line in enumerate(lines) if line.startswith("COUNTER"))
    assert lines[start].split() == " ".join(COLUMNS.values()).split()
    rows = iter(lines[start + 1 :])
    for counter in said["counters"]:
        row = next(rows)
        words = format.row(counter, said["time"])
        assert row.startswith(counter["counter"])
        assert all(word in row for word in words.values())
        if counter["command"]:
            assert next(rows) == f"  {counter['why']}"
            assert next(rows) == f"  $ {counter['command']}"


async def test_ids_a_second_are_counted_from_what_was_handed_out_between_two_looks() -> None:
    board = Board()
    first = await told("one")
    first["counters"][0]["ids_per_second"] = 77.0
    assert " 77 " in "\n".join(line.text for line in board.lines(first, 200))
    second = await told("one", at=2.0)
    second["counters"][0]["issued"] = first["counters"][0]["issued"] + 1234
    second["issued"] = first["issued"] + 1234
    text = [line.text for line in board.lines(second, 200)]
    assert "ids/s 617" in text[2]
    assert " 617 " in text[-1]
    away = await told("one", at=3.0)
    away["counters"][0]["issued"] = 5  # it began anew
    board.lines(away, 200)


async def test_two_minutes_of_runways_are_drawn_the_least_of_ten_seconds_each() -> None:
    board, text = Board(), []
    for second in range(0, 130, 2):
        text = [line.text for line in board.lines(await told("one", at=float(second)), 200)]
    [drawn] = re.findall(f"[{format.SPARK}]{{12}}", text[-1])
    assert len(set(drawn)) > 1


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 120, 200])
async def test_columns_are_left_out_until_the_rest_fits(width: int) -> None:
    lines = Board().lines(await told("forty", store_error="no answer"), width)
    assert all(len(line.text) <= width for line in lines)
    titles = next(line.text for line in lines if line.text.startswith("COUNTER"))
    for kept, room in (("STATE", 40), ("RUNWAY", 40), ("IDS/S", 60), ("MEMORY", 120)):
        assert kept in titles or width < room


async def test_a_command_is_never_cut() -> None:
    lines = [line.text for line in Board().lines(await told("trouble"), 40)]
    assert f"  $ idservice fence invoices --ahead N --store {STORE}" in lines


# --- where it asks -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "url"),
    [
        ({}, "http://127.0.0.1:8080"),
        ({"IDSERVICE_LISTEN": "127.0.0.1:9000"}, "http://127.0.0.1:9000"),
        ({"IDSERVICE_LISTEN": "unix:/run/ids.sock"}, "unix:/run/ids.sock"),
        ({"IDSERVICE_LISTEN": "0.0.0.0:8080"}, "http://127.0.0.1:9090"),
        ({"IDSERVICE_LISTEN": "127.0.0.1:1,0.0.0.0:2"}, "http://127.0.0.1:9090"),
        ({"IDSERVICE_ADMIN_LISTEN": "0.0.0.0:9191"}, "http://127.0.0.1:9191"),
    ],
)
def test_it_asks_where_the_control_plane_of_this_container_is(
    variables: dict[str, str], url: str
) -> None:
    assert top.default_url(variables) == url


def test_what_is_no_status_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for answer, said in (
        ((404, "{}"), "--admin-listen"),
        ((503, '{"detail":"later"}'), "503: later"),
        ((200, "<html>"), "no status"),
        ((200, "[]"), "no status"),
    ):
        monkeypatch.setattr(http_get, "ask", lambda *_, answer=answer, **__: answer)
        with pytest.raises((http_get.NoAnswer, http_get.RefusedBy), match=said):
            top.look(URL)


# --- as a process --------------------------------------------------------------------------------


class Terminal:
    """`top` on a terminal of its own."""

    def __init__(self, *arguments: str, lines: int = 24, columns: int = 100) -> None:
        self.ours, theirs = pty.openpty()
        self.resize(lines, columns)
        self.before = termios.tcgetattr(theirs)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "idservice", "top", "--interval", "0.1", *arguments],
            stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
            env=environment({"TERM": "xterm"}),
        )  # fmt: skip
        self.theirs = theirs
        self.seen = ""

    def resize(self, lines: int, columns: int) -> None:
        fcntl.ioctl(self.ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    async def until(self, text: str, *, anew: bool = False) -> None:
        """Read until that was written; `anew`: from now on."""
        self.seen = "" if anew else self.seen
        end = time.monotonic() + 30
        os.set_blocking(self.ours, False)
        while text not in self.seen:
            assert time.monotonic() < end, self.seen[-3000:]
            with contextlib.suppress(BlockingIOError):
                self.seen += os.read(self.ours, 65536).decode()
            await asyncio.sleep(0.02)

    async def end(self) -> int:
        """The exit code; the terminal must be as it was."""
        await self.until("\x1b[?1049l")
        code = await asyncio.to_thread(self.process.wait, 15)
        assert termios.tcgetattr(self.theirs) == self.before
        assert "\x1b[?25h" in self.seen
        assert "Traceback" not in self.seen
        for descriptor in (self.ours, self.theirs):
            os.close(descriptor)
        return code


@pytest.mark.process
@pytest.mark.parametrize("how", ["q", "ctrl-c", "terminated"])
async def test_on_a_terminal_it_is_drawn_anew_until_it_is_told_to_end(how: str) -> None:
    async with shown(Scene(SCENES["trouble"], step=1.0)) as url:
        terminal = Terminal("--url", url.rstrip("/"))
        await terminal.until("\x1b[?1049h")
        await terminal.until("need attention")
        await terminal.until("need attention", anew=True)
        if how == "terminated":
            terminal.process.send_signal(signal.SIGTERM)
        elif how == "q":
            os.write(terminal.ours, b"q")
        else:
            terminal.process.send_signal(signal.SIGINT)
        assert await terminal.end() == 0


@pytest.mark.process
async def test_a_service_that_is_away_is_said_so_and_asked_again() -> None:
    scene = Scene(SCENES["forty"], step=1.0)
    async with shown(scene) as url:
        terminal = Terminal("--url", url.rstrip("/"))
        await terminal.until("40 counters serve")
        scene.away = True
        await terminal.until("Asking again.")
        assert "40 counters serve" in terminal.seen
        scene.away = False
        looks = scene.looks
        await terminal.until("bookings", anew=True)
        assert scene.looks >= looks
        os.write(terminal.ours, b"q")
        assert await terminal.end() == 0


@pytest.mark.process
async def test_it_follows_the_size_of_the_terminal_and_turns_pages() -> None:
    async with shown(Scene(SCENES["thousand"], step=1.0)) as url:
        terminal = Terminal("--url", url.rstrip("/"), lines=20, columns=60)
        await terminal.until("page 1 of 84")  # twelve counters on each
        assert "TWO MINUTES" not in terminal.seen
        terminal.resize(30, 180)
        terminal.process.send_signal(signal.SIGWINCH)
        await terminal.until("page 1 of 46")
        await terminal.until("TWO MINUTES")
        os.write(terminal.ours, b"n")
        await terminal.until("page 2 of 46")
        os.write(terminal.ours, b"p")
        await terminal.until("page 1 of 46", anew=True)
        os.write(terminal.ours, b"q")
        assert await terminal.end() == 0


@pytest.mark.process
async def test_a_terminal_is_itself_while_it_is_stopped() -> None:
    async with shown(Scene(SCENES["one"], step=1.0)) as url:
        terminal = Terminal("--url", url.rstrip("/"))
        await terminal.until("1 counter serves")
        terminal.process.send_signal(signal.SIGTSTP)
        await terminal.until("\x1b[?1049l")
        assert termios.tcgetattr(terminal.theirs) == terminal.before
        terminal.process.send_signal(signal.SIGCONT)
        await terminal.until("1 counter serves", anew=True)
        os.write(terminal.ours, b"q")
        assert await terminal.end() == 0


@pytest.mark.process
def test_a_running_service_is_shown_as_text_and_as_json(folder: Path) -> None:
    with Serving(folder, "--store", STORE) as serving:
        url = f"http://127.0.0.1:{serving.port}"
        http_get.ask(url, "/next?count=3", timeout=10)
        said = command("top", "--url", url, "--once", folder=folder)
        assert (said.returncode, said.stderr) == (0, "")
        assert said.stdout.startswith("1 counter serves.\n")
        assert "\x1b" not in said.stdout
        assert "default" in said.stdout
        shown = command("top", "--once", "--json", folder=folder, env={"IDSERVICE_URL": url})
        assert json.loads(shown.stdout)["counters"][0]["issued"] == 3
        following = subprocess.Popen(
            [sys.executable, "-m", "idservice", "top", "--url", url, "--json",
             "--interval", "0.1"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
            # Whoever runs this in the background may have it ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        assert following.stdout is not None
        for _ in range(3):
            assert json.loads(following.stdout.readline())["in_use"] == 1
        following.send_signal(signal.SIGINT)
        _, complaint = following.communicate(timeout=15)
        assert (following.returncode, complaint) == (0, "")
    gone = command("top", "--url", url, "--once", folder=folder)
    assert (gone.returncode, gone.stdout) == (1, "")
    assert gone.stderr.startswith(f"idservice: No answer from {url}")
