"""Writes log records: JSON lines for machines, short lines for a terminal."""

import logging
import os
import select
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, TextIO

import msgspec

from idservice.errors import without_secrets

INTERVAL_S = 1.0
LINES_MAX, BYTES_MAX = 10_000, 8 * 2**20  # that wait to be written; further ones are dropped
FLUSH_S = 0.3  # at the end, for those that wait
THREAD = "idservice-log"


class JsonLines(logging.Formatter):
    """Formats a record as one JSON object. `action` is a stable word to search and alert by. Lines
    of a `worker` also have its number and the id of its process."""

    def __init__(self, worker: int | None = None) -> None:
        super().__init__()
        self._worker = worker

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "action": getattr(record, "action", ""),
            "message": _clean(record.getMessage()),
        }
        if self._worker is not None:
            line |= {"worker": self._worker, "pid": record.process}
        if record.exc_info:
            line["exception"] = _clean(self.formatException(record.exc_info))
        return msgspec.json.encode(line).decode()


class Lines(logging.Formatter):
    """Formats a record as time, level and sentence, with the worker if there are several."""

    def __init__(self, worker: int | None = None) -> None:
        prefix = "" if worker is None else f"worker {worker}: "
        super().__init__(f"%(asctime)s %(levelname)-7s {prefix}%(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        return without_secrets(super().format(record))


def _clean(text: str) -> str:
    """Return a text that JSON can have: what a client sent need not be UTF-8."""
    return without_secrets(text).encode(errors="backslashreplace").decode()


class Handler(logging.StreamHandler[TextIO]):
    """Reports once that the log cannot be written, instead of a traceback for each line."""

    _said = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  the library's name
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):  # a bug of ours
            super().handleError(record)
        elif not self._said:
            self._said = True
            why = error.strerror or error
            print(f"idservice: the log cannot be written: {why}", file=sys.stderr)


class BackgroundHandler(logging.Handler):
    """Writes lines to a descriptor in a thread: the reader of a pipe may stop to read, and holds up
    nothing but that thread. Lines that do not fit into its queue are dropped and counted.

    The thread takes no lock that other code uses, so that a process that has it can be forked.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self.dropped = 0
        self._descriptor = descriptor
        self._lines: deque[bytes] = deque()
        self._put = self._got = 0  # bytes that were queued, and taken from the queue
        self._some = threading.Event()
        self._writing = False
        self._thread = threading.Thread(target=self._run, name=THREAD, daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue the line of a record."""
        if len(self._lines) >= LINES_MAX or self._put - self._got >= BYTES_MAX:
            self.dropped += 1
            return
        try:
            line = self.format(record)
        except Exception:  # a bug of ours
            line = f"{record.msg!r} cannot be logged with {record.args!r}"
        data = line.encode(errors="backslashreplace") + b"\n"
        self._put += len(data)
        self._lines.append(data)
        self._some.set()

    def flush(self) -> None:
        """Wait a moment for the lines that are queued."""
        end = time.monotonic() + FLUSH_S
        while (self._lines or self._writing) and self._thread.is_alive():
            if time.monotonic() > end:
                return
            time.sleep(0.002)

    def _run(self) -> None:
        said = False
        while self._some.wait():
            self._some.clear()
            self._writing = True
            while self._lines:
                lines = [self._lines.popleft()]
                # A pipe takes that much at once: lines of several workers do not mix.
                while self._lines and sum(map(len, lines)) + len(self._lines[0]) < select.PIPE_BUF:
                    lines.append(self._lines.popleft())
                try:
                    self._write(memoryview(b"".join(lines)))
                except OSError as error:
                    self.dropped += len(lines)
                    if not said:
                        said = True
                        why = f"idservice: the log cannot be written: {error.strerror or error}\n"
                        with suppress(OSError):  # stderr may lead to the same place
                            os.write(2, why.encode())
                self._got += sum(map(len, lines))
            self._writing = False

    def _write(self, data: memoryview) -> None:
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:  # another process has the same pipe, and made it so
                select.select([], [self._descriptor], [])


def dropped() -> int:
    """Return the number of log lines that this process has dropped."""
    handlers = logging.getLogger().handlers
    return sum(one.dropped for one in handlers if isinstance(one, BackgroundHandler))


def set_up(
    form: str, stream: TextIO | None = None, *, access: bool = False, worker: int | None = None
) -> None:
    """Send all records to `stream`, or in the background to stdout, as `json`, `text` or `auto`,
    which is text on a terminal. `access` adds a line per request. Lines of a `worker` name it."""
    if form == "auto":
        form = "text" if (stream or sys.stdout).isatty() else "json"
    handler = BackgroundHandler(sys.stdout.fileno()) if stream is None else Handler(stream)
    handler.setFormatter(JsonLines(worker) if form == "json" else Lines(worker))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    if not access:
        logging.getLogger("idservice.access").setLevel(logging.WARNING)
    logging.captureWarnings(stream is None)
    for name in ("aiobotocore", "botocore", "boto3", "urllib3"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("opentelemetry.util.re").setLevel(logging.ERROR)  # its warning shows a token


class RateLimitedLog(logging.LoggerAdapter[logging.Logger]):
    """Passes one record per second on to a logger, and reports the number that it held back.

    For lines that a client can cause by bad requests.
    """

    def __init__(self, log: logging.Logger) -> None:
        super().__init__(log)
        self._next = 0.0
        self._kept_back = 0

    def holds_back(self) -> bool:
        """Return True, and count it, if a record would be held back now."""
        if time.monotonic() >= self._next:
            return False
        self._kept_back += 1
        return True

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        if self.holds_back():
            return
        self._next = time.monotonic() + INTERVAL_S
        if self._kept_back:
            msg = f"{msg} ({self._kept_back} similar lines were not logged)"
            self._kept_back = 0
        self.logger.log(level, msg, *args, **kwargs)
