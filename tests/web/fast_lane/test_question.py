"""Another key in the place of one: never where a parser would read more than another key."""

import re
from random import Random

import pytest

from idservice.core.access_key import BUCKETS, RANDOM_NUMBERS, Role, key_text
from idservice.stores.key_store import KeyBucket
from idservice.web.fast_lane import question
from idservice.web.fast_lane.parser import HEAD_MAX, RequestParser
from idservice.web.fast_lane.question import Question
from tests.web.conftest import Serve
from tests.web.fast_lane.keyed import lanes, said
from tests.web.fast_lane.pair import GET, H, head

CASES = 4_000
NAMES = [b"Authorization", b"authorization", b"AUTHORIZATION", b"Proxy-Authorization"]
OTHERS = [b"X-Key", b"Accept", b"Connection", b"X-Authorization"]
VALUES = [
    b"Bearer a", b"Bearer idk_use_1", b"Bearer idk_use_2", b"a", b"close", b"keep-alive", b"",
    b" Bearer a", b"Bearer a ", b"Bearer a\t", b"\tBearer a", b"Bearer\ta", b"Bearer \xe9",
    b"Bearer a\r\nX: b", b"Bearer a\r\nConnection: close", b"Bearer a\r\n b", b"Bearer a\nX: b",
    b"Bearer a\r\n\r\nGET / HTTP/1.1", b"Bearer a\r", b"Bearer \0", b"b" * HEAD_MAX,
]  # fmt: skip


def read(one: bytes) -> Question | None:
    parser = RequestParser()
    accept = parser.plain(one)
    return None if accept is None else Question(one, accept, parser.authorization, parser.closes)


def mixed(random: Random) -> bytes:
    names = [random.choice(NAMES), *(name for name in OTHERS if random.random() < 0.3)]
    space = random.choice([b": ", b": ", b":"])
    lines = [name + space + random.choice(VALUES) for name in names]
    random.shuffle(lines)
    return head(GET, H, *lines)


def another_key_is_read_as_a_parser_does() -> None:
    random, found = Random(1), 0
    for _ in range(CASES):
        one = mixed(random)
        known = read(one)
        if known is None:
            continue
        for _ in range(8):
            count = random.choice([1, -1])
            other = one.replace(random.choice(VALUES[:4]), random.choice(VALUES), count)
            key = known.other_key(other)
            if key is not None:
                found += 1
                parser = RequestParser()
                assert len(other) <= HEAD_MAX
                assert parser.plain(other) == known.accept, (one, other)
                assert (parser.authorization, parser.closes) == (key, known.closes), (one, other)
    assert found > 100


def test_another_key_is_read_as_a_parser_reads_it() -> None:
    another_key_is_read_as_a_parser_does()


@pytest.mark.parametrize(("what", "fault"), [
    ("_value", re.compile(rb"(?s).*").fullmatch),
    ("_value", re.compile(rb"[ -~]*").fullmatch),
    ("HEADER", b" "),
    ("HEADER", b"authorization: "),
    ("HEAD_MAX", 2 * HEAD_MAX),
])  # fmt: skip
def test_a_planted_fault_of_a_question_is_found(
    monkeypatch: pytest.MonkeyPatch, what: str, fault: object
) -> None:
    monkeypatch.setattr(question, what, fault)
    with pytest.raises(AssertionError):
        another_key_is_read_as_a_parser_does()


def test_a_question_without_a_key_fits_nothing_else() -> None:
    known = read(head(GET, H))
    assert known is not None
    for other in (head(GET, H), head(GET, H, b"Authorization: Bearer a"), b"", b"a"):
        assert known.other_key(other) is None


async def test_keys_that_are_guessed_are_neither_parsed_nor_kept(serve: Serve) -> None:
    async with lanes(serve) as hand:
        random, parsed = Random(5), []
        lane, wire = hand.lane()
        hand.bearers.known._buckets |= {one: KeyBucket(one) for one in BUCKETS}
        lane.data_received(hand.get("foreign"))
        plain, tables = hand.lanes.parser.plain, (hand.lanes._known, hand.lanes.responder.answers)
        hand.lanes.parser.plain = lambda head: parsed.append(head) or plain(head)
        before = [len(one) for one in tables]
        for _ in range(64):
            text = key_text(Role.USE, [random.getrandbits(32) for _ in range(RANDOM_NUMBERS)])
            hand.bearers.shown["another"] = b"Bearer " + text.encode()
            lane.data_received(hand.get("another"))
        lane.data_received(hand.get("mine"))
        assert said(wire) == [403] + [401] * 64 + [200]
        assert not parsed
        assert [len(one) for one in tables] == before
