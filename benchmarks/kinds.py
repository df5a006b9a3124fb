"""CPU time of the server for each kind of request that callers send for an id, beside a plain GET.

As `http`: the server runs on one core, 64 connections from wrk on the other, flat out, in turns.
The kind that closes its connection each time is compared with net/http of Go instead.
"""

import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.measure import ROUNDS, Row, check, cpu_seconds, interleaved, ratio, spread
from benchmarks.processes import ROOT, on_load_core, serving
from benchmarks.rivals import KINDS as RIVALS
from benchmarks.wrk import MISSING, run_wrk

SCRIPT = ROOT / "benchmarks" / "kinds.lua"
GET = "GET /next"
CLOSING, GO = "Connection: close", "Connection: close, net/http of Go"
# In words: method, path, an additional header, and the most that the ratio to a plain GET may be.
REQUESTS: dict[str, tuple[str, str, tuple[str, ...], float | None]] = {
    GET: ("GET", "/next", (), None),
    "POST with Content-Length: 0": ("POST", "/next", ("Content-Length", "0"), 1.1),
    "?count=1": ("GET", "/next?count=1", (), 1.3),
    "?count=10": ("GET", "/next?count=10", (), 1.6),
    "one id as JSON": ("GET", "/next", ("Accept", "application/json"), 1.2),
    "?r=N, each time another": ("GET", "/next?r=%d", (), 1.5),
    "a header of another length each time": ("GET", "/next", ("X-Request-Id", "%s"), 1.3),
    CLOSING: ("GET", "/next", ("Connection", "close"), None),
}
CLOSING_GOAL = 1.2


def run(quick: bool) -> list[Row]:
    """Return the rows of `kinds`."""
    if MISSING:
        return [Row("kinds: CPU of each kind of request", None, note=MISSING)]
    rounds, round_s = (1, 0.02) if quick else (ROUNDS, 2.0)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(on_load_core())
        store = ("--store", f"sqlite:{folder / 'kinds'}", "--init", "--runway", "60")
        port, child, _ = stack.enter_context(serving(*store))
        asked = {
            words: partial(cost, child.pid, port, round_s, *request[:3])
            for words, request in REQUESTS.items()
        }
        go = RIVALS["go"]
        if not go.missing:
            rival = go.start(folder, stack)
            [pid] = rival.pids
            asked[GO] = partial(cost, pid, rival.port, round_s, *REQUESTS[CLOSING][:3])
        us = interleaved(asked, rounds)
    rows = [
        Row(
            f"kinds: CPU per {words} / {GET}",
            ratio(us[words], us[GET]),
            "×",
            goal=goal,
            note=f"{median(us[words]):.1f} µs ({spread(us[words])}) beside {median(us[GET]):.1f}",
        )
        for words, (_, _, _, goal) in REQUESTS.items()
        if words != GET
    ]
    what = f"kinds: CPU per {CLOSING} / net/http of Go"
    if GO not in us:
        return [*rows, Row(what, None, goal=CLOSING_GOAL, note=go.missing)]
    note = f"{median(us[CLOSING]):.1f} µs beside {median(us[GO]):.1f} µs"
    return [*rows, Row(what, ratio(us[CLOSING], us[GO]), "×", goal=CLOSING_GOAL, note=note)]


def cost(
    pid: int, port: int, seconds: float, method: str, path: str, header: tuple[str, ...]
) -> float:
    """Return microseconds of CPU per request in one round."""
    before, url = cpu_seconds(pid), f"http://127.0.0.1:{port}/next"
    ran = run_wrk(url, seconds, "-s", str(SCRIPT), script=(method, path, *header))
    check(not ran.refused, f"{ran.refused} of {ran.answered} requests for {path} were refused")
    return (cpu_seconds(pid) - before) / ran.answered * 1e6
