"""The routes that make, list and revoke access keys: an admin's, within the scopes of its key."""

import asyncio
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from time import time
from typing import TypeVar

import msgspec
from aiohttp import web

from idservice import errors
from idservice.access.changes import KeyChanges
from idservice.access.passes import Pass
from idservice.access.shown import described, read_expiry
from idservice.catalogue.changes import check_reason
from idservice.core.access_key import (
    EVERYTHING,
    KEY_ID,
    AccessKey,
    Role,
    are_within,
    is_scope,
)
from idservice.stores.instants import instant
from idservice.web.access import ControlAccess
from idservice.web.ids import read_body
from idservice.web.json_body import Body, decoded
from idservice.web.key_schemas import KeyAnswer, KeyList, KeyRequest, NewKey, Revocation
from idservice.web.passes import pass_of
from idservice.web.problems import WriteRefused, json_answer

T = TypeVar("T")

ANSWER_S = 5.0  # for the store to answer
# By method: the commands that do the same on the store.
COMMANDS = {
    "POST": "`idservice key create --role R --scope S --store URL`",
    "DELETE": "`idservice key revoke ID --reason T --store URL`",
}


class KeyRoutes:
    """Handlers over the keys of a store, whose address is `store`. `changes` is None in a sidecar,
    which keeps no keys. `clock` returns seconds since 1970."""

    def __init__(
        self,
        changes: KeyChanges | None,
        access: ControlAccess,
        store: str,
        clock: Callable[[], float] = time,
    ) -> None:
        self._changes = changes
        self._access = access
        self._store = store
        self._clock = clock

    async def list(self, request: web.Request) -> web.Response:
        """List the keys whose scopes are within those of the key that asks."""
        try:
            keys = await self._limited(self._kept().list())
        except TimeoutError:
            raise self._slow() from None
        now = int(self._clock() * 1000)
        may = _may(pass_of(request))
        return json_answer(KeyList([_described(key, now) for key in keys if may(key)]))

    async def create(self, request: web.Request) -> web.Response:
        """Make a key, and show it this once."""
        body, changes = await self._read(request, KeyRequest), self._kept()
        expires = None if body.expires is None else read_expiry(body.expires)
        by = pass_of(request)
        _check_scopes(by, body.scopes)
        try:
            if not by.sees_all:
                await self._limited(changes.check_room(body.scopes))
        except TimeoutError:
            raise self._slow() from None
        try:
            key, text = await self._limited(
                changes.create(
                    Role(body.role),
                    body.scopes,
                    note=body.note,
                    expires=expires,
                    by=self._access.client(request),
                )
            )
        except TimeoutError:
            raise errors.OutcomeUnknown(
                store=self._store,
                action="making an access key",
                why="it took too long. If the key is there, nobody knows it: revoke it, by the list"
                " of the keys",
            ) from None
        shown = None if key.expires is None else instant(key.expires)
        made = NewKey(key.id, text, key.role.value, [*key.scopes], key.note, shown)
        return json_answer(made, status=HTTPStatus.CREATED)

    async def revoke(self, request: web.Request) -> web.Response:
        """Revoke a key, for good. One out of the scopes of the key that asks is as a missing one
        (K5)."""
        body, changes = await self._read(request, Revocation), self._kept()
        id = request.match_info["id"]
        reason = check_reason(body.reason, errors.BadAccessKey)
        if not KEY_ID.fullmatch(id):
            raise errors.NoSuchKey(id=id[:80])
        try:
            key = await self._limited(
                changes.revoke(
                    id, by=self._access.client(request), reason=reason, may=_may(pass_of(request))
                )
            )
        except TimeoutError:
            raise errors.OutcomeUnknown(
                store=self._store,
                action="revoking an access key",
                why="it took too long; the same request may be sent again",
            ) from None
        return json_answer(_described(key, int(self._clock() * 1000)))

    def _kept(self) -> KeyChanges:
        if self._changes is None:
            raise errors.ChangedElsewhere(store=self._store)
        return self._changes

    async def _read(self, request: web.Request, kind: type[Body]) -> Body:
        """Return the body of a request; one without it means an empty object. Raises WriteRefused,
        BadAccessKey, and as `read_body`."""
        self._access.check_change(request, COMMANDS)
        body = await read_body(request)
        try:
            return decoded(body or b"{}", kind)
        except ValueError as why:
            raise errors.BadAccessKey(why=why) from None

    def _slow(self) -> errors.NotAnswered:
        why = f"it took longer than {ANSWER_S:g} s"
        return errors.NotAnswered(store=self._store, action="reading the access keys", why=why)

    async def _limited(self, call: Coroutine[object, object, T]) -> T:
        async with asyncio.timeout(ANSWER_S):
            return await call


def _may(by: Pass) -> Callable[[AccessKey], bool]:
    """Return which keys a pass lists and revokes: those of its own scope or below."""
    if by.key is None:
        return lambda key: True
    outer = by.key.scopes
    return lambda key: are_within(key.scopes, outer)


def _check_scopes(by: Pass, scopes: list[str]) -> None:
    """Refuse scopes beyond those of a pass. Raises KeyNotEnough, WriteRefused.

    Without a key only the holder of the store's credentials makes keys for everything: a key
    outlives the socket or the flag that let this request through, and goes anywhere.
    """
    if by.key is None:
        if EVERYTHING in scopes:
            why = (
                "a key for `*` is made by `idservice key create --role R --scope '*'` on the store,"
                " or with an admin key for `*`"
            )
            raise WriteRefused(why=why)
        return
    for scope in filter(is_scope, scopes):  # what is none is refused as such
        by.check_scope(Role.ADMIN, scope)


def _described(key: AccessKey, now: int) -> KeyAnswer:
    return msgspec.convert(described(key, now), KeyAnswer)
