"""Defines the errors of access keys and of usage. None names a secret, and each is the same whether
or not what was asked for exists."""

from idservice.errors.tree import NotApplied, OutcomeUnknown, RequestRefused, Unavailable

SEND = "Send `Authorization: Bearer idk_…`"
NEW = "`idservice key create --role R --scope S`"  # by the owner of the service


class KeyRefused(RequestRefused):
    """The root of the refusals that another key would mend."""

    text = "The access key was refused."
    code = "key_refused"
    status = 401


class AccessKeyMissing(KeyRefused):
    text = (
        f"Requests need an access key here, and this one has none. {SEND}; the owner of this "
        f"service makes keys by {NEW}."
    )
    code = "key_missing"  # as without the key of an add, whose status is 400


class KeyMalformed(KeyRefused):
    text = (
        f"The access key of the request cannot be read: {{why}}. {SEND}, with the key as it was "
        "shown when it was made."
    )
    code = "key_malformed"


class KeyUnknown(KeyRefused):
    text = (
        "The access key of the request is not valid here: it was revoked, is another service's, or "
        "was made less than 3 s ago. "
        f"Ask the owner of this service for a new one ({NEW})."
    )
    code = "key_unknown"


class KeyExpired(KeyRefused):
    text = (
        "The access key of the request expired on {when}. Ask the owner of this service for a "
        f"new one ({NEW})."
    )
    code = "key_expired"


class KeyNotEnough(RequestRefused):
    text = "The access key of the request may not do this: it needs {needed}, and has {has}."
    code = "key_not_enough"
    status = 403


class BadAccessKey(RequestRefused):
    text = "The access key cannot be made or revoked like this: {why}."
    code = "bad_access_key"


class KeysBusy(Unavailable):
    text = "The access keys were not changed: other changes came first each time. Try again."
    code = "keys_busy"


class KeysUnsettled(OutcomeUnknown):
    text = "It is not known if the access keys were changed: {why}. List them to see."
    code = "keys_unsettled"


class NoSuchKey(RequestRefused):
    text = (
        "There is no access key {id!r} here. `idservice key list` and `GET /v1/keys` show their "
        "ids."
    )
    code = "unknown_access_key"
    status = 404


class KeysIllFormed(NotApplied):
    text = (
        "The access keys in {store} cannot be read. The item {item} is wrong: {why}. It was "
        "changed by hand, or by a newer version. Put the item right; until then its keys are "
        "refused."
    )
    code = "keys_ill_formed"
    answered = True
    retryable = False


class UsageIllFormed(NotApplied):
    text = (
        "The usage in {store} cannot be read. The item {item} is wrong: {why}. It was changed by "
        "hand, or by a newer version. Put the item right; new usage is still counted."
    )
    code = "usage_ill_formed"
    answered = True
    retryable = False


class BadUsageReport(RequestRefused):
    text = "The usage cannot be reported like this: {why}."
    code = "bad_usage_report"


class UsageElsewhere(RequestRefused):
    text = (
        "This service borrows its ids from {store}, which counts them as usage when it lends "
        "them. Ask that service."
    )
    code = "usage_elsewhere"
    status = 409


class StoreKeyNotEnough(RequestRefused):
    text = (
        "The service {store} refused {action} to the access key that it was shown: {why}. {advice}."
    )
    code = "store_key_not_enough"  # never one that a caller's own key would mend
    status = 403


class StoreKeyRefused(NotApplied):
    text = "The service {store} refused {action}: {why}. {advice}."
    code = "store_key_refused"
