"""Makes the status of tallies in use as JSON values: those in trouble first, and what to run."""

import re
import shlex
from collections.abc import Sequence

from idservice.observability.status_records import Level, Reserve, TallyStanding, TallyStatus
from idservice.observability.tally_readings import TallySample

COMMAND = re.compile(r"`(idservice [^`]+)`")
TALLIES_MAX = 50  # of one status
# By the code of the error that an add gets now.
STANDINGS: dict[str, TallyStanding] = {
    "tally_went_back": "suspect",
    "add_unsettled": "unsettled",
    "tally_suspended": "suspended",
    "unknown_tally": "deleted",
    "": "active",
}
# In the order in which they are shown, with their level.
TALLY_LEVELS: dict[TallyStanding, Level] = {
    "suspect": "bad",
    "unsettled": "bad",
    "suspended": "warn",
    "active": "ok",
    "deleted": "calm",
}
ORDER = list(TALLY_LEVELS)


def tally_levels(samples: Sequence[TallySample]) -> list[Level]:
    """Return the level of each tally."""
    return [TALLY_LEVELS[STANDINGS[one.code]] for one in samples]


def tally_statuses(
    samples: Sequence[TallySample], *, find: str, store: str, time: float
) -> list[TallyStatus]:
    """Return the status of the tallies whose name contains `find`, from memory. `time` is in
    seconds since 1970."""
    found = [one for one in samples if find in one.tally]
    found.sort(key=lambda one: (ORDER.index(STANDINGS[one.code]), one.tally))
    return [_status(one, store, time) for one in found[:TALLIES_MAX]]


def _status(one: TallySample, store: str, time: float) -> TallyStatus:
    state = STANDINGS[one.code]
    return TallyStatus(
        tally=one.tally,
        state=state,
        level=TALLY_LEVELS[state],
        code=one.code,
        why=one.why,
        command=_command(one, state, store),
        adds=dict(sorted(one.stats.adds.items())),
        adds_per_second=round(one.adds_rate, 3),
        waiting=one.waiting,
        commits_per_second=round(one.commits_rate, 3),
        lost_share=one.lost_share,
        commit=Reserve.of(one.stats.commit_seconds),
        trouble=one.trouble,
        trouble_seconds=max(0.0, round(time - one.trouble_at / 1000, 1)) if one.trouble else None,
    )


def _command(one: TallySample, state: TallyStanding, store: str) -> str:
    at = f"--store {shlex.quote(store)}"
    match state:
        case "suspect":
            said = COMMAND.search(one.why)  # errors name the way out
            return f"{said[1]} {at}" if said else f"idservice tally audit {one.tally} {at}"
        case "unsettled":
            return f"idservice doctor {at}"
        case "suspended":
            return f"idservice tally resume {one.tally} {at}"
    return ""
