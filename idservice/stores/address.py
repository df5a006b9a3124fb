"""The address of a store: `sqlite:PATH`, `dynamodb:TABLE[?region=…&endpoint=…]`, or a service."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import parse_qsl

from idservice.client.address import ServiceAddress, shown
from idservice.errors import Usage

TABLE = re.compile(r"[A-Za-z0-9_.-]{3,255}", re.ASCII)
REGION = re.compile(r"[a-z0-9-]{1,63}", re.ASCII)


@dataclass(frozen=True, slots=True)
class SQLiteAddress:
    """The path of an SQLite file."""

    path: str

    def __str__(self) -> str:
        return f"sqlite:{self.path}"

    def resolved(self) -> "SQLiteAddress":
        """Return the address that means the same file in every folder."""
        return SQLiteAddress(str(Path(self.path).resolve()))


@dataclass(frozen=True, slots=True)
class DynamoAddress:
    """A DynamoDB table, its region, and the endpoint if that is not AWS's."""

    table: str
    region: str | None = None
    endpoint: str | None = None

    @classmethod
    def parse(cls, text: str) -> "DynamoAddress":
        """Read `TABLE?region=…&endpoint=…`. Raises Usage."""
        table, _, query = text.partition("?")
        if not TABLE.fullmatch(table):
            raise Usage(
                why=f"the table in --store is {shown(table[:300])}; a table's name is 3 to 255"
                " letters, digits, '.', '_' or '-'"
            )
        settings: dict[str, str] = {}
        for name, value in parse_qsl(query, keep_blank_values=True):
            if name not in ("region", "endpoint"):
                why = f"--store has {name!r} after the table; only region and endpoint are allowed"
                raise Usage(why=why)
            if name in settings:
                raise Usage(why=f"--store names {name!r} more than once; name it once")
            settings[name] = value
        region, endpoint = settings.get("region"), settings.get("endpoint")
        if region is not None and not REGION.fullmatch(region):
            raise Usage(why=f"the region in --store is {region[:80]!r}; it must be like eu-west-1")
        if endpoint is not None and not _is_endpoint(endpoint):
            raise Usage(
                why="the endpoint in --store must be like http://127.0.0.1:8000, without a user, a"
                " path or a query"
            )
        return cls(table, region, endpoint)

    def resolved(self) -> "DynamoAddress":
        """Return the address that means the same table in every environment. Its endpoint may still
        depend on AWS_ENDPOINT_URL."""
        from idservice.stores.dynamodb.region import named_region

        return replace(self, region=self.region or named_region(self.endpoint))

    def __str__(self) -> str:
        query = [f"region={self.region}"] if self.region else []
        query += [f"endpoint={self.endpoint}"] if self.endpoint else []
        return f"dynamodb:{self.table}" + ("?" + "&".join(query) if query else "")


def _is_endpoint(url: str) -> bool:
    try:
        return not ServiceAddress.parse(url).path
    except Usage:
        return False


def parse(address: str, *, flag: str = "--store") -> SQLiteAddress | DynamoAddress | ServiceAddress:
    """Read the address of a store, as `flag` has it. Raises Usage."""
    kind, _, rest = address.partition(":")
    if rest and kind == "sqlite":
        return SQLiteAddress(rest)
    if rest and kind == "dynamodb":
        return DynamoAddress.parse(rest)
    if kind in ("http", "https", "unix"):
        return ServiceAddress.parse(address)
    if not address:
        raise Usage(why=f"{flag} is empty")
    raise Usage(
        why=f"{flag} is {shown(address)}; it must be sqlite:PATH,"
        " dynamodb:TABLE[?region=REGION&endpoint=URL] or http://HOST:PORT"
    )
