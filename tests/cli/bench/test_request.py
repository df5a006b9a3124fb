"""What the body of an answer is taken for."""

import pytest

from idservice.cli.bench.request import BenchRequest

RANGES = b'{"counter":"a","count":3,"epoch":1,"mode":"block","ranges":%s}'


def ranges(inner: bytes) -> bytes:
    return RANGES % inner


@pytest.mark.parametrize(
    ("ask", "body", "blocks"),
    [
        (BenchRequest("/n"), b"42", [range(42, 43)]),
        (BenchRequest("/n"), b"9223372036854775806", [range(2**63 - 2, 2**63 - 1)]),
        (BenchRequest("/n", 3), b"1\n2\n3\n", [range(1, 4)]),
        (BenchRequest("/n", 3), b"1\n2\n7\n", [range(1, 3), range(7, 8)]),
        (BenchRequest("/n", 3), b"3\n2\n2\n", [range(3, 4), range(2, 3), range(2, 3)]),
        (BenchRequest("/n", 3, step=8), b"1\n9\n17\n", [range(1, 25, 8)]),
        (
            BenchRequest("/n", 3, True),
            ranges(b'[{"first":5,"step":8,"count":3}]'),
            [range(5, 29, 8)],
        ),
        (
            BenchRequest("/n", 3, True),
            ranges(b'[{"first":"5","step":1,"count":1},{"first":"9","step":1,"count":2}]'),
            [range(5, 6), range(9, 11)],
        ),
        (
            BenchRequest("/n", ranges=True),
            ranges(b'[{"first":5,"step":1,"count":1}]'),
            [range(5, 6)],
        ),
    ],
)  # fmt: skip
def test_ids_are_read_in_the_order_given(
    ask: BenchRequest, body: bytes, blocks: list[range]
) -> None:
    assert ask.blocks(body) == blocks


@pytest.mark.parametrize(
    "body",
    [b"", b"\n", b"1\n", b" 1", b"-1", b"+1", b"1_0", b"x", "٣".encode(), b"9" * 5000, b"{}"],
)
def test_a_body_that_is_not_one_id_is_refused(body: bytes) -> None:
    assert BenchRequest("/n").blocks(body) is None


@pytest.mark.parametrize(
    "body",
    [b"", b"\n", b"1\n2\n", b"1\n2\n3", b"1\n2\n33", b"1\n2\n3\n4\n", b"1\n\n3\n",
     b"1\n-2\n3\n", b"1 2 3\n",
     b"1\nx\n3\n", b'1\n"2"\n3\n', b"1\n2],[3\n", b"1\n" + b"9" * 5000 + b"\n3\n"],
)  # fmt: skip
def test_a_body_that_is_not_such_a_batch_is_refused(body: bytes) -> None:
    assert BenchRequest("/n", 3).blocks(body) is None


@pytest.mark.parametrize(
    "inner",
    [b"[]", b"{}", b"[1]", b'[{"first":1,"step":1,"count":2}]', b'[{"first":1,"step":0,"count":3}]',
     b'[{"first":-1,"step":1,"count":3}]', b'[{"first":"x","step":1,"count":3}]',
     b'[{"first":1,"step":1,"count":4},{"first":9,"step":1,"count":-1}]',
     b'[{"first":1,"step":1,"count":99999999999999999999}]'],
)  # fmt: skip
def test_a_body_that_is_not_such_ranges_is_refused(inner: bytes) -> None:
    assert BenchRequest("/n", 3, True).blocks(ranges(inner)) is None
    assert BenchRequest("/n", 3, True).blocks(b"12") is None


def test_a_target_names_what_is_asked_for() -> None:
    assert BenchRequest("/next").target == "/next"
    assert BenchRequest("/next", 5).target == "/next?count=5"
    assert BenchRequest("/next", 5, True).target == "/next?format=ranges&count=5"
    assert BenchRequest("/next", ranges=True).target == "/next?format=ranges&count=1"
