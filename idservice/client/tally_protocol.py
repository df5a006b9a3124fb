"""The protocol by which a client or a sidecar adds to a tally of a service, and reads it.

It needs only the standard library. An add may be sent again, always with its own key: its record
decides (T1). An answer is believed only if it repeats the tally, the key and the amount. A page of
a proxy, a redirect or an answer to another key proves nothing (T3).
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from idservice import errors
from idservice.client.protocol import NoUsableAnswer, Refused, Reply, read_object
from idservice.core import amounts, limits
from idservice.core.access_key import fits
from idservice.core.tally import AddFate
from idservice.errors.tallies import KEEP_KEY

TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}(?:\.[0-9]{1,6})?Z", re.ASCII)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
OF_A_KEY = {errors.OutOfBounds.code, errors.KeyReused.code, errors.UnknownAdd.code}
ANOTHER = "it answers another request; a cache or a proxy is in between"


@dataclass(frozen=True, slots=True)
class TallyAsk:
    """A request about a tally, and how long it may take in seconds."""

    method: str
    target: str
    body: bytes = b""
    key: str = ""  # for the Idempotency-Key header
    limit_s: float = 0.0


@dataclass(frozen=True, slots=True)
class SettledAdd:
    """The record of a key. A refused add left `sum` as it was.

    `amount` and `sum` have the decimals of the tally, and `at` is in UTC. `rev` is the revision of
    the tally in which the key was settled. `replayed` means that it was settled before. `by` is who
    set the sum; empty for an add.
    """

    tally: str
    key: str
    fate: AddFate
    amount: Decimal
    sum: Decimal
    at: datetime
    rev: int
    replayed: bool = False
    by: str = ""

    @property
    def amount_text(self) -> str:
        """Return the amount as the service writes it, never with an exponent."""
        return format(self.amount, "f")

    @property
    def sum_text(self) -> str:
        """Return the sum as the service writes it, never with an exponent."""
        return format(self.sum, "f")


@dataclass(frozen=True, slots=True)
class TallyValue:
    """A tally as it was at `as_of` or later, in UTC; it was last changed at `at`.

    `sum` has as many decimals as the tally. `rev` rises by one with each write of the tally.
    """

    tally: str
    sum: Decimal
    at: datetime
    as_of: datetime
    rev: int

    @property
    def sum_text(self) -> str:
        """Return the sum as the service writes it, never with an exponent."""
        return format(self.sum, "f")


# --- requests -------------------------------------------------------------------------------------


def amount_text(amount: object) -> str:
    """Return an amount as text, exactly. Raises TypeError, BadAmount."""
    if isinstance(amount, str):
        return amount  # the service takes it literally
    if isinstance(amount, int) and not isinstance(amount, bool):
        amount = Decimal(amount)
    if isinstance(amount, Decimal):
        low, high = -amounts.DECIMALS_MAX, amounts.WHOLE_MAX - 1
        # Written out, 1E+999999999 would fill the memory.
        if not amount.is_finite() or not low <= amount.adjusted() <= high:
            shown = str(amount)[:80]
            raise errors.BadAmount(field="amount", value=shown, rule=amounts.WRITTEN)
        return format(amount, "f")
    if isinstance(amount, float):
        raise TypeError(
            f"amount is the float {amount!r}, which need not be the amount that was written:"
            " 0.1 + 0.2 gives 0.30000000000000004. Give a str, an int or a decimal.Decimal"
        )
    raise TypeError(f"amount is {amount!r}; it must be a str, an int or a decimal.Decimal")


def check_name(name: object) -> str:
    """Return the name of a tally itself. Raises TypeError, BadName."""
    if not isinstance(name, str):
        raise TypeError(f"the name of the tally is {name!r}; it must be a str")
    if not fits(limits.NAME, name):
        raise errors.BadName(value=name[:80])
    return name


def check_key(key: object) -> str:
    """Return the key itself. Raises TypeError, BadKey."""
    if not isinstance(key, str):
        raise TypeError(f"key is {key!r}; it must be a str, such as the id of the payment")
    if not fits(limits.KEY, key):
        raise errors.BadKey(value=key[:140])
    return key


def ask_to_add(name: str, key: str, amount: str) -> TallyAsk:
    """Return the request that counts an amount under a key."""
    body = json.dumps({"amount": amount}).encode()
    return TallyAsk("POST", f"/v1/tallies/{name}/add", body, key)


def ask_for_value(name: str) -> TallyAsk:
    """Return the request for the sum of a tally."""
    return TallyAsk("GET", f"/v1/tallies/{name}")


def ask_for_record(name: str, key: str) -> TallyAsk:
    """Return the request for the record of a key."""
    return TallyAsk("GET", f"/v1/tallies/{name}/adds/{key}")


# --- answers --------------------------------------------------------------------------------------


def read_added(reply: Reply, *, url: str, name: str, key: str, amount: str) -> SettledAdd:
    """Return the answer to an add that was counted.

    Raises BadAmount, OutOfBounds, KeyReused, UnknownTally, TallySuspended, AddUnsettled, Refused,
    NoUsableAnswer.
    """
    body = _read(reply, url, name, key, amount)
    try:
        told = _answer(body, name, key, AddFate.COUNTED)
        if told.amount != Decimal(amount):
            raise ValueError(ANOTHER)
        return told
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise _unusable(url, error) from None


def read_record(reply: Reply, *, url: str, name: str, key: str) -> SettledAdd:
    """Return the record of a key. Raises UnknownAdd, UnknownTally, Refused, NoUsableAnswer."""
    body = _read(reply, url, name, key)
    try:
        return _answer(body, name, key, AddFate(body["kind"]))
    except (KeyError, TypeError, ValueError) as error:
        raise _unusable(url, error) from None


def read_value(reply: Reply, *, url: str, name: str) -> TallyValue:
    """Return the sum. Raises UnknownTally, Refused, NoUsableAnswer."""
    body = _read(reply, url, name)
    try:
        if body["tally"] != name:
            raise ValueError(ANOTHER)
        at, as_of = _time(body["at"]), _time(body["as_of"])
        return TallyValue(name, _amount(body["sum"]), at, as_of, _whole(body["rev"]))
    except (KeyError, TypeError, ValueError) as error:
        raise _unusable(url, error) from None


def milliseconds(time: datetime) -> int:
    """Return a time in milliseconds since 1970."""
    return (time - EPOCH) // timedelta(milliseconds=1)


def decimals(amount: Decimal) -> int:
    """Return how many digits an amount of an answer has after its point."""
    exponent = amount.as_tuple().exponent
    return -exponent if isinstance(exponent, int) else 0


def _answer(body: Mapping[str, Any], name: str, key: str, fate: AddFate) -> SettledAdd:
    if body["tally"] != name or body["key"] != key:
        raise ValueError(ANOTHER)
    amount, sum = _amount(body["amount"]), _amount(body["sum"])
    if decimals(amount) != decimals(sum):
        raise ValueError("its amounts have different numbers of decimals")
    replayed, by = body.get("replayed", True), body.get("by", "")
    if not isinstance(replayed, bool) or not isinstance(by, str):
        raise ValueError("its form is wrong")
    at, rev = _time(body["at"]), _whole(body["rev"])
    return SettledAdd(name, key, fate, amount, sum, at, rev, replayed, by)


def _read(reply: Reply, url: str, name: str, key: str = "", amount: str = "") -> dict[str, Any]:
    """Return the object in an answer. Raises the error that the service told."""
    try:
        return read_object(reply, url=url)
    except Refused as refused:
        try:
            error = _told(refused, name, key, amount)
        except (KeyError, TypeError, ValueError, ArithmeticError) as unusable:
            raise _unusable(url, unusable) from None
        raise error from None


def _told(refused: Refused, name: str, key: str, amount: str) -> errors.IdserviceError:
    """Return a refusal as the error that it was at the service; itself if it is of no tally."""
    body, why = refused.body, refused.why
    if refused.code in OF_A_KEY and body["key"] != key:
        raise ValueError(ANOTHER)
    about: dict[str, Any] = {"name": name, "key": key}
    if refused.code == errors.OutOfBounds.code:
        if _amount(body["amount"]) != Decimal(amount):
            raise ValueError(ANOTHER)
        return errors.OutOfBounds(
            amount=body["amount"],
            sum=format(_amount(body["sum"]), "f"),
            at=milliseconds(_time(body["at"])),
            rev=_whole(body["rev"]),
            replayed=body["replayed"] is True,
            beyond=_between(why, " would take it ", ". Nothing") or "beyond its bounds",
            **about,
        )
    if refused.code == errors.KeyReused.code:
        first = format(_amount(body["amount"]), "f")
        said = _between(why, "was used before, for ", ". Nothing")
        return errors.KeyReused(amount=first, first=said or f"an amount of {first}", **about)
    if refused.code == errors.UnknownAdd.code:
        return errors.UnknownAdd(as_of=milliseconds(_time(body["as_of"])), **about)
    if refused.code == errors.UnknownTally.code:
        return errors.UnknownTally(name=name)
    if refused.code == errors.TallySuspended.code:
        by = _between(why, " is suspended ", ". `") or "by an operator"
        return errors.TallySuspended(name=name, by=by)
    if refused.code == errors.BadAmount.code:
        rule = why.rpartition("; it must be ")[2].rstrip(".")
        return errors.BadAmount(field="amount", value=amount[:80], rule=rule)
    if refused.code == errors.AddUnsettled.code:
        said = _between(why, " is counted: ", f". {KEEP_KEY}") or "its service says so"
        unsettled = errors.AddUnsettled(why=said, **about)
        unsettled.retryable = refused.retryable
        return unsettled
    return refused


def _between(text: str, before: str, after: str) -> str:
    """Return the part of a text between two others; empty if the first is not in it."""
    return text.partition(before)[2].partition(after)[0]


def _unusable(url: str, error: Exception) -> NoUsableAnswer:
    why = str(error) if type(error) is ValueError else "its form is wrong"
    return NoUsableAnswer(url=url, why=why)


def _amount(text: object) -> Decimal:
    if not isinstance(text, str) or not amounts.AMOUNT.fullmatch(text):
        raise ValueError("an amount is missing or malformed")
    return Decimal(text)


def _time(text: object) -> datetime:
    if not isinstance(text, str) or not TIME.fullmatch(text):
        raise ValueError("a time is missing or malformed")
    return datetime.fromisoformat(text)


def _whole(value: object) -> int:
    if type(value) is not int or value < 0:  # True is an int, too
        raise ValueError("a number is missing or malformed")
    return value
