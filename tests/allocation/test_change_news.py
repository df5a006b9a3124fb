"""What an instance tells of changes that it hears of, and if a night can be read from it."""

import asyncio
import logging
import re
from random import Random

import pytest
from msgspec.structs import replace

from idservice import errors
from idservice.allocation.context import Limits
from idservice.catalogue import rules
from idservice.catalogue.changer import EpochChanger
from idservice.catalogue.changes import (
    Change,
    Configure,
    Delete,
    Fence,
    MoveAway,
    Reshard,
    SetNext,
)
from idservice.core.epoch import sealed
from tests.allocation.test_local_counter_changes import SUSPEND, stocked
from tests.simulation.loop import elapse, run
from tests.simulation.serving import elsewhere, serving, table
from tests.simulation.store import Faults, SimStore


def heard(caplog: pytest.LogCaptureFixture) -> list[str]:
    records = [one for one in caplog.records if getattr(one, "action", "") == "change_heard"]
    return [one.getMessage() for one in records]


@pytest.mark.parametrize(
    ("wish", "what", "became"),
    [
        (SUSPEND, "suspend", "dropped"),
        (SetNext(next=500), "set", "kept, and are used first"),
        (Reshard(shards=3), "reshard", "kept, and are used first"),
        (Fence(ahead=7), "fence", "dropped"),
        (Delete(), "delete", "dropped"),
        (MoveAway(to="sqlite:/b.db"), "move", "dropped"),
        (Configure(limit=2**40), "configure", "dropped"),
        (Configure(runway=90.0), "configure", "kept, and are used first"),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_a_change_that_is_heard_of_is_told_once(
    wish: Change, what: str, became: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An instance dropped 41,814 ids in silence."""

    async def main() -> None:
        data = table()
        async with serving(data) as service:
            supply = await stocked(service)
            held = supply.allocator.held
            await elsewhere(data, replace(wish, by="ann@desk", why="a break"))
            await elapse(10.0)
            (said,) = heard(caplog)
            assert said.startswith(f"counter orders: {what} by ann@desk at ")
            assert "(a break): " in said
            assert said.endswith(f"; {held} ids in memory were {became}")
            assert ("epoch 1 -> 2" in said) is (wish != Configure(runway=90.0))
            assert ("runway the instance's own -> 90 s" in said) is (wish == Configure(runway=90.0))
            assert "None" not in said

    run(main())


def test_a_change_by_an_earlier_version_is_told_too(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        data = table()
        async with serving(data) as service:
            await stocked(service)
            after = await elsewhere(data, SUSPEND)
            data.entries["orders"] = replace(after, last_change=None)
            await elapse(3.0)
            (said,) = heard(caplog)
            assert said.startswith("counter orders: a change by an operator: state active -> sus")

    run(main())


def test_a_live_operator_is_not_said_to_stand_still(caplog: pytest.LogCaptureFixture) -> None:
    """Instances said so 5 s after each `set --allow-lower`, and callers that the store refused."""

    async def main() -> None:
        data = table()
        async with serving(data) as service:
            supply = await stocked(service)
            operator = EpochChanger(SimStore(Random(2), data), random=Random(3), stale_s=60.0)
            wish = SetNext(next=1, lower=True, by="ann@desk", why="a typo")
            changing = asyncio.create_task(operator.change("orders", wish))
            await elapse(30.0)
            with pytest.raises(errors.Changing, match=r"set by ann@desk at .* until about "):
                await supply.next_id()
            await changing
            await elapse(3.0)
            assert await supply.next_id() == 1
        actions = {getattr(one, "action", "") for one in caplog.records}
        assert actions.isdisjoint({"change_finished", "change_stuck"})

    run(main())


def test_a_request_that_outwaits_any_other_change_is_told_of_it() -> None:
    """It was told that the store refused, though an operator had died in the middle of a fence."""

    async def main() -> None:
        data = table()
        async with serving(data, limits=Limits(wait=2.0)) as service:
            supply = await stocked(service)
            entry, found = data.entries["orders"], [data.shard_state(data.entries["orders"], 0)]
            wish = Fence(ahead=0, by="ann@desk", why="restored")
            begun = rules.begun(entry, wish, found, Random(1))
            assert begun.intent is not None
            data.rewrite(entry, begun)
            data.seal(entry, 0, found[0], sealed(begun.intent.epoch))
            with pytest.raises(errors.Changing, match=r"fence by ann@desk \(restored\)"):
                await supply.next_batch(500)
            await elapse(10.0)  # an instance finishes it
            assert len(await supply.next_batch(500)) > 0

    run(main())


# --- the night ------------------------------------------------------------------------------------

NIGHT = (  # seconds into the night, and what an operator did
    (200.0, Configure(state="suspended", by="ann@desk", why="printing tickets")),
    (230.0, Configure(state="active", by="ann@desk", why="printed")),
    (300.0, Configure(limit=5_000, by="bob@desk", why="the contract says so")),
    (330.0, SetNext(next=4_990, by="bob@desk", why="old stock is used up")),
    (400.0, Configure(limit=90_000, by="cy@desk", why="a new contract")),
    (450.0, Fence(ahead=1_000, by="dan@desk", why="a copy was restored")),
)


def test_a_night_can_be_read_from_the_log_alone(caplog: pytest.LogCaptureFixture) -> None:
    """Which counter, what happened, since when, how many were refused, who changed what and why."""
    refused: list[tuple[float, str]] = []

    async def client(supply: object) -> None:
        loop = asyncio.get_running_loop()
        while loop.time() < 520.0:
            try:
                await supply.next_id()  # type: ignore[attr-defined]
            except errors.IdserviceError as error:
                refused.append((loop.time(), error.code))
            await elapse(0.25)

    async def main() -> None:
        data, loop = table(), asyncio.get_running_loop()
        faults = Faults(outages=[(60.0, 120.0)])
        async with serving(data, faults, limits=Limits(runway=5.0, wait=2.0)) as service:
            using = asyncio.create_task(client(await service.local_counter("orders")))
            for at, wish in NIGHT:
                await elapse(at - loop.time())
                await elsewhere(data, wish)
            await using

    caplog.set_level(logging.WARNING, "idservice")  # the operator's own lines are another's
    run(main())
    told = [(getattr(one, "action", ""), one.getMessage()) for one in caplog.records]
    story = [line for line in told if line[0].startswith(("counter_", "change_heard"))]
    assert all("orders" in said for _, said in story)
    heard = [said for action, said in story if action == "change_heard"]
    for (_, wish), said in zip(NIGHT, heard, strict=True):
        assert f" by {wish.by} at " in said
        assert f" ({wish.why}): " in said
    assert "ids in memory were dropped" in heard[0]
    assert "limit 9007199254740991 -> 5000" in heard[2]
    assert "ids from 4990" in heard[3]
    assert [action for action, _ in story if action != "change_heard"] == [
        "counter_empty",  # the outage
        "counter_refilled",
        "counter_refilled",  # resumed
        "counter_exhausted",
        "counter_refilled",  # a higher limit
    ]
    ends = [said for action, said in story if action == "counter_refilled"]
    said_refused = [int(re.findall(r"(\d+) requests were refused", said)[0]) for said in ends]
    assert sum(said_refused) == len(refused)
    causes = (("waited_too_long", "catalogue_stale"), ("suspended",), ("exhausted",))
    for count, codes in zip(said_refused, causes, strict=True):
        assert count == sum(code in codes for _, code in refused) > 5
    lasted = [float(re.findall(r"after (\d+) s", said)[0]) for said in ends]
    assert 40 < lasted[0] < 62
    assert 25 < lasted[1] < 32
    assert 50 < lasted[2] < 72
