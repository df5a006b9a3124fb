"""The states of a counter on an instance, and the transitions between them.

| state          | entered by                          | left by                | a request gets   |
|----------------|-------------------------------------|------------------------|------------------|
| SERVING        | the first use                       | any of the below       | ids, 410, a wait |
| CLOSED         | an entry: suspended, moved, deleted | an active entry        | 423, 404         |
|                | or closed for a time by a change    | of the epoch it opens  | 503 `changing`   |
| STALE          | no catalogue for too long           | it is heard of again   | 503              |
| SUSPECT        | a mismatch, or ids are refused      | a grant, a newer epoch | 503, not retried |
| SUSPECT_CLOSED | a suspect counter is closed         | as CLOSED              | as SUSPECT       |
| SUSPECT_STALE  | a suspect counter turns stale       | as STALE               | as SUSPECT       |
| STOPPED        | the end of the instance, a fork     | never                  | 503              |

Only SERVING hands out ids. A SUSPECT counter has dropped its own; every `SUSPECT_RECHECK_S` the
store is asked once more, and a grant shows that all is well. An event that `TRANSITIONS` does not
list for a state changes nothing. Only a change to ids that may repeat others closes a counter: it
takes a minute. During any other change ids in memory are served unless they are revoked, and a
request that finds none waits.
"""

import logging
from enum import Enum, auto

from idservice.errors import CounterSuspect, IdserviceError, Suspended, UnknownCounter

log = logging.getLogger("idservice.allocation")


class LocalState(Enum):
    """The states of a counter on an instance."""

    SERVING = auto()
    CLOSED = auto()
    STALE = auto()
    SUSPECT = auto()
    SUSPECT_CLOSED = auto()
    SUSPECT_STALE = auto()
    STOPPED = auto()


class LocalEvent(Enum):
    """The events that change the state of a counter on an instance."""

    CLOSED = auto()  # the entry is not active
    REOPENED = auto()  # it is active, in the same epoch
    NEW_EPOCH = auto()  # it is active, in a newer epoch
    CATALOGUE_LOST = auto()
    CATALOGUE_FOUND = auto()
    DISTRUSTED = auto()  # a mismatch, or the ids were refused
    CONFIRMED = auto()  # the store gave ids, or its position is as it should be
    STOPPED = auto()


TRANSITIONS = {
    (LocalState.SERVING, LocalEvent.CLOSED): LocalState.CLOSED,
    (LocalState.SERVING, LocalEvent.CATALOGUE_LOST): LocalState.STALE,
    (LocalState.SERVING, LocalEvent.DISTRUSTED): LocalState.SUSPECT,
    (LocalState.CLOSED, LocalEvent.CLOSED): LocalState.CLOSED,
    (LocalState.CLOSED, LocalEvent.REOPENED): LocalState.SERVING,
    (LocalState.CLOSED, LocalEvent.NEW_EPOCH): LocalState.SERVING,
    (LocalState.STALE, LocalEvent.CLOSED): LocalState.CLOSED,
    (LocalState.STALE, LocalEvent.CATALOGUE_FOUND): LocalState.SERVING,
    (LocalState.SUSPECT, LocalEvent.DISTRUSTED): LocalState.SUSPECT,
    (LocalState.SUSPECT, LocalEvent.CONFIRMED): LocalState.SERVING,
    (LocalState.SUSPECT, LocalEvent.NEW_EPOCH): LocalState.SERVING,
    (LocalState.SUSPECT, LocalEvent.CLOSED): LocalState.SUSPECT_CLOSED,
    (LocalState.SUSPECT, LocalEvent.CATALOGUE_LOST): LocalState.SUSPECT_STALE,
    (LocalState.SUSPECT_CLOSED, LocalEvent.CLOSED): LocalState.SUSPECT_CLOSED,
    (LocalState.SUSPECT_CLOSED, LocalEvent.REOPENED): LocalState.SUSPECT,
    (LocalState.SUSPECT_CLOSED, LocalEvent.NEW_EPOCH): LocalState.SERVING,
    (LocalState.SUSPECT_STALE, LocalEvent.CLOSED): LocalState.SUSPECT_CLOSED,
    (LocalState.SUSPECT_STALE, LocalEvent.CATALOGUE_FOUND): LocalState.SUSPECT,
} | {(state, LocalEvent.STOPPED): LocalState.STOPPED for state in LocalState}

SUSPICIOUS = (LocalState.SUSPECT, LocalState.SUSPECT_CLOSED, LocalState.SUSPECT_STALE)


CLOSED_THERE = (Suspended, UnknownCounter)  # refusals of the service that lends the ids
ENDS = {  # of a suspicion, in words
    LocalEvent.CONFIRMED: "its position in the store is as it should be",
    LocalEvent.NEW_EPOCH: "an operator changed it",
}


class ServingState:
    """The present state of counter `name`, and in `reason` the error that a request gets; None if
    it is SERVING."""

    __slots__ = ("_name", "reason", "state")

    def __init__(self, name: str) -> None:
        self._name = name
        self.state = LocalState.SERVING
        self.reason: IdserviceError | None = None

    def enter(self, event: LocalEvent, reason: IdserviceError | None = None) -> bool:
        """Enter the state that follows an event; return False if the event changes nothing. The
        reason of a suspicion stays while the counter is closed."""
        after = TRANSITIONS.get((self.state, event))
        if after is None:
            return False
        if after is LocalState.SERVING:
            if self.state in SUSPICIOUS:
                self._tell_of_end(event)
            self.reason = None
        elif self.state not in SUSPICIOUS or event in (LocalEvent.DISTRUSTED, LocalEvent.STOPPED):
            refused = event is LocalEvent.DISTRUSTED and isinstance(reason, CLOSED_THERE)
            if refused and self.reason is None:  # else the log has it
                log.warning("%s", reason, extra={"action": "change_heard"})
            self.reason = reason
        self.state = after
        return True

    def _tell_of_end(self, event: LocalEvent) -> None:
        """Log that a suspicion is over, or that the service which lends the ids does so again."""
        if isinstance(self.reason, CounterSuspect):
            log.warning(
                "counter %s is not suspect any more: %s", self._name, ENDS[event],
                extra={"action": "counter_trusted"},
            )  # fmt: skip
        else:
            log.warning(
                "counter %s: its ids are lent again", self._name, extra={"action": "change_heard"}
            )
