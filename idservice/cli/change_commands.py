"""How the commands that change counters are carried out: set, suspend, resume, reshard, delete,
fence, adopt, move."""

import argparse
import sys
from typing import TYPE_CHECKING

from idservice import errors
from idservice.cli import store_commands

if TYPE_CHECKING:
    from idservice.catalogue.changer import EpochChanger
    from idservice.catalogue.rules import Wish
    from idservice.stores.protocol import Store
    from idservice.stores.records import Counter


def set_next(arguments: argparse.Namespace) -> int:
    """Go on from another id."""
    from idservice.catalogue.rules import Wish

    next = store_commands.number("--next", arguments.next, 0)
    wish = Wish("set", next=next, lower=arguments.allow_lower, forced=arguments.force)
    return _change(arguments, wish)


def suspend(arguments: argparse.Namespace) -> int:
    """Hand out nothing until `resume`."""
    from idservice.catalogue.rules import Wish
    from idservice.stores.records import SUSPENDED

    return _change(arguments, Wish("suspend", state=SUSPENDED))


def resume(arguments: argparse.Namespace) -> int:
    """End a suspension."""
    from idservice.catalogue.rules import Wish
    from idservice.stores.records import ACTIVE

    return _change(arguments, Wish("resume", state=ACTIVE))


def reshard(arguments: argparse.Namespace) -> int:
    """Go on with another number of shards."""
    from idservice.catalogue.rules import Wish

    shards = store_commands.number("--shards", arguments.shards, 1)
    return _change(arguments, Wish("reshard", shards=shards))


def delete(arguments: argparse.Namespace) -> int:
    """Delete a counter."""
    from idservice.catalogue.rules import Wish
    from idservice.stores.records import DELETED

    return _change(arguments, Wish("delete", state=DELETED))


def adopt(arguments: argparse.Namespace) -> int:
    """End an adoption: the old endpoint can count no more."""
    from idservice.catalogue.rules import Wish
    from idservice.stores.records import FINISH

    if not arguments.finish:
        raise errors.Usage(
            why="adopt takes --finish; a counter is taken over by `idservice create NAME"
            " --adopt-table …`"
        )
    return _change(arguments, Wish(FINISH))


def move(arguments: argparse.Namespace) -> int:
    """Take a counter to another store."""
    from random import SystemRandom

    from idservice.catalogue.counters import check_reason
    from idservice.catalogue.mover import CounterMover
    from idservice.core.timeouts import stale_after
    from idservice.observability import logs
    from idservice.stores import open_store
    from idservice.stores.records import check_name

    name, reason = check_name(arguments.name), check_reason(arguments.reason)
    to = _address(arguments.to)

    async def work(store: "Store") -> None:
        logs.set_up("auto", sys.stderr)
        async with open_store(to) as target:
            await target.verify()
            stale_s = stale_after(arguments.runway)
            mover = CounterMover(store, target, to=to, random=SystemRandom(), stale_s=stale_s)
            entry = await mover.move(name, by=store_commands.operator(), why=reason)
        if entry.move is not None:  # an earlier move, finished or told of only now
            print(f"counter {name}: moved to {to}, and on: {entry.whereabouts}")
            return
        print(f"counter {name}: moved to {to}, {_told(entry)}; serve it with --store {to!r}")

    return store_commands.with_store(arguments, work, bounded=False)


def _address(to: str) -> str:
    """Where a counter is to go, as anybody may read it later, in whatever folder. Raises Usage."""
    from pathlib import Path

    engine, _, rest = to.partition(":")
    if engine == "sqlite" and rest:
        return f"sqlite:{Path(rest).resolve()}"
    if engine == "dynamodb":
        return to
    raise errors.Usage(
        why=f"--to is {to!r}; it must be sqlite:PATH or dynamodb:TABLE[?region=REGION&endpoint=URL]"
    )


def fence(arguments: argparse.Namespace) -> int:
    """Open new epochs above every id that may be in use."""
    from idservice.catalogue.rules import Wish
    from idservice.stores.records import check_name

    if (arguments.name is None) != arguments.all:
        raise errors.Usage(why="fence takes a counter's name or --all, and one of them only")
    if (arguments.past is None) == (arguments.ahead is None):
        raise errors.Usage(why="fence takes --past N or --ahead N, and one of them only")
    wish = Wish("fence", past=_given(arguments, "past"), ahead=_given(arguments, "ahead"))
    if arguments.name is not None:
        check_name(arguments.name)

    async def work(store: "Store") -> None:
        try:
            await store.verify()
        except errors.StoreReplaced as replaced:
            if not arguments.all:
                raise errors.Usage(
                    why=f"{str(replaced).rstrip('.')}. As long as that is so, all counters must be"
                    " fenced together: idservice fence --all"
                ) from replaced
        changer = _changer(arguments, store)
        if arguments.name is not None:
            await _change_one(changer, arguments.name, _signed(arguments, wish))
            return
        for entry in await store.counters():
            try:
                await _change_one(changer, entry.name, _signed(arguments, wish))
            except (errors.PositionMissing, errors.PositionIllFormed) as error:
                # Nobody is granted anything on it, whatever the store is taken for.
                print(f"idservice: left as it is: {error}", file=sys.stderr)
        await store.accept()  # last: before, a crash half-way would unlock the rest
        print(f"{store.address} is taken for the right one from now on; restart its instances")

    return store_commands.with_store(arguments, work, verify=False)


def _given(arguments: argparse.Namespace, flag: str) -> int | None:
    value = getattr(arguments, flag)
    return None if value is None else store_commands.number(f"--{flag}", value, 0)


def _change(arguments: argparse.Namespace, wish: "Wish") -> int:
    from idservice.stores.records import check_name

    check_name(arguments.name)
    signed = _signed(arguments, wish)

    async def work(store: "Store") -> None:
        await _change_one(_changer(arguments, store), arguments.name, signed)

    return store_commands.with_store(arguments, work, bounded=False)  # it may finish one that waits


def _signed(arguments: argparse.Namespace, wish: "Wish") -> "Wish":
    """A wish with who wants it, and why. Raises BadConfiguration."""
    from dataclasses import replace

    from idservice.catalogue.counters import check_reason

    return replace(wish, by=store_commands.operator(), why=check_reason(arguments.reason))


def _changer(arguments: argparse.Namespace, store: "Store") -> "EpochChanger":
    from random import SystemRandom

    from idservice.catalogue.changer import EpochChanger
    from idservice.core.timeouts import stale_after
    from idservice.observability import logs

    logs.set_up("auto", sys.stderr)
    return EpochChanger(store, random=SystemRandom(), stale_s=stale_after(arguments.runway))


async def _change_one(changer: "EpochChanger", name: str, wish: "Wish") -> None:
    before, after = await changer.change(name, wish)
    if after is before:
        print(f"counter {name}: already {after.state}{_shards(after)}, nothing was changed")
    else:
        print(f"counter {name}: {_told(after)}")


def _told(entry: "Counter") -> str:
    from idservice.stores.records import ACTIVE

    first = f", ids from {entry.high}" if entry.state == ACTIVE else ""
    return f"{entry.state}, epoch {entry.ordinal}{_shards(entry)}{first}"


def _shards(entry: "Counter") -> str:
    return f", {entry.shards} shards" if entry.shards > 1 else ""
