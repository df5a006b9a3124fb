"""Commands that change a counter, from `set` to `move`."""

import argparse
import logging
import os
import sys
from collections.abc import Iterable
from random import SystemRandom
from typing import TypeVar

from msgspec.structs import replace

from idservice import errors
from idservice.catalogue import changes
from idservice.catalogue.changer import EpochChanger
from idservice.catalogue.counters import check_bounds
from idservice.catalogue.mover import CounterMover
from idservice.cli import hints
from idservice.cli.store_commands import opened, operator
from idservice.client.address import ServiceAddress
from idservice.core.access_key import BUCKETS
from idservice.core.amounts import written
from idservice.core.limits import LINES_MAX
from idservice.core.timeouts import stale_after
from idservice.observability import logs
from idservice.server import settings
from idservice.stores import open_store
from idservice.stores.address import parse
from idservice.stores.protocol import CatalogueStore, IdStore, with_catalogue
from idservice.stores.records import ACTIVE, EXHAUSTED, SUSPENDED, Counter, check_name
from idservice.tallies import audit

C = TypeVar("C", bound=changes.Change)


async def set_next(arguments: argparse.Namespace) -> None:
    """Go on from another id."""
    lower, forced = arguments.allow_lower, arguments.force
    await _change(arguments, changes.SetNext(next=arguments.next, lower=lower, forced=forced))


async def configure(arguments: argparse.Namespace) -> None:
    """Change the limit, the runway or the bounds of requests."""
    limit, runway = arguments.limit, arguments.runway
    request_max, rate_max = arguments.request_max, arguments.rate_max
    if limit is runway is request_max is rate_max is None:
        raise errors.Usage(
            why="configure needs --limit N, --runway S, --request-max N or --rate-max R"
        )
    check_bounds(request_max, rate_max)
    check_name(arguments.name)
    seconds = None if runway is None else settings.parsed(settings.RUNWAY, runway, "--runway")
    # An earlier change that is finished first may have to outlast the instances' longest runway.
    arguments.runway = max(seconds or 0.0, settings.from_environment(settings.RUNWAY, os.environ))
    change = changes.Configure(
        limit=limit, runway=seconds, request_max=request_max, rate_max=rate_max,
        forced=arguments.force,
    )  # fmt: skip
    await _change(arguments, change)


async def suspend(arguments: argparse.Namespace) -> None:
    """Hand out no ids until `resume`."""
    await _change(arguments, changes.Configure(state=SUSPENDED))


async def resume(arguments: argparse.Namespace) -> None:
    """End a suspension."""
    await _change(arguments, changes.Configure(state=ACTIVE))


async def reshard(arguments: argparse.Namespace) -> None:
    """Go on with another number of shards."""
    await _change(arguments, changes.Reshard(shards=arguments.shards))


async def delete(arguments: argparse.Namespace) -> None:
    """Delete a counter."""
    await _change(arguments, changes.Delete())


async def adopt(arguments: argparse.Namespace) -> None:
    """End an adoption, after which the old endpoint cannot count any more."""
    if not arguments.finish:
        raise errors.Usage(
            why="adopt needs --finish; to take a counter over, run `idservice create NAME"
            " --adopt-table …`"
        )
    await _change(arguments, changes.FinishAdoption())


async def move(arguments: argparse.Namespace) -> None:
    """Move a counter to another store."""
    name, reason = check_name(arguments.name), changes.check_reason(arguments.reason)
    to = _address(arguments.to)
    logs.set_up("auto", sys.stderr)
    async with opened(arguments, bounded=False) as store, open_store(to) as target:
        await target.verify()
        stale_s = stale_after(arguments.runway)
        mover = CounterMover(
            with_catalogue(store),
            with_catalogue(target),
            to=to,
            random=SystemRandom(),
            stale_s=stale_s,
        )
        entry = await mover.move(name, by=operator(), why=reason)
    if entry.move is not None:  # an earlier move, which this run only finished or found
        print(f"counter {name}: moved to {to}, and on: {entry.whereabouts}")
        return
    print(f"counter {name}: moved to {to}, {_summary(entry)}; serve it with --store {to!r}")


def _address(to: str) -> str:
    """Return the address of the new store, valid in any folder and environment. Raises Usage."""
    address = parse(to, flag="--to")
    if isinstance(address, ServiceAddress):
        raise errors.Usage(
            why=f"--to is {to!r}; it must be sqlite:PATH or"
            " dynamodb:TABLE[?region=REGION&endpoint=URL]"
        )
    return str(address.resolved())


async def fence(arguments: argparse.Namespace) -> int:
    """Open new epochs above every id that may be in use."""
    if (arguments.name is None) != arguments.all:
        raise errors.Usage(why="fence needs either the name of a counter or --all")
    if (arguments.past is None) == (arguments.ahead is None):
        raise errors.Usage(why="fence needs either --past N or --ahead N")
    wish = changes.Fence(past=arguments.past, ahead=arguments.ahead, forced=arguments.force)
    change = _signed(arguments, wish)
    if arguments.name is not None:
        check_name(arguments.name)
    async with opened(arguments, verify=False) as store:
        try:
            await store.verify()
        except errors.StoreReplaced as replaced:
            if not arguments.all:
                raise errors.Usage(
                    why=f"{str(replaced).rstrip('.')}. Until that is resolved, only all counters"
                    " can be fenced together"
                ) from replaced
        changer, names = _changer(arguments, store), [arguments.name]
        sums: list[audit.TallyAudit] = []
        if arguments.all:
            names = [entry.name for entry in await store.counters()]
            sums = await audit.all_audited(with_catalogue(store).tallies)
        torn = [tally for tally in sums if not tally.agrees]
        refused = [name for name in names if not await _plan(arguments, changer, name, change)]
        if arguments.dry_run:
            for tally in torn:
                print(f"tally {tally.tally.name}: {_sums(tally)}")
            if sums:
                print(f"sums that agree with their records: {len(sums) - len(torn)}")
        if arguments.dry_run or refused:
            nothing = "nothing was changed"
            if refused and not arguments.dry_run:
                nothing = f"{nothing}, because of {', '.join(refused)}"
            print(f"idservice: {nothing}", file=sys.stderr)
            return 1 if refused else 0
        for tally in torn:  # first: once the store is accepted, adds go on from the sum
            await audit.repair(with_catalogue(store).tallies, tally, by=operator())
            print(f"tally {tally.tally.name}: {_sums(tally)}")
        code = await _fence_all(arguments, store, changer, names, change)
        if sums:
            print(
                "adds since the copy are not in its sums: send them again, with their keys;"
                " see docs/how-to/recover.md"
            )
        if arguments.all and await _has_keys(with_catalogue(store)):
            said = (
                "access keys are those of the copy: a key that was revoked later is valid again. "
                "Compare `idservice key list` with your records, and revoke such keys again"
            )
            print(hints.at_store(said, arguments))
        return code


async def _has_keys(store: CatalogueStore) -> bool:
    """Return True if the store has access keys, also if they cannot be read."""
    try:
        return any([(await store.keys.bucket(number)).keys for number in BUCKETS])
    except errors.StoreError as error:  # denied by a policy that is older than the keys, say
        return isinstance(error, errors.KeysIllFormed)


def _sums(found: audit.TallyAudit) -> str:
    """Return what a repair makes of a tally."""
    tally = found.tally
    before, after = (written(each, tally.decimals) for each in (tally.sum, found.sum))
    if after == before:
        return (
            f"its sum stays {after}, as its {found.records} records make it; their number or"
            " revision was not the tally's"
        )
    return f"its sum is {after} instead of {before}, made anew of its {found.records} records"


async def _plan(
    arguments: argparse.Namespace, changer: EpochChanger, name: str, change: changes.Fence
) -> bool:
    """Return False if a fence of the counter would be refused; print what it would do if asked."""
    try:
        entry, free = await changer.plan(name, replace(change, forced=True))
        if arguments.dry_run:
            first = change.first(free)
            end = _no_ids_left(entry) if first > entry.limit else ""
            said = f"counter {name}: ids go on from {first} instead of {free}{end}"
            print(hints.at_store(said, arguments))
        change.check(entry, free)
    except (errors.PositionMissing, errors.PositionIllFormed) as error:
        if not arguments.all:
            raise
        if arguments.dry_run:
            said = hints.at_store(str(error), arguments)
            print(f"idservice: would be left as it is: {said}", file=sys.stderr)
    except errors.ChangeRefused as error:
        if not (arguments.all or arguments.dry_run):
            raise
        print(f"idservice: {hints.at_store(str(error), arguments)}", file=sys.stderr)
        return False
    return True


async def _fence_all(
    arguments: argparse.Namespace,
    store: IdStore,
    changer: EpochChanger,
    names: list[str],
    change: changes.Fence,
) -> int:
    left = []
    many = len(names) > LINES_MAX
    if many:  # each entry keeps what was done to it, and why
        logging.getLogger("idservice.change").setLevel(logging.WARNING)
    for name in _shown(names) if many else names:
        try:
            said = await _change_one(changer, name, change)
            if not many:
                print(hints.at_store(said, arguments))
        except (errors.PositionMissing, errors.PositionIllFormed) as error:
            if not arguments.all:
                raise
            # Its position grants no ids, in any store.
            said = hints.at_store(str(error), arguments)
            print(f"idservice: left as it is: {said}", file=sys.stderr)
            left.append(name)
    if many:
        print(f"{len(names) - len(left)} counters are fenced, {len(left)} are left as they are")
    if arguments.all:  # last: earlier, a crash half-way would unlock the other counters
        await with_catalogue(store).accept_identity()
        print(f"{store.address} is accepted as the right store; restart its instances")
    if left:
        print(
            f"idservice: not fenced, and without ids until they are fenced: {', '.join(left)}",
            file=sys.stderr,
        )
    return 1 if left else 0


def _shown(names: list[str]) -> Iterable[str]:
    """Return the names, one by one, with progress on a terminal."""
    if not sys.stderr.isatty():
        return names
    from rich.console import Console  # slow to load: for a terminal only
    from rich.progress import track

    return track(names, "fencing", console=Console(stderr=True), transient=True)


async def _change(arguments: argparse.Namespace, change: changes.Change) -> None:
    check_name(arguments.name)
    signed = _signed(arguments, change)
    async with opened(arguments, bounded=False) as store:  # it may finish an earlier change first
        said = await _change_one(_changer(arguments, store), arguments.name, signed)
        print(hints.at_store(said, arguments))


def _signed(arguments: argparse.Namespace, change: C) -> C:
    """Return the change with its operator and reason. Raises BadConfiguration."""
    return replace(change, by=operator(), why=changes.check_reason(arguments.reason))


def _changer(arguments: argparse.Namespace, store: IdStore) -> EpochChanger:
    logs.set_up("auto", sys.stderr)
    return EpochChanger(
        with_catalogue(store), random=SystemRandom(), stale_s=stale_after(arguments.runway)
    )


async def _change_one(changer: EpochChanger, name: str, change: changes.Change) -> str:
    """Carry out a change; return what became of the counter."""
    before, after = await changer.change(name, change)
    if after is before:
        return f"counter {name}: already {after.state}{_shards(after)}, nothing was changed"
    now, left = _summary(after, before), _left(after)
    if change.kind in ("limit", "runway", "bounds"):
        runway = "" if after.runway is None else f", runway {after.runway:g} s"
        return f"counter {name}: {now}, limit {after.limit}{runway}{_bounds(after)}{left}"
    ended = isinstance(change, changes.Fence) and before.adopted and not after.adopted
    old = "; its adoption is ended, so the old endpoint counts no more" if ended else ""
    return f"counter {name}: {now}{left}{old}"


def _summary(entry: Counter, before: Counter | None = None) -> str:
    """Return the state of a counter that was changed just now."""
    state, first = entry.state, ""
    if entry.state == ACTIVE and entry.high > entry.limit:
        state = EXHAUSTED
    elif entry.state == ACTIVE and (before is None or entry.epoch != before.epoch):
        first = f", ids from {entry.high}"  # of the epoch that it opened
    return f"{state}, epoch {entry.ordinal}{_shards(entry)}{first}"


def _left(entry: Counter) -> str:
    """Return what to do if the change left a counter no ids; empty if it did not."""
    return _no_ids_left(entry) if entry.state == ACTIVE and entry.high > entry.limit else ""


def _no_ids_left(entry: Counter) -> str:
    return (
        f"; it is exhausted at once: no id is left up to its limit {entry.limit}. Raise that with"
        f" `idservice configure {entry.name} --limit N`"
    )


def _bounds(entry: Counter) -> str:
    request = "" if entry.request_max is None else f", request_max {entry.request_max}"
    return request + ("" if entry.rate_max is None else f", rate_max {entry.rate_max:g} ids/s")


def _shards(entry: Counter) -> str:
    return f", {entry.shards} shards" if entry.shards > 1 else ""
