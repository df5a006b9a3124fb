"""The decisions of one call about a tally: what to send, when to send it again, and what to tell.

No I/O: the clients and the sidecar's store carry them out. An add keeps its key over all its tries,
so it is counted once whichever of them arrives (T1).
"""

import secrets
from collections.abc import Callable, Generator
from dataclasses import replace
from functools import partial
from random import Random, SystemRandom
from typing import TypeVar

from idservice import errors
from idservice.client import tally_protocol
from idservice.client.own_key import FORBIDDEN, UNAUTHORIZED
from idservice.client.protocol import NotSent, NoUsableAnswer, Refused, Reply
from idservice.client.tally_protocol import SettledAdd, TallyAsk, TallyValue
from idservice.core.timeouts import backoff

T = TypeVar("T")
Steps = Generator[TallyAsk | float, Reply | NoUsableAnswer | None, T]  # a float: seconds to wait

WAIT_S = 2.0  # for a sidecar to be answered: the default of --wait
NEW_KEY = "(a new key)"  # not allowed as a key
PAUSE_FIRST_S, PAUSE_MAX_S = 0.02, 1.0  # after a failed try, doubled with each further one
TRY_MIN_S = 0.5  # for a try to be answered, if that much is left
LIMIT_MIN_S = 0.001
# These are said of a key whatever became of its earlier tries.
FINAL = (errors.OutOfBounds, errors.KeyReused, errors.BadAmount)


class TallyNotRead(errors.WaitedTooLong):
    text = "Tally {name!r} was not read within {seconds:g} s: {why}."
    code = "tally_not_read"

    def __init__(self, *, cause: errors.IdserviceError, **fields: object) -> None:
        super().__init__(**fields)
        self.cause = cause  # of the last try


class TallyCalls:
    """Calls about one tally of the service at `url`. Raises TypeError, BadName.

    `limit_s` is how long a call may take. `clock` returns seconds. `check_open` raises NotOpen if
    the client is not open, with the outcome that it is given.
    """

    def __init__(
        self,
        name: str,
        url: str,
        *,
        limit_s: float,
        clock: Callable[[], float],
        check_open: Callable[[str], None] = lambda _: None,
        random: Random | None = None,
    ) -> None:
        self._name = tally_protocol.check_name(name)
        self._url = url
        self._limit_s = limit_s
        self._clock = clock
        self._check_open = check_open
        self._random = random or SystemRandom()

    def add(self, amount: object, key: object) -> Steps[SettledAdd]:
        """Count an amount under a key. Each error has the key.

        Raises TypeError, BadAmount, BadKey, OutOfBounds, KeyReused, UnknownTally, TallySuspended,
        Refused, NotOpen, AddUnsettled.
        """
        key = secrets.token_urlsafe(16) if key == NEW_KEY else tally_protocol.check_key(key)
        try:
            text = tally_protocol.amount_text(amount)
            ask = tally_protocol.ask_to_add(self._name, key, text)
            read = partial(
                tally_protocol.read_added, url=self._url, name=self._name, key=key, amount=text
            )
            return (yield from self._tries(ask, read, partial(self._unsettled, key)))
        except errors.IdserviceError as error:
            error.key = key
            raise

    def value(self) -> Steps[TallyValue]:
        """Read the sum. Raises UnknownTally, Refused, NotOpen, TallyNotRead."""
        ask = tally_protocol.ask_for_value(self._name)
        read = partial(tally_protocol.read_value, url=self._url, name=self._name)
        return (yield from self._tries(ask, read, self._not_read))

    def recorded(self, key: object) -> Steps[SettledAdd]:
        """Read the record of a key. Raises TypeError, BadKey, UnknownAdd, and as `value`."""
        key = tally_protocol.check_key(key)
        ask = tally_protocol.ask_for_record(self._name, key)
        read = partial(tally_protocol.read_record, url=self._url, name=self._name, key=key)
        try:
            return (yield from self._tries(ask, read, self._not_read))
        except errors.IdserviceError as error:
            error.key = key
            raise

    def _tries(
        self,
        ask: TallyAsk,
        read: Callable[[Reply], T],
        late: Callable[[errors.IdserviceError], errors.IdserviceError],
    ) -> Steps[T]:
        """Send the same request until there is an answer or the time is over; then raise `late`."""
        deadline = self._clock() + self._limit_s
        failures, outcome = 0, errors.NOT_APPLIED
        while True:
            self._check_open(outcome)
            left_s = deadline - self._clock()
            # Half of the time: another instance may answer what this one does not.
            limit_s = max(LIMIT_MIN_S, min(left_s, max(left_s / 2, TRY_MIN_S)))
            reply = yield replace(ask, limit_s=limit_s)
            assert reply is not None
            try:
                if isinstance(reply, NoUsableAnswer):
                    raise reply
                return read(reply)
            except errors.IdserviceError as error:
                if isinstance(error, Refused) and error.status in (UNAUTHORIZED, FORBIDDEN):
                    # The same add may have been let through before: rights change.
                    error.outcome = outcome if ask.method == "GET" else errors.UNKNOWN
                    raise
                if not error.retryable and error.outcome != errors.UNKNOWN:
                    # An earlier try may arrive later, when the tally is open again.
                    if not isinstance(error, FINAL):
                        error.outcome = outcome
                    raise
                if error.outcome == errors.UNKNOWN and ask.method == "POST":
                    outcome = errors.UNKNOWN
                failures += 1
                pause = self._pause(failures, error)
                if self._clock() + pause >= deadline:
                    self._check_open(outcome)
                    raise late(error) from None
            yield pause

    def _pause(self, failures: int, error: errors.IdserviceError) -> float:
        said = error.pause_s if isinstance(error, Refused) else 0.0
        spread = self._random.random()
        return max(said, backoff(failures, first_s=PAUSE_FIRST_S, max_s=PAUSE_MAX_S, spread=spread))

    def _unsettled(self, key: str, error: errors.IdserviceError) -> errors.AddUnsettled:
        # Also where nothing was sent: an earlier call with this key may have been.
        if isinstance(error, errors.AddUnsettled):
            return error
        return errors.AddUnsettled(name=self._name, key=key, why=_reason(error))

    def _not_read(self, error: errors.IdserviceError) -> TallyNotRead:
        return TallyNotRead(name=self._name, seconds=self._limit_s, why=_reason(error), cause=error)


def _reason(error: errors.IdserviceError) -> str:
    if isinstance(error, NotSent):
        return f"cannot reach {error.fields['url']} ({error.why})"
    if isinstance(error, NoUsableAnswer):
        return f"{error.fields['url']} gave no readable answer ({error.why.rstrip('.')})"
    return str(error).rstrip(".")
