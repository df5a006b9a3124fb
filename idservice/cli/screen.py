"""The terminal as a screen: lines are drawn on it, keys and a new size are heard of."""

import os
import select
import signal
import socket
import sys
import termios
import tty
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any, Self

from idservice.cli.board import Line

ENTER, LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"  # the other screen, no cursor; back
STYLES = {"head": "7", "soft": "2", "bad": "1;31", "warn": "33", "calm": "2"}
ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
UNKNOWN = (80, 24)  # columns and lines of a terminal that does not tell
QUIT = b"q\x03\x04"  # also Ctrl-C and Ctrl-D, where they come as keys


class Screen:
    """Enter it to draw; leave it, and the terminal is as it was."""

    def __init__(self) -> None:
        self._colours = "NO_COLOR" not in os.environ
        self._keys = sys.stdin.isatty()
        self._heard, self._written = socket.socketpair()
        self._before: list[Any] = []

    def __enter__(self) -> Self:
        for end in (self._heard, self._written):
            end.setblocking(False)
        signal.set_wakeup_fd(self._written.fileno(), warn_on_full_buffer=False)
        for number in (*ENDS, signal.SIGWINCH, signal.SIGTSTP):
            signal.signal(number, _heard_of)
        self._begin()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with suppress(OSError):  # the terminal may be gone
            self._end()
        signal.set_wakeup_fd(-1)
        self._heard.close()
        self._written.close()

    def _begin(self) -> None:
        if self._keys:
            self._before = termios.tcgetattr(sys.stdin)
            tty.setcbreak(sys.stdin)
        self._write(ENTER)

    def _end(self) -> None:
        self._write(LEAVE)
        if self._keys:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._before)

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines."""
        # Not by the variables COLUMNS and LINES, which do not follow it.
        with suppress(OSError):
            columns, lines = os.get_terminal_size(sys.stdout.fileno())
            if columns and lines:
                return columns, lines
        return UNKNOWN

    def draw(self, lines: Sequence[Line]) -> None:
        """Show these lines, as far as they fit, in place of what was there."""
        width, height = self.size
        drawn = [self._styled(line.text[:width], line.style) for line in lines[:height]]
        self._write("\x1b[H" + "\x1b[K\r\n".join(drawn) + "\x1b[K\x1b[J")

    def _styled(self, text: str, style: str) -> str:
        if style not in STYLES or not self._colours:
            return text
        return f"\x1b[{STYLES[style]}m{text}\x1b[0m"

    def wait(self, seconds: float) -> str | None:
        """Until a key is pressed, which is returned, or it is time, or the size is another one.
        None: it is to end."""
        inputs = [self._heard, *([sys.stdin] if self._keys else [])]
        ready, _, _ = select.select(inputs, [], [], seconds)
        if self._heard in ready:
            numbers = self._heard.recv(64)
            if any(number in numbers for number in ENDS):
                return None
            if signal.SIGTSTP in numbers:
                self._end()
                os.kill(os.getpid(), signal.SIGSTOP)
                self._begin()  # somebody let it go on
        if sys.stdin in ready:
            pressed = os.read(sys.stdin.fileno(), 64)
            if not pressed or any(key in QUIT for key in pressed):
                return None
            return pressed.decode("ascii", "replace")[:1]
        return ""

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


def _heard_of(number: int, frame: FrameType | None) -> None:
    """The number arrives by the wakeup descriptor."""
