"""Another service as the store: its ids, on loan and for a short time."""

import asyncio
import secrets
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec

from idservice import errors
from idservice.client import protocol
from idservice.client.http_async import AsyncTransport
from idservice.client.protocol import Answer, NoUsableAnswer, Refused
from idservice.core.epoch import gone_back
from idservice.core.writer import Batch
from idservice.stores import chained_examine
from idservice.stores.findings import Clock, Finding
from idservice.stores.records import (
    ACTIVE,
    LIMIT_DEFAULT,
    LIMIT_MAX,
    Counter,
    Loan,
    Position,
    ShardState,
    Writers,
)
from idservice.stores.shown import Listed, RemoteCounter, told_epoch, untold

T = TypeVar("T")

VERIFY_MAX_S = 5.0  # for a service to say that it is one


class ChainedStore:
    """A service at http://HOST:PORT or unix:PATH, or several of them behind one address.

    A counter that the service does not show (its data plane is often all that can be reached) is
    taken for a strict one, so that nothing is asked for but what is waited for, until the first
    answer tells epoch and mode. `hold_s` is for how long ids are kept, in seconds.
    """

    def __init__(
        self,
        central: AsyncTransport,
        *,
        hold_s: float = protocol.HOLD_S,
        nonce: Callable[[], str] = lambda: secrets.token_hex(16),
    ) -> None:
        self.address = central.url
        self.hold_s: float | None = hold_s
        self._central = central
        self._nonce = nonce
        self._known: dict[str, Counter] = {}  # by name, as of the newest epoch that was told
        self._part_max = protocol.RANGES_MAX

    @classmethod
    def from_address(cls, address: str, *, hold_s: float) -> Self:
        """The store at an address as --store has it. Raises Usage."""
        return cls(AsyncTransport(protocol.place(address)), hold_s=hold_s)

    async def __aenter__(self) -> Self:
        await self._central.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._central.__aexit__(kind, error, trace)

    async def init(self, first: Counter) -> bool:
        """Refused: the service has a store of its own. Raises Usage."""
        raise errors.Usage(
            why=f"{self.address} is a service, whose store is initialised where it runs"
        )

    async def verify(self) -> None:
        """See that a service answers there; whether its store is the right one it sees itself."""
        try:
            async with asyncio.timeout(VERIFY_MAX_S):
                reply = await self._central.ask("GET", "/livez")
        except (NoUsableAnswer, TimeoutError) as error:
            reason = (
                error.why if isinstance(error, NoUsableAnswer) else f"within {VERIFY_MAX_S:g} s"
            )
            why = f"no service answers there ({reason})"
            raise errors.StoreUnready(store=self.address, why=why, waiting_helps=True) from None
        if (reply.status, reply.body) != (200, b"live"):
            raise errors.StoreUnready(
                store=self.address,
                why=f"what answers there ({reply.status}) is no idservice",
                waiting_helps=reply.status >= 500,
            )

    # --- ids -------------------------------------------------------------------------------------

    async def reserve(
        self,
        counter: Counter,
        *,
        count: int,
        seen: int,
        room: int,
        shard: int = 0,
        batch: Batch | None = None,
    ) -> Loan:
        """Borrow `count` ids; `seen`, `room` and `batch` are for stores of our own.

        Raises, with nothing applied, NoRoom, UnknownCounter, Withheld, NotApplied. More than one
        answer may hold are asked for in parts, and lost together.
        """
        since = asyncio.get_running_loop().time()
        blocks: list[range] = []
        missing = count
        while missing:
            part = min(missing, self._part_max)
            try:
                answer = await self._exchange(counter.name, part)
                if self._begins_epoch(counter.name, answer) and blocks:
                    raise NoUsableAnswer(url=self.address, why="an epoch began between two parts")
            except NoUsableAnswer as error:
                raise self._unknown(_reserving(counter, count), error.why) from None
            except Refused as error:
                if error.code == "bad_count" and part > 1:  # its --range-max is lower
                    self._part_max = part // 2
                    continue
                if blocks:
                    raise self._unknown(_reserving(counter, count), error.why) from None
                raise self._meant(error, counter, count) from None
            blocks += answer.blocks
            missing -= part
        return Loan(self._known[counter.name], tuple(blocks), since)

    async def _exchange(self, name: str, count: int) -> Answer:
        nonce = self._nonce()
        reply = await self._central.ask("POST", protocol.target(name, count, nonce))
        return protocol.read_answer(reply, url=self.address, name=name, count=count, nonce=nonce)

    def _begins_epoch(self, name: str, answer: Answer) -> bool:
        """Whether it is the first answer of its epoch. Raises Unanswered as `is_newer`."""
        known = self._known.get(name) or untold(name)
        newer = protocol.is_newer(
            answer, url=self.address, ordinal=known.ordinal, strict=known.strict
        )
        if newer:
            self._known[name] = msgspec.structs.replace(
                known,
                epoch=told_epoch(answer.ordinal),
                strict=answer.strict,
                limit=LIMIT_MAX if answer.as_text else LIMIT_DEFAULT,
            )
        return newer

    def _meant(self, error: Refused, counter: Counter, count: int) -> errors.IdserviceError:
        """What a refusal is among the errors of a store."""
        about: dict[str, Any] = {"store": self.address, "name": counter.name}
        about["why"] = error.why.rstrip(".")
        if error.outcome == errors.UNKNOWN:
            return self._unknown(_reserving(counter, count), error.why)
        if error.code == "exhausted":  # how many are left is not said: fewer than these
            return errors.NoRoom(position=counter.layout().end - count + 1, **about)
        if error.code == "unknown_counter":
            return errors.UnknownCounter(name=counter.name)
        if error.code == "moved":
            why = error.why.partition(" here: ")[2].rstrip(".") or error.why
            return errors.Moved(name=counter.name, why=why)
        if error.code == "suspended":
            return errors.Suspended(name=counter.name)
        if error.retryable:
            return self._not_applied(_reserving(counter, count), error.why)
        return errors.Withheld(**about)

    async def writers(self, counter: Counter) -> Writers | None:
        """None: the service's instances are the writers."""

    async def register(self, counter: Counter, name: str, *, registrations: int) -> bool:
        """Refused, as there is nothing to register on."""
        return False

    async def prune(self, counter: Counter, name: str, seq: int) -> None:
        """Nothing to prune."""

    async def give_back(
        self,
        counter: Counter,
        found: Position,
        *,
        next: int,
        returned: tuple[range, ...],
        shard: int = 0,
    ) -> bool:
        """Nothing: what was lent is the other service's, and expires."""
        return False

    async def claim(self, counter: Counter, rev: int, shard: int = 0) -> tuple[range, ...]:
        """Nothing: the other service claims for all who ask it."""
        return ()

    async def close_gone_back(self, counter: Counter, found: str, shard: int = 0) -> None:
        """Nothing to close: a position that went back is closed by who reads it."""

    async def examine(self, clock: Clock, *, thorough: bool) -> list[Finding]:
        """Whether it answers and can serve; the rest is looked at where its store is."""
        return await chained_examine.examine(self._central)

    async def examine_item(self, counter: Counter) -> list[Finding]:
        """Looked at where the counter's store is."""
        return []

    # --- counters --------------------------------------------------------------------------------

    async def counter(self, name: str) -> Counter | None:
        """The entry as the service shows it, else as its answers told it so far; uses no id. That
        nothing is handed out now is told at each request, and so is the end of it."""
        try:
            shown = await self._shown(name)
        except errors.NotShown:
            return self._known.get(name) or untold(name)
        if shown is None:
            return None
        entry = msgspec.structs.replace(shown.entry(), state=ACTIVE)
        known = self._known.get(name)
        if known is None or known.ordinal < entry.ordinal:
            self._known[name] = entry
        return self._known[name]

    async def counters(self) -> list[Counter]:
        """As the service lists them. Raises NotShown, NotApplied."""
        action = "listing counters"
        body = await self._show("/v1/counters", action)
        return [shown.entry() for shown in self._converted(body, Listed, action).counters]

    async def create(self, counter: Counter) -> Counter:
        """Create it there. Raises CounterDiffers, NotShown, NotApplied, OutcomeUnknown."""
        action = f"creating counter {counter.name}"
        if counter.adopted is not None:
            raise self._not_applied(action, "an item is adopted where the store is")
        wish: dict[str, object] = {
            "start": str(counter.start),
            "limit": str(counter.limit),
            "strict": counter.strict,
            "shards": counter.shards,
        }
        if counter.runway is not None:
            wish["runway"] = counter.runway
        path = f"/v1/counters/{counter.name}"
        try:
            reply = await self._central.ask("PUT", path, msgspec.json.encode(wish))
            body = protocol.read_object(reply, url=self.address)
        except NoUsableAnswer as error:
            raise self._unknown(action, error.why) from None
        except Refused as error:
            if error.code == "counter_differs":
                difference = error.why.partition("configuration: ")[2].rstrip(".") or error.why
                raise errors.CounterDiffers(name=counter.name, difference=difference) from None
            raise self._refusal(error, action) from None
        return (
            counter if reply.status == 201 else self._converted(body, RemoteCounter, action).entry()
        )

    async def position(self, counter: Counter, shard: int = 0) -> Position | None:
        """As the service shows it. Raises NotShown, NotApplied."""
        shown = await self._shown(counter.name)
        if shown is None:
            return None
        epoch, next = told_epoch(shown.epoch), int(shown.next)
        return Position(next, next, 0, gone_back(epoch) if shown.state == "suspect" else epoch)

    async def _shown(self, name: str) -> RemoteCounter | None:
        action = f"reading counter {name}"
        body = await self._show(f"/v1/counters/{name}", action)
        return None if body is None else self._converted(body, RemoteCounter, action)

    async def _show(self, path: str, action: str) -> dict[str, object] | None:
        try:
            return protocol.read_object(await self._central.ask("GET", path), url=self.address)
        except Refused as error:
            if error.code == "unknown_counter":
                return None
            raise self._refusal(error, action) from None
        except NoUsableAnswer as error:
            raise self._not_applied(action, error.why) from None

    def _converted(self, body: object, kind: type[T], action: str) -> T:
        try:
            return msgspec.convert(body, kind)
        except msgspec.ValidationError as error:
            raise self._not_applied(action, f"its answer is not as expected: {error}") from None

    # --- changes: refused, they are made where the counters are kept -----------------------------

    async def revision(self) -> None:
        """There is no catalogue here: a change is heard of by answers, or when ids expire."""

    async def entry(self, name: str) -> Counter | None:
        """As the service shows it, also its state. Raises ChangedElsewhere where it does not."""
        try:
            shown = await self._shown(name)
        except errors.NotShown:
            raise self._elsewhere() from None
        return None if shown is None else shown.entry()

    async def rewrite(self, before: Counter, after: Counter) -> bool:
        raise self._elsewhere()

    async def renewed(self, counter: Counter) -> Counter:
        raise self._elsewhere()

    async def stand(self, counter: Counter, shard: int) -> ShardState | None:
        raise self._elsewhere()

    async def seal(self, counter: Counter, shard: int, found: ShardState | None, seal: str) -> None:
        raise self._elsewhere()

    async def open_shard(
        self, counter: Counter, shard: int, seal: str, epoch: str, *, value: int
    ) -> None:
        raise self._elsewhere()

    async def finish_adoption(self, counter: Counter, seal: str, epoch: str, *, first: int) -> None:
        raise self._elsewhere()

    async def accept(self) -> None:
        raise self._elsewhere()

    def _elsewhere(self) -> errors.ChangedElsewhere:
        return errors.ChangedElsewhere(store=self.address)

    # --- refusals --------------------------------------------------------------------------------

    def _refusal(self, error: Refused, action: str) -> errors.StoreError:
        if error.code in ("unknown_path", "write_refused", "method_not_allowed"):
            return errors.NotShown(store=self.address, action=action)
        if error.outcome == errors.UNKNOWN:
            return self._unknown(action, error.why)
        return self._not_applied(action, error.why)

    def _not_applied(self, action: str, why: str) -> errors.NotApplied:
        return errors.NotApplied(store=self.address, action=action, why=why.rstrip("."))

    def _unknown(self, action: str, why: str) -> errors.OutcomeUnknown:
        return errors.OutcomeUnknown(store=self.address, action=action, why=why.rstrip("."))


def _reserving(counter: Counter, count: int) -> str:
    return f"reserving {count} ids of counter {counter.name}"
