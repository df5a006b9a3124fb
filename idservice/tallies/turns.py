"""Lets other instances commit to a tally, too.

A commit that came too late is planned again at once, on the tally that came back. It succeeds if no
other commit is under way. An instance whose commits follow one another without a pause leaves no
such moment, and never hears of the instances that it shuts out. So it pauses for the time of some
calls after each commit while it knows of others, and from time to time when it knows of none.
"""

from random import Random

KNOWN_S = 5.0  # for which others are expected after the last sign of them
CALLS = 1.5  # for which it pauses then: another instance learns the tally, and commits
ALONE_S, ALONE_CALLS = 1.0, 4.0  # where none are expected: how often, and for how many calls
CROWD_MAX, CROWDED, EASED = 4.0, 0.5, 0.1  # more after a conflict, less after a commit
PAUSE_MAX_S = 0.25


class CommitTurns:
    """The pauses of one instance between its commits to one tally: multiples of the time that a
    commit took.

    Times are the loop's, in seconds. `random` keeps instances out of step.
    """

    def __init__(self, random: Random) -> None:
        self._random = random
        self._crowd = 1.0  # lengthens the pauses
        self._known_until = float("-inf")
        self._last = float("-inf")  # the time of the last commit
        self._since = 0.0  # the beginning of the commits that followed one another at once

    def beaten(self, now: float) -> None:
        """Note that another instance committed first."""
        self._known_until = now + KNOWN_S

    def after_conflict(self, took_s: float, now: float) -> float:
        """Return the pause after a commit that met another one."""
        self._known_until = now + KNOWN_S
        self._crowd = min(self._crowd + CROWDED, CROWD_MAX)
        return self._about(self._crowd * took_s)

    def after_commit(self, took_s: float, now: float) -> float:
        """Return the pause after a commit that was applied."""
        self._crowd = max(self._crowd - EASED, 1.0)
        began, before, self._last = now - took_s, self._last, now
        if began - before > took_s:
            self._since = began
        if now < self._known_until:
            self._since = now
            return self._about(CALLS * self._crowd * took_s)
        if now - self._since < ALONE_S:
            return 0.0
        self._since = now
        return min(ALONE_CALLS * took_s, PAUSE_MAX_S)

    def _about(self, pause_s: float) -> float:
        return min(pause_s, PAUSE_MAX_S) * self._random.uniform(0.5, 1.5)
