"""Another service as the store: it lends ids, for a short time."""

import asyncio
import secrets
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self, TypeVar

import msgspec

from idservice import errors
from idservice.client import protocol
from idservice.client.http_async import AsyncTransport
from idservice.client.own_key import UNAUTHORIZED
from idservice.client.protocol import ClientAnswer, NotSent, NoUsableAnswer, Refused
from idservice.client.tally_calls import WAIT_S
from idservice.core.epoch import gone_back
from idservice.core.writer import Batch
from idservice.stores.chained_key import ChainedKey
from idservice.stores.chained_tallies import ChainedTallies
from idservice.stores.findings import FAULT, Clock, Finding, fine
from idservice.stores.protocol import reserving
from idservice.stores.records import (
    ACTIVE,
    BOUNDS,
    LIMIT_DEFAULT,
    LIMIT_MAX,
    Counter,
    Loan,
    Position,
)
from idservice.stores.remote_counter import RemoteCounter, RemoteCounters, assumed, epoch_of

T = TypeVar("T")

# A request for no ids. It is refused for its access key where the service requires one, and else
# for its count.
ASKING = "/v1/counters/{}/next?count=0"
PARTS_MAX_S = 0.5  # a loan in parts ends then: if it was cut off, all parts would be burnt
PART_BELIEVED_S = 60.0  # how long the size of a part is believed: an operator may raise a bound
ANSWER_MAX_S = 5.0  # for a service to say that it is one
# For a connection. It is less than a request waits (2 s), so that the error says that nothing was
# sent.
CONNECT_MAX_S = 1.5


class ChainedStore:
    """Borrows ids from a service at an address, or from several behind one address.

    Often only the data plane of the service can be reached, so that it does not show a counter.
    Until the first answer tells epoch and mode, such a counter is assumed to be strict: then only
    ids that requests wait for are borrowed. `hold_s` is how long ids are kept, and `wait_s` how
    long the service is asked about a tally, in seconds.
    """

    def __init__(
        self,
        transport: AsyncTransport,
        *,
        hold_s: float = protocol.HOLD_S,
        wait_s: float = WAIT_S,
        nonce: Callable[[], str] = lambda: secrets.token_hex(16),
    ) -> None:
        self.address = transport.url
        self.hold_s: float | None = hold_s
        self._transport = transport
        self._key = ChainedKey(transport.own_key, transport.url)
        self._nonce = nonce
        self.tallies = ChainedTallies(transport, wait_s=wait_s)
        self._known: dict[str, Counter] = {}  # by name, of the newest epoch in an answer
        # By counter: what one request is known to give, and since when.
        self._part_max: dict[str, tuple[int, float]] = {}

    async def __aenter__(self) -> Self:
        await self._transport.__aenter__()
        return self

    async def __aexit__(self, *failure: Any) -> None:
        await self._transport.__aexit__(*failure)

    async def verify(self) -> None:
        """Check that a service answers there. The service checks the identity of its store
        itself."""
        try:
            async with asyncio.timeout(ANSWER_MAX_S):
                reply = await self._transport.send("GET", "/livez")
        except (NoUsableAnswer, TimeoutError) as error:
            why = f"no service answers there ({_reason(error)})"
            raise errors.StoreUnready(store=self.address, why=why, waiting_helps=True) from None
        if (reply.status, reply.body) != (200, b"live"):
            raise errors.StoreUnready(
                store=self.address,
                why=f"the server that answers there ({reply.status}) is not idservice",
                waiting_helps=reply.status >= 500,
            )

    async def examine(self, clock: Clock, *, thorough: bool) -> list[Finding]:
        """Judge if the service answers and can serve; it judges its own store itself."""
        try:
            async with asyncio.timeout(ANSWER_MAX_S):
                reply = await self._transport.send("GET", "/readyz")
                asked = await self._transport.send("GET", ASKING.format("default"))
        except (NoUsableAnswer, TimeoutError) as error:
            why = "ids in memory expire within seconds; start the service, or check the network"
            return [Finding(FAULT, "reach", f"no service answers there ({_reason(error)})", why)]
        if asked.status == UNAUTHORIZED:
            why = self._transport.own_key.advice
            return [Finding(FAULT, "key", "it asks for an access key, and refuses this one", why)]
        if reply.status == 200:
            return [fine("central", "it answers, and can serve the next id")]
        said = reply.body.decode(errors="replace").strip()[:300]
        why = "its logs and `idservice doctor` with its own --store tell more"
        return [Finding(FAULT, "central", f"it is not ready ({reply.status}): {said}", why)]

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
        """Borrow `count` ids; `seen`, `room` and `batch` are for a `CatalogueStore`.

        Raises, with nothing applied, NoRoom, UnknownCounter, Withheld, NotApplied. A count above
        the limit of one answer is requested in parts. If one part is lost, all are. If a part is
        beyond the counter's rate_max, or the parts take long, only the parts before it are
        borrowed.
        """
        now = asyncio.get_running_loop().time
        since = now()
        part_max, learnt_at = self._part_max.get(counter.name, (protocol.RANGES_MAX, since))
        if since - learnt_at >= PART_BELIEVED_S:
            part_max = protocol.RANGES_MAX
        action = reserving(count, counter.name)
        blocks: list[range] = []
        missing = count
        while missing:
            part = min(missing, part_max)
            try:
                answer = await self._exchange(counter.name, part)
                if self._begins_epoch(counter.name, answer) and blocks:
                    raise NoUsableAnswer(url=self.address, why="an epoch began between two parts")
            except NoUsableAnswer as error:
                if blocks and isinstance(error, NotSent):
                    raise self._unknown(action, error.why) from None
                raise self._unanswered(error, action) from None
            except Refused as error:
                if error.code == "bad_count" and part > 1:  # --range-max or a bound is lower
                    part_max = part // 2
                    self._part_max[counter.name] = part_max, since
                    continue
                unknown = error.outcome == errors.UNKNOWN
                if blocks and error.code == errors.RateExceeded.code and not unknown:
                    break
                if blocks or unknown:
                    raise self._unknown(action, error.why) from None
                refusal = self._store_error(error, counter, count, action)
                if isinstance(refusal, errors.UnknownCounter | errors.StoreKeyNotEnough):
                    self._part_max.pop(counter.name, None)  # clients may make such names up
                raise refusal from None
            blocks += answer.blocks
            missing -= part
            if not answer.strict and now() - since >= PARTS_MAX_S:
                break
        return Loan(self._known[counter.name], tuple(blocks), since)

    async def _exchange(self, name: str, count: int) -> ClientAnswer:
        nonce = self._nonce()
        reply = await self._transport.send("POST", protocol.target(name, count, nonce))
        return protocol.read_answer(reply, url=self.address, name=name, count=count, nonce=nonce)

    def _begins_epoch(self, name: str, answer: ClientAnswer) -> bool:
        """Return True for the first answer of an epoch. Raises NoUsableAnswer as `is_newer`."""
        known = self._known.get(name) or assumed(name)
        newer = protocol.is_newer(
            answer, url=self.address, ordinal=known.ordinal, strict=known.strict
        )
        if newer:
            self._known[name] = msgspec.structs.replace(
                known,
                epoch=epoch_of(answer.ordinal),
                strict=answer.strict,
                limit=LIMIT_MAX if answer.as_text else LIMIT_DEFAULT,
            )
        return newer

    def _store_error(
        self, error: Refused, counter: Counter, count: int, action: str
    ) -> errors.IdserviceError:
        """Return the store error that a refusal of the service amounts to."""
        why = error.why.rstrip(".")
        of_key = self._key.error(error, action)
        if of_key is not None:
            return of_key
        about: dict[str, Any] = {"store": self.address, "name": counter.name, "why": why}
        if error.code == "exhausted":  # how many are left is not said: fewer than these
            return errors.NoRoom(position=counter.layout().end - count + 1, **about)
        if error.code == "unknown_counter":
            return errors.UnknownCounter(name=counter.name)
        if error.code == "moved":
            why = error.why.partition(" here: ")[2].rstrip(".") or error.why
            return errors.Moved(name=counter.name, why=why)
        if error.code == "suspended":
            by = error.why.partition(" is suspended ")[2].partition(". `")[0]
            return errors.Suspended(name=counter.name, by=by or "there")
        if error.code == "changing":
            why = error.why.partition(" until that is done: ")[2].rstrip(".") or why
            return errors.Changing(name=counter.name, why=why)
        if error.code == errors.RateExceeded.code:
            return errors.RateExceeded(name=counter.name, rate="", seconds=error.pause_s)
        if error.retryable:
            return self._not_applied(action, error.why)
        return errors.Withheld(**about)

    # --- counters --------------------------------------------------------------------------------

    async def counter(self, name: str) -> Counter | None:
        """Return the entry as the service shows it, or as its answers described it so far. Uses no
        id. The state is left out: a request for ids learns if the counter is closed. Raises
        StoreKeyRefused, StoreKeyNotEnough: also if the key may read the counter and take no ids."""
        with suppress(errors.NotShown, errors.Withheld):  # of its count
            await self._show(ASKING.format(name), f"handing out ids of counter {name}", name)
        try:
            shown = await self._shown(name)
        except (errors.NotShown, errors.Withheld):
            return self._known.get(name) or assumed(name)
        if shown is None:
            return None
        # Its bounds hold for requests to the service, and may change unnoticed.
        entry = msgspec.structs.replace(
            shown.entry(), state=ACTIVE, request_max=None, rate_max=None
        )
        known = self._known.get(name)
        if known is None or known.ordinal < entry.ordinal:
            self._known[name] = entry
        return self._known[name]

    async def counters(self) -> list[Counter]:
        """Return the counters that the service lists. Raises NotShown, NotApplied."""
        return await self.page("", LIMIT_MAX)

    async def page(self, after: str, most: int) -> list[Counter]:
        action, found = "listing counters", list[Counter]()
        while True:
            body = await self._show("/v1/counters" + (after and f"?after={after}"), action)
            page = self._converted(body, RemoteCounters, action)
            found += [shown.entry() for shown in page.counters]
            if page.next <= after or len(found) >= most:  # the last page; names only go up
                return found[:most]
            after = page.next

    async def create(self, counter: Counter) -> Counter:
        """Create the counter there. Raises CounterDiffers, NotShown, NotApplied, OutcomeUnknown."""
        action = f"creating counter {counter.name}"
        if counter.adopted is not None:
            raise self._not_applied(
                action, "an item can only be adopted with the --store of the service"
            )
        wanted: dict[str, object] = {
            "start": str(counter.start),
            "limit": str(counter.limit),
            "strict": counter.strict,
            "shards": counter.shards,
        }
        for field in ("runway", *BOUNDS):
            if (value := getattr(counter, field)) is not None:
                wanted[field] = value
        path = f"/v1/counters/{counter.name}"
        try:
            reply = await self._transport.send("PUT", path, msgspec.json.encode(wanted))
            body = protocol.read_object(reply, url=self.address)
        except NoUsableAnswer as error:
            raise self._unanswered(error, action) from None
        except Refused as error:
            if error.code == "counter_differs":
                difference = error.why.partition("configuration: ")[2].rstrip(".") or error.why
                raise errors.CounterDiffers(name=counter.name, difference=difference) from None
            raise self._refusal(error, action) from None
        if reply.status == 201:
            return counter
        return self._converted(body, RemoteCounter, action).entry()

    async def position(self, counter: Counter, shard: int = 0) -> Position | None:
        """Return the position as the service shows it. Raises NotShown, NotApplied."""
        shown = await self._shown(counter.name)
        if shown is None:
            return None
        epoch, next = epoch_of(shown.epoch), int(shown.next)
        return Position(next, next, 0, gone_back(epoch) if shown.state == "suspect" else epoch)

    async def entry(self, name: str) -> Counter | None:
        """Return the counter as the service shows it, with its state. Raises ChangedElsewhere."""
        try:
            shown = await self._shown(name)
        except errors.NotShown:
            raise errors.ChangedElsewhere(store=self.address) from None
        return None if shown is None else shown.entry()

    async def _shown(self, name: str) -> RemoteCounter | None:
        action = f"reading counter {name}"
        body = await self._show(f"/v1/counters/{name}", action, name)
        if body is None:
            return None
        shown = self._converted(body, RemoteCounter, action)
        if shown.store == "down":
            raise self._not_applied(action, "the store that it uses does not answer")
        return shown

    async def _show(self, path: str, action: str, name: str = "") -> dict[str, object] | None:
        try:
            return protocol.read_object(await self._transport.send("GET", path), url=self.address)
        except Refused as error:
            if error.code == "unknown_counter":
                return None
            raise self._refusal(error, action, name) from None
        except NotSent as error:
            raise self._unanswered(error, action) from None
        except NoUsableAnswer as error:
            about = {"store": self.address, "action": action}
            raise errors.NotAnswered(why=error.why.rstrip("."), **about) from None

    def _converted(self, body: object, kind: type[T], action: str) -> T:
        try:
            return msgspec.convert(body, kind)
        except msgspec.ValidationError as error:
            raise self._not_applied(action, f"its answer is not as expected: {error}") from None

    # --- refusals --------------------------------------------------------------------------------

    def _refusal(self, error: Refused, action: str, name: str = "") -> errors.IdserviceError:
        if error.code in ("unknown_path", "write_refused", "host_refused", "method_not_allowed"):
            return errors.NotShown(store=self.address, action=action)
        if error.outcome == errors.UNKNOWN:
            return self._unknown(action, error.why)
        of_key = self._key.error(error, action)
        if of_key is not None:
            return of_key
        if name and not error.retryable:
            return errors.Withheld(store=self.address, name=name, why=error.why.rstrip("."))
        return self._not_applied(action, error.why)

    def _unanswered(self, error: NoUsableAnswer, action: str) -> errors.StoreError:
        """Return the store error of a request without an answer, which may not have been sent."""
        if isinstance(error, NotSent):
            about = {"store": self.address, "action": action}
            return errors.NotReached(place=f"the service {self.address}", cause=error.why, **about)
        return self._unknown(action, error.why)

    def _not_applied(self, action: str, why: str) -> errors.NotApplied:
        return errors.NotApplied(store=self.address, action=action, why=why.rstrip("."))

    def _unknown(self, action: str, why: str) -> errors.OutcomeUnknown:
        return errors.OutcomeUnknown(store=self.address, action=action, why=why.rstrip("."))


def _reason(error: NoUsableAnswer | TimeoutError) -> str:
    return error.why if isinstance(error, NoUsableAnswer) else f"within {ANSWER_MAX_S:g} s"
