"""Load on HTTP servers by wrk, flat out."""

import re
import shutil
import subprocess
from collections.abc import Sequence

from benchmarks.load import LoadRun
from benchmarks.measure import check

CONNECTIONS = 64
MISSING = "" if shutil.which("wrk") else "wrk is not installed"
PATIENCE_S = 2  # for one answer
TOY_PATIENCE_S = 20
TOY_MAX_S = 30.0
UNITS_S = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}
STOPPED_EARLY = 130  # exit code after a Ctrl-C that came before wrk had a handler


def run_wrk(
    url: str,
    seconds: float,
    *flags: str,
    script: Sequence[str] = (),
    threads: int = 1,
    connections: int = CONNECTIONS,
    patience_s: int = PATIENCE_S,
) -> LoadRun:
    """Run wrk for `seconds`. Raises SystemExit if nothing was answered, or something later than
    `patience_s`.

    `flags` are those of wrk, and `script` has the arguments of its Lua script.

    wrk takes whole seconds. In a toy size it is ended earlier, as by Ctrl-C, and has more patience.
    If a busy machine leaves it without an answer in that time, it runs again, for twice as long.
    """
    toy = seconds < 1
    while True:
        ended = ["timeout", "--preserve-status", "--signal=INT", f"{seconds}"] * (seconds < 1)
        size = [f"-t{threads}", f"-c{connections}", f"-d{max(1, round(seconds))}"]
        patience = f"--timeout={max(patience_s, TOY_PATIENCE_S) if toy else patience_s}"
        done = subprocess.run(
            [*ended, "wrk", *size, patience, *flags, url, "--", *script],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        said = done.stdout
        check(done.returncode in (0, STOPPED_EARLY), f"wrk: {done.returncode} {said}{done.stderr}")
        found = re.search(r"(\d+) requests in ([0-9.]+)(us|ms|s|m)", said)
        if found is not None and (answered := int(found[1])):
            check("Socket errors" not in said, said)
            refused = re.search(r"Non-2xx or 3xx responses: (\d+)", said)
            ran_s = float(found[2]) * UNITS_S[found[3]] if toy else seconds
            return LoadRun(answered, ran_s, int(refused[1]) if refused else 0)
        check(toy and seconds < TOY_MAX_S, f"nothing was answered in {seconds:g} s: {said}")
        seconds *= 2
