"""How each command is carried out.

Imports stand inside of the commands: `health` and `wait` run every few seconds, and must not load
an HTTP server for it.
"""

import argparse
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from idservice import errors
from idservice.cli import service_commands
from idservice.server import loop, settings

if TYPE_CHECKING:
    from idservice.stores.protocol import Store
    from idservice.stores.records import Counter, Position

COMMAND_TIMEOUT_S = 20.0


def serve(arguments: argparse.Namespace) -> int:
    """Serve until a stop signal."""
    from idservice.server import run as serve

    return serve.serve(arguments)


def init(arguments: argparse.Namespace) -> int:
    """Create the store."""
    from random import SystemRandom

    from idservice.catalogue.counters import new_counter
    from idservice.stores.records import DEFAULT_COUNTER

    async def work(store: "Store") -> None:
        created = await store.init(new_counter(DEFAULT_COUNTER, SystemRandom()))
        if created:
            print(f"{store.address} is initialised; counter {DEFAULT_COUNTER} starts from 0")
        else:
            print(f"{store.address} was initialised before; nothing was changed")

    return with_store(arguments, work, verify=False)


def create(arguments: argparse.Namespace) -> int:
    """Create or adopt a counter."""
    from random import SystemRandom

    from idservice.catalogue.counters import ensure, new_counter
    from idservice.stores.records import LIMIT_DEFAULT, check_name

    check_name(arguments.name)
    start = number("--start", arguments.start, 0)
    limit = number("--limit", arguments.limit, LIMIT_DEFAULT)
    shards = number("--shards", arguments.shards, 1)

    async def work(store: "Store") -> None:
        adopted, value = await _locate(arguments, store)
        if adopted is not None:
            if arguments.start is not None:
                raise errors.Usage(why="--start goes not with --adopt-table: the item has a value")
            value += 1 if adopted.returns == "new" else 0
        wanted = new_counter(
            arguments.name,
            SystemRandom(),
            start=value if adopted is not None else start,
            limit=limit,
            strict=arguments.strict,
            shards=shards,
            runway=arguments.runway if arguments.runway_said else None,
            adopted=adopted,
        )
        counter, created = await ensure(
            store, wanted, runway=arguments.runway, random=SystemRandom(), by=operator()
        )
        first = f", ids from {max(counter.start, counter.high)}" if created else ""
        how = "created" if created else "already there, configured the same"
        print(f"counter {counter.name}: {how}{first}")

    return with_store(arguments, work)


async def _locate(arguments: argparse.Namespace, store: "Store") -> tuple[Any, int]:
    """The item that --adopt-… names, and its value; (None, 0) where they name none."""
    names = ("adopt_table", "adopt_key", "adopt_attribute", "adopt_returns")
    given = [name for name in names if getattr(arguments, name) is not None]
    if not given:
        return None, 0
    if len(given) < len(names):
        missing = next(name for name in names if name not in given)
        raise errors.Usage(why=f"--{missing.replace('_', '-')} is missing beside --adopt-…")
    if not arguments.store or not arguments.store.startswith("dynamodb:"):
        raise errors.Usage(why="--adopt-table needs a store at dynamodb:TABLE")
    from idservice.stores.dynamodb import DynamoStore

    assert isinstance(store, DynamoStore)
    key = {}
    for part in arguments.adopt_key.split(","):
        attribute, equals, value = part.partition("=")
        if not (attribute and equals and value) or attribute in key:
            raise errors.Usage(
                why=f"--adopt-key is {arguments.adopt_key!r}; it must be ATTRIBUTE=VALUE, with a"
                " second one behind a comma where the table has a sort key"
            )
        key[attribute] = value
    return await store.locate(
        arguments.adopt_table, key, arguments.adopt_attribute, arguments.adopt_returns
    )


def counters(arguments: argparse.Namespace) -> int:
    """List the counters."""
    from idservice.stores.records import DELETED

    async def work(store: "Store") -> None:
        for counter in await store.counters():
            if counter.state != DELETED:
                _print_counter(counter, arguments)

    return with_store(arguments, work)


def show(arguments: argparse.Namespace) -> int:
    """Show one counter."""
    from idservice.catalogue.counters import positions_of, shown
    from idservice.stores.records import check_name

    check_name(arguments.name)
    if service_commands.asks_service(arguments):
        return service_commands.show(arguments)

    async def work(store: "Store") -> None:
        counter = _in_use(await shown(store, arguments.name), arguments.name)
        _print_counter(counter, arguments, await positions_of(store, counter))

    return with_store(arguments, work)


def _in_use(counter: "Counter | None", name: str) -> "Counter":
    from idservice.stores.records import DELETED

    if counter is None or counter.wished_state == DELETED:
        raise errors.UnknownCounter(name=name)
    return counter


def _print_counter(
    counter: "Counter", arguments: argparse.Namespace, positions: "Sequence[Position]" = ()
) -> None:
    import msgspec

    from idservice.catalogue.describe import described

    rows = described(counter, settings.RUNWAY.default, positions)
    if arguments.json:
        print(msgspec.json.encode(rows).decode())
    elif not positions:
        print(counter.name)
    else:
        service_commands.print_rows(rows)


def next_ids(arguments: argparse.Namespace) -> int:
    """Take ids, from the store or from a service."""
    from random import SystemRandom

    from idservice.allocation import direct
    from idservice.stores.records import MOVED, SUSPENDED, check_name
    from idservice.web.request import read_count

    most = 1_000_000
    count = read_count(arguments.count, most) or 1
    name = check_name(arguments.name or "default")
    if service_commands.asks_service(arguments):
        return service_commands.next_ids(arguments, name)

    async def work(store: "Store") -> None:
        counter = _in_use(await store.counter(name), name)
        if counter.wished_state == SUSPENDED:
            raise errors.Suspended(name=name)
        if counter.wished_state == MOVED:
            raise errors.Moved(name=name, why=counter.whereabouts)
        if counter.intent is not None:  # its position is closed, or will be in a moment
            raise errors.NotApplied(
                store=store.address,
                action=f"handing out ids of counter {name!r}",
                why=f"{counter.intent.kind} is begun and not done; try again, or run that command"
                " again where it stands still",
            )
        blocks = await direct.take(store, counter, count, random=SystemRandom())
        print("\n".join(str(id) for block in blocks for id in block))

    return with_store(arguments, work)


def top(arguments: argparse.Namespace) -> int:
    """Show the status of a service."""
    from idservice.cli import top

    top.run(
        arguments.url or top.default_url(os.environ),
        once=arguments.once, as_json=arguments.json, every_s=arguments.interval,
    )  # fmt: skip
    return 0


def bench(arguments: argparse.Namespace) -> int:
    """Put load on a service, and check every id it gives."""
    import json
    import sys

    from idservice.cli.bench.run import Bench, Wish
    from idservice.cli.bench.where import BenchTarget
    from idservice.stores.records import check_name

    bench = Bench(
        Wish(
            where=BenchTarget.parse(
                arguments.where, arguments.counter and check_name(arguments.counter)
            ),
            count=arguments.count,
            ranges=arguments.ranges,
            connections=arguments.connections,
            rate=arguments.rate,
            warmup_s=arguments.warmup,
            duration_s=arguments.duration,
            unordered=arguments.unordered,
        )
    )
    print(f"idservice: {bench.notice}", file=sys.stderr)
    terminal = sys.stderr.isatty()

    def say(line: str) -> None:
        start, end = ("\r\x1b[K", "") if terminal else ("", "\n")
        print(f"{start}{line}", end=end, file=sys.stderr, flush=True)

    loop.run(bench.run(say, every_s=1.0 if terminal else 2.0))
    if terminal:
        say("")
    report = bench.report()
    print(json.dumps(report.as_json()) if arguments.json else report.lines())
    for fault in report.faults():
        print(f"idservice: {fault}", file=sys.stderr)
    return 1 if report.faults() else 0


# --- carrying out ---------------------------------------------------------------------------------


def with_store(
    arguments: argparse.Namespace,
    work: Callable[["Store"], Awaitable[None]],
    *,
    verify: bool = True,
    bounded: bool = True,
) -> int:
    """Open the store that was named and do `work` with it; `verify` sees first that it is the one.

    Without `bounded` the work may take as long as it takes; its calls have bounds of their own.
    """
    import asyncio

    from idservice.stores import open_store

    async def run() -> None:
        try:
            async with (
                asyncio.timeout(COMMAND_TIMEOUT_S if verify else None) as deadline,
                open_store(arguments.store or settings.STORE_DEFAULT) as store,
            ):
                if verify:
                    await store.verify()
                if not bounded:
                    deadline.reschedule(None)
                await work(store)
        except TimeoutError:
            raise errors.StoreUnready(
                store=arguments.store or settings.STORE_DEFAULT,
                why=f"no answer within {COMMAND_TIMEOUT_S:g} s; check the network and the endpoint",
            ) from None

    loop.run(run())
    return 0


def operator() -> str:
    """Who runs the command, as it is logged."""
    import getpass
    import socket

    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def number(flag: str, value: str | None, default: int) -> int:
    """The number that a flag was given, within what a counter can have. Raises Usage."""
    from idservice.stores.records import LIMIT_MAX

    if value is None:
        return default
    try:
        return settings.whole(0, LIMIT_MAX)(value)
    except ValueError as rule:
        raise errors.Usage(why=f"{flag} is {value!r}; it must be {rule}") from None
