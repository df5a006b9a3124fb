"""Tallies of another service: each request is passed on to it with its key."""

import asyncio
from random import Random
from typing import NoReturn

from idservice import errors
from idservice.client import tally_protocol
from idservice.client.http_async import AsyncTransport
from idservice.client.own_key import UNAUTHORIZED
from idservice.client.protocol import NotSent, NoUsableAnswer, Refused
from idservice.client.tally_calls import WAIT_S, TallyCalls, TallyNotRead
from idservice.client.tally_protocol import SettledAdd
from idservice.core.amounts import units
from idservice.core.tally import AddRecord
from idservice.stores.chained_key import ChainedKey
from idservice.stores.tally_source import TallyReading, Told


class ChainedTallies:
    """A `TallySource` over the connection to a service, which answers as the service itself would.

    It may send an add several times, always with the caller's key, until `wait_s` is over.
    """

    def __init__(
        self, transport: AsyncTransport, *, wait_s: float = WAIT_S, random: Random | None = None
    ) -> None:
        self._transport = transport
        self._key = ChainedKey(transport.own_key, transport.url)
        self._wait_s = wait_s
        self._random = random

    async def add(self, name: str, key: str, amount: str) -> Told:
        """Count an amount, as `TallySource.add`."""
        try:
            return _told(await self._transport.carry_out(self._calls(name).add(amount, key)))
        except Refused as refused:  # for what the caller did not say
            refused.why = refused.why.removesuffix(errors.EARLIER)  # it is said once more
            of_key = self._key.error(refused, f"adding to tally {name}")
            if isinstance(of_key, errors.StoreKeyNotEnough):
                of_key.outcome = errors.UNKNOWN  # an earlier one with this key may be counted
                raise of_key from None
            why = of_key or f"{self._transport.url} refused: {refused.why}"
            why = str(why).rstrip(".")
            unsettled = errors.AddUnsettled(name=name, key=key, why=why)
            unsettled.retryable = refused.retryable or refused.status == UNAUTHORIZED
            raise unsettled from None

    async def value(self, name: str) -> TallyReading:
        """Return the sum, as `TallySource.value`."""
        try:
            value = await self._transport.carry_out(self._calls(name).value())
        except (Refused, TallyNotRead) as error:
            self._not_read(error, f"reading tally {name}")
        decimals = tally_protocol.decimals(value.sum)
        at, as_of = map(tally_protocol.milliseconds, (value.at, value.as_of))
        return TallyReading(name, decimals, units(value.sum_text, decimals), value.rev, at, as_of)

    async def recorded(self, name: str, key: str) -> Told:
        """Return the record of a key, as `TallySource.recorded`."""
        try:
            return _told(await self._transport.carry_out(self._calls(name).recorded(key)))
        except (Refused, TallyNotRead) as error:
            self._not_read(error, f"reading an add to tally {name}")

    def _calls(self, name: str) -> TallyCalls:
        clock = asyncio.get_running_loop().time
        return TallyCalls(
            name, self._transport.url, limit_s=self._wait_s, clock=clock, random=self._random
        )

    def _not_read(self, error: Refused | TallyNotRead, action: str) -> NoReturn:
        """Raise the store error of a read that failed."""
        url = self._transport.url
        cause = error.cause if isinstance(error, TallyNotRead) else error
        if isinstance(cause, NotSent):
            raise errors.NotReached(
                place=f"the service {url}", cause=cause.why, store=url, action=action
            ) from None
        if isinstance(cause, NoUsableAnswer):
            raise errors.NotAnswered(store=url, why=cause.why.rstrip("."), action=action) from None
        of_key = self._key.error(cause, action) if isinstance(cause, Refused) else None
        if of_key is not None:
            raise of_key from None
        why = (cause.why if isinstance(cause, Refused) else str(cause)).rstrip(".")
        refused = errors.NotApplied(store=url, action=action, why=why)
        refused.retryable = cause.retryable
        raise refused from None


def _told(add: SettledAdd) -> Told:
    decimals = tally_protocol.decimals(add.sum)
    record = AddRecord(
        add.key,
        add.fate,
        units(add.amount_text, decimals),
        units(add.sum_text, decimals),
        add.rev,
        tally_protocol.milliseconds(add.at),
        add.by,
    )
    return Told(add.tally, decimals, record, add.replayed)
