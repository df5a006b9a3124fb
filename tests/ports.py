"""The port that a program took, of those that do not tell it: a port that was free may be another
program's by the time ours starts, and that one would answer in its place."""

import os
from contextlib import suppress
from pathlib import Path

LISTENS = "0A"  # see proc(5), /proc/net/tcp


def port_of(pid: int) -> int | None:
    """The port of IPv4 that a process listens on; None: it does not yet."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    listening = {
        f"socket:[{row[9]}]": int(row[1].partition(":")[2], 16) for row in rows if row[3] == LISTENS
    }
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):  # it is closed by now
            port = listening.get(os.readlink(entry))
            if port is not None:
                return port
    return None
