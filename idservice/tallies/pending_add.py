"""An add that waits for its commit, and how its record answers each caller of its key."""

import asyncio
from dataclasses import dataclass, field

from idservice import errors
from idservice.core.amounts import units, written
from idservice.core.tally import AddFate, AddRecord, Tally, TallyState, Wanted
from idservice.stores.tally_source import Told

# The tally, the record, and True if it was there already; or an error, or None: not known in time.
Fate = tuple[Tally, AddRecord, bool] | errors.IdserviceError | None
Waiter = asyncio.Future[Fate]


@dataclass(slots=True, eq=False)
class PendingAdd:
    """A key that waits for its fate, which every caller of it shares.

    `amount` is text: only the tally, as it is when the commit is planned, tells its decimals.
    """

    key: str
    amount: str
    sets: bool
    by: str
    arrived: int  # number in the order of arrival
    seen: int = 0  # once settled: by a call that began when this many had arrived
    waiters: list[Waiter] = field(default_factory=list)  # one for each caller

    @property
    def is_awaited(self) -> bool:
        """Return True if a caller still waits."""
        return any(not one.done() for one in self.waiters)

    async def fate(self, until: float) -> Fate:
        """Return what becomes of the key; None if that is not known at the loop time `until`."""
        loop = asyncio.get_running_loop()
        waiter: Waiter = loop.create_future()
        self.waiters.append(waiter)
        # By hand: a timeout and a shield for each caller cost a fifth of an add.
        timer = loop.call_at(until, _tell, waiter, None)
        try:
            return await waiter
        finally:
            timer.cancel()

    def settle(self, tally: Tally, record: AddRecord, *, replayed: bool, seen: int) -> None:
        """Tell the callers the record."""
        self._tell_all((tally, record, replayed), seen)

    def refuse(self, error: errors.IdserviceError, *, seen: int = 0) -> None:
        """Tell the callers an error."""
        self._tell_all(error, seen)

    def _tell_all(self, fate: Fate, seen: int) -> None:
        self.seen = seen
        for waiter in self.waiters:
            _tell(waiter, fate)

    def refusal_holds_for(self, other: "PendingAdd") -> bool:
        """Return True if a refusal of this request holds for another one with the same key."""
        same = (self.amount, self.sets) == (other.amount, other.sets)
        return same and self.record_holds_for(other)

    def record_holds_for(self, other: "PendingAdd") -> bool:
        """Return True if the call to the store began after the other request had come."""
        return self is other or other.arrived < self.seen

    def wanted(self, tally: Tally) -> Wanted:
        """Return the add as a request to this tally. Raises BadAmount, TallyNotChanged."""
        return wanted(tally, self.key, self.amount, sets=self.sets, by=self.by)


def _tell(waiter: Waiter, fate: Fate) -> None:
    if not waiter.done():
        waiter.set_result(fate)


def wanted(tally: Tally, key: str, amount: str, *, sets: bool, by: str = "") -> Wanted:
    """Return a request to a tally. Raises BadAmount, TallyNotChanged."""
    field_name = "sum" if sets else "amount"
    try:
        value = units(amount, tally.decimals)
    except ValueError as rule:
        raise errors.BadAmount(field=field_name, value=amount[:80], rule=rule) from None
    if tally.only is not None and sets:
        only = written(tally.only, tally.decimals)
        why = f"each of its adds is {only}, so its sum is not set"
        raise errors.TallyNotChanged(name=tally.name, why=why)
    if tally.only is not None and value != tally.only:
        rule_ = f"{written(tally.only, tally.decimals)}, the only amount that this tally takes"
        raise errors.BadAmount(field=field_name, value=amount[:80], rule=rule_)
    return Wanted(key, value, sets, by)


def closed(tally: Tally | None, name: str) -> errors.RequestRefused | None:
    """Return why a tally takes no adds; None if it does."""
    if tally is None or tally.state is TallyState.DELETED:
        return errors.UnknownTally(name=name)
    if tally.state is TallyState.SUSPENDED:
        change = tally.change
        by = f"by {change.by}" if change is not None and change.by else "by an operator"
        why = f" ({change.reason})" if change is not None and change.reason else ""
        return errors.TallySuspended(name=name, by=f"{by}{why}")
    return None


def told(tally: Tally, record: AddRecord, asked: Wanted | None, *, replayed: bool) -> Told:
    """Return the answer to a request by the record of its key. `asked` is None for the request that
    made the record. Raises KeyReused, OutOfBounds."""
    if asked is not None and not record.is_of(asked):
        raise errors.KeyReused(
            name=tally.name, key=record.key, amount=written(record.amount, tally.decimals),
            first=described(tally, record),
        )  # fmt: skip
    if not record.fate.counts:
        raise errors.OutOfBounds(
            name=tally.name,
            key=record.key,
            amount=written(record.amount, tally.decimals),
            sum=written(record.sum, tally.decimals),
            at=record.at,
            rev=record.rev,
            replayed=replayed,
            beyond=_beyond(tally, record.sum + record.amount),
        )
    return Told(tally.name, tally.decimals, record, replayed)


def _beyond(tally: Tally, sum: int) -> str:
    """Return in words which bound a sum breaks. The bounds may have changed since it was
    refused."""
    if sum > tally.highest:
        return f"above {written(tally.highest, tally.decimals)}"
    if sum < tally.lowest:
        return f"below {written(tally.lowest, tally.decimals)}"
    return "beyond the bounds that it had then"


def described(tally: Tally, record: AddRecord) -> str:
    """Return in words what a record is of."""
    amount = written(record.amount, tally.decimals)
    if record.fate in (AddFate.SET, AddFate.SET_REFUSED):
        return f"a set that made a difference of {amount}"
    return f"an add of {amount}"
