"""Makes, revokes and lists access keys, in a store."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain
from random import Random

from idservice import errors
from idservice.core.access_key import (
    BUCKETS,
    ID_LENGTH,
    NOTE_MAX,
    RANDOM_NUMBERS,
    SCOPES_MAX,
    AccessKey,
    KeyState,
    Role,
    bucket_of,
    hashed,
    id_in,
    key_text,
    tenant,
    why_no_scope,
)
from idservice.observability.readings import count
from idservice.stores.at_once import for_each
from idservice.stores.key_store import BUCKET_MAX, KEYS_MAX, KeyBucket, KeyStore, encoded_keys

log = logging.getLogger("idservice.access")

TENANT_MAX = 1_000  # valid keys of a tenant; above that none is made with an admin key of it
TRIES = 8  # of a change, if others come first or an outcome is unknown


class KeyChanges:
    """Changes the keys of a store. `clock` tells the seconds since 1970, `on_change` is called with
    each bucket that was written. `random` must be safe for secrets."""

    def __init__(
        self,
        store: KeyStore,
        *,
        random: Random,
        clock: Callable[[], float],
        on_change: Callable[[KeyBucket], None] = lambda bucket: None,
    ) -> None:
        self._store = store
        self._random = random
        self._clock = clock
        self._on_change = on_change

    async def create(
        self,
        role: Role,
        scopes: Sequence[str],
        *,
        note: str = "",
        expires: int | None = None,
        by: str = "",
    ) -> tuple[AccessKey, str]:
        """Make a key; return it and its text, which is kept nowhere. `expires` is in milliseconds
        since 1970.

        Raises BadAccessKey, KeysBusy, StoreError. After OutcomeUnknown the key may exist. Its text
        is lost, so it is of no use and should be revoked.
        """
        now = self._now()
        _check(scopes, note, expires, now)
        text = key_text(role, [self._random.getrandbits(32) for _ in range(RANDOM_NUMBERS)])
        id = id_in(text)
        assert id is not None
        key = AccessKey(id, role, tuple(scopes), hashed(text), now, by, note, expires)

        def added(bucket: KeyBucket) -> tuple[AccessKey, ...]:
            kept = _fitting([*bucket.keys, key], now)
            if kept is None:
                why = "there are too many keys in this store; revoke some that are not used any"
                raise errors.BadAccessKey(why=f"{why} more")
            return kept

        await self._rewrite(bucket_of(id), added, lambda bucket: bucket.key(id) == key)
        log.warning(
            "access key %s was made by %s: role %s, scopes %s%s",
            id, by or "an operator", role.value, ", ".join(scopes), f" ({note})" if note else "",
            extra={"action": "key_created"},
        )  # fmt: skip
        return key, text

    async def check_room(self, scopes: Sequence[str]) -> None:
        """Refuse a further key of a tenant that has many: the store has room for all tenants.

        Keys that are made at the same time may exceed the bound. Keys in an ill-formed bucket are
        not counted, so that it stops no other tenant. Raises BadAccessKey, StoreError.
        """

        async def readable(number: str) -> tuple[AccessKey, ...]:
            try:
                return (await self._store.bucket(number)).keys
            except errors.KeysIllFormed:
                return ()

        now, found = self._now(), dict[str, int]()
        for key in chain.from_iterable(await for_each(BUCKETS, readable)):
            if key.is_usable(now):
                for name in set(map(tenant, key.scopes)):
                    count(found, name)
        for name in map(tenant, scopes):
            if found.get(name, 0) >= TENANT_MAX:
                why = (
                    f"{name!r} has {TENANT_MAX:,} valid keys, and no admin key of it makes more;"
                    " revoke some that are not used any more"
                )
                raise errors.BadAccessKey(why=why)

    async def revoke(
        self,
        id: str,
        *,
        by: str = "",
        reason: str = "",
        may: Callable[[AccessKey], bool] = lambda key: True,
    ) -> AccessKey:
        """Revoke a key that the caller `may` revoke; return it. One that was revoked stays as it
        is. Raises NoSuchKey, KeysBusy, StoreError."""

        def found(bucket: KeyBucket) -> AccessKey:
            key = bucket.key(id)
            if key is None or not may(key):  # the caller may have named a secret as the id
                raise errors.NoSuchKey(id=id[:ID_LENGTH])
            return key

        now = self._now()

        def revoked(bucket: KeyBucket) -> tuple[AccessKey, ...]:
            key = found(bucket)
            ended = replace(key, state=KeyState.REVOKED, ended=now, reason=reason, ended_by=by)
            keys = [ended if one is key else one for one in bucket.keys]
            return _fitting(keys, now, keep=ended) or tuple(keys)

        def is_done(bucket: KeyBucket) -> bool:
            return found(bucket).state is KeyState.REVOKED

        key = found(await self._rewrite(bucket_of(id), revoked, is_done))
        if key.ended == now:  # else it was revoked before
            log.warning(
                "access key %s was revoked by %s%s",
                id, by or "an operator", f": {reason}" if reason else "",
                extra={"action": "key_revoked"},
            )  # fmt: skip
        return key

    async def list(self) -> list[AccessKey]:
        """Return every key, the oldest first. Raises StoreError."""
        buckets = await for_each(BUCKETS, self._store.bucket)
        keys = [key for bucket in buckets for key in bucket.keys]
        return sorted(keys, key=lambda key: (key.created, key.id))

    async def _rewrite(
        self,
        number: str,
        change: Callable[[KeyBucket], tuple[AccessKey, ...]],
        is_done: Callable[[KeyBucket], bool],
    ) -> KeyBucket:
        """Write a bucket with a change; return it as it is now. Each try reads first, so that a
        write whose outcome was unknown is found, and never made twice."""
        unknown: errors.IdserviceError | None = None
        doubt: errors.IdserviceError | None = None
        for left in range(TRIES, -1, -1):
            try:
                before = await self._store.bucket(number)
                if is_done(before):
                    self._on_change(before)
                    return before
                doubt = unknown
                if not left:
                    break
                after = KeyBucket(number, before.rev + 1, change(before))
                if await self._store.rewrite(after):
                    self._on_change(after)
                    return after
                # Another writer was first, or a copy of this write that a proxy sent.
                doubt = errors.KeysUnsettled(why="another write came first")
            except errors.OutcomeUnknown as error:
                unknown = doubt = error
            except errors.NotApplied as error:
                raise doubt or error from None
        raise unknown or errors.KeysBusy()

    def _now(self) -> int:
        return int(self._clock() * 1000)


def _check(scopes: Sequence[str], note: str, expires: int | None, now: int) -> None:
    if not 1 <= len(scopes) <= SCOPES_MAX:
        why = f"it has {len(scopes)} scopes; name 1 to {SCOPES_MAX}"
        raise errors.BadAccessKey(why=why)
    for scope in scopes:
        if why := why_no_scope(scope):
            raise errors.BadAccessKey(why=why)
    if len(set(scopes)) < len(scopes):
        raise errors.BadAccessKey(why="a scope is named twice; name each once")
    if len(note) > NOTE_MAX or not note.isprintable():
        why = f"the note is {note[:80]!r}; it must be at most {NOTE_MAX} printable characters"
        raise errors.BadAccessKey(why=why)
    if errors.without_secrets(note) != note:  # it would be kept, and shown in lists (K4)
        raise errors.BadAccessKey(why="the note has an access key or a password; leave it out")
    if expires is not None and expires <= now:
        raise errors.BadAccessKey(why="it would have expired already; name a later time")


def _fitting(
    kept: list[AccessKey], now: int, keep: AccessKey | None = None
) -> tuple[AccessKey, ...] | None:
    """Return the keys of a bucket after one was added or became longer. If they do not fit, the
    oldest keys that open nothing are left out, except `keep`. None if they still do not fit."""
    over = [one for one in kept if one is not keep and not one.is_usable(now)]
    while len(kept) > KEYS_MAX or len(encoded_keys(tuple(kept)).encode()) > BUCKET_MAX:
        if not over:
            return None
        kept.remove(over.pop(0))
    return tuple(kept)
