"""CPU time of the server for one `GET /next` with an access key, beside one where none is needed.

One server has two listeners, and one of them asks for keys. They get requests of the same length in
turns. Those to the other listener have a token that is not a key. As `http`: the server runs on one
core, 64 connections from wrk on the other, flat out.
"""

import asyncio
import logging
import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from random import Random
from statistics import median

from benchmarks.measure import ROUNDS, Row, check, cpu_seconds, interleaved, ratio, spread
from benchmarks.processes import ROOT, free_port, on_load_core, serving
from benchmarks.wrk import CONNECTIONS, MISSING, run_wrk
from idservice.access.changes import KeyChanges
from idservice.core.access_key import MARK, RANDOM_NUMBERS, Role, key_text
from idservice.stores import open_store
from idservice.stores.protocol import has_catalogue

WRONG = 10_000  # keys that were never made, in turns: more than are remembered
SCRIPT = ROOT / "benchmarks" / "keys.lua"
ONE, EACH, TWO = "one key", "64 keys, one per connection", "two keys in turns on each connection"
SAME, OTHERS = "a wrong key", f"{WRONG:,} wrong keys in turns"
# In words: the most that the ratio may be.
GOALS: dict[str, float | None] = {ONE: 1.03, EACH: 1.05, TWO: None, SAME: 2.0, OTHERS: 2.0}


def run(quick: bool) -> list[Row]:
    """Return the rows of `keys`."""
    if MISSING:
        return [
            Row(_what(words, ONE), None, goal=goal, note=MISSING) for words, goal in GOALS.items()
        ]
    rounds, round_s, many = (1, 0.05, 4) if quick else (ROUNDS, 2.0, CONNECTIONS)
    random = Random(1)
    wrong = [key_text(Role.USE, numbers(random)) for _ in range(many if quick else WRONG)]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(on_load_core())
        store, asks = f"sqlite:{folder / 'keys'}", free_port()
        flags = "--store", store, "--init", "--runway", "60", "--require-keys"
        # The listener on loopback does not ask, and the one on all addresses does.
        listen = "--listen", f"0.0.0.0:{asks}", "--admin-listen", f"127.0.0.1:{free_port()}"
        free, child, _ = stack.enter_context(serving(*flags, *listen))
        keys = asyncio.run(made(store, random, many))
        tokens = [f"no-key{key[len(MARK) + 2 :]}" for key in keys]

        def without(threads: int, *more: str) -> partial[float]:
            return partial(cost, child.pid, free, round_s, threads, *more)

        def asked(threads: int, *more: str, served: bool = True) -> partial[float]:
            return partial(cost, child.pid, asks, round_s, threads, *more, served=served)

        us = interleaved(
            {
                f"no {ONE}": without(1, "each", tokens[0]),
                ONE: asked(1, "each", keys[0]),
                f"no {EACH}": without(many, "each", *tokens),
                EACH: asked(many, "each", *keys),
                f"no {TWO}": without(many, "each", tokens[0]),
                TWO: asked(many, "turns", *keys[:2]),
                SAME: asked(1, "each", wrong[0], served=False),
                OTHERS: asked(1, "turns", *wrong, served=False),
            },
            rounds,
        )
    rows = []
    for words, goal in GOALS.items():
        beside = f"no {words}" if f"no {words}" in us else ONE
        note = f"{median(us[words]):.1f} µs ({spread(us[words])}) beside {median(us[beside]):.1f}"
        found = ratio(us[words], us[beside])
        rows.append(Row(_what(words, beside), found, "×", goal=goal, note=note))
    return rows


def _what(words: str, beside: str) -> str:
    return f"keys: CPU per GET with {words} / {'a right one' if beside == ONE else 'not asked for'}"


def numbers(random: Random) -> list[int]:
    """Return the random numbers of a new key."""
    return [random.getrandbits(32) for _ in range(RANDOM_NUMBERS)]


async def made(address: str, random: Random, count: int) -> list[str]:
    """Make keys; return their texts."""
    async with open_store(address) as store:
        assert has_catalogue(store)
        logging.getLogger("idservice.access").setLevel(logging.ERROR)
        changes = KeyChanges(store.keys, random=random, clock=lambda: 1.8e9)
        return [(await changes.create(Role.USE, ("*",)))[1] for _ in range(count)]


def cost(
    pid: int, port: int, seconds: float, threads: int, *shown: str, served: bool = True
) -> float:
    """Return microseconds of CPU per request in one round; all are `served`, or none is."""
    before, url = cpu_seconds(pid), f"http://127.0.0.1:{port}/next"
    ran = run_wrk(url, seconds, "-s", str(SCRIPT), script=shown, threads=threads)
    right = 0 if served else ran.answered
    check(ran.refused == right, f"{ran.refused} of {ran.answered} were refused, not {right}")
    return (cpu_seconds(pid) - before) / ran.answered * 1e6
