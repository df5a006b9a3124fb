"""The causes of gaps: why reserved ids are never handed out."""

from enum import StrEnum

NOT_RETURNED = (
    "not returned at shutdown: another instance wrote first, the store did not answer, or the ids"
    " were borrowed"
)


class GapCause(StrEnum):
    """A cause, as it is named in metrics, with its explanation in `text`."""

    text: str

    def __new__(cls, name: str, text: str = "") -> "GapCause":
        cause = str.__new__(cls, name)
        cause._value_, cause.text = name, text
        return cause

    UNKNOWN = "unknown", "a reservation got no readable answer; it may have been made"
    LATE = "late", "the answer to a reservation came when it could not be used any more"
    CLAIM = "claim", "claiming returned ids got no readable answer"
    ABANDONED = (
        "abandoned",
        "the client had left, its key had ended, or a strict batch was not used up",
    )
    STOP = ("stop", NOT_RETURNED)
    FULL = "full", "not returned at shutdown: the list of returned ranges was full"
    KILLED = "killed", "last reported in memory of a worker that ended without a final report"
    FORK = "fork", "the process was forked; the ids belong to the parent process"
    WENT_BACK = "went_back", "the counter turned suspect; its ids in memory could not be trusted"
    EPOCH = "epoch", "another epoch began"
    REVOKED = "revoked", "an operator suspended, deleted, moved, lowered or fenced the counter"
    STALE = "stale", "the catalogue could not be read for too long; the counter may have changed"
    EXPIRED = "expired", "the ids were borrowed from another service and not used in time"


# Ids of these causes never got into the memory of the process that counts them. Those of a killed
# worker were in the memory of the worker.
NEVER_HELD = (GapCause.UNKNOWN, GapCause.LATE, GapCause.CLAIM, GapCause.KILLED)
FROM_MEMORY = tuple(cause for cause in GapCause if cause not in NEVER_HELD)
