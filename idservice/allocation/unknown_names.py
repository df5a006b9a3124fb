"""Remembers names that the store has no counter of, so that asking for them again reads nothing.

The catalogue's revision moves with every counter that is created. While looks find the same
revision, a name without a counter still has none. Without a recent look nothing is believed. A few
names a second are read again all the same, so that a person who creates a counter finds it at once.
"""

from idservice.core.allowance import Allowance

READS_PER_S = 2.0  # of names that are remembered
UNKNOWN_MAX = 2_000  # names; the oldest is forgotten for another


class UnknownNames:
    """Names without a counter, as of the last look at the catalogue. Times are loop time.

    A name is believed unknown for `believed_s` after the beginning of a look that succeeded.
    """

    def __init__(self, now: float, *, believed_s: float) -> None:
        self._names: dict[str, None] = {}  # in the order in which they came
        self._believed_s = believed_s
        self._reads = Allowance(None, READS_PER_S, now=now)
        self._looked_at = now
        self._ignored_before = now  # reads begun earlier say nothing

    def believes(self, name: str, now: float) -> bool:
        """Return True if the store need not be asked: there is certainly no such counter that is
        older than `believed_s`, and enough names were just read again."""
        if name not in self._names or now - self._looked_at > self._believed_s:
            return False
        return not self._reads.take(1, now)

    def add(self, name: str, *, read_at: float) -> None:
        """Remember a name that a read begun at `read_at` did not find. What was read before the
        revision moved says nothing."""
        if read_at >= self._ignored_before:
            if len(self._names) >= UNKNOWN_MAX:
                del self._names[next(iter(self._names))]
            self._names[name] = None

    def discard(self, name: str, *, now: float) -> None:
        """Forget a name whose counter was created here, and reads that did not see it."""
        self._names.pop(name, None)
        self._ignored_before = now

    def looked(self, *, began: float, now: float, moved: bool) -> None:
        """Take note of a look at the catalogue; `moved` if its revision had moved."""
        self._looked_at = began
        if moved:
            self._ignored_before = now
            self._names.clear()
