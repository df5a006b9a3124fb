"""Tells the process that took ids from the processes that are forked from it.

`os.register_at_fork` knows only forks by Python: uWSGI forks in C. A mark is therefore kept in
memory that the kernel wipes in every forked child. Its truth costs less than asking for the pid.
"""

import ctypes
import mmap
import os
import threading

WIPE_ON_FORK = 18  # MADV_WIPEONFORK of Linux 4.14, which the module mmap does not name

_renewals: dict[int, threading.Lock] = {}  # by pid: a lock of the parent's may be held for ever


class _PidMark:
    """A mark where the kernel cannot wipe memory: it compares pids."""

    def __init__(self) -> None:
        self._pid = os.getpid()

    def __bool__(self) -> bool:
        return os.getpid() == self._pid


def _new_mark() -> object:
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        page.madvise(WIPE_ON_FORK)
    except (AttributeError, OSError, TypeError, ValueError):  # another system, or an older kernel
        return _PidMark()
    page[0] = 1
    # Of what reads that memory, the truth of a pointer costs least: it is true if it is not null.
    return ctypes.POINTER(ctypes.c_ubyte).from_buffer(page)


_mark = _new_mark()


def process_mark() -> object:
    """Return an object that is true in this process and false in all that are forked from it."""
    global _mark
    if not _mark:
        _mark = _new_mark()
    return _mark


def renewal_lock() -> threading.Lock:
    """Return the lock under which this process renews what it has of its parent."""
    return _renewals.setdefault(os.getpid(), threading.Lock())
