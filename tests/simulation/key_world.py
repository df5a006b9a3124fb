"""Runs of three instances that serve access keys over a faulty store, each decided by a seed.

An owner makes keys and revokes them. Clients show them, also altered ones, and go on with what a
pass armed once, as the fast lane does. Now and then an instance is cut off from the store. The
table tells when each revocation was written, and the rights of a key are judged here once more.
"""

import asyncio
from dataclasses import dataclass, field
from random import Random

from idservice import errors
from idservice.access.changes import KeyChanges
from idservice.access.gate import Gate
from idservice.access.keys import Keys
from idservice.access.passes import Pass
from idservice.allocation.service import Service
from idservice.core.access_key import AccessKey, KeyState, Role
from idservice.stores.key_store import KeyBucket
from tests.simulation.checker import Violation
from tests.simulation.loop import elapse, run
from tests.simulation.store import Faults, SimStore, Table

EPOCH_S = 1_800_000_000.0
PLAYED_S, SETTLED_S = 45.0, 5.0
CUT_S = 75.0  # longer than any key is believed without the store
QUICK_S = 3.0  # to the last use of a revoked key while the store answers (K3)
CLOSED_S = 60.0  # and if it does not
EXPIRY_S = 1.0
SCOPES = ("*", "acme.*", "acme.orders", "acme2.*", "orders")
NAMES = ("acme.orders", "acme2.orders", "acme.", "orders", "acme")
# By scope: the names above that it covers.
COVERED = {
    "*": set(NAMES), "acme.*": {"acme.orders", "acme."}, "acme.orders": {"acme.orders"},
    "acme2.*": {"acme2.orders"}, "orders": {"orders"},
}  # fmt: skip
RANK = {Role.READ: 1, Role.USE: 2, Role.ADMIN: 3}


@dataclass(eq=False)
class Line:
    """What a pass armed for one role and name: it serves without asking until it is disarmed."""

    key: "Known"
    role: Role
    name: str
    refusal: errors.IdserviceError | None = None

    def disarm(self, refusal: errors.IdserviceError) -> None:
        self.refusal = refusal


@dataclass(eq=False)
class Known:
    """A key as its owner knows it."""

    key: AccessKey
    header: bytes
    made_at: float  # loop time at which its maker was told


class WatchedTable(Table):
    """Notes when each key was revoked, and that it stays so."""

    def __init__(self) -> None:
        super().__init__()
        self.revoked: dict[str, float] = {}

    def rewrite_keys(self, after: KeyBucket) -> bool:
        done = super().rewrite_keys(after)
        if done:
            for key in after.keys:
                if key.state is KeyState.REVOKED:
                    self.revoked.setdefault(key.id, asyncio.get_running_loop().time())
        return done


class Asked:
    """One instance, its way to the store, and its gate."""

    def __init__(self, world: "KeyWorld", faults: Faults) -> None:
        rng = Random(world.rng.getrandbits(64))
        self.faults = faults
        self.store = SimStore(rng, world.table, faults)
        self.service = Service(self.store, random=rng)
        self.keys = Keys(
            self.store, health=self.service.health, read_s=self.service.limits.wait,
            clock=world.clock,
        )  # fmt: skip
        self.service.followers.append(self.keys)
        self.gate = Gate(self.keys, asks=True)
        self.lines: list[Line] = []


@dataclass
class KeyWorld:
    """A table, the instances, and the keys that were made."""

    seed: int
    rng: Random = field(init=False)
    table: WatchedTable = field(init=False)
    known: list[Known] = field(default_factory=list)
    served: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    healed_at: float = float("inf")

    def __post_init__(self) -> None:
        self.rng = Random(self.seed)
        self.table = WatchedTable()

    def clock(self) -> float:
        return EPOCH_S + asyncio.get_running_loop().time()

    async def play(self) -> None:
        loop, rng = asyncio.get_running_loop(), self.rng
        self.table.recorded = self.table.identity
        self.instances = [Asked(self, Faults.swarm(rng)) for _ in range(3)]
        cut = rng.random() < 0.4
        played_s = PLAYED_S + CUT_S * cut
        if cut:
            self.instances[0].faults.outages = [(PLAYED_S / 2, PLAYED_S / 2 + CUT_S)]
        async with asyncio.TaskGroup() as group:
            for one in self.instances:
                await one.service.__aenter__()
            owners = [group.create_task(self._own(loop.time() + played_s)) for _ in range(2)]
            clients = [group.create_task(self._show(one)) for one in self.instances]
            await asyncio.wait(owners)
            for one in self.instances:
                one.faults.heal()
            await elapse(SETTLED_S)
            self.healed_at = loop.time()
            await elapse(SETTLED_S)
            for client in clients:
                client.cancel()
            await self._settled()
            for one in self.instances:
                await one.service.__aexit__(None, None, None)

    async def _own(self, until: float) -> None:
        """Make keys and revoke them; what is not answered in time is given up."""
        rng, loop = self.rng, asyncio.get_running_loop()
        while loop.time() < until:
            await elapse(rng.uniform(0.0, 4.0))
            through = rng.choice(self.instances)
            changes = KeyChanges(
                through.store.keys, random=rng, clock=self.clock, on_change=through.keys.put
            )
            try:
                async with asyncio.timeout(5.0):
                    if not self.known or rng.random() < 0.5:
                        await self._make(changes)
                    else:
                        await changes.revoke(rng.choice(self.known).key.id)
            except (TimeoutError, errors.StoreError, errors.BadAccessKey):
                continue

    async def _make(self, changes: KeyChanges) -> None:
        rng, now = self.rng, int(self.clock() * 1000)
        expires = now + rng.randrange(1, 30_000) if rng.random() < 0.4 else None
        scopes = rng.sample(SCOPES, rng.choice((1, 1, 2)))
        key, text = await changes.create(rng.choice(list(Role)), scopes, expires=expires)
        header = b"Bearer " + text.encode()
        self.known.append(Known(key, header, asyncio.get_running_loop().time()))

    async def _show(self, one: Asked) -> None:
        """Show keys to one instance, now by asking, now by what was armed before."""
        rng = self.rng
        while True:
            await elapse(rng.choice((0.02, 0.3, 1.0)))
            for line in rng.sample(one.lines, min(len(one.lines), 5)):
                if line.refusal is None:
                    self._used(line.key, line.role, line.name, one)
                else:
                    one.lines.remove(line)
            if self.known:
                known, role, name = (
                    rng.choice(self.known),
                    rng.choice(list(Role)),
                    rng.choice(NAMES),
                )
                await self._ask(one, known, role, name)

    async def _ask(self, one: Asked, known: Known, role: Role, name: str) -> None:
        altered = self.rng.random() < 0.1
        header = known.header[:-1] + b"~" if altered else known.header
        try:
            found: Pass = await one.gate.admit([header])
            found.check(role, name)
        except errors.IdserviceError as error:
            self.refused[error.code] = self.refused.get(error.code, 0) + 1
            self._check_refused(one, known, role, name, error, altered)
            return
        if altered:
            raise Violation("text", f"a key that was never made opens {name}")
        self._used(known, role, name, one)
        line = Line(known, role, name)
        found.arm(line)
        one.lines.append(line)

    def _used(self, known: Known, role: Role, name: str, one: Asked) -> None:
        """Check that this request may be served now (K1, K3)."""
        now, key = asyncio.get_running_loop().time(), known.key
        self.served += 1
        if RANK[key.role] < RANK[role]:
            raise Violation("role", f"a key to {key.role.value} is served as {role.value}")
        if not any(name in COVERED[scope] for scope in key.scopes):
            raise Violation("scope", f"a key for {key.scopes} is served {name}")
        if key.expires is not None and now > key.expires / 1000 - EPOCH_S + EXPIRY_S:
            raise Violation("expired", f"{key.id} is served after it expired")
        since = now - self.table.revoked.get(key.id, now)
        if since > CLOSED_S or (since > QUICK_S and now - self.healed_at > QUICK_S):
            raise Violation("revoked", f"{key.id} is served {since:.1f} s after it was revoked")

    def _check_refused(
        self,
        one: Asked,
        known: Known,
        role: Role,
        name: str,
        error: errors.IdserviceError,
        altered: bool,
    ) -> None:
        """Check that a valid key is not refused for a wrong reason."""
        now, key = asyncio.get_running_loop().time(), known.key
        if altered:
            right = error.code in ("key_malformed", "catalogue_stale")
        elif isinstance(error, errors.KeyUnknown):
            # An instance may not have heard of it, or of its revocation by another's write yet.
            right = key.id in self.table.revoked or now - known.made_at < CLOSED_S
        elif isinstance(error, errors.KeyExpired):
            right = key.has_expired(int(self.clock() * 1000))
        elif isinstance(error, errors.KeyNotEnough):
            right = RANK[key.role] < RANK[role] or not any(
                name in COVERED[scope] for scope in key.scopes
            )
        else:
            right = isinstance(error, errors.StoreError | errors.CatalogueStale)
        if not right:
            raise Violation("refusal", f"{key.id} is refused: {error}")

    async def _settled(self) -> None:
        """While the store answers, each instance knows every key as it is."""
        for one in self.instances:
            for known in self.known:
                usable = known.key.id not in self.table.revoked and not known.key.has_expired(
                    int(self.clock() * 1000)
                )
                try:
                    await one.gate.admit([known.header])
                except (errors.KeyRefused, errors.CatalogueStale) as error:
                    if usable or isinstance(error, errors.CatalogueStale):
                        raise Violation("settled", f"{known.key.id}: {error}") from None
                else:
                    self._used(known, known.key.role, self._covered(known.key), one)

    def _covered(self, key: AccessKey) -> str:
        return min(COVERED[key.scopes[0]])


def play_keys(seed: int) -> KeyWorld:
    """One run. Raises Violation, maybe in a group."""
    world = KeyWorld(seed)
    run(world.play(), seed=seed)
    return world


def key_violation(seed: int) -> Violation | None:
    """The first promise that one run broke, if any."""
    try:
        play_keys(seed)
    except* Violation as group:
        found: BaseException = group
        while isinstance(found, BaseExceptionGroup):
            found = found.exceptions[0]
        assert isinstance(found, Violation)
        violation = found
    else:
        return None
    return violation
