"""How the address of a DynamoDB store is read: table, region, endpoint."""

import re
from urllib.parse import parse_qsl, urlsplit

from idservice import errors

TABLE = re.compile(r"[A-Za-z0-9_.-]{3,255}", re.ASCII)
REGION = re.compile(r"[a-z0-9-]{1,63}", re.ASCII)


def read(address: str) -> tuple[str, str | None, str | None]:
    """Table, region and endpoint of `TABLE?region=…&endpoint=…`. Raises Usage."""
    table, _, query = address.partition("?")
    if not TABLE.fullmatch(table):
        raise errors.Usage(
            why=f"the table in --store is {table[:300]!r}; a table's name is 3 to 255 letters,"
            " digits, '.', '_' or '-'"
        )
    settings: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in ("region", "endpoint"):
            raise errors.Usage(
                why=f"--store has {name!r} after the table; only region and endpoint may stand"
                " there"
            )
        if name in settings:
            raise errors.Usage(why=f"--store names {name!r} more than once; name it once")
        settings[name] = value
    region, endpoint = settings.get("region"), settings.get("endpoint")
    if region is not None and not REGION.fullmatch(region):
        raise errors.Usage(
            why=f"the region in --store is {region[:80]!r}; it must be like eu-west-1"
        )
    if endpoint is not None and not _is_endpoint(endpoint):
        raise errors.Usage(
            why="the endpoint in --store must be like http://127.0.0.1:8000, without a user, a"
            " path or a query"
        )
    return table, region, endpoint


def _is_endpoint(url: str) -> bool:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    # A user and password would end up in messages and logs.
    plain = parts.username is None and not parts.query and parts.path in ("", "/")
    return parts.scheme in ("http", "https") and bool(parts.hostname) and plain and port != 0
