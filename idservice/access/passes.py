"""A pass: the rights of the requests that show one key, for as long as the key is valid."""

from typing import Protocol
from weakref import WeakSet

from idservice import errors
from idservice.core.access_key import EVERYTHING, AccessKey, Role, any_covers, are_within


class Armed(Protocol):
    """A thing that serves requests by a pass without asking it again, until the pass ends."""

    def disarm(self, refusal: errors.IdserviceError) -> None: ...


class Pass:
    """The rights of one key on one instance; of every request, where `key` is None.

    `refusal` is the error of requests since the pass ended.
    """

    __slots__ = ("__weakref__", "_armed", "key", "refusal")

    def __init__(self, key: AccessKey | None) -> None:
        self.key = key
        self.refusal: errors.IdserviceError | None = None
        self._armed: WeakSet[Armed] = WeakSet()

    def check(self, role: Role, name: str | None = None) -> None:
        """Refuse what the key may not do: to the counter or tally `name`, or to all of them if that
        is EVERYTHING.

        Raises KeyNotEnough, the same whether or not the name is in use (K5); the error that ended
        the pass.
        """
        self.check_open()
        key = self.key
        if key is None:
            return
        if not key.role.contains(role):
            raise errors.KeyNotEnough(
                needed=f"the role {role.value!r}", has=f"the role {key.role.value!r}"
            )
        if name is not None and not any_covers(key.scopes, name):
            needed = "the scope *" if name == EVERYTHING else f"a scope that covers {name[:80]!r}"
            raise errors.KeyNotEnough(needed=needed, has=", ".join(key.scopes))

    def check_open(self) -> None:
        """Raise the error that ended the pass, if it has ended."""
        if self.refusal is not None:
            raise self.refusal.with_traceback(None)

    def check_scope(self, role: Role, scope: str) -> None:
        """Refuse a scope that is not within one of the key's. Raises as `check`."""
        self.check(role)
        if self.key is not None and not are_within([scope], self.key.scopes):
            raise errors.KeyNotEnough(
                needed=f"a scope that covers {scope[:80]!r}", has=", ".join(self.key.scopes)
            )

    def sees(self, name: str) -> bool:
        """Return True if lists show this name to the bearer of the key."""
        return self.key is None or any_covers(self.key.scopes, name)

    @property
    def sees_all(self) -> bool:
        """True if nothing is hidden from the bearer of the key."""
        return self.key is None or EVERYTHING in self.key.scopes

    @property
    def scopes(self) -> tuple[str, ...]:
        """The scopes of the key; without one, all."""
        return (EVERYTHING,) if self.key is None else self.key.scopes

    @property
    def by(self) -> str:
        """The key as logs name it; empty without one."""
        return "" if self.key is None else f"key:{self.key.id}"

    def arm(self, armed: Armed) -> None:
        """Have the thing disarmed once this pass ends."""
        if self.refusal is not None:
            armed.disarm(self.refusal)
        self._armed.add(armed)

    def end(self, refusal: errors.IdserviceError) -> None:
        """End the pass: from now on all things that it armed refuse."""
        self.refusal = refusal
        for armed in tuple(self._armed):
            armed.disarm(refusal)
        self._armed.clear()


OPEN = Pass(None)  # where no key is asked for and none was sent
