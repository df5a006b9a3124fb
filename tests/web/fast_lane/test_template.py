"""Which requests are known by the one before: never one that a parser would judge otherwise."""

from random import Random

import pytest

from idservice import errors
from idservice.web.fast_lane.parser import HEAD_MAX, TELLING, RequestParser
from idservice.web.fast_lane.template import VALUES_MAX, template_of
from idservice.web.request import IdRequest, WebLimits, read_id_request

LINE = b"GET /next HTTP/1.1"
KEYS = [b"r", b"_", b"cb", b"count", b"format", b"x", b"R", b"time"]
IN_QUERY = [b"", b"1", b"12", b"a.b", b"json", b"1&r=2", b"%31", b"1 ", b"+", b"1#", b"x=y", b"a?b"]
NAMES = [b"host", b"Accept", b"Connection", b"traceparent", b"Authorization", b"X-Id", b"Cookie",
         b"a", b"Proxy-Connection", *(name.encode() for name in sorted(TELLING))]  # fmt: skip
HOSTILE = [b"a\r\nb:c", b"\r\n\r\nGE", b"close ", b" close", b"a\tb\rcd", b"chunke"]
CASES = 10_000


def value(random: Random) -> bytes:
    """Three of five are of visible characters alone."""
    match random.randrange(5):
        case 0:
            return random.randbytes(6)
        case 1:
            return random.choice(HOSTILE)
    return bytes(0x20 + byte % 0x5F for byte in random.randbytes(random.randrange(9)))


def head(names: list[bytes], values: list[bytes], line: bytes = LINE) -> bytes:
    lines = [name + b": " + value for name, value in zip(names, values, strict=True)]
    return b"\r\n".join([line, *lines]) + b"\r\n\r\n"


@pytest.mark.long
def test_what_fits_is_judged_by_the_parser_as_the_two_it_was_learnt_from() -> None:
    random, fitted = Random(1), 0
    for _ in range(CASES):
        names = [b"Host", *random.choices(NAMES, k=random.randrange(6))]
        same = [value(random) for _ in names]
        heads = [
            head(names, [value(random) if random.random() < 0.5 else one for one in same])
            for _ in range(3)
        ]
        judged = [RequestParser().plain(one) for one in heads]
        if judged[0] is None or judged[1] is None:
            continue  # the lane learns from plain requests alone
        form = template_of(heads[0], heads[1])
        if form is not None and form.fits(heads[2]):
            fitted += 1
            assert judged[2] == judged[0] == judged[1], heads
    assert fitted > 100


def asked(line: bytes) -> IdRequest | type[errors.IdserviceError]:
    """What a request line asks for, or how it is refused."""
    try:
        return read_id_request(line.split(b" ")[1].decode(), "", WebLimits())
    except errors.IdserviceError as error:
        return type(error)


@pytest.mark.long
def test_request_lines_that_fit_ask_for_the_same() -> None:
    random, fitted = Random(1), 0
    for _ in range(CASES):
        keys = random.choices(KEYS, k=random.randrange(1, 4))
        same = [random.choice(IN_QUERY) for _ in keys]
        lines = [
            b"GET /next?"
            + b"&".join(
                key + b"=" + (random.choice(IN_QUERY) if random.random() < 0.5 else value)
                for key, value in zip(keys, same, strict=True)
            )
            + b" HTTP/1.1"
            for _ in range(3)
        ]
        if any(len(line.split(b" ")) != 3 for line in lines[:2]):
            continue
        form = template_of(*(head([b"Host"], [b"h"], line) for line in lines[:2]))
        if form is not None and form.fits(head([b"Host"], [b"h"], lines[2])):
            fitted += 1
            assert len({line.count(b" ") for line in lines}) == 1, lines
            if isinstance(asked(lines[0]), IdRequest):  # the lane learns from such alone
                assert asked(lines[0]) == asked(lines[1]) == asked(lines[2]), lines
    assert fitted > 100


def varied(*values: bytes) -> bytes:
    return head([b"Host", *(b"X-%d" % number for number in range(len(values)))], [b"h", *values])


def test_values_that_vary_are_found_and_others_must_stay() -> None:
    form = template_of(varied(b"aaa", b"same", b"bbb"), varied(b"ccc", b"same", b"ddd"))
    assert form is not None
    assert form.fits(varied(b"e e", b"same", b"~!f"))
    assert not form.fits(varied(b"eee", b"sane", b"fff"))
    assert form.fits(varied(b"eeee", b"same", b""))
    assert not form.fits(varied(b"e" * HEAD_MAX, b"same", b"fff"))  # for aiohttp to judge
    assert not form.fits(varied(b"eee", b"same", b"fff") + b"G")
    assert not form.fits(varied(b"eee", b"same", b"ff\n"))
    assert not form.fits(varied(b"eee", b"same", b"ff\xff"))


def test_two_that_differ_in_more_than_a_few_values_have_no_form() -> None:
    count = VALUES_MAX + 1
    assert template_of(varied(*[b"a"] * count), varied(*[b"b"] * count)) is None
    assert template_of(varied(b"a"), varied(b"a")) is None
    assert template_of(varied(b"a").replace(b"X-0", b"X-1"), varied(b"a")) is None
    assert template_of(varied(b"a").replace(b"GET", b"PUT"), varied(b"a")) is None
    queried = [varied(b"a").replace(b"/next", b"/next?x:%d" % number) for number in range(2)]
    assert template_of(*queried) is None


@pytest.mark.parametrize(
    ("one", "other", "third", "fits"),
    [
        ("/next?r=1", "/next?r=2", "/next?r=12345", True),
        ("/next?count=2&r=1", "/next?count=2&r=x", "/next?count=2&r=", True),
        ("/next?count=2&r=1", "/next?count=2&r=x", "/next?count=3&r=1", False),
        ("/next?r=1", "/next?r=2", "/next?r=3&count=2", False),
        ("/next?r=1", "/next?r=2", "/next?r=%33", False),
        ("/next?r=1&_=1", "/next?r=2&_=2", "/next?r=3&_=3", True),
        ("/a&r=1?x=b", "/a&r=1?x=b", "/a&r=2?x=b", False),  # a path is no query
        ("/next?r=1", "/nexT?r=1", "/next?r=1", False),
    ],
)
def test_a_key_against_caches_may_vary(one: str, other: str, third: str, fits: bool) -> None:
    heads = [head([b"Host"], [b"h"], f"GET {at} HTTP/1.1".encode()) for at in (one, other, third)]
    form = template_of(heads[0], heads[1])
    assert (form is not None and form.fits(heads[2])) is fits
