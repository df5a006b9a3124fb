"""`next`: any number of ids, in three forms, from a service or from the store."""

import json
import re
import subprocess
import sys
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from idservice import errors
from idservice.cli import http_get, next_ids
from idservice.client.protocol import NoUsableAnswer, Reply
from idservice.web.problems import problem
from tests.cli.test_main import Run, _here, assert_refused, run
from tests.processes import environment

__all__ = ["_here", "run"]  # fixtures, used by name

URL = "http://central:8080"


class Central:
    """Stands for the connections to a service: answers with ids, or as `said`."""

    said: list[errors.IdserviceError]  # instead of ids, in this order
    most = 1_000_000
    asked: list[int]
    next = 0

    def __init__(self, address: object, own_key: object) -> None:
        pass

    @classmethod
    def send(cls, method: str, target: str, *, timeout: float) -> Reply:
        assert (method, timeout) == ("POST", 5.0)
        query = {name: values[0] for name, values in parse_qs(urlsplit(target).query).items()}
        count, error = int(query["count"]), cls.said.pop(0) if cls.said else None
        cls.asked.append(count)
        if isinstance(error, NoUsableAnswer):
            raise error
        if count > cls.most:
            error = errors.BadCount(value=str(count), most=cls.most)
        if error is not None:
            refusal = problem(error)
            assert isinstance(refusal.body, bytes)
            return Reply(error.status, "application/problem+json", refusal.body)
        ranges = [{"first": cls.next, "step": 1, "count": count}]
        cls.next += count
        body = {"counter": "orders", "count": count, "epoch": 1, "mode": "block", "ranges": ranges}
        return Reply(200, "application/json", json.dumps({**body, **_nonce(query)}).encode())

    def close(self) -> None:
        pass


def _nonce(query: dict[str, str]) -> dict[str, str]:
    return {"nonce": query["nonce"]}


@pytest.fixture
def central(monkeypatch: pytest.MonkeyPatch) -> type[Central]:
    made: Any = type("Made", (Central,), {"said": [], "asked": []})
    monkeypatch.setattr(next_ids, "ConnectionPool", made)
    return made  # type: ignore[no-any-return]


def test_more_than_one_answer_holds_is_asked_for_in_parts(run: Run, central: Any) -> None:
    central.most = 15_000
    central.said = [None, errors.TooManyWaiting(name="orders", count=9)]
    said = run("next", "--url", URL, "--count", "20000")
    assert (said.code, said.err) == (0, "")
    assert said.out.splitlines() == [str(id) for id in range(20_000)]
    assert central.asked == [20_000, 10_000, 10_000, 10_000]


def test_each_form_is_as_the_service_answers_it(run: Run, central: Any) -> None:
    ranges = run("next", "--url", URL, "--count", "5", "--format", "ranges").out
    assert json.loads(ranges) == {
        "counter": "orders", "count": 5, "epoch": 1, "mode": "block",
        "ranges": [{"first": 0, "step": 1, "count": 5}],
    }  # fmt: skip
    one = run("next", "orders", "--url", URL, "--format", "json").out
    assert one == '{"counter":"orders","id":5}\n'
    several = run("next", "--url", URL, "--format", "json", "--count", "1").out
    assert several == '{"counter":"orders","count":1,"ids":[6]}\n'


@pytest.mark.parametrize(
    ("error", "part"),
    [
        (NoUsableAnswer(url=URL, why="it was cut off"), "ids may be used up"),
        (errors.UnknownCounter(name="orders"), "404"),
    ],
    ids=["no answer", "a refusal"],
)
def test_an_end_half_way_tells_how_many_ids_were_printed(
    run: Run, central: Any, error: errors.IdserviceError, part: str
) -> None:
    central.most = 10_000
    central.said = [errors.BadCount(value="20000", most=10_000)]
    central.said += [None, error]
    said = run("next", "--url", URL, "--count", "20000")
    assert said.code == 1
    assert len(said.out.splitlines()) == 10_000
    assert "10000 of 20000 ids were printed" in said.err
    assert part in said.err


def test_the_store_gives_the_same_forms_and_any_number(run: Run) -> None:
    run("init")
    run("create", "big", "--limit", str(2**60), "--start", str(2**59))
    as_json = json.loads(run("next", "big", "--count", "2", "--format", "json").out)
    assert as_json == {"counter": "big", "count": 2, "ids": [str(2**59), str(2**59 + 1)]}
    many = json.loads(run("next", "--count", "2500000", "--format", "ranges").out)
    assert [each["count"] for each in many["ranges"]] == [1_000_000, 1_000_000, 500_000]
    assert run("next").out == "2500000\n"
    assert_refused(run("next", "--count", "1000000001"), 2, "1000000000")


def test_beside_a_running_service_the_store_says_where_ids_come_from(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ids of the store are above those in memory: 1010 from here, then 1001 over HTTP."""
    run("init")
    monkeypatch.setattr(http_get, "default_url", lambda _: URL)
    monkeypatch.setattr(http_get, "ask", lambda *_, **__: (200, "another server"))
    assert run("next").err == ""
    monkeypatch.setattr(http_get, "ask", lambda *_, **__: (200, "live"))
    said = run("next", "default").err
    assert re.search(r"above .* in memory; to ask a service: idservice next default --url", said)
    assert said.rstrip().endswith(f"--url {URL}")


def test_https_is_asked_too(run: Run) -> None:
    for command in (["next"], ["show", "default"], ["health"]):
        assert_refused(run(*command, "--url", "https://127.0.0.1:1"), 1, "https://127.0.0.1:1")


@pytest.mark.process
def test_it_does_not_load_what_only_a_service_needs() -> None:
    line = "import sys, idservice.cli.next_ids; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", line], env=environment(), capture_output=True, text=True, check=True
    )
    assert not {"aiohttp", "uvloop", "prometheus_client", "aioboto3"} & set(done.stdout.split())
