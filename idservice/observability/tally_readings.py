"""The records that describe tallies in use on one instance, or on several workers together. They
are made from memory."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from idservice.observability.latency import REST, Latency, add_counts

WINDOW_S = 5.0
UNSETTLED = "unsettled"  # an add with an answer that its outcome is not known yet
LOST = ("beaten", "conflict")  # results of commits that another write came before


@dataclass(slots=True)
class TallyStats:
    """Counts of one tally in use on this instance."""

    commits: dict[str, int] = field(default_factory=dict)  # by result
    adds: dict[str, int] = field(default_factory=dict)  # by fate or error, and those replayed
    commit_seconds: Latency = field(default_factory=Latency)

    def count_commit(self, result: str) -> None:
        """Count a commit."""
        self.commits[result] = self.commits.get(result, 0) + 1

    def count_add(self, fate: str) -> None:
        """Count a key that was settled, or refused, or left unsettled."""
        self.adds[fate] = self.adds.get(fate, 0) + 1


@dataclass(slots=True)
class RecentRate:
    """Events per second in the last few seconds. `now` is in loop time."""

    _from: float = 0.0  # the begin of a window
    _in: int = 0  # events in that window
    _before: int = 0  # events in the window before

    def count(self, now: float, events: int = 1) -> None:
        """Count events."""
        self._turn(now)
        self._in += events

    def per_second(self, now: float) -> float:
        """Return the rate over the length of a window."""
        self._turn(now)
        passed = (now - self._from) / WINDOW_S
        return (self._before * (1 - passed) + self._in) / WINDOW_S

    def _turn(self, now: float) -> None:
        windows = int((now - self._from) / WINDOW_S)
        if windows > 0:
            self._before = self._in if windows == 1 else 0
            self._in, self._from = 0, self._from + windows * WINDOW_S


@dataclass(frozen=True, slots=True)
class TallySample:
    """One tally at one moment.

    `code` and `why` are the error that an add gets now; they are empty if adds are settled. A
    `trouble` may be over; it came `trouble_at` ms after 1970 began.
    """

    tally: str
    stats: TallyStats
    waiting: int = 0  # keys
    adds_rate: float = 0.0  # per second, in the last few seconds, as the next
    commits_rate: float = 0.0
    code: str = ""
    why: str = ""
    trouble: str = ""
    trouble_at: int = 0

    @property
    def named(self) -> tuple[str, str]:
        """The label that names it on the metrics page, and its value."""
        return "tally", self.tally

    @property
    def went_back(self) -> bool:
        """True if the tally is older than it was, so that nothing is added."""
        return self.code == "tally_went_back"

    @property
    def lost_share(self) -> float | None:
        """The share of commits that another write came before, 0 .. 1; None before the first."""
        commits = self.stats.commits
        total = sum(commits.values())
        return sum(commits.get(result, 0) for result in LOST) / total if total else None


def capped_tallies(samples: list[TallySample], most: int) -> list[TallySample]:
    """Return the first `most` samples, in the order in which the tallies came into use, and the sum
    of all others as one."""
    kept, rest = samples[:most], samples[most:]
    return [*kept, summed_tallies(REST, rest)] if rest else kept


def summed_tallies(name: str, samples: Sequence[TallySample]) -> TallySample:
    """Return the sum of several samples, as one of the tally `name`. The trouble of one worker is
    the trouble of the clients connected to it."""
    stats = TallyStats()
    for sample in samples:
        add_counts(stats.commits, sample.stats.commits)
        add_counts(stats.adds, sample.stats.adds)
    stats.commit_seconds = Latency.sum(sample.stats.commit_seconds for sample in samples)
    none = TallySample(name, stats)  # of a tally that only workers beside these have used
    worst = max(samples, key=lambda one: (one.went_back, bool(one.code)), default=none)
    last = max(samples, key=lambda one: one.trouble_at, default=none)
    return TallySample(
        tally=name,
        stats=stats,
        waiting=sum(sample.waiting for sample in samples),
        adds_rate=sum(sample.adds_rate for sample in samples),
        commits_rate=sum(sample.commits_rate for sample in samples),
        code=worst.code,
        why=worst.why,
        trouble=last.trouble,
        trouble_at=last.trouble_at,
    )
