"""Decides which requests may read the control plane, and change counters and tallies.

That a request comes from this machine says nothing of its sender: a proxy, a forwarded port and a
web page in a browser come from here, too. So a listener changes counters only if the operator says
so, and what a browser or a proxy sends is refused even there.
"""

import re
from dataclasses import dataclass
from ipaddress import ip_address

from aiohttp import web

from idservice import errors
from idservice.core.limits import NAME
from idservice.web.passes import ends_unread, pass_of
from idservice.web.problems import Handler, HostRefused, WriteRefused, problem

AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(?::[0-9]{1,5})?", re.ASCII)
FORWARDED = (
    "Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP",
)  # fmt: skip
OWN_SITES = ("same-origin", "none")  # "none" for an address that a user types
# By method: the commands that do the same on the store.
COMMANDS = {
    "PUT": "`idservice create {name} --store URL`",
    "PATCH": "`idservice configure {name} --limit N --store URL`, or `suspend` or `resume`",
    "DELETE": "`idservice delete {name} --store URL`",
    "POST": "`idservice set {name} --next N --store URL`",
}


@dataclass(frozen=True, slots=True)
class ControlAccess:
    """The rules of one listener.

    It may change counters and tallies if `writable`. `loopback` is True for a TCP socket that only
    this machine reaches, `unix` for a Unix socket. `ids` is True if ids are served there, too.
    """

    writable: bool
    loopback: bool = False
    unix: bool = False
    ids: bool = True

    def reading(self, handler: Handler) -> Handler:
        """Return a handler that refuses a foreign Host on loopback: a name that leads a browser to
        this machine would let any web page read (DNS rebinding)."""
        if not self.loopback:
            return handler

        async def read(request: web.Request) -> web.StreamResponse:
            if pass_of(request).key is not None:  # no page of another site has one
                return await handler(request)
            for host in request.headers.getall("Host", ()):
                if not _is_loopback(host):
                    raise HostRefused(host=host[:80])
            return await handler(request)

        return read

    def check_change(self, request: web.Request, commands: dict[str, str] = COMMANDS) -> None:
        """Refuse a request that may not change anything; `commands` do the same by method. Raises
        WriteRefused."""
        if pass_of(request).key is not None:  # which is an admin's: `passes` judged it
            why = _not_json(request)
        else:
            why = self._refusal(request, commands)
        if why:
            raise WriteRefused(why=why)

    def _refusal(self, request: web.Request, commands: dict[str, str]) -> str:
        if not self.writable:
            name = request.match_info.get("name", "")
            command = commands[request.method].format(name=name if NAME.fullmatch(name) else "NAME")
            return (
                f"this listener changes none. Run {command}, or ask an --admin-listen that is a"
                " Unix socket, or start the service with --allow-changes, which opens its loopback"
                " and Unix listeners to every local process, and to whatever is forwarded there"
            )
        headers = request.headers
        hosts = headers.getall("Host", ("",))
        private = self.unix and not self.ids  # the mode of its file is the authorisation
        if not private and not all(_is_loopback(host) for host in hosts):
            return "the Host header must name a loopback address, such as localhost"
        for name in FORWARDED:
            if name in headers:
                return f"the header {name} says that a proxy forwarded it; ask the service directly"
        sites = headers.getall("Sec-Fetch-Site", ())
        origins = (origin.partition("://")[2] for origin in headers.getall("Origin", ()))
        if any(site.lower() not in OWN_SITES for site in sites) or not all(
            [origin.lower()] == [host.lower() for host in hosts] for origin in origins
        ):
            return "it comes from a page of another site or port; ask without a browser"
        return _not_json(request)

    def client(self, request: web.Request) -> str:
        """Return the name of the client for the log."""
        place = "unix" if self.unix else request.remote or "unknown"
        return pass_of(request).by or f"http:{place}"


def for_operators(handler: Handler) -> Handler:
    """Return a handler of the control plane: its errors name stores and addresses, but not to the
    key of a tenant, which knows nothing of what others share with it."""

    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except errors.IdserviceError as error:
            if ends_unread(request, error):  # in words that are the same for all
                raise
            return problem(error, operator=pass_of(request).sees_all)

    return handle


def _not_json(request: web.Request) -> str:
    if request.content_type != "application/json":
        return "a change needs the header `Content-Type: application/json`"
    return ""


def _is_loopback(authority: str) -> bool:
    match = AUTHORITY.fullmatch(authority)
    if match is None:
        return False
    host = match[1].strip("[]").lower()
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
