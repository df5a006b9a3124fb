"""The routes of tallies: adds and reads for callers, and changes for those whom `access` lets."""

from http import HTTPStatus

import msgspec
from aiohttp import web
from msgspec import UNSET, Raw, UnsetType

from idservice import errors
from idservice.catalogue.changes import check_reason
from idservice.core.amounts import AMOUNT, WRITTEN, written
from idservice.core.tally import Tally, TallyState
from idservice.stores.instants import instant
from idservice.stores.tally_source import Told, check_key
from idservice.tallies import changes
from idservice.tallies.service import Tallies
from idservice.web.access import ControlAccess, for_operators
from idservice.web.counters import read_list_query
from idservice.web.ids import TEXT, read_body
from idservice.web.json_body import Body, decoded, no_number
from idservice.web.passes import pass_of
from idservice.web.problems import (
    NO_STORE,
    BadBody,
    Handler,
    MediaTypeRefused,
    WriteRefused,
    check_headers,
    json_answer,
    problem,
)
from idservice.web.request import JSON, prefers_text
from idservice.web.tally_schemas import (
    AddAnswer,
    AddRequest,
    RecordAnswer,
    SetSumAnswer,
    SetSumRequest,
    SumAnswer,
    TallyAnswer,
    TallyChangeAnswer,
    TallyConfiguration,
    TallyDeletion,
    TallyList,
    TallyPatchRequest,
)

KEY_HEADER = "Idempotency-Key"
# By method: the commands that do the same on the store.
COMMANDS = {
    "PUT": "`idservice tally create {name} --store URL`",
    "PATCH": "`idservice tally suspend {name} --store URL`, or `resume` or `configure`",
    "DELETE": "`idservice tally delete {name} --store URL`",
    "POST": "`idservice tally set {name} --sum X --store URL`",
}


class TallyRoutes:
    """Handlers over the tallies of a service."""

    def __init__(self, tallies: Tallies, access: ControlAccess) -> None:
        self._tallies = tallies
        self._access = access

    def by_path(self, *, data: bool, control: bool) -> dict[str, dict[str, Handler]]:
        """Return the handlers by path and method: adds and reads where `data` is served, changes
        on the `control` plane, which also reads."""
        found: dict[str, dict[str, Handler]] = {}
        if data or control:
            reads = {"/v1/tallies/{name}": self.value, "/v1/tallies/{name}/adds/{key}": self.record}
            for path, read in reads.items():
                found[path] = {"GET": read if data else for_operators(self._access.reading(read))}
        if data:
            found["/v1/tallies/{name}/add"] = {"POST": self.add}
        if control:
            found["/v1/tallies"] = {"GET": for_operators(self._access.reading(self.list))}
            found["/v1/tallies/{name}"] |= {
                "PUT": for_operators(self.put),
                "PATCH": for_operators(self.patch),
                "DELETE": for_operators(self.delete),
            }
            found["/v1/tallies/{name}/set"] = {"POST": for_operators(self.set)}
        return found

    # --- for callers -----------------------------------------------------------------------------

    async def add(self, request: web.Request) -> web.Response:
        """Count an amount under its key, once for ever (T1)."""
        check_headers(request)
        key = read_key(request)
        if request.headers.get("Content-Type") != JSON and request.content_type != JSON:
            raise MediaTypeRefused()
        amount = read_amount("amount", (await _sent(request, AddRequest)).amount)
        told = await self._tallies.add(request.match_info["name"], key, amount)
        record = told.record
        return json_answer(
            AddAnswer(
                told.tally, key, written(record.amount, told.decimals),
                written(record.sum, told.decimals), instant(record.at), record.rev, told.replayed,
            )
        )  # fmt: skip

    async def value(self, request: web.Request) -> web.Response:
        """Show the sum, by a read of the store that begins now (T7)."""
        reading = await self._tallies.value(request.match_info["name"])
        sum = written(reading.sum, reading.decimals)
        if prefers_text(request.headers.get("Accept", "")):
            headers = {**NO_STORE, "Content-Type": TEXT}
            return web.Response(body=sum.encode(), headers=headers)
        return json_answer(
            SumAnswer(
                reading.tally, sum, instant(reading.at), instant(reading.as_of), reading.rev
            )
        )  # fmt: skip

    async def record(self, request: web.Request) -> web.Response:
        """Show the record of a key."""
        named = request.match_info
        return json_answer(_recorded(await self._tallies.recorded(named["name"], named["key"])))

    # --- for operators ---------------------------------------------------------------------------

    async def list(self, request: web.Request) -> web.Response:
        """List a page of the tallies with their configuration."""
        most, after = read_list_query(request.rel_url.raw_query_string)
        by = pass_of(request)
        listed = [
            one
            for one in await self._tallies.tallies()
            if one.tally.name > after and by.sees(one.tally.name)
        ]
        shown = listed[:most]
        page = TallyList([_described(one.tally) for one in shown if not one.went_back])
        if suspect := [one.tally.name for one in shown if one.went_back]:
            page.suspect = suspect
        if len(listed) > most:
            page.next = listed[most - 1].tally.name
        return json_answer(page)

    async def put(self, request: web.Request) -> web.Response:
        """Create a tally, or find it with the same configuration."""
        body = await self._change(request, TallyConfiguration)
        wanted = changes.new_tally(
            request.match_info["name"],
            decimals=body.decimals,
            floor=read_bound("floor", body.floor) or None,
            ceiling=read_bound("ceiling", body.ceiling) or None,
            start=read_bound("start", body.start) or None,
            only=read_bound("only", body.only) or None,
        )
        tally, created = await self._tallies.create(wanted, by=self._access.client(request))
        status = HTTPStatus.CREATED if created else HTTPStatus.OK
        return json_answer(_described(tally), status=status)

    async def patch(self, request: web.Request) -> web.Response:
        """Suspend or resume a tally, or change its bounds."""
        body = await self._change(request, TallyPatchRequest)
        change = changes.TallyPatch(
            state=None if body.state is None else TallyState(body.state),
            floor=read_bound("floor", body.floor),
            ceiling=read_bound("ceiling", body.ceiling),
        )
        if change == changes.TallyPatch():
            raise errors.BadTally(why="it names none of state, floor and ceiling")
        return await self._changed(request, change, WORDS[body.state], body.reason)

    async def delete(self, request: web.Request) -> web.Response:
        """Delete a tally. If it is created again, every key is new."""
        body = await self._change(request, TallyDeletion)
        change = changes.TallyPatch(state=TallyState.DELETED)
        return await self._changed(request, change, "delete", body.reason)

    async def set(self, request: web.Request) -> web.Response:
        """Set the sum, under a key like that of an add."""
        try:
            self._access.check_change(request, COMMANDS)
        except WriteRefused as refused:  # an earlier request with its key may have been let through
            return problem(refused, of_add=True)
        key = read_key(request)
        body = await _sent(request, SetSumRequest)
        told = await self._tallies.set(
            request.match_info["name"],
            key,
            read_amount("sum", body.sum),
            by=self._access.client(request),
            why=read_reason(body.reason),
        )
        record = told.record
        return json_answer(
            SetSumAnswer(
                told.tally, key, written(record.amount, told.decimals),
                written(told.before, told.decimals), written(record.sum, told.decimals),
                instant(record.at), record.rev, told.replayed,
            )
        )  # fmt: skip

    async def _change(self, request: web.Request, kind: type[Body]) -> Body:
        """Return the body of a change; a request without one means an empty object. Raises
        WriteRefused, BadTally, and as `read_body`."""
        self._access.check_change(request, COMMANDS)
        body = await read_body(request)
        try:
            return decoded(body or b"{}", kind)
        except ValueError as why:
            raise errors.BadTally(why=why) from None

    async def _changed(
        self, request: web.Request, change: changes.TallyPatch, what: str, reason: str
    ) -> web.Response:
        tally = await self._tallies.change(
            request.match_info["name"],
            change,
            what,
            by=self._access.client(request),
            why=read_reason(reason),
        )
        return json_answer(_described(tally))


_text = msgspec.json.Decoder(str)
WORDS = {None: "configure", "active": "resume", "suspended": "suspend"}


async def _sent(request: web.Request, kind: type[Body]) -> Body:
    """Return the body of a request that has a key. Raises BadBody, BadAmount for a number that is
    none, and as `read_body`."""
    body = await read_body(request)
    try:
        return decoded(body, kind)
    except ValueError as why:
        field = kind.__struct_fields__[0]
        if found := no_number(body):
            raise _bad_amount(field, found) from None
        raise BadBody(why=why, field=field) from None


def read_key(request: web.Request) -> str:
    """Return the key of a request, which may be quoted as a structured field (RFC 8941). Raises
    KeyMissing, BadKey."""
    sent = request.headers.getall(KEY_HEADER, ())
    if not sent:
        raise errors.KeyMissing()
    if len(sent) > 1:
        raise errors.BadKey(value=", ".join(sent)[:140])
    key = sent[0]
    return check_key(key[1:-1] if key[:1] == key[-1:] == '"' and len(key) > 1 else key)


def read_amount(field: str, sent: Raw) -> str:
    """Return an amount as text, digit by digit as it was sent. Raises BadAmount."""
    text = _literal(sent)
    if not AMOUNT.fullmatch(text):
        raise _bad_amount(field, text)
    return text


def _bad_amount(field: str, value: str) -> errors.BadAmount:
    return errors.BadAmount(field=field, value=value[:80], rule=WRITTEN)


def read_bound(field: str, sent: Raw | UnsetType) -> str | None:
    """Return a bound as text; empty if it is null, None if it is left out. Raises BadTally."""
    if sent is UNSET:
        return None
    if bytes(sent) == b"null":
        return ""
    text = _literal(sent)
    if not text:
        raise errors.BadTally(why=f"{field} is empty; it must be a number, or null for none")
    return text


def _literal(sent: Raw) -> str:
    """Return the text of a JSON string, or a number as it is written."""
    data = bytes(sent)
    try:
        return _text.decode(data) if data[:1] == b'"' else data.decode()
    except (msgspec.DecodeError, UnicodeDecodeError):
        return data.decode(errors="replace")


def read_reason(reason: str) -> str:
    """Return the reason of a change. Raises BadTally."""
    return check_reason(reason, errors.BadTally)


def _recorded(told: Told) -> RecordAnswer:
    record = told.record
    return RecordAnswer(
        told.tally,
        record.key,
        record.fate.value,
        written(record.amount, told.decimals),
        written(record.sum, told.decimals),
        instant(record.at),
        record.rev,
        record.by or UNSET,
    )


def _described(tally: Tally) -> TallyAnswer:
    def text(value: int | None) -> str | None:
        return None if value is None else written(value, tally.decimals)

    change = tally.change
    return TallyAnswer(
        tally=tally.name,
        state=tally.state.value,
        decimals=tally.decimals,
        floor=text(tally.floor),
        ceiling=text(tally.ceiling),
        only=text(tally.only),
        start=written(tally.start, tally.decimals),
        sum=written(tally.sum, tally.decimals),
        at=instant(tally.at),
        rev=tally.rev,
        adds=tally.adds,
        last_change=UNSET
        if change is None
        else TallyChangeAnswer(change.what, change.by, instant(change.at), change.reason),
    )
