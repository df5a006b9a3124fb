"""The watch for access keys in what tests see fails a test that sees one."""

import logging
import sys
from random import Random

import pytest

from idservice.core.access_key import RANDOM_NUMBERS, Role, key_text
from tests import leaks

KEY = key_text(Role.ADMIN, [Random(1).getrandbits(32) for _ in range(RANDOM_NUMBERS)])
LEAKS = pytest.mark.xfail(
    strict=True, reason="the watch must fail it", raises=pytest.fail.Exception
)


@LEAKS
def test_a_key_that_is_printed_fails_the_test() -> None:
    print(f"GET /next {KEY}")


@LEAKS
def test_a_key_in_an_error_message_fails_the_test() -> None:
    print("the key", KEY, file=sys.stderr)


@LEAKS
def test_a_key_in_the_log_fails_the_test() -> None:
    logging.getLogger("idservice.access").warning("refused: %s", KEY)


@LEAKS
def test_a_key_in_the_middle_of_bytes_fails_the_test() -> None:
    leaks.look(b"\xff<td>" + KEY.encode() + b"</td>", "a page")


@pytest.mark.prints_a_key
def test_a_test_that_prints_a_key_on_purpose_passes() -> None:
    print(KEY)


def test_what_is_no_whole_key_passes() -> None:
    print(KEY[:-1], KEY[:-1] + ("0" if KEY[-1] != "0" else "1"), KEY[:20] + "...")
