"""The status in the terminal: the figures of the page, and a terminal left as it was."""

import asyncio
import codecs
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
from rich.console import Console

from idservice.cli import http_get, top
from idservice.cli.top import COLUMNS, TALLY_COLUMNS, Board, Trails
from idservice.observability import format
from idservice.observability.status import StatusQuery, status
from idservice.server import left_address
from tests.processes import ROOT, START_S, STORE, Serving, command, environment, started
from tests.web.scenes import SCENES, Scene, shown, sums

URL = "http://127.0.0.1:8080"


async def told(name: str, at: float = 0.0, **more: Any) -> dict[str, Any]:
    scene = Scene(SCENES[name], **more)
    scene.now += at
    said = status(
        await scene.snapshot(),
        StatusQuery(),
        store=STORE,
        time=scene.now,
    )
    body: dict[str, Any] = msgspec.to_builtins(said)
    return body


# --- what is shown -------------------------------------------------------------------------------


def lines(said: dict[str, Any], width: int, trails: Trails | None = None) -> list[str]:
    console = Console(width=width, highlight=False)
    with console.capture() as text:
        console.print(Board(said, trails or Trails()))
    return [line.rstrip() for line in text.get().splitlines()]


async def test_the_figures_are_those_of_the_page_in_the_same_order() -> None:
    said = await told("trouble")
    drawn = lines(said, 1000)
    start = next(at for at, line in enumerate(drawn) if line.startswith("COUNTER"))
    assert drawn[start].split() == " ".join(COLUMNS.values()).split()
    for counter, row in zip(said["counters"], drawn[start + 1 :], strict=True):
        words = format.row(counter, said["time"])
        assert row.startswith(counter["counter"])
        assert all(word in row for word in words.values())


async def test_tallies_follow_the_counters_and_their_problems_come_first() -> None:
    said = await told("one", tallies=sums())
    drawn = lines(said, 1000)
    assert drawn[0] == "1 counter serves. 2 of 4 tallies need attention."
    assert drawn[1].startswith("seats: Tally 'seats' in dynamodb:counters went back")
    assert drawn[2] == f"  $ idservice fence --all --ahead N --store {STORE}"
    assert drawn[4] == f"  $ idservice tally resume refunds --store {STORE}"
    start = next(at for at, line in enumerate(drawn) if line.startswith("TALLY"))
    assert drawn[start].split() == " ".join(TALLY_COLUMNS.values()).split()
    assert [line.split()[0] for line in drawn[start + 1 :]] == [
        "seats", "refunds", "donations", "sales",
    ]  # fmt: skip
    for tally, row in zip(said["tallies"], drawn[start + 1 :], strict=True):
        assert all(word in row for word in format.tally_row(tally).values())
    assert not any(len(line) > 40 for line in lines(said, 40))
    del said["tallies"]
    assert "TALLY" not in " ".join(lines(said, 200)), "an earlier version has none"


async def test_problems_come_first_each_with_the_command_to_run() -> None:
    said = await told("trouble")
    wanted = [said["verdict"]]
    for counter in said["counters"]:
        if counter["why"]:
            wanted.append(f"{counter['counter']}: {counter['why']}")
        if counter["command"]:
            wanted.append(f"  $ {counter['command']}")
    assert len(wanted) > 3
    assert lines(said, 1000)[: len(wanted)] == wanted


async def test_ids_a_second_are_counted_between_two_looks() -> None:
    trails = Trails()
    first = await told("one")
    first["counters"][0]["ids_per_second"] = 77.0
    assert " 77 " in "\n".join(lines(first, 200, trails))
    second = await told("one", at=2.0)
    second["counters"][0]["issued"] = first["counters"][0]["issued"] + 1234
    second["issued"] = first["issued"] + 1234
    text = lines(second, 200, trails)
    assert "ids/s 617" in text[2]
    assert " 617 " in text[-1]
    away = await told("one", at=3.0)
    away["counters"][0]["issued"] = 5  # a new start
    lines(away, 200, trails)


async def test_the_lowest_runway_of_each_ten_seconds_is_drawn() -> None:
    trails = Trails()
    for second in range(0, 128, 2):
        Board(await told("one", at=float(second)), trails)
    text = lines(await told("one", at=128.0), 200, trails)
    [drawn] = re.findall(f"[{format.SPARK}]{{12}}", text[-1])
    assert len(set(drawn)) > 1


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 120, 200])
async def test_columns_are_left_out_until_the_rest_fits(width: int) -> None:
    drawn = lines(await told("forty", store_error="no answer"), width)
    assert all(len(line) <= width for line in drawn)
    titles = next(line for line in drawn if line.startswith("COUNTER"))
    for kept, room in (("STATE", 40), ("RUNWAY", 40), ("IDS/S", 60), ("MEMORY", 120)):
        assert kept in titles or width < room


async def test_a_command_is_never_cut() -> None:
    drawn = "".join("".join(lines(await told("trouble"), 40)).split())
    assert f"$idservicefenceinvoices--pastN--store{STORE}" in drawn


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
    variables: dict[str, str], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(left_address, "_folders", lambda _: [])  # others run on this machine
    assert top.default_url(variables) == url


def test_an_answer_that_is_not_a_status_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    for answer, said in (
        ((404, "{}"), "--admin-listen"),
        ((503, '{"detail":"later"}'), "503: later"),
        ((200, "<html>"), "not a status"),
        ((200, "[]"), "not a status"),
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
        env = environment({"TERM": "xterm", "COLUMNS": "93", "LINES": "24"})
        given = ("top", "--interval", "0.1", *arguments)
        self.process = started(given, ROOT, env, theirs, theirs)
        self.theirs = theirs
        self.seen = ""
        self._decode = codecs.getincrementaldecoder("utf-8")().decode  # a read may end in a letter

    def resize(self, lines: int, columns: int) -> None:
        fcntl.ioctl(self.ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    async def until(self, text: str, *, anew: bool = False) -> None:
        """Read until that was written; `anew`: from now on."""
        self.seen = "" if anew else self.seen
        end = time.monotonic() + START_S
        os.set_blocking(self.ours, False)
        while text not in self.seen:
            assert time.monotonic() < end, self.seen[-3000:]
            with contextlib.suppress(BlockingIOError):
                self.seen += self._decode(os.read(self.ours, 65536))
                continue
            await self._readable(end - time.monotonic())

    async def _readable(self, within_s: float) -> None:
        """Wait until the terminal has more to show."""
        loop, more = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self.ours, more.set)
        try:
            await asyncio.wait_for(more.wait(), within_s)
        finally:
            loop.remove_reader(self.ours)

    async def end(self) -> int:
        """The exit code; the terminal must be as it was."""
        await self.until("\x1b[?1049l")
        code = await asyncio.to_thread(self.process.wait, START_S)
        assert termios.tcgetattr(self.theirs) == self.before
        assert "\x1b[?25h" in self.seen
        assert "Traceback" not in self.seen
        for descriptor in (self.ours, self.theirs):
            os.close(descriptor)
        return code


@pytest.mark.process
@pytest.mark.parametrize("signal_", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_on_a_terminal_it_is_drawn_anew_until_it_is_told_to_end(signal_: int) -> None:
    async with shown(Scene(SCENES["trouble"], step=1.0)) as url:
        terminal = Terminal("--url", url.rstrip("/"))
        await terminal.until("\x1b[?1049h")
        await terminal.until("need attention")
        await terminal.until("need attention", anew=True)
        terminal.process.send_signal(signal_)
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
        terminal.process.send_signal(signal.SIGINT)
        assert await terminal.end() == 0


@pytest.mark.process
async def test_it_follows_the_size_of_the_terminal() -> None:
    async with shown(Scene(SCENES["thousand"], step=1.0)) as url:
        terminal = Terminal("--url", url.rstrip("/"), lines=20, columns=60)
        await terminal.until("12 of 1,000 counters")
        assert "TWO MINUTES" not in terminal.seen
        terminal.resize(30, 180)
        await terminal.until("22 of 1,000 counters")
        await terminal.until("TWO MINUTES")
        terminal.process.send_signal(signal.SIGINT)
        assert await terminal.end() == 0


@pytest.mark.process
def test_a_running_service_is_shown_as_text_and_as_json(folder: Path) -> None:
    with Serving(folder, "--store", STORE) as serving:
        url = f"http://127.0.0.1:{serving.port}"
        http_get.ask(url, "/next?count=3", timeout=60)
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
        _, complaint = following.communicate(timeout=60)
        assert (following.returncode, complaint) == (0, "")
    gone = command("top", "--url", url, "--once", folder=folder)
    assert (gone.returncode, gone.stdout) == (1, "")
    assert gone.stderr.startswith(f"idservice: No answer from {url}")
