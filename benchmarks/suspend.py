"""The time from the suspension of a counter to its last id on any instance.

There are two instances on one SQLite file, and a sidecar that borrows from the first for 10 s. All
hold ids, and are asked in turns all the time. The clock starts when the suspension is sent to the
first. The counter is resumed before each round.
"""

import http.client
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measure import Row, check, distinct, spread
from benchmarks.processes import get, on_load_core, serving

GOAL_S = 3.0  # instances learn of it when they look at the catalogue, every 2 s
HOLD_S = 10
CHAINED_GOAL_S = GOAL_S + HOLD_S
QUIET_S = 1.0  # without an id from any instance, after the goal


def run(quick: bool) -> list[Row]:
    """Return the rows of `suspend`."""
    rounds, hold_s, pause_s = (1, 1, 0.05) if quick else (5, HOLD_S, 0.0)
    ids: list[int] = []
    direct: list[float] = []
    chained: list[float] = []
    with tempfile.TemporaryDirectory() as folder, on_load_core():
        store = ("--store", f"sqlite:{Path(folder) / 'store'}", "--init", "--allow-changes")
        with (
            serving(*store) as (first, _, _),
            serving(*store) as (second, _, _),
            serving("--store", f"http://127.0.0.1:{first}", "--hold", str(hold_s)) as (sidecar, *_),
        ):
            for _ in range(rounds):
                _say(first, "active")
                _until_all_serve((first, second, sidecar), ids)
                found = _suspended(first, (first, second, sidecar), GOAL_S + hold_s, pause_s, ids)
                direct.append(max(found[first], found[second]))
                chained.append(found[sidecar])
    distinct(ids)
    return [
        Row(
            "suspend: seconds to the last id, two instances",
            max(direct), "s", GOAL_S, f"the longest of {rounds}; {spread(direct)}",
        ),
        Row(
            f"suspend: the same, a sidecar that may hold ids for {hold_s} s",
            max(chained), "s", CHAINED_GOAL_S, f"the longest of {rounds}; {spread(chained)}",
        ),
    ]  # fmt: skip


def _say(port: int, state: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    body, kind = json.dumps({"state": state}), {"Content-Type": "application/json"}
    connection.request("PATCH", "/v1/counters/default", body, kind)
    answer = connection.getresponse()
    check(answer.status in (200, 202), f"{state}: {answer.status} {answer.read()!r}")
    connection.close()


def _until_all_serve(ports: Sequence[int], ids: list[int]) -> None:
    waiting, deadline = set(ports), time.perf_counter() + 20
    while waiting:
        check(time.perf_counter() < deadline, "a resumed counter is not served")
        for port in tuple(waiting):
            if _take(port, ids):
                waiting.discard(port)
    for port in tuple(ports) * 200:  # so that memory holds many ids
        _take(port, ids)


def _suspended(
    by: int, ports: Sequence[int], most_s: float, pause_s: float, ids: list[int]
) -> dict[int, float]:
    """Return the seconds from the suspension to the last id of each."""
    last = dict.fromkeys(ports, 0.0)
    began = time.perf_counter()
    _say(by, "suspended")
    while (now := time.perf_counter() - began) < max(most_s, max(last.values())) + QUIET_S:
        check(now < 10 * most_s, "it is never suspended")
        for port in ports:
            if _take(port, ids):
                last[port] = time.perf_counter() - began
        time.sleep(pause_s)
    return last


def _take(port: int, ids: list[int]) -> bool:
    status, body = get(port, "/next")
    check(status in (200, 423, 503), f"{status} {body}")
    if status == 200:
        ids.append(int(body))
    return status == 200
