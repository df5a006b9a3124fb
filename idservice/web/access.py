"""Checks that a request may change counters: only from this machine, and from no web page."""

import re
from dataclasses import dataclass
from ipaddress import ip_address

from aiohttp import web

from idservice import errors

AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(?::[0-9]{1,5})?", re.ASCII)
FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP")


@dataclass(frozen=True, slots=True)
class WriteAccess:
    """Checks requests of one listener: `writable` if it may change counters, `unix` if its socket
    is a Unix socket."""

    writable: bool
    unix: bool

    def check(self, request: web.Request) -> None:
        """Refuse a request that may not change counters. Raises WriteRefused."""
        if not self.writable:
            raise errors.WriteRefused(
                why="this listener is not on the loopback interface; use one that is, or the"
                " command line"
            )
        headers = request.headers
        if not self.unix and not _is_loopback(headers.get("Host", "")):
            raise errors.WriteRefused(why="the Host header does not name a loopback address")
        for name in FORWARDED:
            if name in headers:
                raise errors.WriteRefused(why=f"the header {name} says that a proxy forwarded it")
        sites = [site.lower() for site in headers.getall("Sec-Fetch-Site", ())]
        origins = headers.getall("Origin", ())
        if "cross-site" in sites or not all(
            _is_loopback(origin.partition("://")[2]) for origin in origins
        ):
            raise errors.WriteRefused(why="the request comes from another site")

    def client(self, request: web.Request) -> str:
        """Return the name of the client for the log."""
        return f"http:{'unix' if self.unix else request.remote or 'unknown'}"


def _is_loopback(authority: str) -> bool:
    match = AUTHORITY.fullmatch(authority)
    if match is None:
        return False
    host = match[1].strip("[]").lower()
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
