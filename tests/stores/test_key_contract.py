"""The contract of `KeyStore`, kept by every store alike."""

import asyncio
import re
import sqlite3
from contextlib import closing
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from idservice import errors
from idservice.access.changes import KeyChanges
from idservice.catalogue.counters import new_counter
from idservice.core.access_key import (
    BUCKETS,
    ID_DIGITS,
    ID_LENGTH,
    NOTE_MAX,
    SCOPES_MAX,
    AccessKey,
    KeyState,
    Role,
    bucket_of,
    hashed,
)
from idservice.stores.findings import OK
from idservice.stores.key_store import BUCKET_MAX, KEYS_MAX, KeyBucket, KeyStore, encoded_keys
from idservice.stores.protocol import CatalogueStore
from tests import engines
from tests.simulation.loop import run
from tests.simulation.store import Faults, SimStore
from tests.stores.backends import ENGINE, Backend, Dynamo, SQLite
from tests.stores.conftest import KINDS, one_engine

NOW = 1_800_000_000_000
FULL = AccessKey(
    "k7f3q9m2xw", Role.ADMIN, ("acme.*", "beta", "*"), hashed("a"), NOW, "me@here", "why: ü € 🔑",
    expires=NOW + 1, state=KeyState.REVOKED, ended=NOW + 2, reason='it was "lost"',
)  # fmt: skip


@pytest.fixture
def keys(store: CatalogueStore) -> KeyStore:
    return store.keys


@pytest.fixture
def others(other: CatalogueStore) -> KeyStore:
    """The same keys by another handle."""
    return other.keys


def id_of(number: int) -> str:
    return "".join(ID_DIGITS[number // 32**at % 32] for at in range(ID_LENGTH))


def made(number: int = 0, **other: Any) -> AccessKey:
    """A key with an id of its own."""
    key = AccessKey(id_of(number), Role.USE, ("acme.*",), hashed(f"{number}"), NOW)
    return replace(key, **other)


def in_bucket(number: str, count: int, **other: Any) -> list[AccessKey]:
    """Keys that belong to a bucket."""
    found, at = [], 0
    while len(found) < count:
        if bucket_of(id_of(at)) == number:
            found.append(made(at, **other))
        at += 1
    return found


async def written(keys: KeyStore, *them: AccessKey, rev: int = 1, number: str = "0") -> KeyBucket:
    bucket = KeyBucket(number, rev, them)
    assert await keys.rewrite(bucket)
    return bucket


# --- read and write -------------------------------------------------------------------------------


@one_engine
async def test_a_bucket_that_nobody_wrote_is_empty(keys: KeyStore) -> None:
    assert [await keys.bucket(number) for number in BUCKETS] == [KeyBucket(n) for n in BUCKETS]


@one_engine
async def test_buckets_are_read_back_as_they_were_written(keys: KeyStore, others: KeyStore) -> None:
    one = await written(keys, made(), FULL)
    two = await written(others, number="f")
    assert await others.bucket("0") == one
    assert await keys.bucket("f") == two
    assert await keys.bucket("1") == KeyBucket("1")


@one_engine
@pytest.mark.parametrize("before", [0, 1, 3])
async def test_a_rewrite_is_of_the_next_revision_or_does_nothing(
    store: CatalogueStore, keys: KeyStore, before: int
) -> None:
    there = KeyBucket("0")
    for rev in range(1, before + 1):
        there = await written(keys, made(rev), rev=rev)
    moved = await store.revision()
    for rev in {1, 2, 3, 5, 100} - {before + 1}:
        assert not await keys.rewrite(KeyBucket("0", rev, (FULL,)))
    assert await keys.bucket("0") == there
    assert await store.revision() == moved


@one_engine
async def test_the_catalogues_revision_moves_with_each_rewrite(
    store: CatalogueStore, other: CatalogueStore
) -> None:
    for rev in (1, 2, 3):
        before = await other.revision()
        await written(store.keys, made(rev), rev=rev)
        assert await other.revision() > before


async def test_late_copies_of_a_write_do_nothing(keys: KeyStore, others: KeyStore) -> None:
    first = await written(keys, made(1))
    assert not await keys.rewrite(first), "sent again"
    second = await written(others, made(1), made(2), rev=2)
    for late in (first, second):
        assert not await keys.rewrite(late)
    assert await keys.bucket("0") == second


async def test_of_many_who_write_at_once_one_does(
    store: CatalogueStore, keys: KeyStore, others: KeyStore
) -> None:
    before = await store.revision()
    wishes = [KeyBucket("0", 1, (made(number),)) for number in range(8)]
    done = await asyncio.gather(
        *((keys, others)[at % 2].rewrite(wish) for at, wish in enumerate(wishes))
    )
    assert sorted(done) == [False] * 7 + [True]
    assert await keys.bucket("0") == wishes[done.index(True)]
    assert await store.revision() == before + 1


# --- changes --------------------------------------------------------------------------------------


def changes(keys: KeyStore, seed: int = 1, now: float = NOW / 1000) -> KeyChanges:
    return KeyChanges(keys, random=Random(seed), clock=lambda: now)


async def test_keys_made_at_once_by_two_are_all_there(keys: KeyStore, others: KeyStore) -> None:
    both = changes(keys, 1), changes(others, 2)
    told = await asyncio.gather(
        *(both[at % 2].create(Role.USE, ("acme.*",), note=f"{at}") for at in range(6))
    )
    assert sorted(await both[0].list(), key=lambda key: key.id) == sorted(
        (key for key, _ in told), key=lambda key: key.id
    )


@one_engine
async def test_a_key_is_revoked_for_every_handle(keys: KeyStore, others: KeyStore) -> None:
    key, text = await changes(keys).create(Role.USE, ("acme.*",))
    assert key.is_text(text)
    ended = await changes(others, now=NOW / 1000 + 1).revoke(key.id, reason="lost")
    again = await changes(keys, now=NOW / 1000 + 9).revoke(key.id, reason="once more")
    assert ended == again == (await keys.bucket(bucket_of(key.id))).key(key.id)
    assert (ended.state, ended.ended, ended.reason) == (KeyState.REVOKED, NOW + 1000, "lost")


# --- how much it holds ----------------------------------------------------------------------------


@one_engine
async def test_a_bucket_holds_as_many_keys_as_it_may(keys: KeyStore, others: KeyStore) -> None:
    full = await written(keys, *in_bucket("7", KEYS_MAX, note="n" * 40), number="7")
    assert len(encoded_keys(full.keys)) < BUCKET_MAX
    assert await others.bucket("7") == full


@one_engine
async def test_a_bucket_of_long_keys_holds_as_many_bytes_as_it_may(
    keys: KeyStore, others: KeyStore
) -> None:
    """The item of DynamoDB has 400 KB; three bytes of each sign of a note, and its quotes."""
    scopes = tuple(f"{'n' * 60}{at:02}.*" for at in range(SCOPES_MAX))
    long = in_bucket("3", 150, scopes=scopes, note="€" * NOTE_MAX, by="b" * 90, reason="€" * 200)
    size = 0
    while len(encoded_keys(tuple(long[: size + 1])).encode()) <= BUCKET_MAX:
        size += 1
    assert 50 < size < 150
    full = await written(keys, *long[:size], number="3")
    assert await others.bucket("3") == full


# Moto adds the sizes of the item before and after an update up, and refuses.
NOT_MOTO = [kind for kind in KINDS if kind != "moto"]


class OneBucket:
    """Lets each key that is made belong to one bucket."""

    def __init__(self, keys: KeyStore, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("idservice.access.changes.bucket_of", lambda _: "3")
        self.changes = changes(keys)


@pytest.mark.parametrize("backend", NOT_MOTO, indirect=True)
async def test_room_is_made_of_keys_that_open_nothing_and_else_none_is_made(
    keys: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = made(1, state=KeyState.REVOKED, ended=1), made(2, expires=NOW)
    valid = in_bucket("3", KEYS_MAX - 2)
    await written(keys, *valid[:9], over[0], *valid[9:], over[1], number="3")
    full = OneBucket(keys, monkeypatch).changes
    one, _ = await full.create(Role.USE, ("a",))
    two, _ = await full.create(Role.USE, ("a",))
    there = await keys.bucket("3")
    assert there.keys == (*valid, one, two)
    with pytest.raises(errors.BadAccessKey, match="too many keys"):
        await full.create(Role.USE, ("a",))
    assert await keys.bucket("3") == there


@pytest.mark.parametrize("backend", NOT_MOTO, indirect=True)
async def test_keys_of_a_full_bucket_can_all_be_revoked_and_it_grows_no_more(
    keys: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the reason each is longer then: DynamoDB would refuse the item, and the key live on."""
    note, size = "€" * NOTE_MAX, 418
    there = in_bucket("3", size, note=note)
    assert len(encoded_keys(tuple(there)).encode()) in range(BUCKET_MAX - 2000, BUCKET_MAX + 1)
    await written(keys, *there, number="3")
    full = OneBucket(keys, monkeypatch).changes
    for key in there[:12]:
        ended = await full.revoke(key.id, reason="€" * 200)
        bucket = await keys.bucket("3")
        assert bucket.key(key.id) == ended
        assert len(encoded_keys(bucket.keys).encode()) <= BUCKET_MAX + 1000  # of the latest
    assert bucket.keys[-len(there) + 12 :] == tuple(there[12:]), "of those that open, all are there"


# --- what was changed by hand ---------------------------------------------------------------------


def by_hand(backend: Backend, text: str | None, rev: object = 1) -> None:
    """Put something into the bucket `0`."""
    if isinstance(backend, SQLite):
        with closing(sqlite3.connect(backend.path)) as file, file:
            file.execute("INSERT OR REPLACE INTO key VALUES ('0', ?, ?)", (rev, text))
        return
    assert isinstance(backend, Dynamo)
    item = {"pk": {"S": "keys:0"}, "rev": engines.attribute(rev)}
    with engines.by_hand(backend.url) as client:
        client.put_item(
            TableName=backend.table, Item=item if text is None else {**item, "keys": {"S": text}}
        )


@pytest.mark.parametrize("backend", ["sqlite", ENGINE], indirect=True)  # the model holds no text
@pytest.mark.parametrize(
    "text",
    ["", "{", "[{}]", '[{"id":"a"}]', encoded_keys((made(),)).replace('"use"', '"owner"'), "[1]"],
    ids=["empty", "no json", "nothing", "too little", "unknown role", "number"],
)
async def test_a_bucket_that_cannot_be_read_is_named_and_others_are_read(
    backend: Backend, keys: KeyStore, text: str
) -> None:
    await written(keys, made())
    await written(keys, FULL, number="1")
    by_hand(backend, text)
    with pytest.raises(errors.KeysIllFormed) as refused:
        await keys.bucket("0")
    assert re.search("The item ('0' of table `key`|keys:0) is wrong:", str(refused.value))
    assert (refused.value.outcome, refused.value.retryable) == (errors.NOT_APPLIED, False)
    assert FULL.hash not in str(refused.value)
    assert (await keys.bucket("1")).keys == (FULL,)


@pytest.mark.parametrize("backend", ["moto"], indirect=True)
async def test_an_item_without_a_revision_or_a_list_is_named(
    backend: Backend, keys: KeyStore
) -> None:
    for text, rev in ((encoded_keys(()), "one"), (None, 1)):
        by_hand(backend, text, rev)
        with pytest.raises(errors.KeysIllFormed, match="keys:0"):
            await keys.bucket("0")


# --- other versions -------------------------------------------------------------------------------


async def test_a_store_goes_on_as_before_with_keys_in_it(
    store: CatalogueStore, other: CatalogueStore
) -> None:
    """Counters, tallies and checks take no note of items of another kind."""
    before = await store.counters(), await store.tallies.tallies()
    for number in BUCKETS:
        await written(store.keys, made(), number=number)
    await other.verify()
    found = await other.examine(lambda: NOW / 1000, thorough=True)
    assert not [one for one in found if "key" in one.found and one.level != OK]
    assert (await other.counters(), await other.tallies.tallies()) == before
    await other.create(new_counter("later", Random(1)))
    await other.accept_identity()
    assert (await store.keys.bucket("0")).keys == (made(),)


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
async def test_a_file_of_an_older_version_has_no_keys_until_one_is_made(
    backend: SQLite, store: CatalogueStore, other: CatalogueStore
) -> None:
    def tables() -> list[str]:
        with closing(sqlite3.connect(backend.path)) as file:
            return [name for (name,) in file.execute("SELECT name FROM sqlite_schema")]

    assert "key" not in tables(), "reading makes none"
    assert await changes(store.keys).list() == []
    with pytest.raises(errors.NoSuchKey):
        await changes(store.keys).revoke(FULL.id)
    assert "key" not in tables()
    key, _ = await changes(store.keys).create(Role.READ, ("*",))
    assert await changes(other.keys).list() == [key]


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
async def test_a_table_that_is_not_known_is_left_alone(
    backend: SQLite, other: CatalogueStore
) -> None:
    """So an instance of an older version goes on beside the table of keys."""
    with closing(sqlite3.connect(backend.path)) as file, file:
        file.execute("CREATE TABLE later (bucket TEXT PRIMARY KEY, keys TEXT NOT NULL) STRICT")
    await other.verify()
    found = await other.examine(lambda: NOW / 1000, thorough=True)
    assert not [one for one in found if one.is_worse_than_advice]
    async with backend.open() as again:
        await again.verify()


# --- outcomes that are not known ------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(40))
def test_whatever_becomes_of_answers_a_change_tells_the_truth(seed: int) -> None:
    async def scene() -> None:
        rng = Random(seed)
        faults = Faults(lost_before=0.2, lost_after=0.2, resent=0.1, throttled=0.1, repeated=0.2)
        store = SimStore(rng, faults=faults)
        store.data.init(new_counter("default", Random(1)))
        calm = SimStore(Random(1), store.data)
        change, told = changes(store.keys, seed), list[AccessKey]()
        unknown = 0
        for _ in range(12):
            try:
                told.append((await change.create(Role.USE, ("a",)))[0])
            except errors.IdserviceError as error:
                unknown += error.outcome == errors.UNKNOWN
        there = await changes(calm.keys).list()
        assert set(told) <= set(there), "who was told that it is there finds it"
        assert len(there) <= len(told) + unknown, "not applied is not there"
        for key in told:
            try:
                await change.revoke(key.id)
            except errors.IdserviceError:
                continue
            now = (await calm.keys.bucket(bucket_of(key.id))).key(key.id)
            assert now is not None
            assert now.state is KeyState.REVOKED

    run(scene())


async def test_a_read_that_fails_after_an_unknown_write_hides_nothing() -> None:
    """The write may have been applied: "not applied" would be a lie."""

    class Broken:
        reads = 0

        async def bucket(self, number: str) -> KeyBucket:
            self.reads += 1
            if self.reads > 1:
                raise errors.NotApplied(store="s", action="reading", why="it is gone")
            return KeyBucket(number)

        async def rewrite(self, after: KeyBucket) -> bool:
            raise errors.OutcomeUnknown(store="s", action="changing", why="the answer was lost")

    with pytest.raises(errors.OutcomeUnknown, match="the answer was lost"):
        await changes(Broken()).create(Role.USE, ("a",))


async def test_who_is_beaten_again_and_again_says_that_nothing_was_done() -> None:
    class Beaten:
        async def bucket(self, number: str) -> KeyBucket:
            return KeyBucket(number)

        async def rewrite(self, after: KeyBucket) -> bool:
            return False

    with pytest.raises(errors.KeysBusy) as busy:
        await changes(Beaten()).create(Role.USE, ("a",))
    assert (busy.value.outcome, busy.value.retryable) == (errors.NOT_APPLIED, True)
