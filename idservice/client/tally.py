"""A tally as an application uses it, by either client."""

from collections.abc import Awaitable
from decimal import Decimal
from typing import Protocol, TypeVar

from idservice.client.tally_calls import NEW_KEY, Steps, TallyCalls
from idservice.client.tally_protocol import SettledAdd, TallyValue

T = TypeVar("T")


class CarriesOut(Protocol):
    """Sends what the steps of a call say, and returns their result."""

    def __call__(self, steps: Steps[T]) -> T: ...


class CarriesOutLater(Protocol):
    """The same, awaited."""

    def __call__(self, steps: Steps[T]) -> Awaitable[T]: ...


class ClientTally:
    """A tally of a `Client`, which must be open. Any number of threads may use it."""

    __slots__ = ("_calls", "_carry_out")

    def __init__(self, calls: TallyCalls, carry_out: CarriesOut) -> None:
        self._calls = calls
        self._carry_out = carry_out

    def add(self, amount: str | int | Decimal, *, key: str = NEW_KEY) -> SettledAdd:
        """Count an amount, once for ever under its key, and return the answer with the new sum.

        The same key sent again, by any client, gets the same answer. Without a key the call makes
        one, and uses it for its own repetitions. Each error has the key: after AddUnsettled, call
        again with that key.
        Raises TypeError (a float is not exact), BadAmount, BadKey, OutOfBounds, KeyReused,
        UnknownTally, TallySuspended, Refused, NotOpen, AddUnsettled.
        """
        return self._carry_out(self._calls.add(amount, key))

    def value(self) -> TallyValue:
        """Return the sum; it has every add that was answered before this call.

        Raises UnknownTally, Refused, NotOpen, TallyNotRead.
        """
        return self._carry_out(self._calls.value())

    def recorded(self, key: str) -> SettledAdd:
        """Return the record of a key, also of a refused add.

        Raises UnknownAdd if nothing was counted under the key up to its `as_of`; TypeError, BadKey,
        and as `value`.
        """
        return self._carry_out(self._calls.recorded(key))


class AsyncClientTally:
    """A tally of an `AsyncClient`, which must be open. Any number of tasks may use it."""

    __slots__ = ("_calls", "_carry_out")

    def __init__(self, calls: TallyCalls, carry_out: CarriesOutLater) -> None:
        self._calls = calls
        self._carry_out = carry_out

    async def add(self, amount: str | int | Decimal, *, key: str = NEW_KEY) -> SettledAdd:
        """Count an amount, as `ClientTally.add`."""
        return await self._carry_out(self._calls.add(amount, key))

    async def value(self) -> TallyValue:
        """Return the sum, as `ClientTally.value`."""
        return await self._carry_out(self._calls.value())

    async def recorded(self, key: str) -> SettledAdd:
        """Return the record of a key, as `ClientTally.recorded`."""
        return await self._carry_out(self._calls.recorded(key))
