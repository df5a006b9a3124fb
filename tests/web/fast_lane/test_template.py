"""Which requests are known by the one before: never one that a parser would judge otherwise."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idservice.web.fast_lane.parser import TELLING, RequestParser
from idservice.web.fast_lane.template import VALUES_MAX, template_of

LINE = b"GET /next HTTP/1.1"
NAMES = st.sampled_from(
    [b"host", b"Accept", b"Connection", b"traceparent", b"Authorization", b"X-Id", b"Cookie", b"a",
     b"Proxy-Connection", *(name.encode() for name in sorted(TELLING))]
)  # fmt: skip
VISIBLE = st.binary(min_size=6, max_size=6).map(
    lambda value: bytes(0x20 + byte % 0x5F for byte in value)
)
VALUE = st.one_of(
    VISIBLE,
    VISIBLE,
    VISIBLE,
    st.binary(min_size=6, max_size=6),
    st.sampled_from([b"a\r\nb:c", b"\r\n\r\nGE", b"close ", b" close", b"a\tb\rcd", b"chunke"]),
)


def head(names: list[bytes], values: list[bytes]) -> bytes:
    lines = [name + b": " + value for name, value in zip(names, values, strict=True)]
    return b"\r\n".join([LINE, *lines]) + b"\r\n\r\n"


@pytest.mark.long
@settings(max_examples=1500, derandomize=True, deadline=None, database=None)
@given(st.data())
def test_what_fits_is_judged_by_the_parser_as_the_two_it_was_learnt_from(
    data: st.DataObject,
) -> None:
    names = [b"Host", *data.draw(st.lists(NAMES, max_size=5))]
    same = data.draw(st.lists(VALUE, min_size=len(names), max_size=len(names)))
    heads = []
    for _ in range(3):
        vary = data.draw(st.lists(st.booleans(), min_size=len(names), max_size=len(names)))
        values = [data.draw(VALUE) if v else s for v, s in zip(vary, same, strict=True)]
        heads.append(head(names, values))
    judged = [RequestParser().plain(one) for one in heads]
    if judged[0] is None or judged[1] is None:
        return  # the lane learns from plain requests alone
    form = template_of(heads[0], heads[1])
    if form is not None and form.fits(heads[2]):
        assert judged[2] == judged[0] == judged[1]


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
