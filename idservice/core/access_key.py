"""An access key: its text, its role and its scopes.

    idk_use_k7f3q9m2xw_<32 of the secret><6 of the checksum>

The checksum tells a typo without a look-up, and lets a secret scanner be sure. It is the CRC-32 of
all before it, in base 62. The secret has 190 random bits, so a plain SHA-256 of the text is kept:
slow hashes are for passwords, which can be guessed.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from hashlib import sha256
from hmac import compare_digest
from zlib import crc32

from idservice.core.limits import NAME

ID_DIGITS = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: none looks like another
DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
ID_LENGTH, SECRET_LENGTH, CHECKSUM_LENGTH = 10, 32, 6
RANDOM_NUMBERS = ID_LENGTH + SECRET_LENGTH  # that a new key is made of
SCOPES_MAX = 32
NOTE_MAX = 200  # characters
BUCKETS = "0123456789abcdef"
EVERYTHING = "*"
BELOW = ".*"  # ends a scope of all names with a prefix
KEY_ID = re.compile(rf"[{ID_DIGITS}]{{{ID_LENGTH}}}", re.ASCII)
MARK = "idk_"  # begins every key
BEARER = b"bearer "  # begins the header that shows one, in any case
_PAIRS = [one + other for one in DIGITS for other in DIGITS]


class Role(Enum):
    """The rights of a key. Each contains the one before."""

    READ = "read"  # list, show, read values and records
    USE = "use"  # also take ids and add
    ADMIN = "admin"  # also create, change and delete, make and revoke keys, read the usage

    def contains(self, other: "Role") -> bool:
        """Return True if this role has the rights of the other."""
        order = tuple(Role)
        return order.index(self) >= order.index(other)


class KeyState(Enum):
    """A state of a key; a revoked one stays so."""

    ACTIVE = "active"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class AccessKey:
    """A key as it is kept: without its secret. Times are milliseconds since 1970, UTC."""

    id: str
    role: Role
    scopes: tuple[str, ...]
    hash: str  # SHA-256 of the whole text, in hexadecimal
    created: int
    by: str = ""
    note: str = ""
    expires: int | None = None  # from then on the key is refused
    state: KeyState = KeyState.ACTIVE
    ended: int = 0  # when it was revoked, why, and by whom
    reason: str = ""
    ended_by: str = ""

    def is_text(self, text: str) -> bool:
        """Return True if this is the key of the text."""
        return compare_digest(self.hash, hashed(text))

    def has_expired(self, now: int) -> bool:
        """Return True if the key is not valid any more because of its age."""
        return self.expires is not None and now >= self.expires

    def is_usable(self, now: int) -> bool:
        """Return True if the key opens anything."""
        return self.state is KeyState.ACTIVE and not self.has_expired(now)


_text = re.compile(
    rf"({MARK}(?:read|use|admin)_([{ID_DIGITS}]{{{ID_LENGTH}}})_[0-9A-Za-z]{{{SECRET_LENGTH}}})"
    rf"([0-9A-Za-z]{{{CHECKSUM_LENGTH}}})",
    re.ASCII,
)


def key_text(role: Role, numbers: Sequence[int]) -> str:
    """Return the text of a new key from RANDOM_NUMBERS secret random numbers, from 0 to 2**32 - 1
    each."""
    assert len(numbers) == RANDOM_NUMBERS
    id = "".join(ID_DIGITS[number % 32] for number in numbers[:ID_LENGTH])
    secret = "".join(DIGITS[number % 62] for number in numbers[ID_LENGTH:])
    body = f"{MARK}{role.value}_{id}_{secret}"
    return body + checksum(body)


def id_in(text: str) -> str | None:
    """Return the id in the text of a key; None if it is not a key, or has a typo."""
    found = _text.fullmatch(text)
    if found is None:
        return None
    body, id, end = found.groups()
    return id if checksum(body) == end else None


def holds_key(text: str) -> bool:
    """Return True if the whole text of a key is in a text. What is kept and shown has none (K4)."""
    return MARK in text and any(id_in(found[0]) for found in _text.finditer(text))


def fits(grammar: re.Pattern[str], text: str) -> bool:
    """Return True if a text that is kept or shown is as the grammar says, and has no key in it."""
    return grammar.fullmatch(text) is not None and not holds_key(text)


def bearer(header: bytes) -> str | None:
    """Return the token in an Authorization header; None if it is of another scheme."""
    if header[: len(BEARER)].lower() != BEARER:
        return None
    return header[len(BEARER) :].decode("ascii", "replace").strip()


def checksum(body: str) -> str:
    """Return the checksum of the text before it."""
    rest, last = divmod(crc32(body.encode()), len(_PAIRS))
    first, middle = divmod(rest, len(_PAIRS))
    return _PAIRS[first] + _PAIRS[middle] + _PAIRS[last]


def hashed(text: str) -> str:
    """Return the hash of the text of a key, which the store has in place of the text."""
    return sha256(text.encode()).hexdigest()


def bucket_of(id: str) -> str:
    """Return the bucket, one of BUCKETS, in which a key of this id is kept."""
    return sha256(id.encode()).hexdigest()[0]


# --- scopes ---------------------------------------------------------------------------------------


def is_scope(text: str) -> bool:
    """Return True for `*`, for `PREFIX.*` and for a name. `acme*` is not a scope: it would cover
    `acme2.orders` of another tenant."""
    return text == EVERYTHING or NAME.fullmatch(text.removesuffix(BELOW)) is not None


def why_no_scope(text: str) -> str:
    """Return in words why a text is not a scope, and which one may be meant; empty if it is one. A
    text with an access key in it is refused: it would be kept, and shown (K4)."""
    if holds_key(text):
        return "a scope has an access key in it; leave it out"
    if is_scope(text):
        return ""
    meant = text.rstrip("*").rstrip(".") + BELOW
    hint = f" (did you mean `{meant}`?)" if text != meant and is_scope(meant) else ""
    rule = "a scope is a name, a prefix with `.*` after it, or `*`"
    return f"the scope {text[:80]!r} is not allowed{hint}; {rule}"


def covers(scope: str, name: str) -> bool:
    """Return True if a scope covers a name of a counter or a tally."""
    if scope.endswith(BELOW):
        return name.startswith(scope[:-1])
    return scope in (EVERYTHING, name)


def tenant(scope: str) -> str:
    """Return the tenant of a scope: the first part of the names that it covers. All keys that are
    made with an admin key of the tenant have it."""
    return scope.partition(".")[0]


def is_within(scope: str, outer: str) -> bool:
    """Return True if all names of a scope are covered by the outer one."""
    if outer == EVERYTHING:
        return True
    return scope != EVERYTHING and (
        scope == outer or (outer.endswith(BELOW) and scope.startswith(outer[:-1]))
    )


def any_covers(scopes: Iterable[str], name: str) -> bool:
    """Return True if one of the scopes covers the name."""
    return any(covers(scope, name) for scope in scopes)


def are_within(scopes: Iterable[str], outer: Sequence[str]) -> bool:
    """Return True if each scope is within one of the outer ones."""
    return all(any(is_within(scope, one) for one in outer) for scope in scopes)


def outermost(scopes: Iterable[str]) -> list[str]:
    """Return the scopes without those within others, in the order of the names that they cover."""
    given = set(scopes)
    kept = [one for one in given if not any(is_within(one, each) for each in given - {one})]
    return sorted(kept, key=lambda scope: scope.removesuffix(EVERYTHING))
