"""Words an error for callers of ids and tallies. What names a store, a table, an address or a
path is for operators: they read it on the control plane and in the log."""

from idservice import errors

LOG = " The log of the service says why."
# The first kind that fits. An error of any other kind says nothing that a caller may not read.
WORDS: dict[type[errors.IdserviceError], str] = {
    errors.Changing: errors.Changing.text,
    errors.Moved: "Counter {name!r} hands out no ids here: it goes on in another store.",
    errors.WaitedTooLong: "No id of counter {name!r} arrived within {seconds:g} s." + LOG,
    errors.CounterSuspect: "Counter {name!r} hands out no ids until an operator repairs it." + LOG,
    errors.StoreKeyNotEnough: "This service takes ids and sums of another one with a key of its "
    "own, which does not cover this. Ask the owner of this service for a wider key." + LOG,
    errors.AddUnsettled: "It is not known yet if key {key!r} of tally {name!r} is counted. "
    + errors.KEEP_KEY
    + LOG,
    errors.TallyWentBack: "Nothing is added to tally {name!r}, and its sum is not told, until an "
    "operator repairs it." + LOG,
    errors.StoreReplaced: "The service gives no ids and no sums until an operator acts: its store "
    "changed." + LOG,
    errors.OutcomeUnknown: "The store gave no readable answer: it is not known if this was done, "
    "and ids may be used up." + LOG,
    errors.StoreError: "The store of the service failed." + LOG,
}


def caller_words(error: errors.IdserviceError) -> str:
    """Return the message of an error for callers of ids and tallies."""
    for kind, words in WORDS.items():
        if isinstance(error, kind):
            return words.format(**error.fields)
    return str(error)
