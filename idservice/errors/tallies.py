"""Defines the errors of tallies, which are sums that count each key once.

An add that is refused or not answered says `not_applied` only if nothing is counted under its key.
"""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from idservice.errors.tree import UNKNOWN, NotApplied, RequestRefused, Unavailable

KEEP_KEY = "Send it again with the same key: it is counted once."
# Rights change: of a request that is not let through, the same add may have been so before.
EARLIER = (
    " It is not known if an earlier request with this Idempotency-Key is counted. When this is"
    " mended, send it again with the same Idempotency-Key: it is counted once."
)


class BadTally(RequestRefused):
    text = "The tally cannot be configured like this: {why}."
    code = "bad_tally"


class BadAmount(RequestRefused):
    text = "{field} is {value!r}; it must be {rule}."
    code = "bad_amount"


class KeyMissing(RequestRefused):
    text = (
        "The request has no Idempotency-Key header. Name each add by a new key, such as the "
        "id of the payment; a retry with the same key is counted once."
    )
    code = "key_missing"


class BadKey(RequestRefused):
    text = (
        "The key {value!r} is not allowed. A key has 1 to 128 letters, digits, '.', '_', ':', '~' "
        "or '-', and is not an access key."
    )
    code = "bad_key"


class UnknownTally(RequestRefused):
    text = "There is no tally {name!r}. Create it with `idservice tally create {name}`."
    code = "unknown_tally"
    status = 404


class UnknownAdd(RequestRefused):
    text = "Nothing was counted under key {key!r} of tally {name!r} before this was asked."
    code = "unknown_add"
    status = 404
    members = ("key", "as_of")

    @property
    def as_of(self) -> datetime:
        """Return the time up to which nothing was counted, in UTC."""
        since = datetime(1970, 1, 1, tzinfo=UTC)
        return since + timedelta(milliseconds=int(str(self.fields["as_of"])))


class TallyDiffers(RequestRefused):
    text = (
        "Tally {name!r} exists with another configuration: {difference}. `idservice tally "
        "configure {name} --floor X --ceiling X` changes its bounds; the rest is fixed, so take "
        "another name."
    )
    code = "tally_differs"
    status = 409


class TallyNotChanged(RequestRefused):
    text = "Tally {name!r} was not changed: {why}."
    code = "tally_not_changed"
    status = 409


class OutOfBounds(RequestRefused):
    text = (
        "Tally {name!r} stood at {sum}, and {amount} would take it {beyond}. Nothing was counted. "
        "This is final for key {key!r}; another try needs another key."
    )
    code = "out_of_bounds"
    status = 409
    members = ("key", "amount", "sum", "at", "rev", "replayed")

    @property
    def sum(self) -> Decimal:
        """Return the sum that the amount would have taken beyond a bound."""
        return Decimal(str(self.fields["sum"]))


class KeyReused(RequestRefused):
    text = (
        "Key {key!r} of tally {name!r} was used before, for {first}. Nothing was counted for this "
        "request. Use a new key for each add."
    )
    code = "key_reused"
    status = 422
    members = ("key", "amount")

    @property
    def amount(self) -> Decimal:
        """Return the amount that the key was first used for."""
        return Decimal(str(self.fields["amount"]))


class TallySuspended(RequestRefused):
    text = "Tally {name!r} is suspended {by}. `idservice tally resume {name}` resumes it."
    code = "tally_suspended"
    status = 423


class AddUnsettled(Unavailable):
    text = "It is not known yet if key {key!r} of tally {name!r} is counted: {why}. " + KEEP_KEY
    code = "add_unsettled"
    outcome = UNKNOWN
    members = ("key",)


class TallyWentBack(NotApplied):
    text = (
        "Tally {name!r} in {store} {how}: it was deleted, restored or changed by hand, so nothing "
        "is added to it, its sum is not told, and it is not changed. Put it back, or run "
        "`idservice fence --all --ahead N` and restart the service, see docs/how-to/recover.md."
    )
    code = "tally_went_back"
    answered = True
    retryable = False


class TallyIllFormed(NotApplied):
    text = (
        "Tally {name!r} in {store} cannot be read. The item {item} is wrong: {why}. It was changed "
        "by hand, or by a newer version. Put the item right; nothing is added until then."
    )
    code = "tally_ill_formed"
    answered = True
    retryable = False
