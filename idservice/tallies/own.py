"""Adds and reads of the tallies in a store of our own."""

import logging
from collections.abc import Collection
from dataclasses import dataclass

from idservice import errors
from idservice.core.amounts import written
from idservice.core.tally import AddRecord, Tally, TallyState
from idservice.stores.records import check_name
from idservice.stores.tally_source import TallyReading, Told, check_key
from idservice.tallies.committer import Check, Committer
from idservice.tallies.context import TallyContext
from idservice.tallies.shared_read import SharedRead

log = logging.getLogger("idservice.change")

# A tally, when the read of it began, in ms since 1970, and the records that were asked for.
Seen = tuple[Tally | None, int, dict[str, AddRecord]]


@dataclass(frozen=True, slots=True)
class ListedTally:
    """A tally in a list. One that went back, or is missing, is as this instance knew it: its
    present sum is not known (T7)."""

    tally: Tally
    went_back: bool = False


class OwnTallies:
    """A `TallySource` with a committer for each tally in use."""

    def __init__(self, context: TallyContext) -> None:
        self.committers: dict[str, Committer] = {}
        self.reads = 0  # of tallies in the store, for readers
        self._context = context
        # By name, and separate for reads of records, which take longer than a sum on SQLite.
        self._reads: dict[tuple[str, bool], SharedRead[Seen]] = {}

    async def add(self, name: str, key: str, amount: str) -> Told:
        """Count an amount, as `TallySource.add`."""
        return await self._settle(name, key, amount)

    async def set(self, name: str, key: str, sum: str, *, by: str, why: str = "") -> Told:
        """Set the sum, as an add under a key; its amount is the difference. Raises as `add`, and
        TallyNotChanged."""
        told = await self._settle(name, key, sum, sets=True, by=by)
        # Logged also if the record was there already: the answer to the commit that made it may
        # have been lost, and the record does not have the reason.
        log.warning(
            "tally %s: set%s by %s%s: its sum was %s and is %s at revision %d",
            name, " before" if told.replayed else "", by or "an operator",
            f" ({why})" if why else "",
            written(told.before, told.decimals), written(told.record.sum, told.decimals),
            told.record.rev,
            extra={"action": "tally_changed"},
        )  # fmt: skip
        return told

    async def _settle(
        self, name: str, key: str, amount: str, *, sets: bool = False, by: str = ""
    ) -> Told:
        check_name(name)
        check_key(key)
        committer = self.committers.get(name)
        if committer is None:
            committer = Committer(name, self._context, on_idle=lambda: self._forget(name))
            self.committers[name] = committer
        return await committer.settle(key, amount, sets=sets, by=by)

    def _forget(self, name: str) -> None:
        """Drop a committer that is idle, if it has seen no tally."""
        if self.committers[name].tally is None:
            del self.committers[name]

    def check_from_now(self, name: str) -> Check:
        """Return a check of the result of a read of a tally that begins now, as
        `Committer.check_from_now`. Nothing is known of a tally without adds on this instance."""
        committer = self.committers.get(name)
        return _believed if committer is None else committer.check_from_now()

    async def listed(self) -> list[ListedTally]:
        """Return every tally, by name; deleted ones too, and those that are missing. Raises
        StoreError."""
        known = {one.name: one.tally for one in self.committers.values() if one.tally is not None}
        checks = {name: self.check_from_now(name) for name in known}
        found = {tally.name: tally for tally in await self._context.store.tallies()}
        listed = []
        for name in sorted(found.keys() | known):
            try:
                checks.get(name, _believed)(found.get(name))
            except errors.TallyWentBack:
                listed.append(ListedTally(known[name], went_back=True))
            else:
                listed.append(ListedTally(found[name]))
        return listed

    async def tally(self, name: str) -> Tally:
        """Return a tally with its configuration. Raises BadName, UnknownTally, StoreError; also
        TallyWentBack, as all reads do."""
        return (await self._read(name))[0]

    async def value(self, name: str) -> TallyReading:
        """Return the sum, as `TallySource.value`."""
        tally, as_of, _ = await self._read(name)
        return TallyReading(name, tally.decimals, tally.sum, tally.rev, tally.at, as_of)

    async def recorded(self, name: str, key: str) -> Told:
        """Return the record of a key, as `TallySource.recorded`."""
        tally, as_of, found = await self._read(name, check_key(key))
        if key not in found:
            raise errors.UnknownAdd(name=name, key=key, as_of=as_of)
        return Told(name, tally.decimals, found[key], replayed=True)

    async def _read(self, name: str, *keys: str) -> tuple[Tally, int, dict[str, AddRecord]]:
        """Return a tally by a read that begins from now on. Raises BadName, UnknownTally."""
        check_name(name)
        what = name, bool(keys)
        shared = self._reads.get(what)
        if shared is None:
            shared = self._reads[what] = SharedRead(
                lambda keys: self._read_once(name, keys),
                self._context.spawn,
                on_idle=lambda: self._reads.pop(what),
            )
        tally, as_of, records = await shared.begun_from_now(*keys)
        if tally is None or tally.state is TallyState.DELETED:
            raise errors.UnknownTally(name=name)
        return tally, as_of, records

    async def _read_once(self, name: str, keys: Collection[str]) -> Seen:
        self.reads += 1
        as_of, store, read = self._context.now_ms(), self._context.store, self._context.read
        check = self.check_from_now(name)
        tally = await read(store.tally(name), f"reading tally {name}")
        check(tally)  # a read contains every add that was answered (T7)
        if tally is None or not keys:
            return tally, as_of, {}
        records = store.records(tally, sorted(keys))
        return tally, as_of, await read(records, f"reading adds to tally {name}")


def _believed(_: Tally | None) -> None:
    """Check nothing."""
