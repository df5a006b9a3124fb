"""The log says where a request came from whose key was refused, and believes no header."""

import io
import logging
from random import Random
from typing import Any

import pytest

from idservice.access import refusal_log
from idservice.core.access_key import RANDOM_NUMBERS, Role, key_text
from idservice.observability.logs import JsonLines, Lines

from .conftest import Serve

FORWARDED = {"X-Forwarded-For": "203.0.113.9", "Forwarded": "for=203.0.113.9"}
WRONG = key_text(Role.USE, [Random(9).getrandbits(32) for _ in range(RANDOM_NUMBERS)])


@pytest.mark.parametrize("shown", ["nothing", "a typo", "a wrong key", "too little"])
async def test_a_refusal_is_logged_with_the_address_of_the_client(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, shown: str
) -> None:
    written = io.StringIO()
    log = logging.getLogger("idservice.access")
    handlers = [logging.StreamHandler(written), logging.StreamHandler(written)]
    for handler, form in zip(handlers, (JsonLines(), Lines()), strict=True):
        handler.setFormatter(form)
        log.addHandler(handler)
    try:
        serving = await serve(asks=True)
        _, foreign = await serving.make("use", "acme.*")
        keys = {"a typo": f"Bearer {WRONG[:-1]}", "a wrong key": f"Bearer {WRONG}"}
        sent = foreign if shown == "too little" else {}
        sent |= {"Authorization": keys[shown]} if shown in keys else {}
        for target in ("/next", "/v1/counters"):  # by the lane, and by aiohttp
            monkeypatch.setattr("idservice.access.refusal_log._others._next", 0.0)
            answer = await serving.ask(target, headers={**FORWARDED, **sent})
            assert answer.status in (200, 401, 403)
    finally:
        for handler in handlers:
            log.removeHandler(handler)
    lines = [one for one in written.getvalue().splitlines() if "was refused" in one]
    assert len(lines) == (2 if shown == "too little" else 4)  # a list shows what there is
    assert all("a request from 127.0.0.1 was refused: " in line for line in lines)
    assert "203.0.113.9" not in written.getvalue()


class Known:
    def __init__(self, peername: object) -> None:
        self.peername = peername

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        assert name == "peername"
        return self.peername


def test_each_kind_of_client_has_a_name() -> None:
    assert refusal_log._place(Known(("2001:db8::7", 5, 0, 0))) == "2001:db8::7"
    assert refusal_log._place(Known("")) == "a Unix socket"
    assert refusal_log._place(Known(None)) == refusal_log._place(None) == "a client that is gone"
