"""The operations of a store on access keys. They are kept in 16 buckets, by the hash of their id.

So keys that nobody made cause 16 reads at most, and serving needs no scan. An operation raises
NotApplied (nothing happened) or OutcomeUnknown (it may have; a write may even be applied later).
"""

from dataclasses import dataclass
from typing import Protocol

import msgspec

from idservice.core.access_key import AccessKey

KEYS_MAX = 1000  # of a bucket
BUCKET_MAX = 350_000  # bytes of it: an item of DynamoDB has 400 KB


@dataclass(frozen=True, slots=True)
class KeyBucket:
    """One bucket, at `rev`; 0: it was never written."""

    number: str  # one of access_key.BUCKETS
    rev: int = 0
    keys: tuple[AccessKey, ...] = ()

    def key(self, id: str) -> AccessKey | None:
        """Return the key of an id."""
        return next((key for key in self.keys if key.id == id), None)


class KeyStore(Protocol):
    """The access keys of a store of our own."""

    async def bucket(self, number: str) -> KeyBucket:
        """Return a bucket, read consistently. Raises NotApplied, KeysIllFormed."""

    async def rewrite(self, after: KeyBucket) -> bool:
        """Write a bucket and move the catalogue's revision, in one step.

        Conditional on the bucket's `rev` being one less than that of `after`; False if it is not. A
        late copy does nothing, since `rev` never returns. May be repeated.
        """


def encoded_keys(keys: tuple[AccessKey, ...]) -> str:
    """Return keys as stores write them."""
    return msgspec.json.encode(keys).decode()


def decoded_keys(text: str) -> tuple[AccessKey, ...]:
    """Return the keys that were written so. Raises ValueError."""
    return msgspec.json.decode(text, type=tuple[AccessKey, ...])  # its error is a ValueError
