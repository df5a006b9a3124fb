"""Findings about a store: each has a fact, a reason why it matters, and a command to run."""

from collections.abc import Callable

import msgspec

from idservice import errors

OK, ADVICE, WARNING, FAULT = LEVELS = ("ok", "advice", "warning", "fault")

IDENTITY = "identity"  # name of the check whether the store is the one that was initialised

BEHIND = (
    "Going on would repeat ids, so nothing is handed out. Put the original back, or go on above N,"
    " the highest id that may be in use, see docs/how-to/recover.md"
)

Clock = Callable[[], float]  # seconds since 1970, as the machine's own clock has it


class Finding(msgspec.Struct, frozen=True):
    """A fact about a store, at one of LEVELS.

    `advice` may be ignored, a `warning` will do harm one day, a `fault` does so already or makes
    ids repeat. `about` is a stable word, `run` a command or empty.
    """

    level: str
    about: str
    found: str
    why: str = ""
    run: str = ""

    @property
    def sentence(self) -> str:
        """Return the whole finding, without a full stop."""
        between = ". " if self.why[:1].isupper() else "; "
        said = between.join(filter(None, (self.found, self.why)))
        return f"{said}: `{self.run}`" if self.run else said

    @property
    def is_worse_than_advice(self) -> bool:
        """Return True if an operator should act on it."""
        return LEVELS.index(self.level) > LEVELS.index(ADVICE)


def fine(about: str, found: str) -> Finding:
    """Return the finding that something is as it should be."""
    return Finding(OK, about, found)


def schema_read(written: str, read: int) -> Finding:
    """Compare the schema that a store was written with and the one that this version reads."""
    if written == str(read):
        return fine("schema", written)
    found = f"it has schema {written} and this version reads {read}"
    return Finding(FAULT, "schema", found, "use the version that wrote it, or a newer one")


def refusal(
    fault: Finding, store: str, *, asked: str = "", waiting_helps: bool = False
) -> errors.StoreUnready:
    """Return the error of a start that a fault forbids: `serve` and `doctor` say the same."""
    why = asked + fault.sentence
    kind = errors.StoreReplaced if fault.about == IDENTITY else errors.StoreUnready
    return kind(store=store, why=why, waiting_helps=waiting_helps)
