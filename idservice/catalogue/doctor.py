"""Examines a whole store: the store itself, by its own checks, and every counter.

To add a check of counters, add a function to CHECKS. Each package of a store has the checks of that
store in its file `examine`. Its `verify` makes some of them at each start.
"""

import shlex
from collections.abc import Iterator, Sequence
from functools import partial

from idservice import errors
from idservice.catalogue.changes import command, word_of
from idservice.core.epoch import GONE_BACK, ordinal_on, sealed
from idservice.stores.at_once import for_each
from idservice.stores.findings import ADVICE, FAULT, WARNING, Clock, Finding, fine
from idservice.stores.protocol import IdStore, has_catalogue
from idservice.stores.records import (
    ACTIVE,
    DEFAULT_COUNTER,
    DELETED,
    MOVED,
    Counter,
    ShardState,
    utc,
)

LOOKS_MAX = 3  # at a counter that is changed each time
WHOLE = ("reach", "file", "table", "key", "central")  # a fault of these hides all counters
LEFT_MIN = 20  # one id in 20 is to be left below a limit
CARRIED_OUT_S = 60.0  # a change takes seconds, or until a time that it names; then it stands still

Found = Sequence[ShardState | None]


async def examine(store: IdStore, clock: Clock) -> list[Finding]:
    """Return all findings. Changes nothing, and turns an error of the store into a finding."""
    found = await store.examine(clock, thorough=True)
    if any(finding.about in WHOLE and finding.level == FAULT for finding in found):
        return found  # every counter would only repeat it
    entries, unlisted = await _entries(store)
    return [*found, *unlisted, *await _counters(store, entries, clock())]


async def _entries(store: IdStore) -> tuple[list[Counter], list[Finding]]:
    """Return every counter, or the default one if they cannot be listed."""
    try:
        return await store.counters(), []
    except errors.NotShown as error:
        why = "run doctor where the central runs, with its own --store"
        return [], [Finding(ADVICE, "counters", str(error), why)]
    except errors.StoreError as error:
        unlisted = Finding(
            FAULT if not error.retryable else WARNING, "counters",
            f"the counters cannot be listed: {error.fields['why']}",
            f"only {DEFAULT_COUNTER} is examined; allow it, or try again once the store answers",
        )  # fmt: skip
    try:
        entry = await store.entry(DEFAULT_COUNTER)
    except errors.StoreError:
        entry = None
    return [] if entry is None else [entry], [unlisted]


async def _counters(store: IdStore, entries: Sequence[Counter], now: float) -> list[Finding]:
    looked = await for_each(entries, partial(_counter, store, now))
    found = [finding for findings in looked for finding in findings]
    if entries and not any(finding.is_worse_than_advice for finding in found):
        count = sum(entry.state != DELETED for entry in entries)
        found.append(
            fine("counters", f"{count} in use, each position agrees with its entry and its mark")
        )
    return sorted(found, key=lambda finding: (finding.about, finding.found))


async def _counter(store: IdStore, now: float, entry: Counter) -> list[Finding]:
    elsewhere = await store.examine_item(entry) if has_catalogue(store) else []
    try:
        return [*elsewhere, *await _judged(store, entry, now)]
    except errors.StoreError as error:
        why = "its position could not be read; see what else is found"
        return [*elsewhere, Finding(WARNING, "position", f"counter {entry.name}: {error}", why)]


async def _judged(store: IdStore, entry: Counter, clock_s: float) -> list[Finding]:
    again = f" --store {shlex.quote(store.address)}"
    if not has_catalogue(store):  # another service keeps the counters, and shows them
        at = await store.position(entry)
        return judge(
            entry, [ShardState(at.epoch, at.next, at.mark) if at else None], again, clock_s
        )
    found: list[Finding] = []
    for _ in range(LOOKS_MAX):
        stands = [await store.shard_state(entry, shard) for shard in range(entry.shards)]
        found = judge(entry, stands, again, clock_s)
        now = await store.entry(entry.name) if found else None
        if now is None or now.rev == entry.rev:
            break
        entry = now  # it was changed meanwhile, which the findings may be about
    return found


def judge(entry: Counter, found: Found, again: str, now: float) -> list[Finding]:
    """Return the findings about one counter; `again` is how commands name the store, `now` the time
    of day in seconds since 1970."""
    findings = [finding for check in CHECKS for finding in check(entry, found, again)]
    findings += _unfinished(entry, again, now)
    return findings or list(_limit(entry, found, again))


def _unfinished(entry: Counter, again: str, now: float) -> Iterator[Finding]:
    """Find a change that is begun and not done: only one that stands still needs an operator."""
    intent, last = entry.intent, entry.last_change
    if intent is not None:
        until = f", until about {utc(last.until)}" if last is not None and last.until else ""
        after = "then" if until else "within seconds"
        if _is_carried_out(entry, now):
            yield Finding(
                ADVICE, "change",
                f"counter {entry.name}: {word_of(intent.kind)} is carried out ({last})",
                f"no ids are handed out meanwhile{until}",
            )  # fmt: skip
            return
        yield Finding(
            WARNING, "change", f"counter {entry.name}: {word_of(intent.kind)} is begun and not done"
            f" ({last or 'by an operator'})",
            f"no ids are handed out meanwhile{until}; an instance that serves the counter finishes"
            f" it {after}, and so does the same command",
            f"idservice {command(entry.name, intent)}{again}",
        )  # fmt: skip


def _is_carried_out(entry: Counter, now: float) -> bool:
    """Return True if the change under way was begun so recently that it does not stand still."""
    intent, last = entry.intent, entry.last_change
    if intent is None or last is None or last.at is None or last.epoch != intent.epoch:
        return False
    return now < (last.until or last.at).timestamp() + CARRIED_OUT_S


def _moved(entry: Counter, found: Found, again: str) -> Iterator[Finding]:
    """Find a counter that left this store, and is not known to have arrived."""
    move = entry.move  # unknown to another service
    if entry.intent is None and entry.state == MOVED and move is not None and not move.arrived:
        yield Finding(
            WARNING, "move", f"counter {entry.name} is being moved to {move.to}",
            "it left this store, and is not known to have arrived: until then its ids are not"
            " handed out",
            f"idservice move {entry.name} --to {shlex.quote(move.to)}{again}",
        )  # fmt: skip


def _shards(entry: Counter, found: Found, again: str) -> Iterator[Finding]:
    """Find the shards whose position does not agree with the entry or with its mark."""
    findings = (_shard(entry, shard, each, again) for shard, each in enumerate(found))
    return (finding for finding in findings if finding is not None)


# The checks of a counter, in this order; then a change under way. Its limit is checked if there is
# nothing else to find.
CHECKS = (_moved, _shards)


def _shard(entry: Counter, shard: int, stand: ShardState | None, again: str) -> Finding | None:
    """Return what is wrong with one shard, if anything."""
    place = f"counter {entry.name}" + (f", shard {shard}" if entry.shards > 1 else "")
    past = f"idservice fence {entry.name} --past N{again}"
    ahead = f"idservice fence {entry.name} --ahead N{again}"
    if stand is None:
        why = "the store does not know how far it was; N is the highest id in use"
        return Finding(FAULT, "position", f"{place}: it has no position", why, past)
    if stand.next is None or stand.mark is None:
        why = "no ids are granted on it; N is the highest id in use"
        return Finding(FAULT, "position", f"{place}: its next or mark is not a number", why, past)
    if stand.epoch is not None and stand.epoch.startswith(GONE_BACK):
        why, intact = "it was moved back, and an instance closed it", stand.next < stand.mark
        # A mark that was moved back with it is below ids in use: only the operator knows them.
        why += "; N is " + ("how many ids to skip" if intact else "the highest id in use")
        run = ahead if intact else past
        return Finding(FAULT, "position", f"{place}: it went back", why, run)
    if stand.next < stand.mark:
        where = f"{place}: it stands at {stand.next}, below its mark {stand.mark}"
        why = "it was moved back: from there ids would repeat, so none are granted"
        return Finding(FAULT, "position", where, why, ahead)
    if entry.intent is not None or stand.epoch == entry.epoch:
        return None
    if entry.state != ACTIVE and stand.epoch == sealed(entry.epoch):
        return None
    later = ordinal_on(stand.epoch) > entry.ordinal
    why = "its entry was restored or edited" if later else "it was restored or edited"
    carries = f"{place}: it carries the epoch {stand.epoch!r}, its entry {entry.epoch!r}"
    return Finding(FAULT, "position", carries, f"{why}, and no ids are granted on it", past)


def _limit(entry: Counter, found: Found, again: str) -> Iterator[Finding]:
    """Find a counter in use with few ids left below its limit."""
    left = sum(
        max(0, entry.layout(shard).end - (stand.next or 0))
        for shard, stand in enumerate(found)
        if stand is not None
    )
    if entry.state == ACTIVE and left * LEFT_MIN <= entry.limit - entry.start + 1:
        what = f"{left} ids are left below its limit {entry.limit}"
        yield Finding(
            WARNING, "limit", f"counter {entry.name}: {what if left else 'its limit is reached'}",
            "beyond it every request is answered with 410; raise it, up to 2^53 - 1",
            f"idservice configure {entry.name} --limit N{again}",
        )  # fmt: skip
