"""Creates, changes and deletes tallies on a store of our own, each in one conditional write."""

import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import TypeVar

from idservice import errors
from idservice.core.amounts import DECIMALS_MAX, units, written
from idservice.core.tally import Tally, TallyChange, TallyState, changed, reborn
from idservice.stores.records import check_name
from idservice.stores.tally_store import TallyStore
from idservice.tallies.committer import Check

log = logging.getLogger("idservice.change")

T = TypeVar("T")

TRIES = 20  # each failure is another writer's success: adds go on meanwhile


@dataclass(frozen=True, slots=True)
class TallyPatch:
    """A change of a tally. A field that is None stays as it is; an empty text removes a bound."""

    state: TallyState | None = None
    floor: str | None = None
    ceiling: str | None = None


def new_tally(
    name: str,
    *,
    decimals: int = 0,
    floor: str | None = None,
    ceiling: str | None = None,
    start: str | None = None,
    only: str | None = None,
) -> Tally:
    """Return a tally as it is created; amounts are texts. Raises BadName, BadTally."""
    check_name(name)
    if not 0 <= decimals <= DECIMALS_MAX:
        raise errors.BadTally(why=f"decimals is {decimals}; it must be from 0 to {DECIMALS_MAX}")
    first = _amount("start", start, decimals) or 0
    tally = Tally(
        name,
        decimals,
        floor=_amount("floor", floor, decimals),
        ceiling=_amount("ceiling", ceiling, decimals),
        only=_amount("only", only, decimals),
        start=first,
        sum=first,
    )
    if tally.lowest > tally.highest:
        raise errors.BadTally(why="its floor is above its ceiling")
    if tally.only == 0:
        raise errors.BadTally(why="only is 0, so that no add would change the sum")
    if not tally.allows(first):
        raise errors.BadTally(why=f"start is {written(first, decimals)}, outside of its bounds")
    return tally


def _amount(field: str, text: str | None, decimals: int) -> int | None:
    if not text:
        return None
    try:
        return units(text, decimals)
    except ValueError as rule:
        raise errors.BadTally(why=f"{field} is {text[:80]!r}; it must be {rule}") from None


def difference(found: Tally, wanted: Tally) -> str:
    """Return in words how a tally differs from the wanted configuration; empty if it does not."""
    return "; ".join(
        f"{field} is {_shown(found, field)}, not {_shown(wanted, field)}"
        for field in ("decimals", "floor", "ceiling", "start", "only")
        if _shown(found, field) != _shown(wanted, field)
    )


def _shown(tally: Tally, field: str) -> str:
    value = getattr(tally, field)
    if field == "decimals":
        return str(value)
    return "none" if value is None else written(value, tally.decimals)


class TallyChanger:
    """Changes the tallies of a store. `now_ms` tells the milliseconds since 1970.

    `check_from_now` is that of `OwnTallies`. A tally that went back is not changed: with its next
    `rev` it would be taken for the tally that it was.
    """

    def __init__(
        self,
        store: TallyStore,
        now_ms: Callable[[], int],
        check_from_now: Callable[[str], Check],
    ) -> None:
        self._store = store
        self._now_ms = now_ms
        self._check_from_now = check_from_now

    async def create(self, wanted: Tally, *, by: str) -> tuple[Tally, bool]:
        """Return the tally as the store has it, and True if this call created it.

        Raises TallyDiffers, TallyWentBack, NotApplied; OutcomeUnknown, after which it may be
        repeated.
        """
        change = TallyChange("create", by, self._now_ms())
        wanted = replace(wanted, at=change.at, change=change)
        for _ in range(TRIES):
            found = await self._found(wanted.name) or await self._store.create(wanted)
            if found == wanted:
                self._log(wanted, change)
                return wanted, True
            if found.state is not TallyState.DELETED:
                differs = difference(found, wanted)
                if differs:
                    raise errors.TallyDiffers(name=wanted.name, difference=differs)
                return found, False
            again = reborn(found, wanted)
            if await self._store.rewrite(found, again):
                self._log(again, change)
                return again, True
        raise self._overtaken(wanted.name)

    async def change(self, name: str, patch: TallyPatch, what: str, *, by: str, why: str) -> Tally:
        """Return the tally after a change, which is done at once and everywhere (T6).

        Raises BadName, UnknownTally, BadTally, TallyNotChanged, TallyWentBack, NotApplied;
        OutcomeUnknown, after which it may be repeated.
        """
        check_name(name)
        tried: Tally | None = None  # as the last write, which was refused, would have left it
        for _ in range(TRIES):
            found = await self._sure(self._found(name), name, tried)
            change = TallyChange(what, by, self._now_ms(), why)
            if found is not None and found == tried:  # a copy of that write came first
                self._log(found, found.change or change)
                return found
            if found is None or found.state is TallyState.DELETED:
                raise errors.UnknownTally(name=name)
            try:
                after = changed(
                    found,
                    state=patch.state or found.state,
                    floor=self._bound(found, "floor", patch.floor),
                    ceiling=self._bound(found, "ceiling", patch.ceiling),
                    change=change,
                )
            except ValueError as reason:
                raise errors.TallyNotChanged(name=name, why=reason) from None
            if await self._sure(self._store.rewrite(found, after), name, tried):
                self._log(after, change)
                return after
            tried = after
        raise self._overtaken(name)

    @staticmethod
    async def _sure(call: Coroutine[object, object, T], name: str, tried: Tally | None) -> T:
        """Return the result of a call. If a write was refused before it, a copy of that write may
        have been applied. So NotApplied from this call does not prove that nothing was changed."""
        try:
            return await call
        except errors.NotApplied as error:
            if tried is None:
                raise
            raise errors.OutcomeUnknown(
                store=error.fields["store"],
                action=f"changing tally {name}",
                why=f"another write came first, and then it failed ({str(error).rstrip('.')})",
            ) from error

    async def _found(self, name: str) -> Tally | None:
        """Return a tally as the store has it. Raises TallyWentBack, NotApplied."""
        check = self._check_from_now(name)
        found = await self._store.tally(name)
        check(found)
        return found

    @staticmethod
    def _bound(tally: Tally, field: str, text: str | None) -> int | None:
        kept: int | None = getattr(tally, field)
        return kept if text is None else _amount(field, text, tally.decimals)

    def _overtaken(self, name: str) -> errors.TallyNotChanged:
        why = f"other writes came first {TRIES} times; send it again"
        return errors.TallyNotChanged(name=name, why=why)

    @staticmethod
    def _log(tally: Tally, change: TallyChange) -> None:
        by, reason = change.by or "an operator", f" ({change.reason})" if change.reason else ""
        log.warning(
            "tally %s: %s by %s%s; it is %s, its sum is %s at revision %d",
            tally.name, change.what, by, reason, tally.state.value,
            written(tally.sum, tally.decimals), tally.rev,
            extra={"action": "tally_changed"},
        )  # fmt: skip
