"""The records that describe tallies in use on one instance. They are made from memory."""

from dataclasses import dataclass, field

from idservice.observability.readings import Latency


@dataclass(slots=True)
class TallyStats:
    """Counts of one tally in use on this instance."""

    commits: dict[str, int] = field(default_factory=dict)  # by result
    adds: dict[str, int] = field(default_factory=dict)  # by fate, and those replayed
    commit_seconds: Latency = field(default_factory=Latency)

    def count_commit(self, result: str) -> None:
        """Count a commit."""
        self.commits[result] = self.commits.get(result, 0) + 1

    def count_add(self, fate: str) -> None:
        """Count a key that was settled."""
        self.adds[fate] = self.adds.get(fate, 0) + 1
