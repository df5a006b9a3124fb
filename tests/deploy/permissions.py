"""What an IAM policy lets be asked of DynamoDB, and an engine that refuses whatever is beyond it.

Statements that allow, and the conditions on leading keys that ours have; no more of IAM than that.
"""

import fnmatch
import json
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Any

from .answering import answering

KEYS = "dynamodb:LeadingKeys"
PARTS = {  # of a transaction, which has no action of its own
    "ConditionCheck": "ConditionCheckItem", "Delete": "DeleteItem", "Put": "PutItem",
    "Update": "UpdateItem",
}  # fmt: skip
REFUSED = {
    "__type": "com.amazon.coral.service#AccessDeniedException",
    "message": "User is not authorized to perform it",
}

Statement = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Asked:
    """One action on a table; `key` is the partition key of its item, where it has one."""

    action: str
    table: str
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Grant:
    """One thing that a statement allows; `key` is a pattern, None for what has no item."""

    action: str
    table: str
    key: str | None = None

    def covers(self, asked: Asked) -> bool:
        """Whether it allows this."""
        if (asked.action, asked.table) != (self.action, self.table):
            return False
        if self.key is None:
            return True
        return asked.key is not None and fnmatch.fnmatchcase(asked.key, self.key)


def grants(statements: Sequence[Statement]) -> set[Grant]:
    """Everything that statements allow. Raises AssertionError at what is not understood here."""
    found = set()
    for each in statements:
        assert each["Effect"] == "Allow"
        resource = re.fullmatch(r"arn:aws:dynamodb:[^:]+:[0-9]+:table/([\w.-]+)", each["Resource"])
        assert resource, each["Resource"]
        for action in each["Action"]:
            assert "*" not in action
            for key in _patterns(each.get("Condition")):
                found.add(Grant(action.removeprefix("dynamodb:"), resource[1], key))
    return found


def _patterns(condition: Mapping[str, Any] | None) -> Sequence[str | None]:
    if condition is None:
        return [None]
    rest = dict(condition)
    # Without it a request that names no key at all would be allowed.
    assert rest.pop("Null") == {KEYS: "false"}
    ((operator, keys),) = rest.items()
    assert operator in ("ForAllValues:StringLike", "ForAllValues:StringEquals")
    patterns: list[str] = keys[KEYS]
    assert operator.endswith("Like") or not any("*" in each for each in patterns)
    return patterns


def asked(operation: str, request: Mapping[str, Any], partitions: Mapping[str, str]) -> list[Asked]:
    """The actions of a request; `partitions` is the partition key of each table."""
    if operation == "TransactWriteItems":
        return [
            each
            for write in request["TransactItems"]
            for part, inner in write.items()
            for each in asked(PARTS[part], inner, partitions)
        ]
    table = request["TableName"]
    item = request.get("Key") or request.get("Item")
    if item is None:
        return [Asked(operation, table)]
    (key,) = item[partitions[table]].values()
    return [Asked(operation, table, key)]


class Guard:
    """Who may do what, by access key, and what each has asked so far."""

    def __init__(self, allowed: Mapping[str, set[Grant]], partitions: Mapping[str, str]) -> None:
        self.allowed = allowed
        self.partitions = partitions
        self.used: dict[str, set[Grant]] = {who: set() for who in allowed}
        self.refused: list[tuple[str, Asked]] = []
        self._lock = threading.Lock()

    def passes(self, who: str, operation: str, request: Mapping[str, Any]) -> bool:
        """Whether a request is allowed. Keeps what it used."""
        with self._lock:
            for each in asked(operation, request, self.partitions):
                covering = {grant for grant in self.allowed[who] if grant.covers(each)}
                if not covering:
                    self.refused.append((who, each))
                    return False
                self.used[who] |= covering
        return True


@contextmanager
def guarded(guard: Guard, url: str) -> Iterator[str]:
    """The URL of an engine that believes every signature and asks `guard` what it allows."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body at once: else each answer waits 40 ms

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            who = self.headers["Authorization"].partition("Credential=")[2].partition("/")[0]
            operation = self.headers["X-Amz-Target"].partition(".")[2]
            if guard.passes(who, operation, json.loads(body)):
                request = urllib.request.Request(url, body, dict(self.headers))
                try:
                    answer = urllib.request.urlopen(request, timeout=60)
                except urllib.error.HTTPError as error:
                    answer = error
                with answer:
                    self._answer(answer.status, dict(answer.headers), answer.read())
            else:
                self._answer(400, {}, json.dumps(REFUSED).encode())

        def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response_only(status)
            kept = {name.lower(): value for name, value in headers.items()}
            for name in ("date", "x-amz-crc32", "x-amzn-requestid"):
                if name in kept:
                    self.send_header(name, kept[name])
            self.send_header("Content-Type", "application/x-amz-json-1.0")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with answering(Handler) as mine:
        yield mine
