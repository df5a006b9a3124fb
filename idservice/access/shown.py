"""Shows access keys without their secrets, and reads the roles and times that callers write."""

import re
from datetime import UTC, datetime, timedelta

from idservice import errors
from idservice.core.access_key import AccessKey, Role
from idservice.stores.instants import instant

TIME = r"[0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,9})?)?([Zz]|[+-][0-9]{2}:[0-9]{2})"
DATE = re.compile(rf"[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}([Tt ]{TIME})?", re.ASCII)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EXPIRED = "expired"  # beside the states that are kept


def described(key: AccessKey, now: int) -> dict[str, object]:
    """Return a key as JSON values, without its hash. `now` is in milliseconds since 1970."""
    row: dict[str, object] = {
        "id": key.id,
        "state": state(key, now),
        "role": key.role.value,
        "scopes": list(key.scopes),
        "note": key.note,
        "by": key.by,
        "created": instant(key.created),
        "expires": None if key.expires is None else instant(key.expires),
    }
    if key.ended:
        row |= {"revoked": instant(key.ended), "revoked_by": key.ended_by, "reason": key.reason}
    return row


def state(key: AccessKey, now: int) -> str:
    """Return the state of a key; `expired` if it is past its end and was not revoked."""
    return key.state.value if key.is_usable(now) or key.ended else EXPIRED


def read_role(text: str) -> Role:
    """Return the role of a name. Raises BadAccessKey."""
    try:
        return Role(text)
    except ValueError:
        names = ", ".join(role.value for role in Role)
        why = f"the role is {text[:80]!r}; it must be one of {names}"
        raise errors.BadAccessKey(why=why) from None


def read_expiry(text: str) -> int:
    """Return a day or a time in milliseconds since 1970. Raises BadAccessKey."""
    try:
        if DATE.fullmatch(text) is None:
            raise ValueError
        at = datetime.fromisoformat(text.upper())
        # A time with a year above 9999 in UTC is refused here: no list could show it.
        at = at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
        return (at - EPOCH) // timedelta(milliseconds=1)
    except (ValueError, OverflowError):
        why = (
            f"its end is {text[:80]!r}; it must be a time such as 2027-11-01T12:00Z, or a day such "
            "as 2027-11-01, which means its beginning in UTC"
        )
        raise errors.BadAccessKey(why=why) from None
