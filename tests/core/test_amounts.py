"""Amounts are taken literally, to the last digit, as decimal arithmetic has them."""

from decimal import Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from idservice.core.amounts import AMOUNT_MAX, DECIMALS_MAX, units, written

PLACES = st.integers(0, DECIMALS_MAX)
DIGITS = st.text(alphabet="0123456789", max_size=20)
LITERAL = st.builds(
    lambda sign, whole, rest: f"{sign}{whole or '0'}{'.' + rest if rest else ''}",
    st.sampled_from(("", "-")), DIGITS, st.text(alphabet="0123456789", max_size=10),
)  # fmt: skip
ANY = st.text(alphabet="0123456789.-+eE ,_٣\n\x00", max_size=25)


@given(st.integers(-AMOUNT_MAX, AMOUNT_MAX), PLACES)
@example(AMOUNT_MAX, DECIMALS_MAX)
@example(-1, 0)
@example(0, 9)
def test_what_is_written_is_read_again_and_is_the_same_decimal(value: int, places: int) -> None:
    text = written(value, places)
    assert units(text, places) == value
    assert Decimal(text) == Decimal(value).scaleb(-places)
    assert len(text.partition(".")[2]) == places


@given(LITERAL | ANY, PLACES)
@example("0.30000000000000004", 2)
@example("-0", 0)
@example("1.", 2)
@example("1\n", 0)
@example("00.5", 2)
@example("999999999999999999", 0)
@example("1000000000000000000", 0)
@example("999999999.999999999", 9)
@example("1000000000", 9)
def test_a_text_is_its_exact_decimal_value_or_refused(text: str, places: int) -> None:
    whole, point, fraction = text.removeprefix("-").partition(".")
    digits = whole.isascii() and whole.isdigit() and (whole == "0" or whole[0] != "0")
    if point:
        digits = digits and fraction.isascii() and fraction.isdigit() and len(fraction) <= places
    fits = digits and abs(Decimal(text).scaleb(places)) <= AMOUNT_MAX
    if not fits:
        with pytest.raises(ValueError, match=r"number|below"):
            units(text, places)
        return
    assert units(text, places) == Decimal(text).scaleb(places)


@given(st.lists(st.integers(-(10**6), 10**6), max_size=30), PLACES)
def test_sums_of_amounts_lose_no_cent(values: list[int], places: int) -> None:
    texts = [written(value, places) for value in values]
    total = sum(units(text, places) for text in texts)
    assert Decimal(written(total, places)) == sum(map(Decimal, texts), Decimal(0))


@pytest.mark.parametrize("text", ["1" + "0" * 18, "-" + "9" * 40])
def test_an_amount_with_too_many_digits_is_told_the_range(text: str) -> None:
    with pytest.raises(ValueError, match=r"^above -1(0{16})\.00 and below 1(0{16})\.00$"):
        units(text, 2)
