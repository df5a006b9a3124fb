"""Commands that open a store: create it, list and show counters, examine it.

`show` can ask a running service instead.
"""

import argparse
import asyncio
import getpass
import json
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from random import SystemRandom
from typing import Any, TypeGuard

import msgspec

from idservice import errors
from idservice.catalogue import doctor as catalogue_doctor
from idservice.catalogue.changes import check_reason
from idservice.catalogue.counters import described, ensure, new_counter, positions_of, shown
from idservice.cli import counter_table, http_get
from idservice.cli.shown_key import shown_key
from idservice.server import asking, certificate, settings
from idservice.stores import initialise, open_store
from idservice.stores.address import SQLiteAddress, parse
from idservice.stores.at_once import for_each
from idservice.stores.findings import FAULT, LEVELS, Finding
from idservice.stores.protocol import CatalogueStore, IdStore, has_catalogue, with_catalogue
from idservice.stores.records import (
    DEFAULT_COUNTER,
    DELETED,
    Adopted,
    Counter,
    check_name,
)
from idservice.tallies.doctor import examine_tallies

COMMAND_TIMEOUT_S = 20.0


async def init(arguments: argparse.Namespace) -> None:
    """Create the store."""
    async with opened(arguments, verify=False) as store:
        created = await initialise(store, new_counter(DEFAULT_COUNTER, SystemRandom()))
        if created:
            print(f"{store.address} is initialised; counter {DEFAULT_COUNTER} starts from 0")
        else:
            print(f"{store.address} was initialised before; nothing was changed")


async def create(arguments: argparse.Namespace) -> None:
    """Create or adopt a counter."""
    check_name(arguments.name)
    reason = check_reason(arguments.reason)
    async with opened(arguments) as store:
        adopted, value = await _locate(arguments, store)
        if adopted is not None:
            if arguments.start is not None:
                raise errors.Usage(
                    why="--start cannot be combined with --adopt-table: the adopted item already"
                    " has a value"
                )
            value += 1 if adopted.returns == "new" else 0
        wanted = new_counter(
            arguments.name,
            SystemRandom(),
            start=value if adopted is not None else arguments.start or 0,
            limit=arguments.limit,
            strict=arguments.strict,
            shards=arguments.shards,
            runway=arguments.runway if arguments.runway_said else None,
            request_max=arguments.request_max,
            rate_max=arguments.rate_max,
            adopted=adopted,
        )
        counter, created = await ensure(
            store, wanted, runway=arguments.runway, random=SystemRandom(), by=operator(), why=reason
        )
        first = f", ids from {max(counter.start, counter.high)}" if created else ""
        how = "created" if created else "already there, configured the same"
        print(f"counter {counter.name}: {how}{first}")


async def _locate(arguments: argparse.Namespace, store: IdStore) -> tuple[Adopted | None, int]:
    """Return the item that --adopt-… names and its value; (None, 0) if they name none."""
    names = ("adopt_table", "adopt_key", "adopt_attribute", "adopt_returns")
    given = [name for name in names if getattr(arguments, name) is not None]
    if not given:
        return None, 0
    if len(given) < len(names):
        missing = next(name for name in names if name not in given)
        raise errors.Usage(why=f"--{missing.replace('_', '-')} is missing beside --adopt-…")
    key: dict[str, Any] = {}
    for part in arguments.adopt_key.split(","):
        attribute, equals, value = part.partition("=")
        if not (attribute and equals and value) or attribute in key:
            raise errors.Usage(
                why=f"--adopt-key is {arguments.adopt_key!r}; it must be ATTRIBUTE=VALUE, and for a"
                " table with a sort key ATTRIBUTE=VALUE,ATTRIBUTE=VALUE"
            )
        key[attribute] = value
    return await with_catalogue(store).locate(
        arguments.adopt_table, key, arguments.adopt_attribute, arguments.adopt_returns
    )


async def counters(arguments: argparse.Namespace) -> None:
    """List the counters, with their positions."""
    async with opened(arguments, bounded=False) as store:
        found = [one for one in await store.counters() if one.state != DELETED]
        found.sort(key=lambda counter: counter_table.in_natural_order(counter.name))
        rows = await for_each(found, partial(_described, store))
    if not arguments.json:
        counter_table.print_table(rows)
        return
    for row in rows:
        print(_json(row))


async def _described(store: IdStore, counter: Counter) -> dict[str, object]:
    """Return a counter as `show` does; a position that grants nothing hides no other counter."""
    try:
        positions = await positions_of(store, counter)
    except (errors.PositionMissing, errors.PositionIllFormed):
        return {**described(counter, settings.RUNWAY.default), "state": "suspect"}
    return described(counter, settings.RUNWAY.default, positions)


def show(arguments: argparse.Namespace) -> Any:
    """Show one counter, from the store or from a service."""
    check_name(arguments.name)
    if not asks_service(arguments):
        return _show(arguments)
    target, key = f"/v1/counters/{arguments.name}", shown_key(arguments)
    body = http_get.asked(arguments.url, target, timeout=arguments.timeout, key=key)
    if arguments.json:
        print(body)
        return 0
    try:
        row = json.loads(body)
        causes = {cause: (int(gap["ids"]), gap["why"]) for cause, gap in row.pop("gaps").items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        why = f"{body[:80]!r} is not a counter as idservice shows it"
        raise http_get.NoAnswer(url=arguments.url, why=why) from None
    lost = sum(ids for ids, _ in causes.values())
    counter_table.print_row(row | {"gaps": f"{lost} since this service started"})
    for cause, (ids, why) in causes.items():
        print(f"  {cause:10} {ids}: {why}")
    return 0


async def _show(arguments: argparse.Namespace) -> None:
    async with opened(arguments) as store:
        counter = in_use(await shown(store, arguments.name), arguments.name)
        positions = await positions_of(store, counter)
    row = described(counter, settings.RUNWAY.default, positions)
    if arguments.json:
        print(_json(row))
    else:
        counter_table.print_row(row)


def asks_service(arguments: argparse.Namespace) -> bool:
    """Return True if a running service is asked, and not a store. Raises Usage."""
    if arguments.url_said and arguments.store_said:
        raise errors.Usage(why="--url cannot be combined with --store; name one of them")
    return arguments.url is not None and not arguments.store_said


def in_use(counter: Counter | None, name: str) -> Counter:
    """Return the counter, or raise UnknownCounter if there is none."""
    if counter is None or counter.target_state == DELETED:
        raise errors.UnknownCounter(name=name)
    return counter


async def doctor(arguments: argparse.Namespace) -> int:
    """Report findings about a store: what is wrong, what may go wrong, and what to do."""
    async with opened(arguments, verify=False) as store:
        found = list(await catalogue_doctor.examine(store, time.time))
        if _lists_cheaply(store) and not any(one.level == FAULT for one in found):
            found += await examine_tallies(store.tallies, store.address, time.time)
    if arguments.tls_cert and arguments.tls_key:
        found.append(certificate.examine(arguments.tls_cert, arguments.tls_key, time.time()))
    found += asking.examine(arguments.listen, arguments.require_keys)
    found.sort(key=lambda finding: -LEVELS.index(finding.level))
    levels = [finding.level for finding in found]
    summary = ", ".join(f"{level} {levels.count(level)}" for level in reversed(LEVELS))
    if arguments.json:
        print(_json({"store": store.address, "findings": found}))
    elif sys.stdout.isatty():
        _print_coloured(found, summary)
    else:
        for finding in found:
            print(f"{finding.level:8} {finding.about}: {finding.found}")
            for more in filter(None, (finding.why, finding.run)):
                print(f"{'':10} {more}")
        print(summary)
    return 1 if any(finding.is_worse_than_advice for finding in found) else 0


def _lists_cheaply(store: IdStore) -> TypeGuard[CatalogueStore]:
    """Return True if tallies are listed and audited without a read of a whole table."""
    return has_catalogue(store) and isinstance(parse(store.address), SQLiteAddress)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _print_coloured(found: Sequence[Finding], summary: str) -> None:
    """Print findings as a table, for a terminal; a command to run is never cut."""
    from rich.console import Console  # slow to load: for a terminal only
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for finding in found:
        style = "bold red" if finding.is_worse_than_advice else "green"
        table.add_row(Text(finding.level, style), Text(f"{finding.about}: {finding.found}"))
        for more in filter(None, (finding.why, finding.run)):
            table.add_row("", Text(more, overflow="fold"))
    console = Console(highlight=False)
    console.print(table)
    console.print(summary)


# --- shared by the commands -----------------------------------------------------------------------


@asynccontextmanager
async def opened(
    arguments: argparse.Namespace, *, verify: bool = True, bounded: bool = True
) -> AsyncIterator[IdStore]:
    """Open the store that was named; `verify` first checks that it is the right one.

    Unless `bounded`, only the opening has a time limit; the calls of the store have their own.
    """
    address = arguments.store or settings.STORE_DEFAULT
    try:
        async with (
            asyncio.timeout(COMMAND_TIMEOUT_S if verify else None) as deadline,
            open_store(address, own_key=partial(shown_key, arguments)) as store,
        ):
            if verify:
                await store.verify()
            if not bounded:
                deadline.reschedule(None)
            yield store
    except TimeoutError:
        raise errors.StoreUnready(
            store=address,
            why=f"no answer within {COMMAND_TIMEOUT_S:g} s; check the network and the endpoint",
        ) from None


def operator() -> str:
    """Return the user and host that run the command, for the log."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user of a container that has no name
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"
