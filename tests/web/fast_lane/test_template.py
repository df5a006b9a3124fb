"""Which requests are known by the one before: never one that a parser would judge otherwise."""

from random import Random

import pytest

from idservice.web.fast_lane.parser import TELLING, RequestParser
from idservice.web.fast_lane.template import VALUES_MAX, template_of

LINE = b"GET /next HTTP/1.1"
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
    return bytes(0x20 + byte % 0x5F for byte in random.randbytes(6))


def head(names: list[bytes], values: list[bytes]) -> bytes:
    lines = [name + b": " + value for name, value in zip(names, values, strict=True)]
    return b"\r\n".join([LINE, *lines]) + b"\r\n\r\n"


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


def varied(*values: bytes) -> bytes:
    return head([b"Host", *(b"X-%d" % number for number in range(len(values)))], [b"h", *values])


def test_values_that_vary_are_found_and_others_must_stay() -> None:
    form = template_of(varied(b"aaa", b"same", b"bbb"), varied(b"ccc", b"same", b"ddd"))
    assert form is not None
    assert form.fits(varied(b"e e", b"same", b"~!f"))
    assert not form.fits(varied(b"eee", b"sane", b"fff"))
    assert not form.fits(varied(b"eee", b"same", b"ffff"))
    assert not form.fits(varied(b"eee", b"same", b"ff\n"))
    assert not form.fits(varied(b"eee", b"same", b"ff\xff"))


def test_two_that_differ_in_more_than_a_few_values_have_no_form() -> None:
    count = VALUES_MAX + 1
    assert template_of(varied(*[b"a"] * count), varied(*[b"b"] * count)) is None
    assert template_of(varied(b"a"), varied(b"a")) is None
    assert template_of(varied(b"a"), varied(b"aa")) is None
    assert template_of(varied(b"a").replace(b"X-0", b"X-1"), varied(b"a")) is None
    assert template_of(varied(b"a").replace(b"GET", b"PUT"), varied(b"a")) is None
    queried = [varied(b"a").replace(b"/next", b"/next?x:%d" % number) for number in range(2)]
    assert template_of(*queried) is None
