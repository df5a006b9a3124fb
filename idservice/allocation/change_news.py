"""Words the changes that an instance hears of, for its log and for refused requests."""

import logging

from idservice import errors
from idservice.stores import records
from idservice.stores.records import Counter, LastChange, differences

log = logging.getLogger("idservice.allocation")


def closing_error(entry: Counter) -> errors.IdserviceError | None:
    """Return the error that requests get while an entry closes the counter; None if it does not.

    A change to ids that may repeat others lasts long: no request can wait for its end.
    """
    name, by = entry.name, str(entry.last_change or "by an operator")
    match entry.target_state:
        case records.ACTIVE:
            return entry.being_changed() if entry.intent and entry.intent.closes else None
        case records.DELETED:
            return errors.UnknownCounter(name=name)
        case records.MOVED:
            return errors.Moved(name=name, why=f"{entry.whereabouts} (moved {by})")
    return errors.Suspended(name=name, by=by)


def is_news(known: Counter, entry: Counter) -> bool:
    """Return True if an entry tells of another change than the known one. A change is heard of when
    it is begun, and again when it is done."""
    return _identity(known) != _identity(entry)


def tell(known: Counter, entry: Counter, *, held: int, dropped: bool) -> None:
    """Log the change that an entry brings, and what became of the `held` ids in memory."""
    change = entry.last_change or LastChange("a change", entry.target_epoch)
    became = "no ids were in memory"
    if held:
        became = f"{held} ids in memory were {'dropped' if dropped else 'kept, and are used first'}"
    log.warning(
        "counter %s: %s %s: %s; %s",
        entry.name, change.what, change, differences(known, entry) or "as before", became,
        extra={"action": "change_heard"},
    )  # fmt: skip


def _identity(entry: Counter) -> tuple[object, ...]:
    runway = entry.runway if entry.intent is None else entry.intent.runway
    return entry.target_epoch, runway, entry.last_change
