"""The time from the revocation of an access key to the last id with it on any instance.

Three instances on one SQLite file ask for keys. A sidecar borrows ids from the first with the same
key, and may hold them for 10 s. All hold ids, and are asked in turns all the time. The clock starts
when the command that revokes the key ends. Each round has a new key. In a last round the file is
locked at once, so that no instance learns of the revocation.
"""

import json
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from benchmarks.measure import Row, check, distinct, spread
from benchmarks.processes import get, on_load_core, run_to_end, serving

GOAL_S, CUT_OFF_GOAL_S = 3.0, 60.0
HOLD_S = 10
RUNWAY_S = 120  # so that ids in memory outlast the keys
QUIET_S = 1.0  # without an id from any instance
SERVED_MAX_S = 90.0


def run(quick: bool) -> list[Row]:
    """Return the rows of `revoke`."""
    rounds, hold_s, pause_s = (1, 1, 0.05) if quick else (5, HOLD_S, 0.002)
    ids: list[int] = []
    direct, chained, cut_off = [], [], []
    with tempfile.TemporaryDirectory() as folder, on_load_core():
        file, secret = Path(folder) / "store", Path(folder) / "key"
        url = f"sqlite:{file}"
        run_to_end("-m", "idservice", "init", "--store", url)
        asks = ("--store", url, "--require-keys", "all", "--runway", f"{RUNWAY_S}")
        with (
            serving(*asks) as (one, *_),
            serving(*asks) as (two, *_),
            serving(*asks) as (three, *_),
        ):
            for _ in range(rounds):
                id, key = _made(url)
                secret.write_text(key)
                central = ("--store", f"http://127.0.0.1:{one}", "--hold", str(hold_s))
                with serving(*central, "--store-key-file", str(secret)) as (sidecar, *_):
                    keys = {one: key, two: key, three: key, sidecar: ""}
                    _all_serve(keys, ids)
                    _revoke(id, url)
                    last = _last(keys, ids, GOAL_S + hold_s, pause_s)
                    direct.append(max(last[one], last[two], last[three]))
                    chained.append(last[sidecar])
            if not quick:
                id, key = _made(url)
                keys = {one: key, two: key, three: key}
                _all_serve(keys, ids)
                _revoke(id, url)
                with _locked(file):
                    cut_off.append(max(_last(keys, ids, CUT_OFF_GOAL_S, pause_s).values()))
    distinct(ids)
    rows = [
        Row(
            "revoke: seconds to the last id, three instances",
            max(direct), "s", GOAL_S, f"the longest of {rounds}; {spread(direct)}",
        ),
        Row(
            f"revoke: the same, a sidecar that may hold ids for {hold_s} s",
            max(chained), "s", GOAL_S + hold_s, f"the longest of {rounds}; {spread(chained)}",
        ),
    ]  # fmt: skip
    if cut_off:  # it takes a minute
        what = "revoke: the same, three instances that are cut off from the store"
        rows.append(Row(what, cut_off[0], "s", CUT_OFF_GOAL_S, "one round"))
    return rows


def _made(url: str) -> tuple[str, str]:
    asked = ("key", "create", "--role", "use", "--scope", "default", "--json", "--store", url)
    command = [sys.executable, "-m", "idservice", *asked]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    check(done.returncode == 0, f"{asked}: {done.stderr}")
    made = json.loads(done.stdout)
    return made["id"], made["key"]


def _revoke(id: str, url: str) -> None:
    revoke = ("key", "revoke", id, "--reason", "benchmark", "--store", url)
    run_to_end("-m", "idservice", *revoke)


def _all_serve(keys: Mapping[int, str], ids: list[int]) -> None:
    waiting, deadline = set(keys), time.perf_counter() + 20
    while waiting:
        check(time.perf_counter() < deadline, "a valid key is not served")
        waiting -= {port for port in waiting if _take(port, keys[port], ids)}
    for port in tuple(keys) * 200:  # so that memory holds many ids
        _take(port, keys[port], ids)


def _last(
    keys: Mapping[int, str], ids: list[int], most_s: float, pause_s: float
) -> dict[int, float]:
    """Return the seconds from now to the last id of each."""
    last = dict.fromkeys(keys, 0.0)
    began = time.perf_counter()
    while (now := time.perf_counter() - began) < max(most_s, max(last.values())) + QUIET_S:
        check(now < SERVED_MAX_S + most_s, "it is never revoked")
        # A pause, so that the servers get CPU.
        time.sleep(pause_s if now < HOLD_S else max(pause_s, 0.02))
        for port in tuple(last):
            if _take(port, keys[port], ids):
                last[port] = time.perf_counter() - began
    return last


def _take(port: int, key: str, ids: list[int]) -> bool:
    status, body = get(port, "/next", key)
    check(status in (200, 401, 503), f"{status} {body}")
    if status == 200:
        ids.append(int(body))
    return status == 200


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Lock the file while entered: nothing reads or writes it."""
    connection = sqlite3.connect(file, isolation_level=None)
    try:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("BEGIN EXCLUSIVE")
        yield
        connection.execute("ROLLBACK")
    finally:
        connection.close()
