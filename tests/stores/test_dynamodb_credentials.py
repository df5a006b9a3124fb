"""Credentials of a DynamoDB store: waited for, kept fresh, and looked up anew once refused."""

import asyncio
from contextlib import aclosing
from pathlib import Path

import pytest
from botocore.exceptions import ClientError, CredentialRetrievalError, SSOTokenLoadError

from idservice import errors
from idservice.stores.address import DynamoAddress
from idservice.stores.dynamodb import DynamoStore, credentials
from idservice.stores.dynamodb import client as dynamodb_client
from idservice.stores.records import Counter
from tests.engines import REGION
from tests.stores import answers
from tests.stores.answers import Answer, error, serving, success

NONE_SUCH = success(ConsumedCapacity={})


def store_at(url: str) -> DynamoStore:
    return DynamoStore(DynamoAddress.parse(f"ids?region={REGION}&endpoint={url}"))


@pytest.fixture
def without_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")


@pytest.fixture
def file(monkeypatch: pytest.MonkeyPatch, without_keys: None, tmp_path: Path) -> Path:
    """The file of credentials."""
    path = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))
    return path


def write(file: Path, key: str) -> None:
    file.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = secret\n")


class Authority(answers.Server):
    """Accepts requests that are signed with its key."""

    key = "new"

    def answer_to(self, operation: str, request: dict[str, object]) -> Answer:
        signed = f"credential={self.key}/" in self.headers["authorization"]
        return NONE_SUCH if signed else error("ExpiredTokenException")


# --- none yet -------------------------------------------------------------------------------------


async def test_missing_credentials_are_waited_for_and_every_source_is_named(
    monkeypatch: pytest.MonkeyPatch, without_keys: None
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "false")
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://user:secret@127.0.0.1:1")
    async with serving(None) as server, store_at(server.url) as store:
        with pytest.raises(errors.StoreUnready) as raised:
            await store.verify()
    assert raised.value.waiting_helps
    for part in ("the environment", "profile default of /dev/null", "...@127.0.0.1:1", "for dyn"):
        assert part in str(raised.value)
    assert "secret" not in str(raised.value)


def test_the_sources_are_those_of_this_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "prod")
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://[fd00:ec2::23]/v1?a=secret")
    why, _ = credentials.why_none(TimeoutError())
    assert "the environment" not in why
    assert "secret" not in why
    assert "profile prod of" in why
    assert "the container's endpoint http://[fd00:ec2::23]/v1" in why


@pytest.mark.parametrize(
    ("failure", "part"),
    [
        (FileNotFoundError(2, "No such file", "/var/run/token"), "/var/run/token"),
        (SSOTokenLoadError(error_msg="no token"), "aws sso login"),
        (TimeoutError(), "does not answer"),
        (ClientError({}, "AssumeRole"), "gave none"),
    ],
)
def test_a_source_that_may_have_some_later_is_waited_for(failure: Exception, part: str) -> None:
    why, passing = credentials.why_none(failure)
    assert part in why
    assert passing


# --- kept fresh -----------------------------------------------------------------------------------


async def test_credentials_are_refreshed_in_the_background_and_retried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dynamodb_client, "CREDENTIALS_CHECK_S", 0)
    asked = 0
    again = asyncio.Event()

    async def freeze(self: object) -> None:
        nonlocal asked
        asked += 1
        if asked < 3:
            raise OSError("the source is away")
        again.set()

    before = asyncio.all_tasks()
    client = dynamodb_client.DynamoClient("dynamodb:ids", "ids", REGION, "http://127.0.0.1:1")
    async with aclosing(client):
        await client.open()
        monkeypatch.setattr("aiobotocore.credentials.AioCredentials.get_frozen_credentials", freeze)
        async with asyncio.timeout(60):
            await again.wait()
    assert asyncio.all_tasks() == before


# --- refused --------------------------------------------------------------------------------------


async def test_an_expired_token_at_the_start_is_waited_for(file: Path) -> None:
    write(file, "old")
    async with serving(error("ExpiredTokenException")) as server, store_at(server.url) as store:
        with pytest.raises(errors.StoreUnready, match="ExpiredToken") as raised:
            await store.verify()
    assert raised.value.waiting_helps


async def test_a_file_of_credentials_is_read_again_once_they_are_refused(
    file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(dynamodb_client, "CREDENTIALS_AGAIN_S", 0)
    caplog.set_level("INFO")
    write(file, "old")
    async with serving(kind=Authority) as server, store_at(server.url) as store:
        client = store._client
        for key in ("old", "new"):
            write(file, key)
            with pytest.raises(errors.NotApplied, match="ExpiredToken"):
                await store.entry("orders")
            assert client._renewer is not None
            await client._renewer
        assert await store.entry("orders") is None
    told = [getattr(one, "action", "") for one in caplog.records]
    assert told.count("credentials_renewed") == 1


async def test_one_look_at_a_time_answers_many_refusals(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(file, "old")
    looks = []
    look_up = credentials.look_up

    async def counted() -> object:
        looks.append(1)
        return await look_up()

    monkeypatch.setattr(credentials, "look_up", counted)
    async with serving(kind=Authority) as server, store_at(server.url) as store:
        for _ in range(20):
            with pytest.raises(errors.NotApplied):
                await store.entry("orders")
    assert len(looks) == 2  # at the start, and after the first refusal


@pytest.mark.parametrize(
    "failure",
    [
        ClientError({"Error": {"Code": "ExpiredTokenException"}}, "AssumeRole"),
        CredentialRetrievalError(provider="iam-role", error_msg="no answer"),
    ],
)
async def test_a_request_that_could_not_be_signed_was_not_applied(
    failure: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the store's operations tell it: another error would be taken for a bug, and a gap."""

    async def unsigned(**_: object) -> None:
        raise failure

    counter = Counter(name="orders", epoch="1.a")
    async with serving(NONE_SUCH) as server, store_at(server.url) as store:
        await store.entry("orders")
        for method in ("get_item", "update_item", "transact_write_items", "describe_table"):
            monkeypatch.setattr(store._client._client, method, unsigned, raising=False)
        for call in (
            store.entry("orders"),
            store.reserve(counter, count=1, seen=0, room=9),
            store.rewrite(counter, counter),
        ):
            with pytest.raises(errors.NotApplied, match="gave none") as refused:
                await call
            assert refused.value.outcome == errors.NOT_APPLIED
        with pytest.raises(errors.StoreUnready, match="gave none") as raised:
            await store.verify()
    assert raised.value.waiting_helps


# --- the host that is asked -----------------------------------------------------------------------


async def test_the_host_that_was_asked_is_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setenv("AWS_ACCOUNT_ID", "123456789012")

    async def unreachable(self: object, request: object) -> None:
        raise OSError("no network in tests")

    monkeypatch.setattr("aiobotocore.httpsession.AIOHTTPSession.send", unreachable)
    async with DynamoStore(DynamoAddress.parse(f"ids?region={REGION}")) as store:
        with pytest.raises(errors.StoreUnready) as raised:
            await store.verify()
    host = f"https://123456789012.ddb.{REGION}.amazonaws.com"
    assert f"at {host} broke off" in str(raised.value)
    opened = [one.message for one in caplog.records if getattr(one, "action", "") == "store_opened"]
    assert opened == [f"DynamoDB table ids in region {REGION} at {host}"]


SERVICES = "[default]\nservices = local\n[services local]\ndynamodb =\n  endpoint_url = {}\n"
WITH_A_USER = "http://user:secret@127.0.0.1:1"


@pytest.mark.parametrize(
    ("variable", "file_says"),
    [
        ("AWS_ENDPOINT_URL", ""),
        ("AWS_ENDPOINT_URL_DYNAMODB", ""),
        ("", "[default]\nendpoint_url = {}\n"),
        ("", SERVICES),
    ],
    ids=["variable", "variable of the service", "profile", "services"],
)
async def test_an_endpoint_with_a_password_is_refused_and_never_told(
    variable: str,
    file_says: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    if variable:
        monkeypatch.setenv(variable, WITH_A_USER)
    (tmp_path / "config").write_text(file_says.format(WITH_A_USER))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    async with DynamoStore(DynamoAddress.parse(f"ids?region={REGION}")) as store:
        with pytest.raises(errors.StoreUnready, match="a user or a password") as raised:
            await store.verify()
    assert not raised.value.waiting_helps
    assert "secret" not in f"{raised.value} {caplog.text}"
