"""What a look at a store finds: what it is, why it matters, and what to do."""

from collections.abc import Callable

import msgspec

OK, ADVICE, WARNING, FAULT = LEVELS = ("ok", "advice", "warning", "fault")

Clock = Callable[[], float]  # seconds since 1970, as the machine's own clock has it


class Finding(msgspec.Struct, frozen=True):
    """`level` is one of LEVELS: `advice` may be left alone, a `warning` bites some day, a `fault`
    already does, or makes ids repeat. `about` is a stable word, `run` a command or empty.
    """

    level: str
    about: str
    found: str
    why: str = ""
    run: str = ""

    @property
    def is_worse_than_advice(self) -> bool:
        """Whether somebody should act on it."""
        return LEVELS.index(self.level) > LEVELS.index(ADVICE)


def fine(about: str, found: str) -> Finding:
    """That something is as it should be."""
    return Finding(OK, about, found)
