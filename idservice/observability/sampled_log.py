"""Limits log lines that a client can cause by bad requests: at most one a second, the rest is
counted."""

import logging
import time
from typing import Any

INTERVAL_S = 1.0


class RateLimitedLog:
    """Passes one record per second on to a logger, and reports the number that it held back."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._next = 0.0
        self._kept_back = 0

    def warning(self, message: str, *arguments: object, **keywords: Any) -> None:
        """Log as `Logger.warning` does."""
        self._sample(logging.WARNING, message, arguments, keywords)

    def error(self, message: str, *arguments: object, **keywords: Any) -> None:
        """Log as `Logger.error` does."""
        self._sample(logging.ERROR, message, arguments, keywords)

    def _sample(
        self, level: int, message: str, arguments: tuple[object, ...], keywords: dict[str, Any]
    ) -> None:
        now = time.monotonic()
        if now < self._next:
            self._kept_back += 1
            return
        self._next = now + INTERVAL_S
        if self._kept_back:
            message += f" ({self._kept_back} similar lines were not logged)"
            self._kept_back = 0
        self._log.log(level, message, *arguments, **keywords)
