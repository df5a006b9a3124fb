"""Counters with shards over HTTP: created, shown, and their ids in every form an answer has."""

import json
from random import Random

from idservice.catalogue.counters import described, new_counter
from idservice.stores.records import Position
from tests.web.conftest import Serve, Serving
from tests.web.test_contract import JSON, assert_problem


async def sharded(serving: Serving, body: str = '{"shards":4,"start":100}') -> str:
    made = await serving.ask("/v1/counters/s", "PUT", body=body.encode())
    assert made.status == 201, made
    return "/v1/counters/s/next"


async def test_a_counter_is_created_with_shards_and_shows_where_each_stands(
    serving: Serving,
) -> None:
    path = await sharded(serving)
    again = await serving.ask("/v1/counters/s", "PUT", body=b'{"start":100,"shards":4}')
    assert (again.status, again.json["shards"]) == (200, 4)
    for other in (b'{"start":100,"shards":5}', b'{"start":100}'):
        assert_problem(
            await serving.ask("/v1/counters/s", "PUT", body=other), 409, "counter_differs"
        )
    shown = (await serving.ask("/v1/counters/s")).json
    assert (shown["next"], shown["next_by_shard"]) == (100, [100, 101, 102, 103])
    first = int((await serving.ask(path)).body)
    shown = (await serving.ask("/v1/counters/s")).json
    assert shown["next_by_shard"][first - 100] == first + 4 * (1 + shown["ids_in_memory"])
    assert shown["next"] == min(shown["next_by_shard"])
    assert "next_by_shard" not in (await serving.ask("/v1/counters/default")).json
    listed = (await serving.ask("/v1/counters")).json["counters"]
    assert {one["counter"]: one["shards"] for one in listed} == {"default": 1, "s": 4}


async def test_ids_are_a_step_apart_in_text_json_and_ranges(serving: Serving) -> None:
    path = await sharded(serving)
    first = int((await serving.ask(path)).body)
    assert first in range(100, 104)
    as_text = await serving.ask(f"{path}?count=3")
    assert as_text.body == b"".join(b"%d\n" % (first + 4 * at) for at in (1, 2, 3))
    one = await serving.ask(path, headers=JSON)
    assert one.body == b'{"counter":"s","id":%d}' % (first + 16)
    several = await serving.ask(f"{path}?count=2", headers=JSON)
    assert several.json["ids"] == [first + 20, first + 24]
    ranges = await serving.ask(f"{path}?format=ranges&count=1000&nonce=n")
    assert ranges.json == {
        "counter": "s", "count": 1000, "epoch": 1, "mode": "block", "nonce": "n",
        "ranges": [{"first": first + 28, "step": 4, "count": 1000}],
    }  # fmt: skip
    single = await serving.ask(f"{path}?format=ranges")
    assert single.json["ranges"] == [{"first": first + 28 + 4000, "step": 4, "count": 1}]


async def test_ids_beyond_what_javascript_keeps_are_strings_with_shards_too(
    serving: Serving,
) -> None:
    high = 2**53
    path = await sharded(serving, f'{{"shards":2,"start":"{high}","limit":"{high + 99}"}}')
    ids = (await serving.ask(f"{path}?format=json&count=2")).json["ids"]
    assert [type(id) for id in ids] == [str, str]
    assert int(ids[1]) - int(ids[0]) == 2
    shown = (await serving.ask("/v1/counters/s")).json
    assert {type(each) for each in (shown["next"], *shown["next_by_shard"])} == {str}


async def test_all_ids_up_to_the_limit_come_out_of_all_shards_and_then_410(
    serving: Serving,
) -> None:
    path = await sharded(serving, '{"shards":3,"limit":30}')
    assert_problem(await serving.ask(f"{path}?count=32"), 410, "exhausted")
    got = [int(id) for id in (await serving.ask(f"{path}?count=20")).body.split()]
    got += [int((await serving.ask(path)).body) for _ in range(11)]
    assert sorted(got) == list(range(31))
    for target in (path, f"{path}?count=2", f"{path}?format=ranges&count=2"):
        assert_problem(await serving.ask(target), 410, "exhausted")


def test_next_is_the_lowest_of_all_shards_and_a_closed_one_is_suspect() -> None:
    counter = new_counter("s", Random(1), shards=3, start=100)
    stands = [
        Position(9, 9, 1, counter.epoch, (range(2, 4),)),
        Position(2, 2, 1, counter.epoch),
        Position(5, 5, 1, counter.epoch, (range(1),)),
    ]
    shown = described(counter, 30.0, stands)
    assert (shown["next"], shown["next_by_shard"]) == (107, [127, 107, 117])
    assert (shown["returned"], shown["state"]) == (3, "active")
    stands[2] = Position(5, 5, 1, "gone-back:1")
    assert described(counter, 30.0, stands)["state"] == "suspect"


async def test_a_batch_of_several_shards_is_told_as_a_range_of_each(serve: Serve) -> None:
    serving = await serve()
    path = await sharded(serving, '{"shards":3,"limit":29}')
    ranges = (await serving.ask(f"{path}?format=ranges&count=30")).json["ranges"]
    assert sorted(json.dumps(one, sort_keys=True) for one in ranges) == [
        f'{{"count": 10, "first": {shard}, "step": 3}}' for shard in range(3)
    ]


async def test_moves_between_shards_are_on_the_metrics_page(serving: Serving) -> None:
    path = await sharded(serving, '{"shards":3,"limit":29}')
    assert (await serving.ask(f"{path}?count=30")).status == 200
    page = (await serving.ask("/metrics")).body.decode()
    assert 'idservice_shard_moves_total{cause="exhausted",counter="s"} 2.0' in page
