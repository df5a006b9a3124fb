"""Tallies in memory, beside the counters of a simulated store."""

from collections.abc import AsyncIterator, Sequence

from idservice.core.tally import AddRecord, Commit, Tally, TallyState
from idservice.stores.tally_store import Beaten


class SimTallies:
    """A `TallyStore` whose every operation happens at one instant."""

    def __init__(self) -> None:
        self.items: dict[str, Tally] = {}
        self.made: dict[tuple[str, int, str], AddRecord] = {}  # by name, incarnation and key

    async def tally(self, name: str) -> Tally | None:
        return self.items.get(name)

    async def tallies(self) -> list[Tally]:
        return [self.items[name] for name in sorted(self.items)]

    async def create(self, tally: Tally) -> Tally:
        return self.items.setdefault(tally.name, tally)

    async def rewrite(self, before: Tally, after: Tally) -> bool:
        found = self.items.get(before.name)
        if found is None or (found.rev, found.inc) != (before.rev, before.inc):
            return False
        self.items[after.name] = after
        return True

    async def commit(self, commit: Commit) -> Beaten | None:
        before = commit.before
        found = self.items.get(before.name)
        if found is None:
            return Beaten(missing=True)
        there = await self.records(before, [one.key for one in commit.records])
        wanted = (before.rev, before.inc, TallyState.ACTIVE)
        same = (found.rev, found.inc, found.state) == wanted
        if there or not same:
            return Beaten(tally=None if same else found, records=there)
        self.items[before.name] = commit.after
        self.made |= {(before.name, before.inc, one.key): one for one in commit.records}
        return None

    async def records(self, tally: Tally, keys: Sequence[str]) -> dict[str, AddRecord]:
        known = ((key, self.made.get((tally.name, tally.inc, key))) for key in keys)
        return {key: record for key, record in known if record is not None}

    async def every_record(self, name: str, inc: int) -> AsyncIterator[AddRecord]:
        for (of, its, _), record in tuple(self.made.items()):
            if (of, its) == (name, inc):
                yield record
