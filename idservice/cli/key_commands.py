"""The commands of access keys, `key create` to `key revoke`."""

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from random import SystemRandom
from typing import Any

import msgspec

from idservice import errors
from idservice.access.changes import KeyChanges
from idservice.access.shown import described, read_expiry, read_role
from idservice.catalogue.changes import check_reason
from idservice.cli import counter_table
from idservice.cli.store_commands import opened, operator
from idservice.core.access_key import KEY_ID, AccessKey, id_in
from idservice.observability import logs
from idservice.stores.instants import instant
from idservice.stores.protocol import with_catalogue

COLUMNS = ("ID", "STATE", "ROLE", "SCOPES", "NOTE", "BY", "CREATED", "EXPIRES", "REVOKED")
LOST = (
    "The key may be there, but nobody knows its text. Look for it with `idservice key list`,"
    " revoke it with `idservice key revoke ID --reason T`, and make another"
)
REACHES = (
    "instances refuse it within 3 s; sidecars hand out the ids that they hold for up to their"
    " --hold more"
)


class KeyMaybeMade(errors.Unavailable):
    text = f"{{why}}. {LOST}."
    code = "key_maybe_made"
    outcome = errors.UNKNOWN


class KeyNotPrinted(errors.Unavailable):
    text = (
        "The key {id} was made and cannot be printed: {why}. Nobody knows its text. Revoke it with "
        "`idservice key revoke {id} --reason T`, and make another."
    )
    code = "key_not_printed"
    outcome = errors.UNKNOWN


async def create(arguments: argparse.Namespace) -> None:
    """Make a key and print it."""
    role = read_role(arguments.role)
    scopes = [scope.strip() for part in arguments.scope for scope in part.split(",")]
    expires = None if arguments.expires is None else read_expiry(arguments.expires)
    async with _changes(arguments) as changes:
        with _maybe_made():
            key, text = await changes.create(
                role, scopes, note=arguments.note, expires=expires, by=operator()
            )
    _print_once(key, _json({"id": key.id, "key": text}) if arguments.json else text)


def _print_once(key: AccessKey, text: str) -> None:
    """Print the secret where the operator sends it, and beside it what it is."""
    until = "" if key.expires is None else f", until {instant(key.expires)}"
    try:
        print(text, flush=True)
    except OSError as error:
        raise KeyNotPrinted(id=key.id, why=error.strerror or error) from None
    print(
        f"idservice: access key {key.id}: role {key.role.value}, scopes {', '.join(key.scopes)}"
        f"{until}. It is shown once; its callers read it from IDSERVICE_KEY, or from a file. "
        "Instances accept it within 3 s.",
        file=sys.stderr,
    )


@contextmanager
def _maybe_made() -> Iterator[None]:
    """Say what is left if it is not known whether the key was made, also after Ctrl-C."""
    try:
        yield
    except asyncio.CancelledError:
        print(f"idservice: It is not known if a key was made. {LOST}.", file=sys.stderr)
        raise
    except errors.IdserviceError as error:
        if error.outcome != errors.UNKNOWN:
            raise
        raise KeyMaybeMade(why=str(error).rstrip(".")) from error


async def list_all(arguments: argparse.Namespace) -> None:
    """List the keys, the oldest first."""
    now = int(time.time() * 1000)
    async with _changes(arguments) as changes:
        rows = [described(key, now) for key in await changes.list()]
    if not arguments.json:
        counter_table.print_columns(COLUMNS, [_cells(row) for row in rows])
        return
    for row in rows:
        print(_json(row))


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    names = (column.lower() for column in COLUMNS)
    return tuple(
        ",".join(value) if isinstance(value, list) else value or counter_table.NONE
        for value in ((row | {"revoked": _end(row)})[name] for name in names)
    )


def _end(row: Mapping[str, Any]) -> str:
    """Return when a key was revoked, by whom and why; empty for one that was not."""
    if "revoked" not in row:
        return ""
    by = f" by {row['revoked_by']}" if row["revoked_by"] else ""
    return f"{row['revoked']}{by}" + (f": {row['reason']}" if row["reason"] else "")


async def revoke(arguments: argparse.Namespace) -> None:
    """Revoke a key."""
    id = _check_id(arguments.id)
    reason = check_reason(arguments.reason, errors.BadAccessKey)
    since = int(time.time() * 1000)
    async with _changes(arguments) as changes:
        key = await changes.revoke(id, by=operator(), reason=reason)
    if key.ended < since:
        why = f" ({key.reason})" if key.reason else ""
        print(f"access key {id}: was revoked before, at {instant(key.ended)}{why}")
    else:
        print(f"access key {id}: revoked at {instant(key.ended)}; {REACHES}")


def _check_id(text: str) -> str:
    """Return the id itself. Raises Usage, which never has the text: it may be a secret."""
    if KEY_ID.fullmatch(text):
        return text
    id = id_in(text)
    if id is not None:
        why = (
            f"ID is the key itself, which others may have seen now; its id is {id}: `idservice key"
            f" revoke {id} --reason T` revokes it"
        )
    else:
        why = "ID is not the id of a key, 10 letters and digits; `idservice key list` shows them"
    raise errors.Usage(why=why)


@asynccontextmanager
async def _changes(arguments: argparse.Namespace) -> AsyncIterator[KeyChanges]:
    logs.set_up("auto", sys.stderr)
    async with opened(arguments, bounded=False) as store:
        keys = with_catalogue(store).keys
        yield KeyChanges(keys, random=SystemRandom(), clock=time.time)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
