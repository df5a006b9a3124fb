"""How log records are written: JSON lines for machines, short lines for a terminal."""

import logging
import sys
from datetime import UTC, datetime
from typing import TextIO

import msgspec


class JsonLines(logging.Formatter):
    """One JSON object per record; `action` is a stable word to search and alert by."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "action": getattr(record, "action", ""),
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()


class Lines(logging.Formatter):
    """Time, level and sentence."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")


def set_up(form: str, stream: TextIO | None = None, *, access: bool = False) -> None:
    """Send all records to `stream` (default: stdout) as `json`, `text`, or `auto`: text where it
    is a terminal. `access` adds a line per request."""
    stream = stream or sys.stdout
    if form == "auto":
        form = "text" if stream.isatty() else "json"
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines() if form == "json" else Lines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    if not access:
        logging.getLogger("idservice.access").setLevel(logging.WARNING)
    for name in ("aiobotocore", "botocore", "boto3", "urllib3"):
        logging.getLogger(name).setLevel(logging.WARNING)
