"""Defines the root of the errors, and those of counters, stores and the start.

`text` is the message, with fields in braces. `code` is stable and machine-readable, `status` is the
HTTP status. `retryable` is True if the same request may succeed later. `outcome` is `not_applied`
if certainly nothing happened, and `unknown` otherwise.
"""

import re
from math import ceil
from typing import Any

NOT_APPLIED, UNKNOWN = "not_applied", "unknown"
RETRY_AFTER_S, RETRY_AFTER_MAX_S = 1, 600
# In a URL, to the last @ of the word: a password may have one; of an access key all but its role.
SECRET = re.compile(r"""(?<=//)[^\s'"]*(?=@)|((?<=idk_use_)|(?<=idk_read_)|(?<=idk_admin_))\w+""")


def without_secrets(text: str) -> str:
    """Return a text without access keys, and without the user and the password of a URL in it."""
    return SECRET.sub("...", text) if "@" in text or "idk_" in text else text


class IdserviceError(Exception):
    """The root of the tree."""

    text: str = "The service failed. This is a defect of idservice; please report it."
    code: str = "internal"
    status: int = 500
    retryable: bool = False
    outcome: str = UNKNOWN
    members: tuple[str, ...] = ()  # fields that the answer also has by themselves (RFC 9457 §3.2)
    key: str = ""  # of the add to a tally that a client failed to make

    def __init__(self, **fields: object) -> None:
        self.fields = fields
        super().__init__(without_secrets(self.text.format(**fields)))


# --- a request that cannot be served as it is -----------------------------------------------------


class RequestRefused(IdserviceError):
    text = "The request was refused."
    code = "bad_request"
    status = 400
    outcome = NOT_APPLIED


class MalformedRequest(RequestRefused):
    text = "The request is not well-formed HTTP: {why}."


class BadCount(RequestRefused):
    text = "count is {value!r}; it must be a whole number from 1 to {most} in plain digits."
    code = "bad_count"


class RequestTooLarge(BadCount):
    text = (
        "count is {value}; counter {name!r} gives at most {most} ids per request, because of its "
        "{bound}. Ask for fewer at a time; `idservice configure {name} --request-max N` or "
        "`--rate-max N` changes it."
    )


class BadName(RequestRefused):
    text = (
        "{value!r} is not a name for a counter or a tally. A name has 1 to 64 letters, digits, "
        "'.', '_' or '-', begins with a letter or a digit, and has no access key in it."
    )
    code = "bad_name"


class BadFormat(RequestRefused):
    text = "format is {value!r}; it must be text, json or ranges."
    code = "bad_format"


class BadNonce(RequestRefused):
    text = "nonce is {value!r}; it must be 1 to 64 letters, digits, '.', '_' or '-', not a key."
    code = "bad_nonce"


class RepeatedKey(RequestRefused):
    text = "The query names {value!r} more than once; send it once."
    code = "repeated_key"


class BadConfiguration(RequestRefused):
    text = "The counter cannot be configured like this: {why}."
    code = "bad_configuration"


class PrefetchRefused(RequestRefused):
    text = "A prefetch would use up an id or count an amount unasked. Send it when it is needed."
    code = "prefetch_refused"
    status = 403


class UnknownPath(RequestRefused):
    text = (
        "Nothing is served at {path!r} of this address. Ids (/next, /v1/counters/NAME/next) and "
        "adds (/v1/tallies/NAME/add) are at the --listen address, metrics and changes at the "
        "--admin-listen address, if the service has one."
    )
    code = "unknown_path"
    status = 404


class UnknownCounter(RequestRefused):
    text = "There is no counter {name!r}. Create it with `idservice create {name}`."
    code = "unknown_counter"
    status = 404


class CounterDiffers(RequestRefused):
    text = "Counter {name!r} exists with another configuration: {difference}."
    code = "counter_differs"
    status = 409


class ChangeRefused(RequestRefused):
    text = "Counter {name!r} was not changed: {why}."
    code = "change_refused"
    status = 409


class Exhausted(RequestRefused):
    text = (
        "Counter {name!r} has {left} up to its limit {limit}. "
        "`idservice configure {name} --limit N` raises it."
    )
    code = "exhausted"
    status = 410

    def __init__(self, *, count: int, **fields: object) -> None:
        left = "no ids left" if count == 1 else f"fewer than {count} ids left"
        super().__init__(**{**fields, "count": count, "left": left})


class Suspended(RequestRefused):
    text = "Counter {name!r} is suspended {by}. `idservice resume {name}` resumes it."
    code = "suspended"
    status = 423

    def __init__(self, *, by: str = "by an operator", **fields: object) -> None:
        super().__init__(by=by, **fields)


class Moved(Suspended):
    text = "Counter {name!r} hands out no ids here: {why}."
    code = "moved"


# --- a request that may be sent again -------------------------------------------------------------


class Unavailable(IdserviceError):
    text = "The service cannot answer this now. Try again."
    code = "unavailable"
    status = 503
    retryable = True
    outcome = NOT_APPLIED


class TooManyWaiting(Unavailable):
    text = "{count} requests already wait for ids of counter {name!r}; try again later."
    code = "too_many_waiting"


class RateExceeded(Unavailable):
    text = (
        "More ids of counter {name!r} were asked for than its rate_max{rate} allows. Try again in "
        "{seconds:.3g} s."
    )
    code = "rate_exceeded"
    status = 429
    answered, throttled = True, False  # as a store's error has it

    def retry_after_s(self, now: float) -> int:
        """Return the seconds after which to try again."""
        seconds = float(str(self.fields["seconds"]))
        return max(RETRY_AFTER_S, ceil(min(seconds, RETRY_AFTER_MAX_S)))


class WaitedTooLong(Unavailable):
    text = "No id of counter {name!r} arrived within {seconds:g} s: {why}."
    code = "waited_too_long"


class CounterSuspect(Unavailable):
    text = "Counter {name!r} hands out no ids. {why}"
    code = "counter_suspect"
    retryable = False


class CatalogueStale(Unavailable):
    text = (
        "This instance hands out no ids: for {seconds:g} s the store did not tell it if counters "
        "were changed. Check the store with `idservice doctor`."
    )
    code = "catalogue_stale"


class Stopped(Unavailable):
    text = "The service is stopping; ask another instance."
    code = "stopping"


# --- what a store call can end with ---------------------------------------------------------------


class StoreError(Unavailable):
    text = "The store {store} failed: {why}."
    code = "store_unavailable"
    throttled = False  # True if the item has too many requests: another shard may serve
    answered = False  # True if the store works, and refuses for what it holds of one counter


class NotApplied(StoreError):
    text = "The store {store} refused {action}: {why}."


class NotAnswered(NotApplied):
    text = "The store {store} gave no answer: {why}. Not done: {action}."


class NotReached(NotApplied):
    text = "Cannot reach {place} ({cause}). Not done: {action}. Check its address and the network."

    def __init__(self, *, place: str, cause: str, **fields: object) -> None:
        why = f"cannot reach {place} ({cause})"
        super().__init__(**{**fields, "place": place, "cause": cause, "why": why})


class Changing(NotApplied):
    text = "Counter {name!r} is being changed and hands out no ids until that is done: {why}."
    code = "changing"
    answered = True

    def __init__(self, *, until: float = 0.0, **fields: object) -> None:
        super().__init__(until=until, **fields)
        self._until = until  # in seconds since 1970; 0 if that is not known

    def retry_after_s(self, now: float) -> int:
        """Return the seconds until ids come again, about; `now` is in seconds since 1970."""
        return max(1, min(RETRY_AFTER_MAX_S, ceil(self._until - now)))


class OutcomeUnknown(StoreError):
    text = (
        "The store {store} gave no readable answer: {why}. This may have been applied all the"
        " same: {action}."
    )
    outcome = UNKNOWN


class PositionMissing(NotApplied):
    text = (
        "The store {store} has no position for counter {name!r}: it was deleted by hand, or the "
        "table was emptied. `idservice fence {name} --past N` goes on above N, the highest id in "
        "use."
    )
    answered = True
    retryable = False


class ItemUnusable(PositionMissing):
    text = (
        "Counter {name!r} in {store} cannot be fenced: the item that it was adopted from is "
        "missing, or its value is not a whole number ({item}). Put it right in that table, with a "
        "number above every id in use, and run the same command again."
    )


class EpochChanged(NotApplied):
    text = (
        "The position of counter {name!r} in {store} was restored, replaced or moved back (it has "
        "the epoch {found!r} instead of {epoch!r}). Going on could repeat ids, so none are handed "
        "out. Put the original back, or go on above N, the highest id in use: `idservice fence "
        "{name} --past N`, see docs/how-to/recover.md."
    )
    answered = True

    @property
    def gone_back(self) -> bool:
        """Return True if an instance closed the position because it was moved back."""
        return str(self.fields["found"]).startswith("gone-back:")


class BatchBurnt(EpochChanged):
    text = (
        "Counter {name!r} in {store} went from epoch {epoch!r} to {found!r} after it granted a "
        "batch and before the answer came: the ids of the batch are lost."
    )


class OutOfTurn(NotApplied):
    text = (
        "Batch out of sequence: the last batch recorded for writer {writer} of counter {name!r} "
        "in {store} is not the one before this batch."
    )
    answered = True

    def __init__(self, *, record: Any, **fields: object) -> None:
        super().__init__(**fields)
        self.record = record  # a core.writer.Record as it stood there; None where there was none


class NotShown(NotApplied):
    text = (
        "The store {store} refused {action}: a service shows and changes no counters at this "
        "address. Name its --admin-listen address, or the store that the service uses."
    )
    answered = True
    retryable = False


class ChangedElsewhere(NotApplied):
    text = (
        "{store} is a service. Its counters, tallies and access keys are in a store, and this "
        "command changes them there. Name that store with --store."
    )
    retryable = False


class PositionIllFormed(NotApplied):
    text = (
        "The position of counter {name!r} in {store} cannot be read: {why}. `idservice fence "
        "{name} --past N` goes on above N, the highest id in use."
    )
    answered = True
    retryable = False


class WentBack(NotApplied):
    text = (
        "The position of counter {name!r} in {store} was moved back to {position}, below {above}. "
        "Going on would repeat ids, so none are handed out. Put the original back, or go on above "
        "N, the highest id in use: `idservice fence {name} --past N`, see docs/how-to/recover.md."
    )
    answered = True
    retryable = False

    def __init__(self, *, epoch: str, **fields: object) -> None:
        super().__init__(**fields)
        self.epoch = epoch  # closing is conditioned on it
        self.applied = False  # `SentReservation.interpret_failure` may set it


class Withheld(NotApplied):
    text = "The service {store} hands out no ids of counter {name!r}: {why}."
    answered = True
    retryable = False


class NoRoom(NotApplied):
    text = "Counter {name!r} in {store} is at {position}: fewer ids are left than were asked for."
    answered = True
    retryable = False

    def __init__(
        self, *, position: int, rev: int = 0, returned: tuple[range, ...] = (), **fields: object
    ) -> None:
        super().__init__(position=position, **fields)
        self.position, self.rev = position, rev  # as they were found
        self.returned = returned  # the ranges that were given back to the position


# --- a start that cannot succeed ------------------------------------------------------------------


class Usage(IdserviceError):
    text = "{why}."
    code = "usage"
    outcome = NOT_APPLIED


class CannotListen(IdserviceError):
    text = (
        "Cannot listen on {address}: {why}. Name another address with --listen or --admin-listen, "
        "or stop the process that uses this one."
    )
    code = "cannot_listen"
    outcome = NOT_APPLIED


class StoreUnready(StoreError):
    text = "The store {store} cannot be used: {why}."
    code = "store_unready"

    def __init__(self, *, waiting_helps: bool = False, **fields: object) -> None:
        super().__init__(**fields)
        self.waiting_helps = waiting_helps


class StoreReplaced(StoreUnready):
    text = "The store {store} was restored or replaced: {why}."
    code = "store_replaced"
    retryable = False
