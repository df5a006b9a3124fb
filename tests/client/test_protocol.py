"""What is believed of an answer, and what a refusal means."""

import json
from typing import Any

import pytest

from idservice import errors
from idservice.client import protocol
from idservice.client.protocol import ClientAnswer, NoUsableAnswer, Refused, Reply
from idservice.core import limits

URL = "http://central:8080"
GOOD: dict[str, Any] = {
    "counter": "orders",
    "count": 5,
    "epoch": 3,
    "mode": "block",
    "ranges": [{"first": 42, "step": 1, "count": 3}, {"first": 7, "step": 1, "count": 2}],
    "nonce": "n1",
}
PROBLEM: dict[str, Any] = {
    "type": "urn:idservice:problem:exhausted",
    "title": "Gone",
    "status": 410,
    "detail": "Counter 'orders' has fewer than 5 ids left up to its limit 9.",
    "code": "exhausted",
    "retryable": False,
    "outcome": "not_applied",
}


def read(body: object, *, status: int = 200, kind: str = "application/json") -> ClientAnswer:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return protocol.read_answer(
        Reply(status, kind, raw), url=URL, name="orders", count=5, nonce="n1"
    )


def one(**range_: object) -> dict[str, Any]:
    return {**GOOD, "ranges": [{"first": 0, "step": 1, "count": 5, **range_}]}


def two(*ranges: tuple[object, int, int]) -> dict[str, Any]:
    keys = ("first", "step", "count")
    return {**GOOD, "ranges": [dict(zip(keys, values, strict=True)) for values in ranges]}


def test_an_answer_is_read_as_it_is() -> None:
    assert read(GOOD) == ClientAnswer(3, False, False, (range(42, 45), range(7, 9)))
    assert read({**GOOD, "mode": "strict"}).strict
    assert read(one(first=10, step=4)).blocks == (range(10, 30, 4),)


def test_ids_as_strings_are_numbers_again() -> None:
    answer = read(one(first="9223372036854775802"))
    assert answer.as_text
    assert answer.blocks[0][-1] == limits.ID_MAX


def test_ranges_of_several_shards_interleave() -> None:
    ranges = [{"first": 0, "step": 2, "count": 3}, {"first": 3, "step": 2, "count": 2}]
    assert read({**GOOD, "ranges": ranges}).blocks == (range(0, 6, 2), range(3, 7, 2))


@pytest.mark.parametrize(
    "body",
    [
        {**GOOD, "counter": "tickets"},
        {**GOOD, "count": 4},
        {**GOOD, "nonce": "n2"},
        {key: value for key, value in GOOD.items() if key != "nonce"},
        {**GOOD, "mode": "fast"},
        {**GOOD, "epoch": 0},
        {**GOOD, "epoch": True},
        {**GOOD, "epoch": "3"},
        {**GOOD, "ranges": []},
        {**GOOD, "ranges": GOOD["ranges"][:1]},
        {**GOOD, "ranges": [GOOD["ranges"][0]] * 2},
        {**GOOD, "ranges": "all"},
        two((0, 2, 3), (4, 2, 2)),
        two((0, 2, 3), (1, 3, 2)),
        two((0, 1, 3), ("7", 1, 2)),
        one(first=-1),
        one(first=1.0),
        one(first="07"),
        one(first="-7"),
        one(first="7 "),
        one(first=None),
        one(first=True),
        one(first=2**53 - 4),
        one(first=str(2**63 - 5)),
        one(step=0),
        one(step=-1),
        one(step=1.0),
        one(count=6),
        one(count=0),
        one(count=5.0),
        [],
        None,
        b"",
        b"\xff\xfe",
        b"[" * 100_000,
        b"<h1>It works!</h1>",
    ],
)  # fmt: skip
def test_what_is_not_exactly_the_answer_is_unknown(body: object) -> None:
    with pytest.raises(NoUsableAnswer) as refused:
        read(body)
    assert refused.value.outcome == errors.UNKNOWN
    assert refused.value.retryable
    assert URL in str(refused.value)


def test_a_problem_of_the_service_says_what_it_said() -> None:
    with pytest.raises(Refused) as refused:
        read(PROBLEM, status=410, kind="application/problem+json; charset=utf-8")
    error = refused.value
    assert (error.code, error.status, error.retryable) == ("exhausted", 410, False)
    assert error.outcome == errors.NOT_APPLIED
    assert "fewer than 5 ids left" in str(error)


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        (PROBLEM, 410, "application/json"),
        (PROBLEM, 200, "application/problem+json"),
        (PROBLEM, 302, "application/problem+json"),
        ({**PROBLEM, "outcome": "fine"}, 410, "application/problem+json"),
        ({**PROBLEM, "retryable": 0}, 410, "application/problem+json"),
        ({**PROBLEM, "code": "no code"}, 410, "application/problem+json"),
        ({**PROBLEM, "type": "about:blank"}, 410, "application/problem+json"),
        ({"code": "exhausted"}, 410, "application/problem+json"),
        (b"", 503, "text/html"),
        (b"", 307, ""),
        (GOOD, 206, "application/json"),
        (GOOD, 404, "application/json"),
    ],
)
def test_a_refusal_that_is_not_the_service_s_own_is_unknown(
    body: object, status: int, kind: str
) -> None:
    with pytest.raises(NoUsableAnswer) as refused:
        read(body, status=status, kind=kind)
    assert refused.value.outcome == errors.UNKNOWN


def test_a_detail_that_is_too_long_ends_with_a_whole_word() -> None:
    """Half of a URL would show its password, and half of a scope is another scope."""
    detail = "x " * (protocol.DETAIL_MAX // 2 - 10) + "at https://ann:secret@central/ it ended"
    with pytest.raises(Refused) as refused:
        read({**PROBLEM, "detail": detail}, status=410, kind="application/problem+json")
    assert refused.value.why.endswith("x at …")
    assert len(refused.value.why) <= protocol.DETAIL_MAX


def test_an_older_epoch_and_a_contradiction_are_not_believed() -> None:
    def newer(ordinal: int, strict: bool = False) -> bool:
        return protocol.is_newer(read(GOOD), url=URL, ordinal=ordinal, strict=strict)

    assert newer(2)
    assert newer(2, strict=True)
    assert not newer(3)
    for known in ((4, False), (3, True)):
        with pytest.raises(NoUsableAnswer):
            newer(*known)
