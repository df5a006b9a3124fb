"""Every error of the project, as one tree; a class's docstring is the message it shows.

`code` is stable and machine-readable, `status` the HTTP status, `retryable` says whether the same
request may succeed later, `outcome` whether anything happened: `not_applied` (certainly nothing)
or `unknown`. In doubt an error says `unknown`.
"""

from typing import Any

NOT_APPLIED = "not_applied"
UNKNOWN = "unknown"


class IdserviceError(Exception):
    """The service failed; this is a fault of the service, please report it."""

    code: str = "internal"
    status: int = 500
    retryable: bool = False
    outcome: str = UNKNOWN

    def __init__(self, **fields: object) -> None:
        self.fields = fields
        template = " ".join((type(self).__doc__ or self.code).split())
        super().__init__(template.format(**fields))


# --- a request that cannot be served as it is -----------------------------------------------------


class RequestRefused(IdserviceError):
    """The request was refused."""

    code = "bad_request"
    status = 400
    outcome = NOT_APPLIED


class MalformedRequest(RequestRefused):
    """The request is not well-formed HTTP: {why}."""


class BadCount(RequestRefused):
    """count is {value!r}; it must be a whole number from 1 to {most} in plain digits."""

    code = "bad_count"


class BadName(RequestRefused):
    """{value!r} is no counter name; a name is 1 to 64 letters, digits, '.', '_' or '-', and begins
    with a letter or a digit."""

    code = "bad_name"


class BadFormat(RequestRefused):
    """format is {value!r}; it must be text, json or ranges."""

    code = "bad_format"


class BadNonce(RequestRefused):
    """nonce is {value!r}; it must be 1 to 64 letters, digits, '.', '_' or '-'."""

    code = "bad_nonce"


class BadPage(RequestRefused):
    """{key} is {value!r}; it must be {rule}."""

    code = "bad_page"


class RepeatedKey(RequestRefused):
    """The query names {value!r} more than once; send it once."""

    code = "repeated_key"


class BadConfiguration(RequestRefused):
    """The counter cannot be configured so: {why}."""

    code = "bad_configuration"


class PrefetchRefused(RequestRefused):
    """A prefetch would use up an id that nobody reads; send the request when the id is needed."""

    code = "prefetch_refused"
    status = 403


class WriteRefused(RequestRefused):
    """Counters are changed only from this machine: {why}."""

    code = "write_refused"
    status = 403


class UnknownPath(RequestRefused):
    """Nothing is served at {path!r} of this address; ids are at /next and /v1/counters/NAME/next of
    --listen, metrics and counters of --admin-listen where that is used."""

    code = "unknown_path"
    status = 404


class UnknownCounter(RequestRefused):
    """There is no counter {name!r}; create it with `idservice create {name}` or
    PUT /v1/counters/{name}."""

    code = "unknown_counter"
    status = 404


class MethodRefused(RequestRefused):
    """{method} is not served here; use {allow}."""

    code = "method_not_allowed"
    status = 405


class RequestTimeout(RequestRefused):
    """The request's body did not arrive within {seconds:g} s."""

    code = "request_timeout"
    status = 408


class CounterDiffers(RequestRefused):
    """Counter {name!r} exists with another configuration: {difference}."""

    code = "counter_differs"
    status = 409


class ChangeRefused(RequestRefused):
    """Counter {name!r} was not changed: {why}."""

    code = "change_refused"
    status = 409


class Exhausted(RequestRefused):
    """Counter {name!r} has fewer ids left than the {count} asked for, up to its limit {limit}."""

    code = "exhausted"
    status = 410


class ConditionalRefused(RequestRefused):
    """{header} makes no sense for an id, which is new each time; leave the header out."""

    code = "conditional_refused"
    status = 412


class BodyTooLarge(RequestRefused):
    """The request's body is longer than {most} bytes."""

    code = "body_too_large"
    status = 413


class RangeRefused(RequestRefused):
    """An id cannot be read in parts; leave the Range header out."""

    code = "range_refused"
    status = 416


class Suspended(RequestRefused):
    """Counter {name!r} is suspended; `idservice resume {name}` ends that."""

    code = "suspended"
    status = 423


class Moved(Suspended):
    """Counter {name!r} hands out nothing here: {why}."""

    code = "moved"


# --- a request that may be sent again -------------------------------------------------------------


class Unavailable(IdserviceError):
    """The service cannot serve this now."""

    code = "unavailable"
    status = 503
    retryable = True
    outcome = NOT_APPLIED


class TooManyWaiting(Unavailable):
    """{count} requests already wait for ids of counter {name!r}; try again later."""

    code = "too_many_waiting"


class WaitedTooLong(Unavailable):
    """No id of counter {name!r} came within {seconds:g} s: {why}."""

    code = "waited_too_long"


class CounterSuspect(Unavailable):
    """Counter {name!r} hands out nothing. {why}"""

    code = "counter_suspect"
    retryable = False


class CatalogueStale(Unavailable):
    """For {seconds:g} s this instance could not ask the store whether counters were changed, so it
    hands nothing out."""

    code = "catalogue_stale"


class Stopped(Unavailable):
    """The service is stopping; ask another instance."""

    code = "stopping"


# --- what a store call can end with ---------------------------------------------------------------


class StoreError(Unavailable):
    """The store {store} did not serve this: {why}."""

    code = "store_unavailable"
    throttled = False  # whether it refused because that item is too hot: another shard's may do


class NotApplied(StoreError):
    """The store {store} refused {action}: {why}."""


class OutcomeUnknown(StoreError):
    """The store {store} gave no readable answer to {action}, which may have been applied: {why}."""

    outcome = UNKNOWN


class PositionMissing(NotApplied):
    """The store {store} has no position for counter {name!r} (it was deleted by hand, or the
    table was emptied); `idservice fence {name} --past N` goes on above N, the highest id in use."""

    retryable = False


class EpochChanged(NotApplied):
    """The position of counter {name!r} in {store} carries the epoch {found!r}, not {epoch!r}; where
    that begins with gone-back, it was moved back: `idservice fence {name} --past N` or `--ahead N`
    goes on above every id in use, see docs/how-to/recover.md."""

    @property
    def gone_back(self) -> bool:
        """Whether somebody closed the position because it was moved back."""
        return str(self.fields["found"]).startswith("gone-back:")


class BatchBurnt(EpochChanged):
    """Counter {name!r} in {store} changed to {found!r} from {epoch!r} when a batch was granted and
    not yet answered: its ids are burnt."""


class OutOfTurn(NotApplied):
    """Writer {writer} of counter {name!r} in {store} has not the record that its batch follows."""

    def __init__(self, *, record: Any, **fields: object) -> None:
        super().__init__(**fields)
        self.record = record  # a core.writer.Record as it stood there; None where there was none


class NotShown(NotApplied):
    """{store} shows and changes no counters, so {action} is not possible there; ask where the
    central's --admin-listen says, or use its own store."""

    retryable = False


class ChangedElsewhere(NotApplied):
    """{store} is a service, whose counters are changed where it runs: by its own --store, or by
    PATCH, DELETE and POST where its --admin-listen says."""

    retryable = False


class PositionIllFormed(NotApplied):
    """The position of counter {name!r} in {store} cannot be read: {why};
    `idservice fence {name} --past N` goes on above N, the highest id in use."""

    retryable = False


class WentBack(NotApplied):
    """The position of counter {name!r} in {store} was moved back to {position}, below {above};
    `idservice fence {name} --ahead N` goes on above that, see docs/how-to/recover.md."""

    retryable = False

    def __init__(self, *, epoch: str, **fields: object) -> None:
        super().__init__(**fields)
        self.epoch, self.applied = (
            epoch,
            False,
        )  # what closing is conditioned on; `interpret_failure`


class Withheld(NotApplied):
    """The service {store} hands out no ids of counter {name!r}: {why}."""

    retryable = False


class NoRoom(NotApplied):
    """Counter {name!r} in {store} stands at {position}: fewer numbers are left than asked for."""

    retryable = False

    def __init__(
        self, *, position: int, rev: int = 0, returned: tuple[range, ...] = (), **fields: object
    ) -> None:
        super().__init__(position=position, **fields)
        self.position, self.rev = position, rev  # as they were found,
        self.returned = returned  # and the ranges there that were given back


# --- a start that cannot succeed ------------------------------------------------------------------


class Usage(IdserviceError):
    """{why}."""

    code = "usage"
    outcome = NOT_APPLIED


class CannotListen(IdserviceError):
    """Cannot listen on {address}: {why}. Name another address with --listen or --admin-listen, or
    stop what uses this one."""

    code = "cannot_listen"
    outcome = NOT_APPLIED


class StoreUnready(StoreError):
    """The store {store} cannot be used: {why}."""

    code = "store_unready"

    def __init__(self, *, waiting_helps: bool = False, **fields: object) -> None:
        super().__init__(**fields)
        self.waiting_helps = waiting_helps


class StoreReplaced(StoreUnready):
    """The store {store} is not the one that was initialised: {why}."""

    code = "store_replaced"
    retryable = False
