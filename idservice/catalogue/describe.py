"""Describes counters and their numbers as JSON values."""

from collections.abc import Mapping, Sequence

from idservice.core.gap_causes import GapCause
from idservice.stores.records import ACTIVE, LIMIT_DEFAULT, Counter, Position


def described(
    counter: Counter, runway: float, positions: Sequence[Position] = ()
) -> dict[str, object]:
    """Return a counter's configuration and state as JSON values; `runway` if it names none.

    With the positions of its shards, `next` is the lowest id that is not reserved, `next_by_shard`
    that of each of several shards, and `returned` counts ids that were given back and not claimed.
    The state is then `suspect` if a position has another epoch for no known reason, so that the
    store grants no ids. `change` is a change under way; `home` is the item that the counter was
    adopted from, once that is finished.
    """
    body: dict[str, object] = {
        "counter": counter.name,
        "state": counter.state,
        "epoch": counter.ordinal,
        "start": number(counter, counter.start),
        "limit": number(counter, counter.limit),
        "strict": counter.strict,
        "shards": counter.shards,
        "runway": counter.runway or runway,
    }
    if counter.intent is not None:
        body["change"] = counter.intent.kind
    if positions:
        in_use = counter.state == ACTIVE and counter.intent is None
        there = [counter.layout(shard).id(each.next) for shard, each in enumerate(positions)]
        body["next"] = number(counter, min(there) if in_use else max(*there, counter.high))
        if counter.shards > 1:
            body["next_by_shard"] = [number(counter, each) for each in there]
        returned = sum(len(ids) for each in positions for ids in each.returned)
        if in_use and returned:
            body["returned"] = returned
        if in_use and any(each.epoch != counter.epoch for each in positions):
            body["state"] = "suspect"
    if counter.move is not None:
        body["moved_to"] = counter.move.to
        body["arrived"] = counter.move.arrived
    if counter.adopted is not None:
        body["adopted"] = {
            "table": counter.adopted.table,
            "key": {attribute: value for attribute, _, value in counter.adopted.key},
            "attribute": counter.adopted.attribute,
            "returns": counter.adopted.returns,
        }
    elif counter.home is not None:
        key = {attribute: value for attribute, _, value in counter.home.key}
        body["home"] = {"table": counter.home.table, "key": key}
    return body


def number(counter: Counter, value: int) -> int | str:
    """Return a number for JSON: a string if JavaScript would round the counter's highest ids."""
    return str(value) if as_strings(counter) else value


def as_strings(counter: Counter) -> bool:
    """Return True if all numbers of a counter are strings in JSON."""
    return counter.limit > LIMIT_DEFAULT


def gaps_described(gaps: Mapping[str, int]) -> dict[str, object]:
    """Return the number of ids lost since the start and the meaning of each cause, by cause."""
    return {cause: {"ids": ids, "why": GapCause(cause).text} for cause, ids in sorted(gaps.items())}
