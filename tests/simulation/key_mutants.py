"""Planted faults in access keys: one rule broken each, which the simulation must find."""

from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any
from unittest import mock

from idservice import errors
from idservice.access.keys import Keys
from idservice.access.passes import Pass
from idservice.allocation.catalogue_watch import CatalogueWatcher
from idservice.core import access_key
from idservice.core.access_key import AccessKey, Role
from idservice.stores.key_store import KeyBucket
from tests.simulation.key_world import WatchedTable


@dataclass(frozen=True, slots=True)
class KeyMutant:
    """A fault: what is put in the place of methods or functions, and the check that must see it."""

    name: str
    check: str
    fault: tuple[tuple[Any, str, Callable[..., Any]], ...]
    found_by: int = 0  # the seed that is tried first

    def planted(self) -> ExitStack:
        """A context in which the fault is there."""
        stack = ExitStack()
        for place, name, fault in self.fault:
            stack.enter_context(mock.patch.object(place, name, fault))
        return stack


async def _remembered_late(self: CatalogueWatcher) -> None:
    """The revision is remembered as it is once all was read."""
    before = self._revision
    await honest_look(self)
    if self._revision != before:
        with suppress(errors.StoreError):
            self._revision = await self._store.revision()


honest_look = CatalogueWatcher._look


async def _nothing_read(self: Keys) -> None:
    """Keys that were read are believed for ever."""


async def _failure_unseen(self: Keys) -> None:
    """As it should be, but that a bucket which could not be read is taken for read."""
    for number in tuple(self._buckets):
        try:
            self.put(await self._read(number))
        except errors.StoreError:
            continue


def _never_stale(self: Keys) -> None:
    return None


def _no_tick(self: Keys) -> None:
    """The clock is not looked at."""


def _never_disarmed(self: Pass, refusal: errors.IdserviceError) -> None:
    self.refusal = refusal


def _any_prefix(scope: str, name: str) -> bool:
    return name.startswith(scope.removesuffix("*").removesuffix(".")) or scope == name


def _any_role(self: Role, other: Role) -> bool:
    return True


def _any_text(self: AccessKey, text: str) -> bool:
    return True


def _revision_stays(self: WatchedTable, after: KeyBucket) -> bool:
    before = self.revision
    done = honest_rewrite(self, after)
    self.revision = before
    return done


honest_rewrite = WatchedTable.rewrite_keys

KEY_MUTANTS = (
    KeyMutant("keys are not read again", "revoked", ((Keys, "read_again", _nothing_read),)),
    KeyMutant(
        "a failed look is remembered",
        "revoked",
        ((Keys, "read_again", _failure_unseen),),
        found_by=21,
    ),
    KeyMutant(
        "the revision is read after the keys",
        "revoked",
        ((CatalogueWatcher, "_look", _remembered_late),),
        found_by=7,
    ),
    KeyMutant(
        "keys are believed without the store",
        "revoked",
        ((Keys, "_stale", _never_stale),),
        found_by=2,
    ),
    KeyMutant("a busy key does not expire", "expired", ((Keys, "tick", _no_tick),), found_by=1),
    KeyMutant("what is armed stays so", "revoked", ((Pass, "end", _never_disarmed),)),
    KeyMutant("a prefix without its dot", "scope", ((access_key, "covers", _any_prefix),)),
    KeyMutant("any role is enough", "role", ((Role, "contains", _any_role),)),
    KeyMutant(
        "the revision does not move", "revoked", ((WatchedTable, "rewrite_keys", _revision_stays),)
    ),
)
