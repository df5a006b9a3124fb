"""A look at a whole store: its place, and every counter's position against marks, epochs and
limits."""

import asyncio
import shlex
from collections.abc import Sequence

from idservice import errors
from idservice.catalogue.changes import command
from idservice.core.epoch import GONE_BACK, ordinal_on, sealed
from idservice.stores.findings import ADVICE, FAULT, WARNING, Clock, Finding, fine
from idservice.stores.protocol import IdStore, has_catalogue
from idservice.stores.records import (
    ACTIVE,
    DEFAULT_COUNTER,
    DELETED,
    MOVED,
    Counter,
    ShardState,
)

AT_ONCE = 16
LOOKS_MAX = 3  # at a counter that is changed each time
WHOLE = (
    "reach",
    "file",
    "table",
    "key",
    "central",
)  # else there are no counters
LEFT_MIN = 20  # of a counter's ids, the part that is to be left: one in so many


async def examine(store: IdStore, clock: Clock) -> list[Finding]:
    """Everything that can be found out. Changes nothing, and raises nothing of the store's."""
    found = await store.examine(clock, thorough=True)
    if any(finding.about in WHOLE and finding.level == FAULT for finding in found):
        return found  # every counter would only say it again
    entries, unlisted = await _entries(store)
    return [*found, *unlisted, *await _counters(store, entries)]


async def _entries(store: IdStore) -> tuple[list[Counter], list[Finding]]:
    """Every counter; the default one where they cannot be listed."""
    try:
        return await store.counters(), []
    except errors.NotShown as error:
        why = "run doctor where the central runs, with its own --store"
        return [], [Finding(ADVICE, "counters", str(error), why)]
    except errors.StoreError as error:
        unlisted = Finding(
            FAULT if not error.retryable else WARNING, "counters",
            f"the counters cannot be listed: {error.fields['why']}",
            f"only {DEFAULT_COUNTER} is looked at",
        )  # fmt: skip
    try:
        entry = await store.entry(DEFAULT_COUNTER)
    except errors.StoreError:
        entry = None
    return [] if entry is None else [entry], [unlisted]


async def _counters(store: IdStore, entries: Sequence[Counter]) -> list[Finding]:
    found: list[Finding] = []
    rest = iter(entries)

    async def look() -> None:
        for entry in rest:
            found.extend(await _counter(store, entry))

    await asyncio.gather(*(look() for _ in range(AT_ONCE)))
    if entries and not any(finding.is_worse_than_advice for finding in found):
        count = sum(entry.state != DELETED for entry in entries)
        found.append(fine("counters", f"{count} in use, each where its entry and its mark have it"))
    return sorted(found, key=lambda finding: (finding.about, finding.found))


async def _counter(store: IdStore, entry: Counter) -> list[Finding]:
    elsewhere = await store.examine_item(entry) if has_catalogue(store) else []
    try:
        return [*elsewhere, *await _judged(store, entry)]
    except errors.StoreError as error:
        why = "its position could not be read; see what else is found"
        return [*elsewhere, Finding(WARNING, "position", f"counter {entry.name}: {error}", why)]


async def _judged(store: IdStore, entry: Counter) -> list[Finding]:
    again = f" --store {shlex.quote(store.address)}"
    if not has_catalogue(store):  # its counters are kept elsewhere, and shown
        position = await store.position(entry)
        if position is None:
            return judge(entry, [None], again)
        return judge(entry, [ShardState(position.epoch, position.next, position.mark)], again)
    found: list[Finding] = []
    for _ in range(LOOKS_MAX):
        stands = [await store.shard_state(entry, shard) for shard in range(entry.shards)]
        found = judge(entry, stands, again)
        now = await store.entry(entry.name) if found else None
        if now is None or now.rev == entry.rev:
            break
        entry = now  # it was changed meanwhile, and what was found may be of that
    return found


def judge(entry: Counter, stands: Sequence[ShardState | None], again: str) -> list[Finding]:
    """What is to be said of one counter, as its entry and its shards stand; `again` is how commands
    name the store."""
    found = []
    if entry.intent is not None:
        found.append(_unfinished(entry, again))
    elif entry.state == MOVED and entry.move is not None:  # another service does not say where to
        found += _moved(entry, again)
    for shard, stand in enumerate(stands):
        finding = _shard(entry, shard, stand, again)
        if finding is not None:
            found.append(finding)
    if not found and entry.state == ACTIVE:
        found += _limit(entry, stands)
    return found


def _unfinished(entry: Counter, again: str) -> Finding:
    intent = entry.intent
    assert intent is not None
    name, kind = entry.name, intent.kind
    return Finding(
        WARNING, "change", f"counter {name}: {kind} is begun and not done"
        f" (by {intent.by or 'somebody'})",
        "nothing is handed out meanwhile; an instance that serves the counter finishes it within"
        " seconds, and so does the same command again",
        f"idservice {command(name, intent)}{again}",
    )  # fmt: skip


def _moved(entry: Counter, again: str) -> list[Finding]:
    assert entry.move is not None
    if entry.move.arrived:
        return []
    return [
        Finding(
            WARNING, "move", f"counter {entry.name} is being moved to {entry.move.to}",
            "it left this store, and is not known to have arrived: until then nobody hands out its"
            " ids",
            f"idservice move {entry.name} --to {shlex.quote(entry.move.to)}{again}",
        )
    ]  # fmt: skip


def _shard(entry: Counter, shard: int, stand: ShardState | None, again: str) -> Finding | None:
    """What is wrong with one shard."""
    place = f"counter {entry.name}" + (f", shard {shard}" if entry.shards > 1 else "")
    past = f"idservice fence {entry.name} --past N{again}"
    ahead = f"idservice fence {entry.name} --ahead N{again}"
    if stand is None:
        why = "nobody knows how far it was; N is the highest id in use"
        return Finding(FAULT, "position", f"{place}: it has no position", why, past)
    if stand.next is None or stand.mark is None:
        why = "nobody is granted ids on it; N is the highest id in use"
        return Finding(FAULT, "position", f"{place}: its next or mark is no number", why, past)
    if stand.epoch is not None and stand.epoch.startswith(GONE_BACK):
        why = "somebody moved it back, and an instance closed it; N is how far to go beyond"
        return Finding(FAULT, "position", f"{place}: it went back", why, ahead)
    if stand.next < stand.mark:
        where = f"{place}: it stands at {stand.next}, below its mark {stand.mark}"
        why = "somebody moved it back: from there ids would repeat, so none is granted"
        return Finding(FAULT, "position", where, why, ahead)
    if entry.intent is not None or stand.epoch == entry.epoch:
        return None
    if entry.state != ACTIVE and stand.epoch == sealed(entry.epoch):
        return None
    later = ordinal_on(stand.epoch) > entry.ordinal
    why = "its entry was restored or edited" if later else "it was restored or edited"
    carries = f"{place}: it carries the epoch {stand.epoch!r}, its entry {entry.epoch!r}"
    return Finding(FAULT, "position", carries, f"{why}, and nobody is granted ids on it", past)


def _limit(entry: Counter, stands: Sequence[ShardState | None]) -> list[Finding]:
    left = sum(
        max(0, entry.layout(shard).end - (stand.next or 0))
        for shard, stand in enumerate(stands)
        if stand is not None
    )
    if left * LEFT_MIN > entry.limit - entry.start + 1:
        return []
    what = f"{left} ids are left below its limit {entry.limit}" if left else "its limit is reached"
    return [
        Finding(
            WARNING, "limit", f"counter {entry.name}: {what}",
            "beyond it every request is answered with 410; raise it, up to 2^53 - 1",
            f"curl -X PATCH http://127.0.0.1:8080/v1/counters/{entry.name} -d '{{\"limit\": N}}'",
        )
    ]  # fmt: skip
