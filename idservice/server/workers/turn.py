"""Lets one worker at a time give its unused ids back to the store.

If two did so at once, the write of one would be refused, and its ids would be a gap: a refused
write is not tried again (I5).
"""

import asyncio
import fcntl
import os
import sys
import tempfile

PAUSE_S = 0.005


class Turn:
    """A lock that forked processes share; the system takes it back from one that ends."""

    def __init__(self) -> None:
        if sys.platform == "linux":
            self._file = os.memfd_create("turn")
        else:
            with tempfile.TemporaryFile() as file:
                self._file = os.dup(file.fileno())

    async def take(self, within_s: float) -> None:
        """Wait until no other worker has the turn, or for that time."""
        for _ in range(int(within_s / PAUSE_S)):
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except OSError:
                await asyncio.sleep(PAUSE_S)

    def leave(self) -> None:
        fcntl.lockf(self._file, fcntl.LOCK_UN)
