"""The contract of `CatalogueStore`, kept by every store alike."""

import asyncio
import re
from collections.abc import AsyncIterator
from random import Random

import pytest
from msgspec.structs import replace

from idservice import errors
from idservice.catalogue.counters import new_counter
from idservice.stores.protocol import CatalogueStore, has_catalogue
from idservice.stores.records import DELETED, LIMIT_MAX, Counter, Loan
from tests.stores import conftest
from tests.stores.backends import ENGINE, Backend

KINDS = [*conftest.KINDS, "chained"]
one_engine = pytest.mark.parametrize(
    "backend", ["simulated", "sqlite", ENGINE, "chained"], indirect=True
)  # as of the other contracts
random = Random()


@pytest.fixture(params=KINDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    """Empty data of one kind, where it can keep this row of the contract."""
    backend = conftest.made_backend(request)
    for row, why in backend.cannot.items():
        if isinstance(row, str) and row.startswith("test_") and request.node.name.startswith(row):
            pytest.skip(why)
    return backend


@pytest.fixture
async def store(backend: Backend) -> AsyncIterator[CatalogueStore]:
    """A handle on initialised data."""
    async with backend.open() as store:
        if backend.is_new:
            await backend.init(store)
        store.wish = backend.wish
        await store.verify()
        yield store


@pytest.fixture
async def other(backend: Backend, store: CatalogueStore) -> AsyncIterator[CatalogueStore]:
    """A second handle on the same data: an instance that remembers nothing."""
    async with backend.open() as other:
        other.wish = backend.wish
        yield other


async def made(store: CatalogueStore, name: str = "orders", **settings: int) -> Counter:
    return await store.create(new_counter(name, random, **(settings | store.wish)))


async def reserve(
    store: CatalogueStore, counter: Counter, count: int, *, seen: int = 0, room: int | None = None
) -> range:
    if room is None:
        room = counter.layout().end - count
    answer = await store.reserve(counter, count=count, seen=seen, room=room)
    if isinstance(answer, Loan):
        return answer.blocks[0]
    return answer.indices


async def next_of(store: CatalogueStore, counter: Counter) -> int:
    position = await store.position(counter)
    assert position is not None
    return position.next


# --- grants ---------------------------------------------------------------------------------------


async def test_twenty_at_once_over_two_handles_never_get_one_index_twice(
    store: CatalogueStore, other: CatalogueStore
) -> None:
    counter = await made(store)

    async def ask(number: int) -> list[int]:
        got: list[int] = []
        seen = 0
        for count in range(1, 5):
            while True:
                try:
                    indices = await reserve((store, other)[number % 2], counter, count, seen=seen)
                    break
                except errors.NotApplied as error:  # SQLite's lock is not fair to who waits for it
                    if "locked" not in str(error):
                        raise
            seen = indices.stop
            got += indices
        return got

    answers = await asyncio.gather(*(ask(number) for number in range(20)))
    together = [index for answer in answers for index in answer]
    assert sorted(together) == list(range(200))
    assert all(answer == sorted(answer) for answer in answers)
    assert await next_of(store, counter) == 200


@one_engine
async def test_one_after_another_gets_every_index_once_whatever_is_asked(
    store: CatalogueStore,
) -> None:
    counter = await made(store)
    got: list[int] = []
    for count in (1, 7, 2, 1, 100, 3, 1000, 1):
        got += await reserve(store, counter, count, seen=len(got))
    assert got == list(range(1115))


@one_engine
async def test_a_reservation_moves_position_mark_and_revision_together(
    store: CatalogueStore,
) -> None:
    counter = await made(store, start=40)
    before = await store.position(counter)
    assert await reserve(store, counter, 2) == range(40, 42)
    after = await store.position(counter)
    assert before is not None
    assert after is not None
    assert (before.next, before.mark, before.epoch) == (40, 40, counter.epoch)
    assert (after.next, after.mark, after.epoch) == (42, 42, counter.epoch)
    assert after.rev == before.rev + 1


@one_engine
async def test_counters_do_not_touch_each_other(store: CatalogueStore) -> None:
    one, two = await made(store, "one"), await made(store, "two", start=5)
    assert await reserve(store, one, 3) == range(3)
    assert await reserve(store, two, 3) == range(5, 8)
    assert await reserve(store, one, 3) == range(3, 6)


# --- never from nothing ---------------------------------------------------------------------------


async def test_a_missing_position_grants_nothing_and_stays_missing(
    backend: Backend, store: CatalogueStore, other: CatalogueStore
) -> None:
    counter = await made(store)
    await reserve(store, counter, 10)
    backend.delete(counter)
    for handle in (store, other, store, other):
        with pytest.raises(errors.PositionMissing):
            await reserve(handle, counter, 1)
    assert await store.position(counter) is None
    with pytest.raises(errors.PositionMissing):
        await reserve(store, counter, 1, seen=10)


@one_engine
async def test_a_counter_that_was_never_created_has_neither_entry_nor_position(
    store: CatalogueStore,
) -> None:
    counter = new_counter("never", random)
    assert await store.counter("never") is None
    assert await store.position(counter) is None
    with pytest.raises((errors.PositionMissing, errors.UnknownCounter)):
        await reserve(store, counter, 1)
    assert await store.position(counter) is None


@one_engine
async def test_closing_a_missing_position_does_not_create_it(
    backend: Backend, store: CatalogueStore
) -> None:
    counter = await made(store)
    backend.delete(counter)
    await store.close_gone_back(counter, counter.epoch)
    assert await store.position(counter) is None


# --- never backwards ------------------------------------------------------------------------------


async def test_a_position_below_its_mark_is_refused_by_who_remembers_nothing(
    backend: Backend, store: CatalogueStore, other: CatalogueStore
) -> None:
    counter = await made(store)
    await reserve(store, counter, 100)
    backend.push(counter, next=60)
    with pytest.raises(errors.WentBack) as refused:
        await reserve(other, counter, 1, seen=0)
    assert refused.value.epoch == counter.epoch
    assert refused.value.outcome == errors.NOT_APPLIED
    assert await next_of(store, counter) == 60


async def test_a_position_one_below_its_mark_is_refused(
    backend: Backend, store: CatalogueStore, other: CatalogueStore
) -> None:
    counter = await made(store)
    await reserve(store, counter, 100)
    backend.push(counter, next=99)
    with pytest.raises(errors.WentBack):
        await reserve(other, counter, 1)


async def test_a_position_put_back_whole_is_refused_by_who_remembers_more(
    backend: Backend, store: CatalogueStore
) -> None:
    counter = await made(store)
    seen = (await reserve(store, counter, 100)).stop
    backend.push(counter, next=99, mark=99)
    with pytest.raises(errors.WentBack):
        await reserve(store, counter, 1, seen=seen)
    assert await next_of(store, counter) == 99


@one_engine
async def test_a_position_moved_forward_by_hand_goes_on_from_there(
    backend: Backend, store: CatalogueStore, other: CatalogueStore
) -> None:
    counter = await made(store)
    await reserve(store, counter, 10)
    backend.push(counter, next=1000)
    assert await reserve(store, counter, 5, seen=10) == range(1000, 1005)
    assert await reserve(other, counter, 5) == range(1005, 1010)


async def test_nobody_is_granted_on_a_position_that_was_closed(
    backend: Backend, store: CatalogueStore, other: CatalogueStore
) -> None:
    counter = await made(store)
    await reserve(store, counter, 100)
    backend.push(counter, next=60)
    with pytest.raises(errors.WentBack) as refused:
        await reserve(store, counter, 1, seen=100)
    await store.close_gone_back(counter, refused.value.epoch)
    backend.push(counter, next=200)  # put right again, but not by an operator of ours
    for handle, seen in ((store, 100), (other, 0)):
        with pytest.raises(errors.EpochChanged):
            await reserve(handle, counter, 1, seen=seen)
    position = await store.position(counter)
    assert position is not None
    assert position.epoch == "gone-back:1"
    assert position.next == 200


async def test_closing_twice_is_as_closing_once(
    backend: Backend, store: CatalogueStore, other: CatalogueStore
) -> None:
    counter = await made(store)
    await asyncio.gather(
        *(handle.close_gone_back(counter, counter.epoch) for handle in (store, other, store))
    )
    closed = await store.position(counter)
    await other.close_gone_back(counter, counter.epoch)
    assert closed is not None
    assert closed.epoch == "gone-back:1"
    assert closed.rev == 1
    assert await store.position(counter) == closed


@one_engine
async def test_closing_by_an_epoch_that_is_gone_does_nothing(
    backend: Backend, store: CatalogueStore
) -> None:
    counter = await made(store)
    backend.push(counter, epoch="2.another")
    before = await store.position(counter)
    await store.close_gone_back(counter, counter.epoch)
    assert await store.position(counter) == before


@one_engine
async def test_another_epoch_decides_before_the_position_is_looked_at(
    backend: Backend, store: CatalogueStore
) -> None:
    counter = await made(store)
    await reserve(store, counter, 10)
    for next in (10, 3, 2**53):  # in order, gone back, exhausted
        backend.push(counter, epoch="2.another", next=next)
        with pytest.raises(errors.EpochChanged):
            await reserve(store, counter, 1, seen=10)
        assert await next_of(store, counter) == next


# --- limits ---------------------------------------------------------------------------------------


@one_engine
async def test_the_limit_is_handed_out_and_nothing_above_it(store: CatalogueStore) -> None:
    counter = await made(store, start=3, limit=12)
    end = counter.layout().end
    assert await reserve(store, counter, 7) == range(3, 10)
    with pytest.raises(errors.NoRoom) as refused:
        await reserve(store, counter, 7)
    assert refused.value.position == 10
    left = end - refused.value.position
    last = await reserve(store, counter, left)
    assert [counter.layout().id(index) for index in last] == [10, 11, 12]
    with pytest.raises(errors.NoRoom) as refused:
        await reserve(store, counter, 1)
    assert refused.value.position == end == 13
    assert await next_of(store, counter) == 13


@one_engine
async def test_an_exhausted_counter_stays_so_for_everybody(
    store: CatalogueStore, other: CatalogueStore
) -> None:
    counter = await made(store, limit=4)
    assert await reserve(store, counter, 5) == range(5)
    for handle, seen in ((store, 4), (other, 0)):
        with pytest.raises(errors.NoRoom):
            await reserve(handle, counter, 1, seen=seen)
    assert await next_of(other, counter) == 5


async def test_many_at_once_share_the_rest_below_the_limit_exactly(
    store: CatalogueStore, other: CatalogueStore
) -> None:
    counter = await made(store, limit=24)

    async def ask(handle: CatalogueStore) -> range:
        try:
            return await reserve(handle, counter, 2)
        except errors.NoRoom:
            return range(0)

    answers = await asyncio.gather(*(ask((store, other)[i % 2]) for i in range(30)))
    assert sorted(index for answer in answers for index in answer) == list(range(24))
    assert await reserve(store, counter, 1) == range(24, 25)


@one_engine
async def test_the_highest_limit_is_reached_without_a_float_and_without_overflow(
    backend: Backend, store: CatalogueStore
) -> None:
    counter = await made(store, limit=LIMIT_MAX)
    half = 2**62
    first = await reserve(store, counter, half)
    assert (first.start, first.stop) == (0, half)
    with pytest.raises(errors.NoRoom):
        await reserve(store, counter, half)
    backend.push(counter, next=LIMIT_MAX - 4, mark=LIMIT_MAX - 4)
    last = await reserve(store, counter, 5)
    assert list(last) == [LIMIT_MAX - 4 + offset for offset in range(5)]
    with pytest.raises(errors.NoRoom) as refused:
        await reserve(store, counter, 1)
    assert refused.value.position == LIMIT_MAX + 1 == await next_of(store, counter)


# --- positions that cannot be read ----------------------------------------------------------------

ILL_FORMED = [
    ("next", 41.5),
    ("next", "text"),
    ("next", -5),
    ("next", None),
    ("mark", "text"),
    ("mark", None),
    ("rev", "text"),
    ("rev", None),
    ("rev", 41.5),
    ("epoch", 7),
    ("epoch", None),
]


@pytest.mark.parametrize(("name", "value"), ILL_FORMED)
async def test_an_ill_formed_position_grants_nothing(
    backend: Backend, store: CatalogueStore, name: str, value: object
) -> None:
    for known in (name, value):
        if known in backend.cannot:
            pytest.skip(backend.cannot[known])
    counter = await made(store)
    await reserve(store, counter, 10)
    backend.push(counter, **{name: value})
    for seen in (0, 10):
        # A number below 0 is below the mark too.
        with pytest.raises((errors.PositionIllFormed, errors.WentBack)) as refused:
            await reserve(store, counter, 1, seen=seen)
        assert value == -5 or isinstance(refused.value, errors.PositionIllFormed)
    if value != -5:
        with pytest.raises(errors.PositionIllFormed):
            await store.position(counter)


# --- counters -------------------------------------------------------------------------------------


@one_engine
async def test_a_counter_is_read_back_as_it_was_created(
    store: CatalogueStore, other: CatalogueStore
) -> None:
    wanted = new_counter("a.b-C_9", random, start=17, limit=2**60, runway=12.5, strict=True)
    assert await store.create(wanted) == wanted
    assert await other.counter("a.b-C_9") == wanted


@one_engine
async def test_creating_the_same_again_changes_nothing(
    store: CatalogueStore, other: CatalogueStore
) -> None:
    counter = await made(store, start=5)
    await reserve(store, counter, 10)
    assert await store.create(counter) == counter
    assert await other.create(counter) == counter
    assert await next_of(store, counter) == 15


@one_engine
async def test_who_creates_second_is_told_the_first_one_s_entry(
    store: CatalogueStore, other: CatalogueStore
) -> None:
    first = await made(store, start=5)
    await reserve(store, first, 10)
    second = new_counter("orders", random, start=1000)
    assert await other.create(second) == first
    assert await next_of(store, first) == 15


async def made_in_the_end(store: CatalogueStore, name: str = "orders") -> Counter:
    """As `made`, where many do so at once: to connect may take too long, and SQLite's lock is not
    fair."""
    while True:
        try:
            return await made(store, name)
        except errors.StoreError as error:
            if not re.search("ConnectTimeoutError|locked", str(error)):
                raise


async def test_twenty_who_create_one_name_at_once_agree_on_one_epoch(
    store: CatalogueStore, other: CatalogueStore
) -> None:
    found = await asyncio.gather(*(made_in_the_end((store, other)[i % 2]) for i in range(20)))
    assert len({counter.epoch for counter in found}) == 1
    assert await store.counter("orders") == found[0]
    assert await reserve(store, found[0], 3) == range(3)


async def test_thirty_names_are_created_at_once(
    store: CatalogueStore, other: CatalogueStore
) -> None:
    names = [f"counter-{number}" for number in range(30)]
    await asyncio.gather(*(made_in_the_end((store, other)[i % 2], names[i]) for i in range(30)))
    assert [counter.name for counter in await other.counters()] == sorted([*names, "default"])


@one_engine
async def test_counters_are_listed_by_name_each_with_its_configuration(
    store: CatalogueStore,
) -> None:
    wanted = {name: await made(store, name, start=len(name)) for name in ("zz", "a", "Mm", "0")}
    listed = await store.counters()
    assert [counter.name for counter in listed] == ["0", "Mm", "a", "default", "zz"]
    assert {counter.name: counter for counter in listed if counter.name != "default"} == wanted


async def test_counters_are_read_page_by_page_without_deleted_ones(
    store: CatalogueStore,
) -> None:
    for name in ("c", "a", "b", "z"):
        entry = await made(store, name, request_max=5)
    last = [("z", 5)]
    if has_catalogue(store):
        assert await store.rewrite(entry, replace(entry, state=DELETED, rev=entry.rev + 1))
        last = []
    pages = [
        [(one.name, one.request_max) for one in await store.page(after, 2)]
        for after in ("", "b", "c", "default", "zz")
    ]
    default = ("default", None)
    assert pages == [[("a", 5), ("b", 5)], [("c", 5), default], [default, *last], last, []]


# --- init and verify ------------------------------------------------------------------------------


@one_engine
async def test_a_store_is_not_verified_before_it_is_initialised(backend: Backend) -> None:
    async with backend.open() as store:
        with pytest.raises(errors.StoreUnready) as refused:
            await store.verify()
    assert not isinstance(refused.value, errors.StoreReplaced)
    assert not refused.value.waiting_helps
    assert "init" in str(refused.value)


@one_engine
async def test_a_second_init_changes_nothing(
    backend: Backend, store: CatalogueStore, other: CatalogueStore
) -> None:
    default = await store.counter("default")
    assert default is not None
    await reserve(store, default, 10)
    assert await store.init(new_counter("default", random, start=500)) is False
    assert await other.init(new_counter("another", random)) is False
    assert await store.counters() == [default]
    assert await next_of(other, default) == 10
    await other.verify()


async def test_of_two_inits_at_once_one_wins(backend: Backend) -> None:
    async with backend.open() as one, backend.open() as two:
        wanted = [new_counter("default", random, start=start) for start in (0, 100)]
        won = await asyncio.gather(one.init(wanted[0]), two.init(wanted[1]))
        assert sorted(won) == [False, True]
        assert await one.counters() == [wanted[won.index(True)]]
        await one.verify()
        await two.verify()
