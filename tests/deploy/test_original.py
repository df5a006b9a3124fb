"""The original counter: its template is created on moto, its mapping carried out on two engines."""

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests import engines

from .gateway import Gateway
from .permissions import Asked, grants
from .stacks import TEMPLATES, Account, stack

pytestmark = pytest.mark.xdist_group("stacks")  # as test_table

PATH = "/donations/next"
KEY = {"context": {"S": "atomicCounter"}, "id": {"S": "id"}}


@dataclass(frozen=True, slots=True)
class Original:
    """The counter's stack, and its endpoint's methods."""

    account: Account
    put_out: dict[str, str]
    table: str
    methods: dict[str, Any]

    @property
    def api(self) -> str:
        return self.put_out["Url"].removeprefix("https://").partition(".")[0]


@dataclass(frozen=True, slots=True)
class Counter:
    """The endpoint on one engine."""

    gateway: Gateway
    table: str
    dynamodb: Any

    def put(self, value: dict[str, str]) -> None:
        self.dynamodb.put_item(TableName=self.table, Item={**KEY, "counterValue": value})


@pytest.fixture(scope="module")
def original(moto_url: str) -> Iterator[Original]:
    account, name = Account(moto_url), f"original-{uuid.uuid4().hex}"
    with stack(account, name, "original.yaml", name) as put_out:
        yield Original(account, put_out, name, Gateway.of(account, name, moto_url).methods)


@pytest.fixture(params=["moto", pytest.param("dynoxide", marks=pytest.mark.needs_engine)])
def counter(original: Original, request: pytest.FixtureRequest) -> Iterator[Counter]:
    """The endpoint on one engine, where the table is empty."""
    url, table = request.getfixturevalue(f"{request.param}_url"), original.table
    with engines.by_hand(url) as dynamodb:
        if request.param != "moto":
            made = original.account.client("dynamodb").describe_table(TableName=table)["Table"]
            dynamodb.create_table(
                TableName=table, KeySchema=made["KeySchema"], BillingMode="PAY_PER_REQUEST",
                AttributeDefinitions=made["AttributeDefinitions"],
            )  # fmt: skip
        yield Counter(Gateway(original.account, original.api, url), table, dynamodb)
        if request.param == "moto":
            dynamodb.delete_item(TableName=table, Key=KEY)
        else:
            dynamodb.delete_table(TableName=table)


def test_it_answers_the_value_before_the_increment_as_a_bare_number(counter: Counter) -> None:
    counter.put({"N": "41"})
    answers = [counter.gateway.get(PATH) for _ in range(3)]
    assert [answer.body for answer in answers] == ["41", "42", "43"]
    assert {answer.status for answer in answers} == {200}
    assert all(answer.headers == {"Cache-Control": "no-store"} for answer in answers)


def test_what_fails_is_no_success_without_a_number(counter: Counter) -> None:
    missing = counter.gateway.get(PATH)  # no item: there is nothing to add to
    assert missing.status == 503
    assert "error" in json.loads(missing.body)


def test_its_methods_and_its_stage_are_as_written(original: Original) -> None:
    (path,) = original.methods
    assert path == PATH
    method = original.methods[PATH]
    assert method["authorizationType"] == "AWS_IAM"
    integration = method["methodIntegration"]
    assert integration["passthroughBehavior"] == "NEVER"
    assert ":role/" in integration["credentials"]
    mapped = {each["statusCode"] for each in integration["integrationResponses"].values()}
    assert mapped <= set(method["methodResponses"]), "a status that is not declared is a 500"
    client = original.account.client("apigateway")
    (stage,) = client.get_stages(restApiId=original.api)["item"]
    assert stage["stageName"] == "v1"
    assert not stage.get("cacheClusterEnabled"), "what is cached is handed out again"
    assert original.put_out["Url"].endswith(f".amazonaws.com/v1{PATH}")


def test_its_role_may_touch_the_counter_and_nothing_else(original: Original) -> None:
    credentials = original.methods[PATH]["methodIntegration"]["credentials"]
    allowed = grants(original.account.statements(credentials.rpartition("/")[2]))
    (only,) = allowed
    assert only.covers(Asked("UpdateItem", original.table, "atomicCounter"))
    assert not only.covers(Asked("UpdateItem", original.table, "another"))


def test_its_table_is_protected_and_can_be_recovered(original: Original) -> None:
    protected(original.account, original.table, "original.yaml")


def protected(account: Account, table: str, template: str) -> None:
    """As it was created; of recovery only as it was written, since moto's stacks leave it out."""
    described = account.client("dynamodb").describe_table(TableName=table)["Table"]
    assert described["DeletionProtectionEnabled"]
    assert described["BillingModeSummary"]["BillingMode"] == "PAY_PER_REQUEST"
    written = (TEMPLATES / template).read_text()
    assert "PointInTimeRecoverySpecification: {PointInTimeRecoveryEnabled: true}" in written
    assert "DeletionPolicy: Retain" in written
    assert "UpdateReplacePolicy: Retain" in written
