"""Makes the status as JSON values: the counters in order, their problems, the commands to run."""

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from idservice.core.gap_causes import GapCause
from idservice.core.limits import NUMBER_MAX
from idservice.observability.readings import CounterSample, CounterState, Snapshot
from idservice.observability.status_records import (
    CounterStatus,
    Level,
    Reserve,
    State,
    Status,
    StoreStatus,
    finite,
)
from idservice.observability.tally_status import COMMAND, tally_levels, tally_statuses

PER_DEFAULT = 50
LOW = "The ids in memory last less than half as long as they should."
SHORT = 0.5  # share of the runway: less is left if a refill is overdue
# The state of a counter by the code of its error, worst first. Any other code is an error of the
# store, and no ids are left in memory.
STATES: dict[str, State] = {
    "counter_suspect": "suspect",
    "store_replaced": "suspect",
    "catalogue_stale": "stale",
    "exhausted": "exhausted",
    "suspended": "suspended",
    "changing": "changing",
    "stopping": "stopping",
    "unknown_counter": "deleted",
    "moved": "moved",
    "": "active",
}
# The states in the order in which they are shown, with their level; `calm` is neither good nor bad.
LEVELS: dict[State, Level] = {
    "suspect": "bad",
    "stale": "bad",
    "empty": "bad",
    "exhausted": "bad",
    "suspended": "warn",
    "changing": "warn",
    "short": "warn",
    "stopping": "calm",
    "active": "ok",
    "unused": "calm",
    "moved": "calm",
    "deleted": "calm",
}
RANKS = {state: rank for rank, state in enumerate(LEVELS)}


@dataclass(frozen=True, slots=True)
class StatusQuery:
    """Selects the counters that are shown: names that contain `find`, page by page from 1."""

    page: int = 1
    per: int = PER_DEFAULT
    find: str = ""


def status(
    snapshot: Snapshot, wanted: StatusQuery, *, store: str, time: float, partial: bool = False
) -> Status:
    """Return the status of a service from memory, without a call to the store. `time` is in seconds
    since 1970. A `partial` snapshot may lack counters that are in use."""
    readings = snapshot.readings
    states = {one.counter: _state(one) for one in readings}
    found = [one for one in readings if wanted.find in one.counter]
    found.sort(key=lambda one: (RANKS[states[one.counter]], one.counter))
    pages = max(1, math.ceil(len(found) / wanted.per))
    page = min(wanted.page, pages)
    shown = found[(page - 1) * wanted.per : page * wanted.per]
    shortest = min(readings, key=_runway_s, default=None)
    causes = sorted({cause for one in shown for cause in one.gaps})
    levels = [LEVELS[state] for state in states.values()]
    attention = levels.count("bad") + levels.count("warn")
    of_tallies = tally_levels(snapshot.tallies)
    verdict = _verdict(attention, len(readings), levels.count("ok"), snapshot.store_up, partial)
    return Status(
        verdict=f"{verdict}{_of_tallies(of_tallies)}",
        level=_level([*levels, *of_tallies], store_up=snapshot.store_up),
        version=snapshot.version,
        time=time,
        uptime_seconds=round(snapshot.uptime_s, 1),
        store=StoreStatus(store, snapshot.store_up, snapshot.store_error),
        workers=snapshot.workers,
        restarts=snapshot.restarts,
        loop_lag=Reserve.of(snapshot.lag),
        reserve=Reserve.of(snapshot.latency),
        issued=sum(one.issued for one in readings),
        ids_per_second=round(sum(one.rate for one in readings), 3),
        ids_in_memory=sum(one.held for one in readings),
        waiting=sum(one.waiting for one in readings),
        shortest=shortest.counter if shortest and math.isfinite(_runway_s(shortest)) else "",
        shortest_runway_seconds=finite(_runway_s(shortest)) if shortest else None,
        in_use=len(readings),
        attention=attention,
        found=len(found),
        find=wanted.find,
        page=page,
        pages=pages,
        per=wanted.per,
        counters=[_counter(one, states[one.counter], store) for one in shown],
        gap_causes={cause: GapCause(cause).text for cause in causes},
        tallies=tally_statuses(snapshot.tallies, find=wanted.find, store=store, time=time),
        tallies_in_use=len(snapshot.tallies),
    )


def _level(levels: Sequence[Level], *, store_up: bool) -> Level:
    if "bad" in levels:
        return "bad"
    if "warn" in levels or not store_up:
        return "warn"
    return "ok" if levels else "calm"


def _verdict(attention: int, in_use: int, serving: int, store_up: bool, partial: bool) -> str:
    if attention:
        need = "needs" if attention == 1 else "need"
        said = f"{attention:,} of {_counters(in_use)} {need} attention"
    elif not in_use:
        said = none_in_use(partial)
    elif not serving:
        said = "No counter serves"
    else:
        said = f"{_counters(serving)} {'serves' if serving == 1 else 'serve'}"
    return f"{said}." if store_up else f"The store does not answer; {said[0].lower()}{said[1:]}."


def none_in_use(partial: bool) -> str:
    """Return the words of a status without a counter. They tell a key nothing of others (K5)."""
    return "No counter that this key covers is in use" if partial else "No counter is in use yet"


def _of_tallies(levels: Sequence[Level]) -> str:
    """Return a sentence if a tally needs attention."""
    attention = levels.count("bad") + levels.count("warn")
    if not attention:
        return ""
    tallies = "1 tally" if len(levels) == 1 else f"{len(levels):,} tallies"
    return f" {attention:,} of {tallies} {'needs' if attention == 1 else 'need'} attention."


def _counters(number: int) -> str:
    return "1 counter" if number == 1 else f"{number:,} counters"


def _state(reading: CounterSample) -> State:
    known = reading.state
    if known is None:
        return "unused"  # by the workers that run
    state = STATES.get(known.code, "empty")
    overdue = reading.held <= known.low and _runway_s(reading) < SHORT * known.runway
    return "short" if state == "active" and overdue else state


def _runway_s(reading: CounterSample) -> float:
    """Return the runway. It is infinite if no ids are used, and if none need to be held."""
    known = reading.state
    if known is None or known.strict or not reading.rate:
        return math.inf
    return reading.runway_s


def _counter(reading: CounterSample, state: State, store: str) -> CounterStatus:
    known = reading.state or CounterState(0, False, 1, None, 0.0, 0, 0, None, 0.0)
    used, seconds = _end(known)
    limit = known.limit
    return CounterStatus(
        counter=reading.counter,
        state=state,
        level=LEVELS[state],
        code=known.code,
        why=known.why or (LOW if state == "short" else ""),
        command=_command(reading.counter, state, known, store),
        change=known.change,
        last_change=known.last_change,
        epoch=known.epoch,
        mode="strict" if known.strict else "block",
        shards=known.shards,
        ids_in_memory=reading.held,
        stock=max(known.stock, reading.held),
        refill_at=known.low,
        issued=reading.issued,
        ids_per_second=None if known.strict else round(reading.rate, 3),
        waiting=reading.waiting,
        runway=known.runway,
        runway_seconds=finite(reading.runway_s),
        reserve=Reserve.of(reading.stats.latency),
        gaps=dict(sorted(reading.gaps.items())),
        limit=str(limit) if limit is not None and limit > NUMBER_MAX else limit,
        limit_used=used,
        runs_out_seconds=seconds,
    )


def _end(known: CounterState) -> tuple[float | None, float | None]:
    """Return the used share of the limit, and the seconds until it is reached at this pace."""
    used = known.limit_used
    if known.code == "exhausted":
        return used, 0.0
    if known.limit is None or known.highest is None:
        return used, None
    left = max(0, known.limit - known.highest)
    return used, round(left / known.pace, 1) if known.pace else None


def _command(name: str, state: str, known: CounterState, store: str) -> str:
    """Return the command that an operator runs. N is for the operator to choose. A problem of
    borrowed ids is solved where they come from."""
    at = f"--store {shlex.quote(store)}"
    if known.borrowed and state in ("suspect", "exhausted", "suspended"):
        return ""
    if known.code == "store_replaced":
        return f"idservice fence --all --past N {at}"
    match state:
        case "suspect":
            said = COMMAND.search(known.why)  # errors name the way out
            return f"{said[1] if said else f'idservice fence {name} --past N'} {at}"
        case "exhausted":
            return f"idservice configure {name} --limit N {at}"
        case "suspended":
            return f"idservice resume {name} {at}"
        case "stale" | "empty" | "short":
            return f"idservice doctor {at}"
    return ""
