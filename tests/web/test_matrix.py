"""Every route, role, scope and kind of listener, with a key and without one (K1, K2, K5).

What is expected follows from the tables here and from nothing in the package: a route that is not
in the table fails.
"""

from collections import Counter as Tally
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from idservice.stores.sqlite.store import SQLiteStore

from .conftest import Serve, Serving
from .wire import Answer, Wire, connected, request

OLD = "/old/ids"  # a path of --route, which leads to OWN
OWN, FOREIGN = "acme.a", "globex.b"
ANYTHING = ""  # a list, which shows what the key covers
ALL = "*"  # takes a key for everything
NOBODY = ""  # no role: nobody is asked
# By route: the role that it needs, and the name that the scopes of a key must cover.
NEEDS: dict[str, tuple[str, str]] = {
    "GET /next": ("use", "default"),
    "POST /next": ("use", "default"),
    f"GET {OLD}": ("use", OWN),
    f"POST {OLD}": ("use", OWN),
    "GET /v1/counters/{name}/next": ("use", "{name}"),
    "POST /v1/counters/{name}/next": ("use", "{name}"),
    "POST /v1/tallies/{name}/add": ("use", "{name}"),
    "GET /v1/tallies/{name}/adds/{key}": ("read", "{name}"),
    "GET /v1/tallies/{name}": ("read", "{name}"),
    "PUT /v1/tallies/{name}": ("admin", "{name}"),
    "PATCH /v1/tallies/{name}": ("admin", "{name}"),
    "DELETE /v1/tallies/{name}": ("admin", "{name}"),
    "POST /v1/tallies/{name}/set": ("admin", "{name}"),
    "GET /v1/tallies": ("read", ANYTHING),
    "GET /v1/counters": ("read", ANYTHING),
    "GET /v1/counters/{name}": ("read", "{name}"),
    "PUT /v1/counters/{name}": ("admin", "{name}"),
    "PATCH /v1/counters/{name}": ("admin", "{name}"),
    "DELETE /v1/counters/{name}": ("admin", "{name}"),
    "POST /v1/counters/{name}/set": ("admin", "{name}"),
    "GET /v1/keys": ("admin", ANYTHING),
    "POST /v1/keys": ("admin", "{name}"),
    "DELETE /v1/keys/{id}": ("admin", ANYTHING),  # another's key is as a missing one
    "GET /v1/usage": ("admin", ANYTHING),
    "GET /": ("read", ANYTHING),
    "GET /v1/status": ("read", ANYTHING),
    "GET /metrics": ("read", ALL),
    "GET /openapi.json": ("read", ANYTHING),
    "GET /docs": ("read", ANYTHING),
    "GET /livez": (NOBODY, ANYTHING),
    "GET /readyz": (NOBODY, ANYTHING),
}
CHANGING = ("PUT", "PATCH", "DELETE")  # methods; so do two routes by POST
EVERYWHERE = ("/livez", "/readyz", "/openapi.json", "/docs")
ROLES = ("read", "use", "admin")
# The scopes of a key, and which of the names they cover. None covers by likeness.
SCOPES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "own": (("acme.*", "default"), (OWN, "default")),
    "exact": ((OWN,), (OWN,)),
    "alike": (("acm.*", "acme", "acme.a.*", "acme.a2", "def.*", "defaul"), ()),
    "foreign": (("globex.*",), (FOREIGN,)),
    "everything": (("*",), (OWN, FOREIGN, "default", ALL)),
}


@dataclass(frozen=True)
class Kind:
    """A kind of listener."""

    data: bool = True
    control: bool = True
    asks: bool = False
    writable: bool = False
    unix: bool = False
    loopback: bool = False

    def serves(self, route: str) -> bool:
        """Whether a route is on this listener at all."""
        path = route.partition(" ")[2]
        if path in EVERYWHERE:
            return True
        if route == "GET /v1/tallies/{name}" or "/adds/" in path:
            return True
        on_data = path.endswith(("/next", "/add")) or path == OLD
        return self.data if on_data else self.control


LISTENERS = {
    "loopback": Kind(loopback=True),
    "loopback that changes": Kind(loopback=True, writable=True),
    "loopback that asks": Kind(loopback=True, asks=True),
    "loopback that asks and changes": Kind(loopback=True, asks=True, writable=True),
    "remote data": Kind(control=False),
    "remote data that asks": Kind(control=False, asks=True),
    "Unix admin": Kind(data=False, unix=True, writable=True),
    "Unix admin that asks": Kind(data=False, unix=True, writable=True, asks=True),
    "remote admin": Kind(data=False),
    "remote admin that asks": Kind(data=False, asks=True),
}
ONCE = ("exact", "alike")  # of one role only
REFUSED = ("key_missing", "key_malformed", "key_unknown", "key_expired")


def expected(kind: Kind, route: str, role: str, covered: tuple[str, ...], *, bad: bool) -> str:
    """What becomes of a request: `role` is that of its key, empty without one; a `bad` key opens
    nothing."""
    method, _, path = route.partition(" ")
    needed, name = NEEDS[route]
    if needed == NOBODY:
        return "let through"
    if bad or (kind.asks and not role):
        return "401"
    if not role:
        changes = method in CHANGING or path.endswith("/set") or route == "POST /v1/keys"
        return "write_refused" if changes and not kind.writable else "let through"
    if ROLES.index(role) < ROLES.index(needed):
        return "key_not_enough"
    name = name.replace("{name}", OWN)
    return "let through" if name == ANYTHING or name in covered else "key_not_enough"


def outcome(answer: Answer) -> str:
    """What became of a request: the way it was refused, or that it was let through."""
    code = answer.json["code"] if answer.status >= 400 and answer.body else ""
    if answer.status == 401:
        assert answer.headers["www-authenticate"] == "Bearer"
        assert code in REFUSED or (not answer.body and not code), answer
        return "401"
    if answer.status == 403 and not answer.body:
        return "key_not_enough"  # to HEAD
    assert answer.status < 500, answer
    known = ("key_not_enough", "write_refused", "host_refused", "unknown_path", "not_allowed")
    return next((each for each in known if code.endswith(each)), "let through")


async def ask(wire: Wire, kind: Kind, route: str, key: dict[str, str], name: str) -> Answer:
    """One request that changes nothing if it is let through, but for keys."""
    method, _, path = route.partition(" ")
    target = path.replace("{name}", name).replace("{key}", "k").replace("{id}", "0" * 10)
    host = "127.0.0.1" if kind.loopback else "ids.example.com"
    more = {"Content-Type": "application/json", "Idempotency-Key": "k", "Host": host}
    body = b'{"nonsense":1}' if method not in ("GET", "HEAD") and "next" not in path else b""
    if route == "POST /v1/keys":
        body = b'{"role":"read","scopes":["%s"]}' % name.encode()
    if OLD in path:
        body = b""
    await wire.send(request(target, method, headers={**more, **key}, body=body))
    return await wire.answer(head_only=method == "HEAD")


def served_routes(serving: Serving) -> Iterator[str]:
    for route in serving.app.router.routes():
        assert route.resource is not None
        yield f"{route.method} {route.resource.canonical}"


async def keys_of(serving: Serving) -> dict[str, tuple[dict[str, str], str, tuple[str, ...], bool]]:
    """Keys by a name for messages: the header, the role, the names covered, and if it is bad."""
    made: dict[str, tuple[dict[str, str], str, tuple[str, ...], bool]] = {
        "none": ({}, "", (), False)
    }
    for role in ROLES:
        for of, (scopes, covered) in SCOPES.items():
            if role != "admin" and of in ONCE:
                continue
            _, header = await serving.make(role, *scopes)
            made[f"{role} of {of}"] = (header, role, covered, False)
    id, revoked = await serving.make("admin", "*")
    assert serving.keys is not None
    await serving.keys.revoke(id)
    typo = {"Authorization": made["admin of own"][0]["Authorization"][:-1]}
    made["revoked"] = (revoked, "admin", (), True)
    made["typo"] = (typo, "admin", (), True)
    return made


@pytest.mark.parametrize(
    ("kind", "lane"),
    [
        pytest.param(kind, lane, id=f"{name}, {'lane' if lane else 'aiohttp'}")
        for name, kind in LISTENERS.items()
        for lane in (True, False)
        if kind.data or not lane  # the lane is for ids
    ],
    indirect=["lane"],
)
async def test_each_route_takes_what_the_table_says(serve: Serve, kind: Kind) -> None:
    serving = await serve(
        data=kind.data, control=kind.control, asks=kind.asks, writable=kind.writable,
        unix=kind.unix, loopback=kind.loopback, routes={OLD: OWN},
    )  # fmt: skip
    await serving.create(OWN)
    keys = await keys_of(serving)
    served = set(served_routes(serving))
    heads = {route for route in served if route.startswith("HEAD")}
    assert served - heads == {route for route in NEEDS if kind.serves(route)}
    assert {route.replace("HEAD", "GET") for route in heads} == {
        route for route in served if route.startswith("GET") and not _uses_ids(route)
    }
    wrong, seen = [], Tally[str]()
    async with connected(serving.port) as wire:
        for route in sorted(served):
            for of, (header, role, covered, bad) in keys.items():
                wanted = expected(kind, route.replace("HEAD", "GET"), role, covered, bad=bad)
                found = outcome(await ask(wire, kind, route, header, OWN))
                seen[found] += 1
                if found != wanted:
                    wrong.append(f"{route}, {of}: {found}, not {wanted}")
    assert not wrong, "\n".join(wrong)
    assert set(seen) >= {"let through", "401", "key_not_enough"}


def _uses_ids(route: str) -> bool:
    return route.endswith("/next") or OLD in route


class Watched(SQLiteStore):
    """A store that notes what is asked of it, but for the look at the catalogue's revision."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.asked: list[str] = []
        read, write = self._connection.read, self._connection.write

        async def reading(action: str, *more: Any) -> Any:
            if action != "reading the catalogue":
                self.asked.append(action)
            return await read(action, *more)

        async def writing(action: str, *more: Any) -> Any:
            self.asked.append(action)
            return await write(action, *more)

        self._connection.read = reading  # type: ignore[method-assign]
        self._connection.write = writing  # type: ignore[method-assign]


async def test_a_refusal_tells_nothing_of_what_exists(serve: Serve, tmp_path: Path) -> None:
    """The same answer, and no read of the store before it, which would take longer."""
    store = Watched(str(tmp_path / "ids.db"))
    kind = Kind(asks=True, loopback=True)
    serving = await serve(store=store, asks=True, routes={OLD: OWN})
    there, gone = "globex.there", "globex.gone."
    await serving.create(there)
    _, owner = await serving.make("admin", "globex.*")
    put = {"headers": {"Content-Type": "application/json", **owner}}
    assert (await serving.ask(f"/v1/tallies/{there}", "PUT", **put)).status == 201
    _, key = await serving.make("admin", "acme.*")
    _, weak = await serving.make("read", there)
    for header in (key, weak):  # from now on they are known
        await serving.ask("/v1/counters", headers=header)
    compared = 0
    async with connected(serving.port) as wire:
        for route in served_routes(serving):
            for header in (key, weak, {}):
                store.asked.clear()
                first = await ask(wire, kind, route, header, there)
                if outcome(first) == "let through":
                    continue  # as lists are, and what the second key may read
                second = await ask(wire, kind, route, header, gone)
                said = [
                    one.text.replace(there, "NAME").replace(gone, "NAME") for one in (first, second)
                ]
                assert (first.status, said[0]) == (second.status, said[1]), route
                assert not store.asked, route
                compared += 1
    assert compared > 50
