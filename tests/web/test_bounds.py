"""Bounds of a counter over HTTP: created, changed, shown, and how requests beyond are refused."""

import msgspec

from .conftest import Serving
from .rows import Rows
from .test_contract import assert_problem
from .wire import Answer

PATH = "/v1/counters/orders"


async def send(serving: Serving, method: str, **body: object) -> Answer:
    return await serving.ask(PATH, method, body=msgspec.json.encode(body))


async def test_beyond_its_rate_a_counter_answers_429_and_when_to_come_again(
    serving: Serving,
) -> None:
    assert (await send(serving, "PUT", rate_max=0.01)).status == 201
    for target in (f"{PATH}/next", f"{PATH}/next?format=json", f"{PATH}/next?format=ranges"):
        answer = await serving.ask(target)
        if target == f"{PATH}/next":
            assert (answer.status, answer.body) == (200, b"0")
            answer = await serving.ask(target)
        assert_problem(answer, 429, "rate_exceeded")
        assert 90 <= int(answer.headers["retry-after"]) <= 100
        assert answer.json["retryable"] is True
        assert "rate_max of 0.01 ids/s" in answer.json["detail"]
    page = (await serving.ask("/metrics")).text
    assert 'idservice_refusals_total{code="rate_exceeded",counter="orders"} 3.0' in page
    assert (await send(serving, "PATCH", rate_max=0)).status == 200
    assert [(await serving.ask(f"{PATH}/next")).body for _ in range(3)] == [b"1", b"2", b"3"]


async def test_a_request_above_the_bound_is_refused_and_uses_no_id(serving: Serving) -> None:
    assert (await send(serving, "PUT", request_max=3)).status == 201
    for target in (f"{PATH}/next?count=4", f"{PATH}/next?count=4&format=ranges"):
        answer = await serving.ask(target)
        assert_problem(answer, 400, "bad_count")
        assert "at most 3 ids per request" in answer.json["detail"]
    assert (await serving.ask(f"{PATH}/next?count=3")).body == b"0\n1\n2\n"


async def test_bounds_are_shown_changed_and_compared(serving: Serving) -> None:
    bounds = {"request_max": 100, "rate_max": 2.5}
    made = await send(serving, "PUT", **bounds)
    assert {name: made.json[name] for name in bounds} == bounds
    assert (await send(serving, "PUT", **bounds)).status == 200
    differs = await send(serving, "PUT", request_max=100)
    assert_problem(differs, 409, "counter_differs")
    assert "rate_max is 2.5, not none" in differs.json["detail"]
    changed = await send(serving, "PATCH", request_max=7, limit=1000)
    assert (changed.json["request_max"], changed.json["epoch"]) == (7, 2)
    shown = (await serving.ask(PATH)).json
    assert (shown["request_max"], shown["rate_max"], shown["limit"]) == (7, 2.5, 1000)
    gone = await send(serving, "PATCH", request_max=0, rate_max=0)
    assert not bounds.keys() & gone.json.keys()
    assert not bounds.keys() & (await serving.ask("/v1/counters/default")).json.keys()


async def test_a_rate_of_next_to_nothing_gives_one_id_and_says_to_come_again(
    serving: Serving,
) -> None:
    assert (await send(serving, "PUT", rate_max=5e-324)).status == 201
    assert (await serving.ask(f"{PATH}/next")).body == b"0"
    later = await serving.ask(f"{PATH}/next")
    assert_problem(later, 429, "rate_exceeded")
    assert later.headers["retry-after"] == "600"


async def test_a_bound_that_makes_no_sense_is_refused(rows: Rows[Serving]) -> None:
    for body in (
        {"request_max": -1}, {"request_max": 1.5}, {"request_max": 10**9}, {"request_max": True},
        {"rate_max": -1}, {"rate_max": 1e13}, {"rate_max": "1"},
    ):  # fmt: skip
        async with rows.row(body) as serving:
            for method in ("PUT", "PATCH"):
                assert_problem(await send(serving, method, **body), 400, "bad_configuration")
