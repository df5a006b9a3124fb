"""The table's template, created on moto, and its two roles against what the code asks.

The commands run, and a service serves, before an engine that refuses what the policies do not
allow. In the end every part of every statement has been used: nothing is missing, nothing too much.
"""

import asyncio
import json
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from random import SystemRandom
from typing import Any

import pytest

from idservice.access.changes import KeyChanges
from idservice.cli import main
from idservice.core.access_key import Role
from idservice.core.tally import Tally, Wanted, planned
from idservice.core.usage import RunEnd, UsagePart
from idservice.observability import logs
from idservice.stores import open_store
from idservice.stores.protocol import with_catalogue
from tests import engines
from tests.processes import Serving, until
from tests.stores.test_dynamodb_adopt import KEYS, Legacy

from .permissions import Grant, Guard, grants, guarded
from .stacks import TEMPLATES, Account, stack
from .test_original import protected

# A group with all that ask moto for stacks and tasks: each worker loads most of moto for 1.2 s.
pytestmark = pytest.mark.xdist_group("stacks")


@dataclass(frozen=True, slots=True)
class Table:
    """The table's stack, and what it put out."""

    account: Account
    name: str
    adopted: str
    put_out: Mapping[str, str]
    roles: Mapping[str, str]


@pytest.fixture(scope="module")
def table(moto_url: str) -> Iterator[Table]:
    account, name = Account(moto_url), f"counters-{uuid.uuid4().hex}"
    roles = {who: f"{who}-{uuid.uuid4().hex}" for who in ("serving", "operating")}
    adopted = f"donation-data-{uuid.uuid4().hex}"
    parameters = {
        "ServeRoleName": roles["serving"], "OperateRoleName": roles["operating"],
        "AdoptedTable": adopted, "AdoptedKey": "atomicCounter",
    }  # fmt: skip
    with stack(account, name, "table.yaml", name, **parameters) as put_out:
        yield Table(account, name, adopted, put_out, roles)


def test_the_table_is_protected_and_can_be_recovered(table: Table) -> None:
    protected(table.account, table.name, "table.yaml")
    assert table.put_out["Store"] == f"dynamodb:{table.name}?region={engines.REGION}"


def test_a_key_of_your_own_is_the_tables_and_both_roles_may_use_it(moto_url: str) -> None:
    account, name = Account(moto_url), f"counters-{uuid.uuid4().hex}"
    key = f"arn:aws:kms:{engines.REGION}:123456789012:key/{uuid.uuid4()}"
    roles = {"ServeRoleName": f"{name}-s", "OperateRoleName": f"{name}-o"}
    with stack(account, name, "table.yaml", name, KmsKeyArn=key, **roles):
        dynamodb = account.client("dynamodb")
        made = dynamodb.describe_table(TableName=name)["Table"]
        tags = dynamodb.list_tags_of_resource(ResourceArn=made["TableArn"])["Tags"]
        for role in roles.values():
            (use,) = [each for each in account.statements(role) if each["Sid"] == "Key"]
            assert (use["Action"], use["Resource"]) == (["kms:Decrypt"], key)
            (via,) = use["Condition"]["StringEquals"].values()
            assert via.startswith(f"dynamodb.{engines.REGION}.amazonaws.")
    # Moto leaves out what a stack says of encryption. cfn-lint has read it.
    said = (TEMPLATES / "table.yaml").read_text()
    assert "- {SSEEnabled: true, SSEType: KMS, KMSMasterKeyId: !Ref KmsKeyArn}" in said
    assert {"Key": "application", "Value": "idservice"} in tags


def test_the_roles_are_for_those_who_serve_and_for_people_of_the_account(table: Table) -> None:
    iam = table.account.client("iam")
    principals = {}
    for who, name in table.roles.items():
        role = iam.get_role(RoleName=name)["Role"]
        (statement,) = role["AssumeRolePolicyDocument"]["Statement"]
        principals[who] = statement["Principal"]
        assert all(action.startswith("sts:") for action in statement["Action"])
    assert principals == {
        "serving": {"Service": ["ecs-tasks.amazonaws.com"]},
        "operating": {"AWS": "arn:aws:iam::123456789012:root"},
    }
    assert table.put_out["ServeRoleArn"].endswith(f":role/{table.roles['serving']}")


# --- the policies against the code ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Run:
    """Commands in this process as the operator, and where both roles find the table."""

    guard: Guard
    store: str
    by_hand: Any
    command: Callable[..., str]


@pytest.fixture
def guarded_run(
    table: Table, dynoxide_url: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> Iterator[Run]:  # fmt: skip
    allowed = {who: grants(table.account.statements(role)) for who, role in table.roles.items()}
    guard = Guard(allowed, {table.name: "pk", table.adopted: "context"})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logs, "set_up", lambda *_, **__: None)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "operating")

    def command(*words: str, code: int = 0) -> str:
        ended = main.main(list(words))
        said = capsys.readouterr()
        assert ended == code, said.out + said.err
        return said.out + said.err

    with engines.by_hand(dynoxide_url) as by_hand, guarded(guard, dynoxide_url) as url:
        by_hand.create_table(
            TableName=table.name, BillingMode="PAY_PER_REQUEST",
            KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "pk", "AttributeType": "S"}],
        )  # fmt: skip
        legacy = Legacy(by_hand, KEYS["two"], table=table.adopted)
        legacy.put(counterValue=41)
        store = f"dynamodb:{table.name}?region={engines.REGION}&endpoint={url}"
        yield Run(guard, store, by_hand, command)
        for name in (table.name, table.adopted):
            by_hand.update_table(TableName=name, DeletionProtectionEnabled=False)
            by_hand.delete_table(TableName=name)


def create(run: Run, table: Table) -> None:
    """Everything that is served: plain, strict, adopted, and one that is to be moved."""
    store = ("--store", run.store)
    run.command("init", *store)
    for words in (("orders",), ("strict", "--strict"), ("leaving",)):
        run.command("create", *words, *store)
    run.command(
        "create", "donations", *store, "--adopt-table", table.adopted,
        "--adopt-key", "context=atomicCounter,id=id", "--adopt-attribute", "counterValue",
        "--adopt-returns", "old",
    )  # fmt: skip


def operate(run: Run) -> None:
    """What the other commands do, one after the other."""
    store, why = ("--store", run.store), ("--reason", "a test")
    run.command("counters", *store)
    run.command("show", "donations", *store)
    run.command("next", "orders", *store, "--count", "3")
    run.command("set", "orders", *store, "--next", "1000", *why)
    run.command("suspend", "orders", *store, *why)
    run.command("resume", "orders", *store, *why)
    run.command("delete", "orders", *store, *why)
    run.command("create", "orders", *store)
    run.command("reshard", "orders", *store, "--shards", "2", *why)
    run.command("adopt", "--finish", "donations", *store, *why)
    run.command("init", "--store", "sqlite:there.db")
    run.command("move", "leaving", *store, "--to", "sqlite:there.db", *why)
    run.command("move", "leaving", "--store", "sqlite:there.db", "--to", run.store, *why)
    run.command("fence", "--all", "--ahead", "10", *store, *why)
    said = run.command("doctor", *store, code=1)  # dynoxide knows no recovery, nor protection
    assert "not allowed" not in said, said


def test_the_policies_allow_what_the_code_asks_and_nothing_else(
    guarded_run: Run, table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = guarded_run
    create(run, table)
    # A record that somebody took away is made again by whoever starts.
    run.by_hand.update_item(
        TableName=table.name, Key={"pk": {"S": "identity"}},
        UpdateExpression="REMOVE table_id",
    )  # fmt: skip
    serving = {"AWS_ACCESS_KEY_ID": "serving"}
    arguments = ("--store", run.store, "--workers", "1", "--allow-changes")
    with Serving(tmp_path, *arguments, env=serving) as service:
        serve(f"http://127.0.0.1:{service.port}")
        service.terminate()
        assert service.end() == 0
        assert service.records("ids_returned")
    with Serving(tmp_path, *arguments, env=serving) as again:
        assert ask(f"http://127.0.0.1:{again.port}", "/v1/counters/orders/next") == 200
        looked = Grant("GetItem", table.name, "catalogue")  # for changes, every 2 s
        asyncio.run(until(lambda: looked in run.guard.used["serving"]))
    operate(run)
    for who in ("serving", "operating"):
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", who)
        asyncio.run(count(run.store))
        asyncio.run(let_in(run.store, who))
    assert run.guard.refused == []
    for who, allowed in run.guard.allowed.items():
        unused = allowed - run.guard.used[who]
        assert unused == set(), f"{who} needs none of these"
    created = run.guard.used["operating"] - run.guard.used["serving"]
    assert {each.action for each in created} == {
        "DescribeContinuousBackups", "DescribeTimeToLive", "PutItem", "UpdateContinuousBackups",
    }  # fmt: skip


async def count(store_address: str) -> None:
    """Everything that is asked of a store about tallies, by a service and by commands alike."""
    async with open_store(store_address) as opened:
        sums = with_catalogue(opened).tallies
        tally = await sums.create(Tally("donations"))
        tally = await sums.tally("donations") or tally
        commit = planned(tally, [Wanted(f"{uuid.uuid4()}", 1), Wanted("a", 1)], now=tally.at)
        beaten = await sums.commit(commit)
        assert (beaten is None) == (tally.rev == 0)  # whoever comes second finds the key there
        found = await sums.tally("donations") or tally
        assert await sums.rewrite(found, replace(found, rev=found.rev + 1))
        assert list(await sums.records(tally, ["a", "b"])) == ["a"]
        assert len(await sums.tallies()) == 1
        assert len([record async for record in sums.every_record("donations", 1)]) == 2


async def let_in(store_address: str, who: str) -> None:
    """Everything that is asked of a store about access keys and usage."""
    async with open_store(store_address) as opened:
        store = with_catalogue(opened)
        changes = KeyChanges(store.keys, random=SystemRandom(), clock=time.time)
        key, _ = await changes.create(Role.USE, ("acme.*",))
        assert (await changes.revoke(key.id)).id in [one.id for one in await changes.list()]
        day = int(time.time() // 86_400)
        assert await store.usage.write(UsagePart(day, who, 0, 1, 0, 0, RunEnd.STOP, ()))
        assert who in [part.run for part in await store.usage.parts(day)]


def ask(url: str, path: str, method: str = "GET", **body: object) -> int:
    """The status of an answer, which is no failure of the service."""
    request = urllib.request.Request(
        url + path, json.dumps(body).encode() if body else None, method=method,
        headers={"Content-Type": "application/json"},
    )  # fmt: skip
    with urllib.request.urlopen(request, timeout=60) as answer:
        return int(answer.status)


def serve(url: str) -> None:
    """What a service is asked, by callers and on its control plane."""
    for path in ("/next", "/v1/counters/orders/next", "/v1/counters/strict/next",
                 "/v1/counters/donations/next", "/v1/counters", "/v1/counters/donations",
                 "/v1/status", "/", "/readyz", "/metrics"):  # fmt: skip
        assert ask(url, path) == 200, path
    orders = "/v1/counters/orders"
    assert ask(url, orders, "PATCH", state="suspended") in (200, 202)
    assert ask(url, orders, "PATCH", state="active") in (200, 202)
    assert ask(url, f"{orders}/set", "POST", next=500) in (200, 202)
    assert ask(url, f"{orders}/next") == 200


def test_who_serves_may_not_create_and_is_told_so(
    guarded_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    guarded_run.command("init", "--store", guarded_run.store)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "serving")
    said = guarded_run.command("create", "more", "--store", guarded_run.store, code=1)
    assert "AccessDenied" in said
    ((who, asked),) = guarded_run.guard.refused
    assert (who, asked.action) == ("serving", "PutItem")
