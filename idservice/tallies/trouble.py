"""Notes what keeps the adds to a tally from being settled, and logs each trouble once."""

import asyncio
import logging
from collections.abc import Callable

from idservice import errors
from idservice.observability.tally_readings import LOST

log = logging.getLogger("idservice.tallies")

SHORT_MIN_S = 1.0  # a trouble that ends sooner is counted as one with the next
LOOK_S = 60.0  # the time over which lost commits are counted, and logged once
# An instance that was not the last to add is beaten once, and then commits. So half may be beaten.
COMMITS_MIN, LOST_MIN = 50, 0.6


class AddTrouble:
    """The trouble of the adds to tally `name`; `now_ms` tells the milliseconds since 1970."""

    def __init__(self, name: str, now_ms: Callable[[], int]) -> None:
        self.code = self.why = ""  # of the last error, until adds are settled
        self.last, self.last_at = "", 0  # the last one, and when it came, in ms since 1970
        self.doubts = 0  # how often the tally was found to be older than it was
        self._name = name
        self._now_ms = now_ms
        self._since: float | None = None  # in loop time; None while adds are settled
        self._told = 0  # requests that were told since then that their add is not settled
        self._look_from = 0.0  # in loop time; contention is counted from then on
        self._commits = self._lost = 0

    def unsettled(self, error: errors.AddUnsettled, since: float) -> errors.AddUnsettled:
        """Note that a caller is told that its add is not settled, and return the error. `since` is
        the loop time from which the caller waited."""
        self._note(error)
        self._told += 1
        if self._since is None:
            self._since = since
            log.error("%s", error, extra={"action": "adds_unsettled"})
        return error

    def went_back(self, error: errors.TallyWentBack) -> None:
        """Note that the tally is older than it was."""
        if self.code != error.code:
            log.error("%s", error, extra={"action": "tally_went_back"})
        self.doubts += 1
        self._note(error)

    def put_right(self, doubts: int) -> None:
        """Note that the tally is not older than it was, by a look that began after this number of
        `doubts`. One that began before the last of them says nothing."""
        if self.code == errors.TallyWentBack.code and doubts == self.doubts:
            self.code = self.why = ""
            log.warning(
                "tally %s is not older any more than it was", self._name,
                extra={"action": "tally_trusted"},
            )  # fmt: skip

    def settled(self) -> None:
        """Note that an add was settled. That alone does not end a doubt."""
        if self.code != errors.TallyWentBack.code:
            self.code = self.why = ""
        if self._since is None:
            return
        seconds = asyncio.get_running_loop().time() - self._since
        if seconds >= SHORT_MIN_S:
            callers = "caller was" if self._told == 1 else "callers were"
            log.warning(
                "adds to tally %s are settled again after %.0f s; %d %s told that it was not known",
                self._name, seconds, self._told, callers,
                extra={"action": "adds_settled"},
            )  # fmt: skip
            self._since, self._told = None, 0

    def commit_ended(self, result: str) -> None:
        """Note the result of a commit. Log a warning if other instances are first too often."""
        now = asyncio.get_running_loop().time()
        if now >= self._look_from + LOOK_S:
            self._look_from, self._commits, self._lost = now, 0, 0
        self._commits += 1
        self._lost += result in LOST
        if self._commits == COMMITS_MIN and self._lost >= LOST_MIN * COMMITS_MIN:
            log.warning(
                "tally %s: %d of %d commits came after those of other instances, and were planned"
                " again. Let one service write it, and the others ask that one with --store"
                " http://HOST:PORT",
                self._name, self._lost, self._commits,
                extra={"action": "tally_contended"},
            )  # fmt: skip

    def _note(self, error: errors.IdserviceError) -> None:
        if self.code != errors.TallyWentBack.code:
            self.code, self.why = error.code, str(error)
        self.last, self.last_at = str(error), self._now_ms()
