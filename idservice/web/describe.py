"""How counters and their numbers are shown to people and programs."""

from idservice.stores.protocol import ACTIVE, LIMIT_DEFAULT, Counter, Position


def described(
    counter: Counter, runway: float, position: Position | None = None
) -> dict[str, object]:
    """A counter's configuration and state as JSON values; `runway` where it names none.

    With its position also the next id that nobody reserved; the state is `suspect` where the
    position carries another epoch for no known reason, so that nobody is granted anything. A
    `change` is one under way.
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
    if position is not None:
        there = counter.layout().id(position.next)
        in_use = counter.state == ACTIVE and counter.intent is None
        body["next"] = number(counter, there if in_use else max(there, counter.high))
        if in_use and position.epoch != counter.epoch:
            body["state"] = "suspect"
    if counter.adopted is not None:
        body["adopted"] = {
            "table": counter.adopted.table,
            "key": {attribute: value for attribute, _, value in counter.adopted.key},
            "attribute": counter.adopted.attribute,
            "returns": counter.adopted.returns,
        }
    return body


def number(counter: Counter, value: int) -> int | str:
    """A number in JSON: a string where JavaScript would round the counter's highest ids."""
    return str(value) if as_strings(counter) else value


def as_strings(counter: Counter) -> bool:
    """Whether all numbers of a counter are strings in JSON."""
    return counter.limit > LIMIT_DEFAULT
