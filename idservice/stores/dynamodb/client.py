"""Requests to DynamoDB, and what each way of failing proves about the write (I7).

The only file that knows the client library. Every call is one HTTP request at most: a repeated
reservation burns a range, and a refusal of the second attempt hides that the first was applied.
"""

import asyncio
import logging
import re
from collections.abc import Sequence
from contextlib import AsyncExitStack
from random import Random
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from botocore.exceptions import ClientError, NoRegionError

from idservice import errors
from idservice.client.protocol import why_not_connected
from idservice.stores.dynamodb import credentials
from idservice.stores.dynamodb.region import named_region

log = logging.getLogger("idservice.store")

CALL_MAX_S = 5.0  # waiting for a free connection has no limit of its own
CONNECT_MAX_S = 1.0
OPEN_MAX_S = 30.0  # a fetch of credentials that is cut off begins anew and never gets through
CREDENTIALS_CHECK_S = 60.0
CREDENTIALS_AGAIN_S = 10.0  # between two looks for credentials that AWS accepts; above CALL_MAX_S
CONFLICT_TRIES = 8
LOG_AGAIN_S = 60.0
NOWHERE = "(none)"  # as messages tell a region that nothing names

CONDITION_FAILED = "ConditionalCheckFailedException"
CANCELED = "TransactionCanceledException"
CONFLICT = "TransactionConflictException"
NO_TABLE = "ResourceNotFoundException"
DENIED = "AccessDeniedException"
INVALID = "ValidationException"
IN_USE = "ResourceInUseException"
NO_OPERATION = "UnknownOperationException"
NO_BACKUPS_YET = "ContinuousBackupsUnavailableException"
THROTTLED = {
    "LimitExceededException", "ProvisionedThroughputExceededException", "RequestLimitExceeded",
    "ThrottlingException",
}  # fmt: skip
THROTTLED_PARTS = {"ProvisionedThroughputExceeded", "ThrottlingError"}  # of a transaction
EXPIRED = "ExpiredTokenException"
NOT_AUTHENTICATED = {
    EXPIRED, "IncompleteSignatureException", "InvalidSignatureException",
    "MissingAuthenticationTokenException", "UnrecognizedClientException",
}  # fmt: skip
OWN_NAMES = (
    THROTTLED
    | NOT_AUTHENTICATED
    | {CONDITION_FAILED, CANCELED, CONFLICT, NO_TABLE, DENIED, INVALID, IN_USE, NO_OPERATION}
    | {NO_BACKUPS_YET, "ReplicatedWriteConflictException", "SerializationException"}
)
LOGGED = THROTTLED | NOT_AUTHENTICATED | {DENIED, INVALID}
ADVICE = {
    DENIED: "allow it to the role or user of this process",
    NO_TABLE: "name the right table and region, or restore it",
    **dict.fromkeys(
        NOT_AUTHENTICATED,
        "check the credentials, the account and region they are for, and the clock",
    ),
    **dict.fromkeys(THROTTLED, "wait, or raise the table's limits"),
}

# A field that every real answer has. A page of a proxy, an empty body and cut JSON arrive as a
# success without it. Without the request for capacity, a true "no such item" would look the same.
PROOF = {
    "CreateTable": "TableDescription",
    "DescribeContinuousBackups": "ContinuousBackupsDescription",
    "DescribeTable": "Table",
    "DescribeTimeToLive": "TimeToLiveDescription",
    "GetItem": "ConsumedCapacity",
    "PutItem": "ConsumedCapacity",
    "Scan": "Items",
    "TransactWriteItems": "ConsumedCapacity",
    "UpdateContinuousBackups": "ContinuousBackupsDescription",
    "UpdateItem": "Attributes",
}

Answer = dict[str, Any]


class CallRefused(errors.NotApplied):
    """A request that DynamoDB refused."""

    def __init__(
        self, *, said: str, item: Answer | None, parts: Sequence[Answer], **fields: object
    ) -> None:
        super().__init__(**fields)
        self.said = said  # DynamoDB's own name of the error
        self.item = item  # as it was when a condition failed
        # Of a transaction, one for each write. "None": no obstacle.
        self.reasons = tuple(str(part.get("Code")) for part in parts)
        self.items: tuple[Answer | None, ...] = tuple(part.get("Item") or None for part in parts)
        self.throttled = said in THROTTLED or not THROTTLED_PARTS.isdisjoint(self.reasons)

    @property
    def in_the_way(self) -> bool:
        """Return True if another transaction on the same items was the only obstacle."""
        if self.said == CANCELED:
            return set(self.reasons) <= {"None", "TransactionConflict"}
        return self.said == CONFLICT


class CallRefusedForGood(CallRefused):
    """A request that DynamoDB refuses until an operator acts."""

    retryable = False


class CallUnanswered(errors.OutcomeUnknown):
    """A request without an answer."""

    def __init__(self, *, passing: bool, **fields: object) -> None:
        super().__init__(**fields)
        self.passing = passing  # the cause may pass


class CallNotSent(errors.NotReached):
    """A request of which nothing was sent: no connection was made for it."""

    passing = True


class CallNotSigned(errors.NotAnswered):
    """A request of which nothing was sent: there were no credentials to sign it with."""

    passing = True


class DynamoClient:
    """Sends requests to DynamoDB for one table's store. The first call connects; close it."""

    def __init__(self, store: str, table: str, region: str | None, endpoint: str | None) -> None:
        self.store = store
        self.table = table
        self.region = region or NOWHERE
        self.endpoint = endpoint
        self._client: Any = None
        self._stack = AsyncExitStack()
        self._credentials: Any = None
        self._asked_at = ""  # the endpoint that was asked last; the library chooses it
        self._opening = asyncio.Lock()
        self._refresher: asyncio.Task[None] | None = None
        self._renewer: asyncio.Task[None] | None = None
        self._logged: dict[str, float] = {}
        self._random = Random()  # noqa: S311 - it spreads retries and keeps no secret

    async def aclose(self) -> None:
        """Close the connections."""
        tasks = [task for task in (self._refresher, self._renewer) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._refresher = self._renewer = None
        self._client = None
        await self._stack.aclose()

    # --- connecting ------------------------------------------------------------------------------

    async def open(self, operation: str = "DescribeTable") -> None:
        """Find credentials and make the client, if there is none yet. Raises StoreUnready.

        `operation` is the call that needs it.
        """
        async with self._opening:
            if self._client is not None:
                return
            try:
                if self.region == NOWHERE:
                    self.region = named_region(self.endpoint) or NOWHERE
                async with asyncio.timeout(OPEN_MAX_S):
                    await self._connect(*await credentials.look_up())
            except Exception as error:
                raise self._unready(error, operation) from error
            self._refresher = asyncio.create_task(self._keep_credentials())

    def _unready(self, error: Exception, operation: str) -> errors.StoreUnready:
        """Return the error of a client that cannot be made."""
        if isinstance(error, errors.StoreUnready):
            return error
        why, passing = credentials.why_none(error)
        why = f"{why} (for {self.where(operation)})"
        return errors.StoreUnready(store=self.store, why=why, waiting_helps=passing)

    async def _connect(self, session: Any, found: Any) -> None:
        """Make a client with the credentials that were found."""
        from aiobotocore.config import AioConfig

        if self.region == NOWHERE:
            raise NoRegionError
        config = AioConfig(
            retries={"mode": "standard", "total_max_attempts": 1},  # also against AWS_MAX_ATTEMPTS
            connect_timeout=CONNECT_MAX_S,
            read_timeout=CALL_MAX_S + 0.5,  # per read: the deadline around the call comes first
            max_pool_connections=32,
            parameter_validation=False,
        )
        # An http:// address needs no certificates, which take 50 ms to read. DynamoDB is not asked
        # in TLS then: this address replaces that of other settings, and no redirect is followed.
        plain = (self.endpoint or "").startswith("http://")
        opening: Any = session.client(
            "dynamodb",
            region_name=self.region,
            endpoint_url=self.endpoint,
            config=config,
            verify=False if plain else None,  # None: what the session trusts
        )
        stack = AsyncExitStack()
        client = await stack.enter_async_context(opening)
        if "@" in client.meta.endpoint_url:  # it would end up in logs and messages
            await stack.aclose()
            why = "the endpoint that the environment or the AWS profile names has a user or a"
            why += " password in it: name it without (AWS_ENDPOINT_URL, or endpoint_url in a file)"
            raise errors.StoreUnready(store=self.store, why=why)
        client.meta.events.register("before-send.dynamodb", self._on_sending)
        self._client, self._stack, self._credentials = client, stack, found

    def _on_sending(self, request: Any, **_: object) -> None:
        """Note the endpoint of a request: with an account's id, it is not the region's."""
        parts = urlsplit(request.url)
        endpoint = f"{parts.scheme}://{parts.netloc}"
        if endpoint != self._asked_at:
            self._asked_at = endpoint
            log.info(
                "DynamoDB table %s in region %s at %s", self.table, self.region, endpoint,
                extra={"action": "store_opened"},
            )  # fmt: skip

    # --- credentials -----------------------------------------------------------------------------

    async def _keep_credentials(self) -> None:
        """Refresh credentials in good time, without a reservation's deadline.

        A fetch slower than that deadline would be cut off and begun again by every reservation.
        """
        while True:
            await asyncio.sleep(CREDENTIALS_CHECK_S)
            try:
                await self._credentials.get_frozen_credentials()
            except Exception as error:
                _log_not_refreshed(error)

    def _renew_credentials(self) -> None:
        """Look up credentials again, because AWS refused the present ones; one look at a time."""
        if self._renewer is None or self._renewer.done():
            self._renewer = asyncio.create_task(self._renew())

    async def _renew(self) -> None:
        """Go on with other credentials, if there are any. The library never reads a file again."""
        before = None
        try:
            try:
                async with asyncio.timeout(OPEN_MAX_S):
                    session, found = await credentials.look_up()
                    new = await found.get_frozen_credentials()
                    if new != await self._credentials.get_frozen_credentials():
                        old = self._stack
                        await self._connect(session, found)
                        before = old
                        log.info("other AWS credentials were found, and are used from now on",
                                 extra={"action": "credentials_renewed"})  # fmt: skip
            except Exception as error:
                _log_not_refreshed(error)
            await asyncio.sleep(CREDENTIALS_AGAIN_S)  # calls of the client before end meanwhile
        finally:
            if before is not None:
                await before.aclose()

    # --- asking ----------------------------------------------------------------------------------

    def where(self, operation: str, table: str | None = None) -> str:
        """Return operation, table and region as messages and IAM policies name them."""
        return f"dynamodb:{operation} on table {table or self.table!r} in region {self.region}"

    async def call(self, operation: str, action: str, **request: Any) -> Answer:
        """Send one request once and return its answer; `action` describes it in messages.

        Raises CallRefused: DynamoDB said in its own words that nothing was applied. CallNotSent,
        CallNotSigned, StoreUnready: it was not sent. CallUnanswered: it may have been applied.
        """
        await self.open(operation)
        if PROOF[operation] == "ConsumedCapacity":
            request["ReturnConsumedCapacity"] = "TOTAL"
        elif PROOF[operation] == "Attributes":
            request.setdefault("ReturnValues", "UPDATED_NEW")
        method = getattr(self._client, re.sub(r"(?<!^)(?=[A-Z])", "_", operation).lower())
        where = self.where(operation, request.get("TableName"))
        about = {"store": self.store, "action": action}
        try:
            async with asyncio.timeout(CALL_MAX_S):
                answer: Answer = await method(**request)
        except credentials.NONE_TO_SIGN_WITH as error:
            raise self._not_signed(error, operation, action) from error
        except ClientError as error:
            if error.operation_name != operation:  # of the source of credentials
                raise self._not_signed(error, operation, action) from error
            raise self._read_error(error, where, about) from error
        except TimeoutError as error:
            why = f"{where} took longer than {CALL_MAX_S:g} s"
            raise CallUnanswered(why=why, passing=True, **about) from error
        except Exception as error:
            cause = _why_not_connected(error)
            if cause:
                place = f"DynamoDB at {self._asked_at}"
                raise CallNotSent(place=place, cause=cause, **about) from error
            why = f"{where} at {self._asked_at} broke off ({_words(error)})"
            raise CallUnanswered(why=why, passing=True, **about) from error
        if PROOF[operation] not in answer:
            why = f"{where} was answered by something that is not DynamoDB"
            raise CallUnanswered(why=why, passing=True, **about)
        return answer

    def _not_signed(self, error: Exception, operation: str, action: str) -> CallNotSigned:
        why = f"{credentials.why_none(error)[0]} (for {self.where(operation)})"
        return CallNotSigned(store=self.store, action=action, why=why)

    def _read_error(
        self, error: ClientError, where: str, about: dict[str, str]
    ) -> errors.StoreError:
        answer: Answer = dict(error.response)
        status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        attempts = answer.get("ResponseMetadata", {}).get("RetryAttempts", 0) + 1
        code = str(answer.get("Error", {}).get("Code", ""))[:80]
        why = f"{where} answered {code}"
        if not (400 <= status < 500 and code in OWN_NAMES and attempts == 1):
            passing = status >= 500 or status in (408, 429)
            return CallUnanswered(why=f"{why} (HTTP {status})", passing=passing, **about)
        words = str(answer["Error"].get("Message", ""))
        for reason in answer.get("ThrottlingReasons") or answer.get("throttlingReasons") or ():
            words += f" {reason.get('reason')} {reason.get('resource', '')}"
        self._log_words(code, where, words[:500])
        if code in NOT_AUTHENTICATED:
            self._renew_credentials()
        parts = answer.get("CancellationReasons") or ()
        if parts:
            why += f" ({', '.join(dict.fromkeys(str(part.get('Code')) for part in parts))})"
        why += f"; {ADVICE[code]}" if code in ADVICE else ""
        kind = CallRefusedForGood if code in (NO_TABLE, DENIED, INVALID) else CallRefused
        return kind(why=why, said=code, item=answer.get("Item"), parts=parts, **about)

    def _log_words(self, code: str, where: str, words: str) -> None:
        """Log AWS's own words, which name accounts and roles and so stay out of our answers."""
        now = asyncio.get_running_loop().time()
        if code in LOGGED and now >= self._logged.get(code, now):
            self._logged[code] = now + LOG_AGAIN_S
            log.warning("%s: %s: %s", where, code, words, extra={"action": "dynamodb_refused"})

    async def transact(self, writes: Sequence[Answer], action: str) -> None:
        """Write all or nothing. Raises as `call`.

        It is sent again only if another transaction was in the way, which is a refusal: every
        change writes the catalogue's head.
        """
        for attempt in range(CONFLICT_TRIES):
            try:
                await self.call("TransactWriteItems", action, TransactItems=writes)
                return
            except CallRefused as refused:
                if not refused.in_the_way or attempt == CONFLICT_TRIES - 1:
                    raise
            await asyncio.sleep(self._random.uniform(0.01, 0.05) * 2 ** min(attempt, 4))


def _why_not_connected(error: Exception) -> str:
    """Return why the only attempt found no connection; empty if that is not proved (I7).

    The library's own classes do not tell: of a request that was sent and then reset it says "could
    not connect" too. aiohttp raises these two only before anything is sent, and no redirect is
    followed.
    """
    match getattr(error, "kwargs", {}).get("error"):
        case aiohttp.ClientProxyConnectionError():
            return ""
        case aiohttp.ClientConnectorError() as cause:
            return why_not_connected(cause.os_error, "AWS_CA_BUNDLE")
        case aiohttp.ConnectionTimeoutError():
            return f"no connection within {CONNECT_MAX_S:g} s"
    return ""


def _words(error: Exception) -> str:
    """Return the words of a failed call, without the library's names and the address."""
    cause = getattr(error, "kwargs", {}).get("error") or error
    return f"{cause}"[:100] or type(cause).__name__


def _log_not_refreshed(error: Exception) -> None:
    log.warning(
        "the AWS credentials could not be refreshed (%s)", type(error).__name__,
        extra={"action": "credentials_not_refreshed"},
    )  # fmt: skip
