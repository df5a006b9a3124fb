"""Logs changes: their beginning, a long wait, their end, and an error that no caller was told."""

import logging

from idservice import errors
from idservice.catalogue.changes import Change, word_of
from idservice.stores.records import Counter, Intent, differences

log = logging.getLogger("idservice.change")


def tell_of_begin(before: Counter, after: Counter, wanted: Change) -> None:
    """Log a change: the operator, the values before and after, and the reason."""
    log.info(
        "%s: %s", _named(before.name, wanted), differences(before, after),
        extra={"action": "counter_changed"},
    )  # fmt: skip


def tell_of_wait(entry: Counter, seconds: float) -> None:
    """Log how long a change to lower ids waits, and which operator made it."""
    log.info(
        "counter %s: %s %s waits %.0f s, until each instance has read of it or stopped serving",
        entry.name, word_of(entry.intent.kind) if entry.intent else "a change",
        entry.last_change, seconds,
        extra={"action": "change_waits"},
    )  # fmt: skip


def tell_of_end(after: Counter, intent: Intent, *, left: bool) -> None:
    """Log that a change is complete; `left` if another operator or instance had left it."""
    if left:
        log.warning(
            "finished a change of counter %s that stood still: %s %s",
            after.name, word_of(intent.kind), after.last_change,
            extra={"action": "change_finished"},
        )  # fmt: skip
    log.info(
        "counter %s: %s is done: epoch %d, ids from %s",
        after.name, word_of(intent.kind), after.ordinal, intent.base,
        extra={"action": "change_done"},
    )  # fmt: skip


def tell_of_failure(name: str, wanted: Change, error: BaseException) -> None:
    """Log a change that failed when its caller no longer waited."""
    if isinstance(error, errors.IdserviceError):
        log.warning(
            "%s: it failed after its caller was answered: %s", _named(name, wanted), error,
            extra={"action": "change_failed"},
        )  # fmt: skip
    else:  # a bug of ours or of a library
        log.error(
            "%s: it failed", _named(name, wanted), exc_info=error, extra={"action": "change_bug"}
        )


def _named(name: str, wanted: Change) -> str:
    by, why = wanted.by or "an operator", wanted.why or "no reason given"
    return f"counter {name}: {word_of(wanted.kind)} by {by} ({why})"
