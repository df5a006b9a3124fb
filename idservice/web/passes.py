"""Has the gate of a listener judge each request for aiohttp, and keeps its pass with the request.

Each handler is wrapped where its path is served, so none is without. A handler that shows several
names shows those that the pass `sees`.
"""

from collections.abc import Mapping

from aiohttp import web

from idservice import errors
from idservice.access.gate import Gate
from idservice.access.passes import OPEN, Pass
from idservice.core.access_key import EVERYTHING, Role
from idservice.web.problems import (
    Handler,
    PageNeedsKey,
    RequestTimeout,
    expect,
    problem,
)
from idservice.web.request import QueryNotRead

KEPT = web.RequestKey("pass", Pass)
UNASKED = ("/livez", "/readyz")  # the probes of a container have no key
TAKING = ("/next", "/add")  # a path that ends so uses up ids or changes a sum
OPERATING = ("/v1/keys", "/v1/usage")  # a path that begins so needs an admin key

READING = ("GET", "HEAD")
IDS = "/next"  # where POST asks for ids by its query

WHOLE = ("/metrics",)  # show the sums of all counters
UNREAD = (errors.MalformedRequest, RequestTimeout)
KEYED = ("/v1/tallies/{name}/add", "/v1/tallies/{name}/set")  # are repeated by an Idempotency-Key


class JudgedRoutes:
    """The paths of an application, whose gate judges each request but those for a health check."""

    def __init__(self, router: web.UrlDispatcher, gate: Gate) -> None:
        self._router = router
        self._gate = gate

    def serve(self, path: str, handlers: Mapping[str, Handler], counter: str | None = None) -> None:
        """Serve a path. `counter` names its counter, where the path itself does not."""
        resource = self._router.add_resource(path)
        for method, handler in handlers.items():
            one = handler
            if path not in UNASKED:
                role = Role.USE if counter is not None else role_for(path, method)
                name = EVERYTHING if path in WHOLE else counter
                changes = method not in READING and counter is None and not path.endswith(IDS)
                one = _judged(self._gate, handler, role, name, changes=changes)
            if path in KEYED:
                one = _repeated(one)
            resource.add_route(method, one, expect_handler=expect)

    def show(self, path: str, handlers: Mapping[str, Handler]) -> None:
        """Serve a path that uses no ids: HEAD is answered as GET."""
        self.serve(path, {**handlers, **({"HEAD": handlers["GET"]} if "GET" in handlers else {})})


def _judged(
    gate: Gate, handler: Handler, role: Role, name: str | None, *, changes: bool
) -> Handler:
    """Return a handler that needs a pass with this role, for a name or for the one in the path. One
    that `changes` something has all that it needs in its body."""

    async def handle(request: web.Request) -> web.StreamResponse:
        sent = request.headers.getall("Authorization", ())
        headers = [one.encode("utf-8", "surrogateescape") for one in sent]
        try:
            found = await gate.admit(headers, request)
        except errors.AccessKeyMissing:
            if name is None and request.path == "/":
                raise PageNeedsKey() from None
            raise
        gate.check(found, role, name or request.match_info.get("name"), headers, request)
        request[KEPT] = found
        # None of the routes that change something reads one: not `?start=500`, nor `?dry_run=1`.
        if changes and request.rel_url.raw_query_string:
            raise QueryNotRead()  # which it does not show: it may have a secret
        return await handler(request)

    return handle


def _repeated(handler: Handler) -> Handler:
    """Return a handler that does not say `not_applied` of a request that is not let through, or not
    whole: an earlier one with the same add may have been counted (T3)."""

    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except errors.IdserviceError as error:
            beyond = isinstance(error, errors.StoreKeyNotEnough)  # of the service that this asks
            if KEPT in request and not beyond and not ends_unread(request, error):
                raise  # it was let through
            return problem(error, of_add=True)

    return handle


def ends_unread(request: web.Request, error: errors.IdserviceError) -> bool:
    """Return True if a request that was let through ended before its body was read: its pass ended,
    or the rest did not come."""
    return error is pass_of(request).refusal or isinstance(error, UNREAD)


def role_for(path: str, method: str) -> Role:
    """Return the role that a route needs."""
    if path.startswith(OPERATING):
        return Role.ADMIN
    if path.endswith(TAKING):
        return Role.USE
    return Role.READ if method in READING else Role.ADMIN


def pass_of(request: web.Request) -> Pass:
    """Return the pass of a request."""
    found: Pass = request.get(KEPT, OPEN)
    return found
