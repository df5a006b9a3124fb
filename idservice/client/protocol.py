"""The protocol by which a client or a sidecar takes ranges of ids from a service.

It needs only the standard library: applications import it with the client. No id is
used up if no connection was made, or if a well-formed problem of the service has the outcome
`not_applied`. A connection that broke, a page of a proxy, a redirect or an answer to another
request proves nothing (I7).
A request is never sent twice; each has its own nonce, which its answer must repeat (I12).
"""

import json
import os
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from idservice import errors
from idservice.client import tls
from idservice.core.limits import ID_MAX, NUMBER_MAX

RANGES_MAX = 1_000_000  # ids in one request: the default limit of a service (--range-max)
ANSWER_MAX = 1_048_576  # bytes
DETAIL_MAX = 4_000  # characters of a problem that are kept; one that names 32 scopes has 2,500
HOLD_S = 10.0  # how long ids are kept after they were requested
DIGITS = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
SECONDS = re.compile(r"[0-9]{1,6}", re.ASCII)
TOO_MANY = 429  # the status of a request beyond a counter's rate_max
CODE = re.compile(r"[a-z][a-z0-9_]{0,63}", re.ASCII)


class NoUsableAnswer(errors.Unavailable):
    text = "{url} gave no readable answer, so that ids may be used up: {why}."
    code = "no_answer"
    outcome = errors.UNKNOWN

    def __init__(self, *, url: str, why: str) -> None:
        super().__init__(url=url, why=why)
        self.why = why


class NotSent(NoUsableAnswer):
    text = "Cannot reach {url} ({why}). Nothing was sent, so no ids are used up."
    code = "not_sent"
    outcome = errors.NOT_APPLIED


class Refused(errors.IdserviceError):
    text = "{url} refused: {why}"
    code = "refused"

    def __init__(
        self, *, url: str, why: str, code: str, status: int, retryable: bool, outcome: str
    ) -> None:
        super().__init__(url=url, why=why)
        self.pause_s = 0.0  # before it is of any use to ask again
        self.body: Mapping[str, Any] = {}  # the whole problem
        self.why, self.code, self.status = why, code, status
        self.retryable, self.outcome = retryable, outcome


@dataclass(frozen=True, slots=True)
class Reply:
    """A raw answer over HTTP."""

    status: int
    content_type: str
    body: bytes
    retry_after: str = ""


@dataclass(frozen=True, slots=True)
class ClientAnswer:
    """The ids in an answer: exactly as many as requested, in the order of their use."""

    ordinal: int  # of the epoch they belong to
    strict: bool
    as_text: bool  # the counter's ids may be above NUMBER_MAX
    blocks: tuple[range, ...]


def why_not_connected(error: OSError | UnicodeError, variable: str = tls.AUTHORITIES) -> str:
    """Return why a connection was not made, without the names that a library adds.

    `variable` is the environment variable that the message advises: it names trusted authorities.
    """
    if isinstance(error, socket.gaierror):
        return "the name does not resolve"
    if isinstance(error, TimeoutError):
        return "no connection in time"
    if (
        isinstance(error, OSError) and error.errno and type(error).__module__ == "builtins"
    ):  # TLS has numbers of another kind
        return os.strerror(error.errno).lower()
    return tls.why_no_handshake(error, variable) or str(error) or type(error).__name__


def target(name: str, count: int, nonce: str) -> str:
    """Return the target of the POST for `count` ids of a counter, as ranges."""
    return f"/v1/counters/{name}/next?format=ranges&count={count}&nonce={nonce}"


def read_answer(reply: Reply, *, url: str, name: str, count: int, nonce: str) -> ClientAnswer:
    """Return the ids in the answer to a request. Raises Refused, NoUsableAnswer."""
    body = read_object(reply, url=url)
    try:
        if body["counter"] != name or body["count"] != count:
            raise ValueError("it is about another counter or number of ids")
        if body["nonce"] != nonce:
            raise ValueError("it answers another request; a cache or a proxy is in between")
        if body["mode"] not in ("block", "strict"):
            raise ValueError("its mode is unknown")
        blocks = tuple(_block(one) for one in body["ranges"])
        if sum(map(len, blocks)) != count or _overlap(blocks):
            raise ValueError("its ranges are not the ids that were requested")
        kinds = {type(one["first"]) for one in body["ranges"]}
        if len(kinds) != 1:
            raise ValueError("its numbers are of two kinds")
        return ClientAnswer(
            ordinal=_whole(body["epoch"], 1),
            strict=body["mode"] == "strict",
            as_text=kinds == {str},
            blocks=blocks,
        )
    except (KeyError, TypeError, ValueError) as error:
        why = str(error) if type(error) is ValueError else "its form is wrong"
        raise NoUsableAnswer(url=url, why=why) from None


def read_object(reply: Reply, *, url: str) -> dict[str, Any]:
    """Return the JSON object in an answer of status 200 or 201. Raises Refused, NoUsableAnswer."""
    try:
        body = json.loads(reply.body.decode("utf-8"))
    except (ValueError, RecursionError):
        body = None
    if reply.status in (200, 201) and isinstance(body, dict):
        return body
    kind = reply.content_type.partition(";")[0].strip().lower()
    if reply.status >= 400 and kind == "application/problem+json" and isinstance(body, dict):
        refused = _refused(body, reply, url)
        if refused is not None:
            raise refused
    why = f"it answered {reply.status}, and not in the form of idservice"
    raise NoUsableAnswer(url=url, why=tls.SPOKEN if tls.is_told(reply.status, reply.body) else why)


def _refused(body: dict[str, Any], reply: Reply, url: str) -> Refused | None:
    code, retryable, outcome = body.get("code"), body.get("retryable"), body.get("outcome")
    if (
        not (isinstance(code, str) and CODE.fullmatch(code))
        or body.get("type") != f"urn:idservice:problem:{code}"
        or not isinstance(retryable, bool)
        or outcome not in (errors.NOT_APPLIED, errors.UNKNOWN)
    ):
        return None
    why = _shortened(str(body.get("detail", code)))
    refused = Refused(
        url=url, why=why, code=code, status=reply.status, retryable=retryable, outcome=outcome
    )
    refused.body = body
    if reply.status == TOO_MANY and SECONDS.fullmatch(reply.retry_after):
        refused.pause_s = float(reply.retry_after)
    return refused


def _shortened(detail: str) -> str:
    """Return the detail of a problem, of which half a name or half a secret never remains."""
    if len(detail) <= DETAIL_MAX:
        return detail
    return f"{detail[:DETAIL_MAX].rpartition(' ')[0]} …"


def _block(one: dict[str, Any]) -> range:
    first, step, count = one["first"], _whole(one["step"], 1), _whole(one["count"], 1)
    most = NUMBER_MAX
    if isinstance(first, str) and DIGITS.fullmatch(first):
        first, most = int(first), ID_MAX
    block = range(_whole(first, 0), first + step * count, step)
    if block[-1] > most:
        raise ValueError("an id is above every limit")
    return block


def _whole(value: object, least: int) -> int:
    if type(value) is not int or value < least:  # True is an int, too
        raise ValueError("a number is missing or malformed")
    return value


def _overlap(blocks: Sequence[range]) -> bool:
    """Return True if an id may be in two blocks. Blocks of several shards interleave."""
    open_: list[range] = []
    for block in sorted(blocks, key=lambda block: block.start):
        open_ = [other for other in open_ if other[-1] >= block.start]
        for other in open_:
            if other.step != block.step or (block.start - other.start) % block.step == 0:
                return True
        open_.append(block)
    return False


def is_newer(answer: ClientAnswer, *, url: str, ordinal: int, strict: bool) -> bool:
    """Return True if an answer begins a newer epoch than `ordinal`, the newest one known.

    Raises NoUsableAnswer if it is of an older epoch. Its ids may repeat ids that are in use.
    """
    if answer.ordinal < ordinal:
        why = f"its epoch {answer.ordinal} has ended, the current one is {ordinal}; if that goes"
        why += " on, it serves from an older copy of its store, or from another one; once that is"
        why += " fenced, start this process again"
        raise NoUsableAnswer(url=url, why=why)
    if answer.ordinal == ordinal and answer.strict != strict:
        raise NoUsableAnswer(url=url, why=f"it contradicts an earlier answer of epoch {ordinal}")
    return answer.ordinal > ordinal
