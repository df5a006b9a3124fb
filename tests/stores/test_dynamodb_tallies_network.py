"""Adds over a faulty network before DynamoDB: each is counted once and told one fate (T1, T3).

The engines of the tests never conflict and never throttle, so the network plays that. Refusals with
facts are the engine's own, made by another instance that came first.
"""

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from idservice import errors
from idservice.allocation.context import Limits
from idservice.core.tally import AddFate, Tally, TallyState, Wanted, planned
from idservice.server.startup import build_instance
from idservice.stores.address import DynamoAddress
from idservice.stores.dynamodb import DynamoStore, tally_items
from idservice.tallies.service import Tallies
from tests.engines import REGION
from tests.stores import answers
from tests.stores.answers import Answer, error, http, page
from tests.stores.backends import ENGINE, Dynamo, of_engine

# Engines want to see a signature, and believe any.
SIGNED = (
    f"AWS4-HMAC-SHA256 Credential=test/20260101/{REGION}/dynamodb/aws4_request,"
    " SignedHeaders=host;x-amz-date, Signature=0"
)
COMMIT = "TransactWriteItems"
GIFTS = Tally("gifts")
Request = Mapping[str, Any]


class Network(answers.Server):
    """Passes requests on to an engine; each commit meets the next fault, while there are any."""

    def __init__(self, answer: Answer = None, **of_operation: Answer) -> None:
        super().__init__(answer, **of_operation)
        self.engine = self.table = ""
        self.faults: list[Fault] = []

    def answer_to(self, operation: str, request: Request) -> Answer:
        if operation == COMMIT and self.faults:
            return self.faults.pop(0)(self, request)
        return http(*self.pass_on(operation, request))

    def pass_on(self, operation: str, request: Request) -> tuple[int, bytes]:
        """Status and body of the engine's answer."""
        headers = {
            "X-Amz-Target": f"DynamoDB_20120810.{operation}", "Authorization": SIGNED,
            "Content-Type": "application/x-amz-json-1.0", "X-Amz-Date": "20260101T000000Z",
        }  # fmt: skip
        sent = urllib.request.Request(self.engine, json.dumps(request).encode(), headers)
        try:
            with urllib.request.urlopen(sent, timeout=60) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, refused.read()

    def count_elsewhere(self, *wanted: Wanted) -> None:
        """Another instance counts these, as the first commit of the tally."""
        writes = tally_items.committed(self.table, planned(GIFTS, wanted, now=1))
        assert self.pass_on(COMMIT, {"TransactItems": writes})[0] == 200

    def suspend_elsewhere(self) -> None:
        after = replace(GIFTS, state=TallyState.SUSPENDED, rev=1)
        write = tally_items.rewritten(self.table, GIFTS, after)
        assert self.pass_on("UpdateItem", write)[0] == 200

    @property
    def commits(self) -> list[Request]:
        return [request for operation, request in self.requests if operation == COMMIT]


Fault = Callable[[Network, Request], Answer]


def canceled(*codes: str) -> Fault:
    """A cancellation that shows nothing. The last reason is that of all further writes."""

    def refuse(_: Network, request: Request) -> Answer:
        many = len(request["TransactItems"])
        reasons = [{"Code": code} for code in (*codes, *codes[-1:] * many)[:many]]
        return error("TransactionCanceledException", CancellationReasons=reasons)

    return refuse


def said(answer: Answer) -> Fault:
    return lambda network, request: answer


def then(answer: Answer) -> Fault:
    """The commit is applied, and this is the answer."""

    def apply(network: Network, request: Request) -> Answer:
        assert network.pass_on(COMMIT, request)[0] == 200
        return answer

    return apply


def beaten(rival: Callable[[Network], None], beside: str = "None") -> Fault:
    """Another instance comes first. The engine refuses, and `beside` was in the way too."""

    def refuse(network: Network, request: Request) -> Answer:
        rival(network)
        status, body = network.pass_on(COMMIT, request)
        told = json.loads(body)
        assert status == 400, told
        for reason in told["CancellationReasons"]:
            if reason["Code"] == "None":
                reason["Code"] = beside
        return http(status, json.dumps(told))

    return refuse


conflict = canceled("TransactionConflict", "None")


@pytest.fixture(params=[ENGINE])
def backend(request: pytest.FixtureRequest) -> Dynamo:
    return of_engine(request)


@pytest.fixture
async def network(backend: Dynamo) -> AsyncIterator[Network]:
    """The way to a table with a tally, and without faults yet."""
    async with backend.open() as store:
        await backend.init(store)
        assert await store.tallies.create(GIFTS) is GIFTS
    async with answers.serving(kind=Network) as network:
        assert isinstance(network, Network)
        network.engine, network.table = backend.url, backend.table
        yield network


@asynccontextmanager
async def instance(network: Network, wait_s: float = 60.0) -> AsyncIterator[Tallies]:
    address = f"{network.table}?region={REGION}&endpoint={network.url}"
    async with DynamoStore(DynamoAddress.parse(address)) as store:
        service, _, sums = build_instance(store, Limits(wait=wait_s), random=Random(1))
        async with service:
            yield sums


async def check(sums: Tallies, sum: int, keys: Sequence[str]) -> None:
    """The tally agrees with its records, and these are all."""
    audit = await sums.audit("gifts")
    assert audit.agrees
    assert (audit.sum, audit.records) == (sum, len(keys))
    for key in keys:
        assert (await sums.recorded("gifts", key)).record.fate is AddFate.COUNTED


# --- one instance, and what is in its way ---------------------------------------------------------

TROUBLE: dict[str, tuple[list[Fault], bool]] = {  # and if the answer says "replayed"
    "nothing": ([], False),
    "a conflict": ([conflict], False),
    "conflicts in a row, in any write": (
        [conflict, said(error("TransactionConflictException")),
         canceled("None", "TransactionConflict")], False,
    ),
    "throttles": (
        [canceled("ThrottlingError", "None"), canceled("None", "ProvisionedThroughputExceeded"),
         said(error("ThrottlingException"))], False,
    ),
    "a conflict and a throttle": ([canceled("TransactionConflict", "ThrottlingError")], False),
    "a commit in progress": ([said(error("TransactionInProgressException"))], False),
    "a loss before it was applied": ([said(answers.reset)], False),
    "a loss after it was applied": ([then(answers.reset)], True),
    "two losses, and the second was applied": ([said(answers.reset), then(answers.close)], True),
    "500 before": ([said(error("InternalServerError", 500))], False),
    "500 after": ([then(error("InternalServerError", 500))], True),
    "a page with 200 before": ([said(page(200))], False),
    "a page with 200 after": ([then(page(200))], True),
    "a conflict told of what was applied": ([then(answers.reset), conflict], True),
}  # fmt: skip


@pytest.mark.parametrize("name", TROUBLE)
async def test_adds_are_counted_once_whatever_is_in_the_way(network: Network, name: str) -> None:
    faults, replayed = TROUBLE[name]
    network.faults = list(faults)
    async with instance(network) as sums:
        asked = (
            sums.add("gifts", "a", "1"),
            sums.add("gifts", "b", "2"),
            sums.add("gifts", "b", "2"),
        )
        told = await asyncio.gather(*asked)
        assert [one.record.sum for one in told] == [1, 3, 3]
        assert [one.replayed for one in told[:2]] == [replayed] * 2
        assert not network.faults
        assert len(network.commits) == len(faults) + 1
        await check(sums, 3, "ab")


# --- another instance came first ------------------------------------------------------------------

BESIDE = ["None", "TransactionConflict", "ThrottlingError"]


@pytest.mark.parametrize("beside", BESIDE)
async def test_a_commit_that_lost_goes_on_from_the_tally_that_it_was_shown(
    network: Network, beside: str
) -> None:
    network.faults = [beaten(lambda way: way.count_elsewhere(Wanted("x", 10)), beside)]
    async with instance(network) as sums:
        told = await asyncio.gather(sums.add("gifts", "a", "1"), sums.add("gifts", "b", "2"))
        assert [one.record.sum for one in told] == [11, 13]
        assert [one.replayed for one in told] == [False, False]
        assert network.operations.count("GetItem") == 1  # before the first commit
        assert len(network.commits) == 2
        await check(sums, 13, "abx")


@pytest.mark.parametrize("beside", BESIDE)
async def test_a_key_that_was_counted_elsewhere_is_told_its_record(
    network: Network, beside: str
) -> None:
    """And the keys beside it are counted, with nothing counted twice."""
    network.faults = [beaten(lambda way: way.count_elsewhere(Wanted("b", 2)), beside)]
    async with instance(network) as sums:
        told = await asyncio.gather(sums.add("gifts", "a", "1"), sums.add("gifts", "b", "2"))
        assert [(one.record.sum, one.record.rev, one.replayed) for one in told] == [
            (3, 2, False), (2, 1, True),
        ]  # fmt: skip
        second = network.commits[1]["TransactItems"]
        keys = [write["Update"]["Key"]["pk"]["S"] for write in second]
        assert keys == ["tally:gifts", "add:gifts:1:a"]
        await check(sums, 3, "ab")


@pytest.mark.parametrize("beside", BESIDE)
async def test_a_key_that_was_used_elsewhere_for_another_amount_is_refused(
    network: Network, beside: str
) -> None:
    network.faults = [beaten(lambda way: way.count_elsewhere(Wanted("b", 7)), beside)]
    async with instance(network) as sums:
        a, b = await asyncio.gather(
            sums.add("gifts", "a", "1"), sums.add("gifts", "b", "2"), return_exceptions=True
        )
        assert not isinstance(a, BaseException)
        assert a.record.sum == 8
        assert isinstance(b, errors.KeyReused)
        assert b.fields["amount"] == "7"
        await check(sums, 8, "ab")


@pytest.mark.parametrize("beside", BESIDE)
async def test_a_commit_that_meets_a_suspension_counts_nothing(
    network: Network, beside: str
) -> None:
    network.faults = [beaten(Network.suspend_elsewhere, beside)]
    async with instance(network) as sums:
        with pytest.raises(errors.TallySuspended):
            await sums.add("gifts", "a", "1")
        await check(sums, 0, "")


# --- late copies, and no answer in time -----------------------------------------------------------


async def test_late_copies_of_every_commit_change_nothing(network: Network) -> None:
    async with instance(network) as sums:
        await sums.create(Tally("few", floor=0))
        await sums.add("gifts", "a", "1")
        with pytest.raises(errors.OutOfBounds):
            await sums.add("few", "less", "-1")
        await sums.add("few", "more", "5")  # by now the refused one would fit
        await sums.set("gifts", "zero", "0", by="me")
        await sums.add("gifts", "b", "2")
        before = await sums.tallies()
        commits = network.commits
        assert len(commits) == 5
        for token in ("the first's", "another"):
            for commit in commits:
                copy = dict(commit)
                if token == "another":  # ten minutes later the first's is forgotten
                    copy["ClientRequestToken"] = "another"
                network.pass_on(COMMIT, copy)
        assert await sums.tallies() == before
        assert (await sums.audit("gifts")).agrees
        assert (await sums.audit("few")).agrees
        with pytest.raises(errors.OutOfBounds):
            await sums.add("few", "less", "-1")


async def test_an_add_that_ends_without_an_answer_is_unsettled_and_counted_once(
    network: Network,
) -> None:
    network.faults = [then(answers.reset)] + [said(answers.reset)] * 1000
    async with instance(network, wait_s=0.2) as hasty, instance(network) as sums:
        while not network.commits:  # the time may be over before anything is sent
            with pytest.raises(errors.AddUnsettled) as raised:
                await hasty.add("gifts", "a", "1")
        assert raised.value.outcome == errors.UNKNOWN
        network.faults = []
        again = await sums.add("gifts", "a", "1")
        assert (again.record.sum, again.replayed) == (1, True)
        await check(sums, 1, "a")


async def test_two_instances_in_each_other_s_way_count_every_add_once(network: Network) -> None:
    chance = Random(7)

    def any_trouble(way: Network, request: Request) -> Answer:
        faults = (conflict, said(answers.reset), canceled("None", "ThrottlingError"))
        kind = chance.randrange(6)
        if kind < len(faults):
            return faults[kind](way, request)
        answer = http(*way.pass_on(COMMIT, request))
        return answers.reset if kind == 3 else answer

    network.faults = [any_trouble] * 10_000
    async with instance(network) as one, instance(network) as two:

        async def add(number: int) -> int:
            told = [(await sums.add("gifts", f"k{number}", "1")).record for sums in (one, two)]
            assert told[0] == told[1]
            return told[0].sum

        sums = await asyncio.gather(*(add(number) for number in range(60)))
        assert sorted(sums) == list(range(1, 61))
        await check(one, 60, [f"k{number}" for number in range(60)])
