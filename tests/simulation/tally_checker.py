"""What must hold of a tally: every write that was applied, beside every answer that was given.

The promises are numbered in `idservice/core/tally.py`. The writes are the store's own notes of
what it did, so that nothing here needs to believe what a service says.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal

from idservice.core.amounts import written
from idservice.core.tally import AddRecord, Tally, TallyState
from tests.prove.tally_history import Asked, Entry
from tests.simulation.checker import Violation
from tests.simulation.tally_store import TallyTable, Written


def check_writes(table: TallyTable) -> None:
    """Each write continues the one before, and counts a key once (T1, T4, T5, T6)."""
    there: set[tuple[int, str]] = set()
    for write in table.log:
        before, after = write.before, write.after
        if before is None:
            continue
        if after.inc == before.inc:
            _check_sum(write, before)
        for record in write.records:
            if (write.inc, record.key) in there:
                raise Violation("once", f"{record} was there already")
            there.add((write.inc, record.key))
        if write.records and before.state is not TallyState.ACTIVE:
            raise Violation("closed", f"{write}")
        if after.rev != before.rev + 1:
            raise Violation("rev", f"{write}")
        if after.at < before.at:
            raise Violation("at", f"{write}")
    for tally in table.items.values():
        records = table.every_record(tally.name, tally.inc)
        total = sum(one.amount for one in records if one.fate.counts)
        if (tally.start + total, len(records)) != (tally.sum, tally.adds):
            raise Violation("sum", f"{tally}, and its records make {tally.start + total}")


def _check_sum(write: Written, before: Tally) -> None:
    sum = before.sum
    for record in write.records:
        after = sum + record.amount
        if before.allows(after) != record.fate.counts:
            raise Violation("bounds", f"{record}, of {write}")
        sum = after if record.fate.counts else sum
        if (record.sum, record.rev) != (sum, write.after.rev):
            raise Violation("sum", f"{record} stands at {sum}, of {write}")
    if write.after.sum != sum or write.after.adds != before.adds + len(write.records):
        raise Violation("sum", f"{sum} is counted, of {write}")
    if write.after.state is not TallyState.DELETED and not write.after.allows(write.after.sum):
        raise Violation("bounds", f"{write}")


class Answers:
    """The answers, beside the writes that they tell of."""

    def __init__(self, table: TallyTable) -> None:
        self._log = table.log
        self._events = [write.event for write in table.log]
        self._by_rev = {write.after.rev: write for write in table.log}
        self._made = {
            (write.inc, one.key): (write, one) for write in table.log for one in write.records
        }

    def check(self, history: Sequence[Asked]) -> None:
        for asked in history:
            if asked.entry is not None:
                self._check_entry(asked, asked.entry)
            elif asked.kind == "read" and asked.outcome == "ok":
                self._check_read(asked)
            elif asked.outcome == "absent":
                self._check_absent(asked)
            elif asked.outcome == "reused":
                self._check_reused(asked)
            elif asked.outcome == "not_applied":
                self._check_refusal(asked)
        self._check_asked_for(history)

    def _during(self, asked: Asked) -> list[Written]:
        """The writes that made the tally what it was at some moment of the request."""
        first = max(bisect_right(self._events, asked.invoke) - 1, 0)
        return [one for one in self._log[first:] if one.event < asked.complete]

    def _check_entry(self, asked: Asked, entry: Entry) -> None:
        write = self._by_rev.get(entry.rev)
        records = {one.key: one for one in write.records} if write is not None else {}
        if write is None or entry.key not in records or write.event > asked.complete:
            raise Violation("lost", f"{asked} was told of what is not there")
        if self._entry(write, records[entry.key]) != entry:
            raise Violation("fate", f"{asked}, but {records[entry.key]}")
        if write.inc not in {one.after.inc for one in self._during(asked)}:
            raise Violation("incarnation", f"{asked} was told of {write.inc}")
        if not asked.replayed and asked.kind != "lookup" and write.event < asked.invoke:
            raise Violation("replayed", f"{asked} was made before")

    @staticmethod
    def _entry(write: Written, record: AddRecord) -> Entry:
        decimals = write.after.decimals
        amount, sum = (Decimal(written(one, decimals)) for one in (record.amount, record.sum))
        return Entry(record.key, record.fate.counts, amount, sum, record.rev, record.at)

    def _check_read(self, asked: Asked) -> None:
        """T7: it is of a revision that was the newest at some moment of the request."""
        for write in self._during(asked):
            after = write.after
            if after.rev == asked.rev:
                sum = Decimal(written(after.sum, after.decimals))
                if (asked.sum, asked.at) != (sum, after.at):
                    raise Violation("read", f"{asked}, but {after}")
                return
        raise Violation("read", f"{asked} was told of another time")

    def _check_absent(self, asked: Asked) -> None:
        for write in self._during(asked):
            made, _ = self._made.get((write.after.inc, asked.key), (None, None))
            if made is None or made.event > max(write.event, asked.invoke):
                return
        raise Violation("lost", f"{asked}, but it is there")

    def _check_reused(self, asked: Asked) -> None:
        incs = {one.after.inc for one in self._during(asked)}
        found = [self._made[inc, asked.key] for inc in incs if (inc, asked.key) in self._made]
        entries = [self._entry(*one) for one in found if one[0].event < asked.complete]
        if not any(one.amount == asked.first and not asked.is_for(one) for one in entries):
            raise Violation("amount", f"{asked}, but {entries}")

    def _check_refusal(self, asked: Asked) -> None:
        """What is said of the tally was true at some moment of the request."""
        during = [one.after for one in self._during(asked)]
        if asked.code == "tally_suspended":
            true = any(one.state is TallyState.SUSPENDED for one in during)
        elif asked.code == "unknown_tally":
            true = any(one.state is TallyState.DELETED for one in during)
        elif asked.code == "bad_amount":
            places = len(asked.amount.partition(".")[2])
            true = any(one.decimals < places for one in during)
        else:
            return
        if not true:
            raise Violation("stale", f"{asked}, but it was {during}")

    def _denies(self, asked: Asked, inc: int) -> bool:
        """Whether it was told that this incarnation does not count it: another one may refuse what
        was counted, unheard, in the one before."""
        return asked.outcome == "not_applied" and all(
            write.after.inc == inc for write in self._during(asked)
        )

    def _check_asked_for(self, history: Sequence[Asked]) -> None:
        """What is there was asked for before, and not by requests alone that had been answered, or
        were told that it is not counted."""
        asks: dict[str, list[Asked]] = {}
        for asked in history:
            asks.setdefault(asked.key, []).append(asked)
        for write in self._log:
            for record in write.records:
                entry = self._entry(write, record)
                mine = [
                    one for one in asks.get(record.key, ())
                    if one.is_for(entry) and one.invoke < write.event
                ]  # fmt: skip
                if not mine:
                    raise Violation("asked", f"nobody asked for {record}")
                if all(self._denies(one, write.inc) for one in mine):
                    raise Violation("not_applied", f"{record} was counted: {mine}")


def check_intents(table: TallyTable, intents: Sequence[frozenset[str]]) -> None:
    """Whatever a client wanted counted was counted once, by whichever of its keys."""
    incs = {inc for _, inc, _ in table.made}
    for keys in intents:
        for inc in incs:
            made = [one for key in keys for one in [_made(table, inc, key)] if one is not None]
            if len(made) > 1:
                raise Violation("once", f"{made} were meant to be one")


def _made(table: TallyTable, inc: int, key: str) -> AddRecord | None:
    for (_, its, name), record in table.made.items():
        if (its, name) == (inc, key) and record.fate.counts:
            return record
    return None


def torn(table: TallyTable, name: str, at: int) -> TallyTable:
    """What a restore makes of it that puts the tally back to an earlier write, and no record."""
    old = type(table)()
    old.items[name] = replace(table.log[at].after)
    old.made = dict(table.made)
    return old
