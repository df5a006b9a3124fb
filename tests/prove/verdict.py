"""What one part of the proof found, and how to see it again."""

import sys
import time
from dataclasses import dataclass, field


@dataclass
class Verdict:
    """One part's result. It holds while nothing has been added to `violations`."""

    part: str
    seed: int
    replay: str  # the command that runs the same again
    figures: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        return not self.violations

    def __str__(self) -> str:
        lines = [f"{self.part}: {'holds' if self.holds else 'VIOLATED'} (seed {self.seed})"]
        lines += [f"    {figure}" for figure in self.figures]
        lines += [f"    VIOLATION {violation}" for violation in self.violations]
        return "\n".join([*lines, f"    again: {self.replay}"])


class Progress:
    """How far a part is, said on standard error every few seconds."""

    EVERY_S = 5.0

    def __init__(self, part: str, *, quiet: bool = False) -> None:
        self._part = part
        self._quiet = quiet
        self._said = time.monotonic()

    def __call__(self, words: str) -> None:
        now = time.monotonic()
        if now - self._said >= self.EVERY_S:
            self._said = now
            self.now(words)

    def now(self, words: str) -> None:
        """What is worth saying at once."""
        if not self._quiet:
            print(f"{self._part}: {words}", file=sys.stderr, flush=True)
