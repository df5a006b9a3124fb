"""What a DynamoDB table granted to whom, as it passed over the hops of the instances."""

import json
from dataclasses import replace

from idservice.stores.dynamodb import items
from tests.hop import Exchange
from tests.prove.account import Write


class Ledger:
    """The writes that move one counter's position, each with the exchange that carried it."""

    def __init__(self, counter: str) -> None:
        self._key = {"S": f"ctr:{counter}"}
        self._writes: list[tuple[Write, Exchange]] = []

    def note(self, by: str, exchange: Exchange) -> None:
        """Look whether an exchange was such a write, and was applied."""
        if exchange.target != "UpdateItem" or exchange.status != 200:
            return
        request, answer = json.loads(exchange.request), json.loads(exchange.answer)
        if request["Key"].get("pk") != self._key:
            return
        found = answer.get("Attributes", {})
        values = request["ExpressionAttributeValues"]
        if ":count" in values:
            rev, stop = _number(found["rev"]), _number(found["next"])
            ids = (range(stop - _number(values[":count"]), stop),)
            write = Write(rev, by, "grant", ids, stop)
        elif ":list" in values and ":found" in values:
            ids = items.ranges(values[":list"])
            next = _number(values[":next"])
            write = Write(_number(values[":rev"]) + 1, by, "give_back", ids, next)
        elif "REMOVE" in request["UpdateExpression"] and ":rev" in values:
            ids = items.ranges(found.get("returned"))
            next = _number(found["next"])
            write = Write(_number(values[":rev"]) + 1, by, "claim", ids, next)
        else:
            return  # a strict counter's writers come and go
        self._writes.append((write, exchange))

    def writes(self) -> list[Write]:
        """All of them, with who heard the answer as it is known by now."""
        return [replace(write, heard=exchange.heard) for write, exchange in self._writes]


def _number(value: dict[str, str]) -> int:
    number = items.number(value)
    assert number is not None, value
    return number
