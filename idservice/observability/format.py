"""Words the figures of a status for people: the page and the terminal show the same.

The script of the page words them once more (`status.html`). A test compares the two.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

NONE = "–"
DAY_S = 86_400.0
CENTURY_S = 100 * 365.25 * DAY_S
SPARK = "▁▂▃▄▅▆▇█"


def row(counter: Mapping[str, Any], now: float) -> dict[str, str]:
    """Return the figures of one counter as they are shown; `now` is the `time` of the status."""
    strict, shards = counter["mode"] == "strict", counter["shards"]
    return {
        "state": counter["state"],
        "epoch": str(counter["epoch"] or NONE),
        "mode": f"{counter['mode']}, {shards} shards" if shards > 1 else counter["mode"],
        "memory": NONE if strict else f"{counter['ids_in_memory']:,}",
        "rate": rate(counter["ids_per_second"]),
        "runway": NONE if strict else runway(counter),
        "reserve": reserve(counter["reserve"]),
        "gaps": gaps(counter["gaps"]),
        "used": share(counter["limit_used"]),
        "ends": ends(counter["runs_out_seconds"], now),
        "changed": counter["last_change"] or NONE,
    }


def tally_row(tally: Mapping[str, Any]) -> dict[str, str]:
    """Return the figures of one tally as they are shown."""
    took, ago = tally["commit"], tally["trouble_seconds"]
    return {
        "state": tally["state"],
        "adds": rate(tally["adds_per_second"]),
        "waiting": f"{tally['waiting']:,}",
        "commits": rate(tally["commits_per_second"]),
        "lost": share(tally["lost_share"]),
        "commit": NONE if took is None else at_most(took["p99"]),
        "trouble": "" if ago is None else f"{span(ago)} ago: {tally['trouble']}",
    }


def rate(per_second: float | None) -> str:
    """Return a rate per second."""
    if per_second is None:
        return NONE
    if 0 < per_second < 0.1:
        return "<0.1"
    return f"{per_second:.1f}" if 0 < per_second < 10 else f"{int(per_second + 0.5):,}"


def runway(counter: Mapping[str, Any]) -> str:
    """Return the time for which the ids in memory last."""
    if not counter["ids_in_memory"]:
        return "0 s"
    return "no use" if counter["runway_seconds"] is None else span(counter["runway_seconds"])


def workers(status: Mapping[str, Any]) -> str:
    """Return the number of workers, and of those that were replaced."""
    count, restarts = status["workers"], status["restarts"]
    said = "1 worker" if count == 1 else f"{count} workers"
    return f"{said}, {restarts} restarted" if restarts else said


def span(seconds: float) -> str:
    """Return a time to about two digits, in the unit that fits."""
    if not seconds:
        return "0 s"
    if seconds < 10:
        return f"{int(seconds * 10 + 0.5) / 10:.1f} s"
    if seconds < 120:
        return f"{int(seconds + 0.5)} s"
    if seconds < 7200:
        return f"{int(seconds / 60 + 0.5)} min"
    if seconds < 2 * DAY_S:
        return f"{int(seconds / 3600 + 0.5)} h"
    return f"{int(seconds / DAY_S + 0.5):,} d"


def reserve(took: Mapping[str, Any] | None) -> str:
    """Return the times within which half of the reservations ended, and 99 of 100."""
    return NONE if took is None else f"{at_most(took['p50'])} / {at_most(took['p99'])}"


def at_most(seconds: float | None) -> str:
    """Return the upper end of a histogram's bucket. None is the last one, which has no end."""
    if seconds is None:
        return ">5 s"
    return f"{seconds * 1000:g} ms" if seconds < 1 else f"{seconds:g} s"


def gaps(lost: Mapping[str, int]) -> str:
    """Return the number of lost ids by cause, the largest first."""
    most_first = sorted(lost.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{ids:,} {cause}" for cause, ids in most_first) or "0"


def share(used: float | None) -> str:
    """Return the used share of a limit, rounded down, so that 100 % is the end."""
    if used is None:
        return NONE
    percent = used * 100
    if 0 < percent < 0.1:
        return "<0.1 %"
    return f"{int(percent * 10) / 10:.1f} %" if percent < 100 else "100 %"


def ends(seconds: float | None, now: float) -> str:
    """Return the moment at which a limit is reached: a date (UTC), or a time if it is soon."""
    if seconds is None:
        return NONE
    if seconds >= CENTURY_S:
        return ">100 years"
    if seconds < 2 * DAY_S:
        return f"in {span(seconds)}" if seconds else "now"
    return datetime.fromtimestamp(now + seconds, UTC).strftime("%Y-%m-%d")


def spark(values: Sequence[float | None], full: float) -> str:
    """Return a line of blocks, of which the highest is `full`; blank if a value is not known."""
    steps = len(SPARK) - 1
    return "".join(
        " " if value is None else SPARK[min(steps, int(value / full * steps + 0.5))]
        for value in values
    )
