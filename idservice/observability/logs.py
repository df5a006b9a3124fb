"""Writes log records: JSON lines for machines, short lines for a terminal."""

import logging
import sys
import time
from datetime import UTC, datetime
from typing import Any, TextIO

import msgspec

INTERVAL_S = 1.0


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
            "message": record.getMessage(),
        }
        if self._worker is not None:
            line |= {"worker": self._worker, "pid": record.process}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()


class Lines(logging.Formatter):
    """Formats a record as time, level and sentence, with the worker if there are several."""

    def __init__(self, worker: int | None = None) -> None:
        prefix = "" if worker is None else f"worker {worker}: "
        super().__init__(f"%(asctime)s %(levelname)-7s {prefix}%(message)s", "%H:%M:%S")


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


def set_up(
    form: str, stream: TextIO | None = None, *, access: bool = False, worker: int | None = None
) -> None:
    """Send all records to `stream` (default: stdout) as `json`, `text` or `auto`, which is text on
    a terminal. `access` adds a line per request. Lines of a `worker` name it."""
    stream = stream or sys.stdout
    if form == "auto":
        form = "text" if stream.isatty() else "json"
    handler = Handler(stream)
    handler.setFormatter(JsonLines(worker) if form == "json" else Lines(worker))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    if not access:
        logging.getLogger("idservice.access").setLevel(logging.WARNING)
    for name in ("aiobotocore", "botocore", "boto3", "urllib3"):
        logging.getLogger(name).setLevel(logging.WARNING)


class RateLimitedLog(logging.LoggerAdapter[logging.Logger]):
    """Passes one record per second on to a logger, and reports the number that it held back.

    For lines that a client can cause by bad requests.
    """

    def __init__(self, log: logging.Logger) -> None:
        super().__init__(log)
        self._next = 0.0
        self._kept_back = 0

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        now = time.monotonic()
        if now < self._next:
            self._kept_back += 1
            return
        self._next = now + INTERVAL_S
        if self._kept_back:
            msg = f"{msg} ({self._kept_back} similar lines were not logged)"
            self._kept_back = 0
        self.logger.log(level, msg, *args, **kwargs)
