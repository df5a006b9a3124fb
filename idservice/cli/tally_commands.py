"""The commands of tallies, `tally create` to `tally audit`."""

import argparse
import asyncio
import logging
import secrets
import shlex
import sys
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from random import SystemRandom

import msgspec

from idservice import errors
from idservice.catalogue.changes import check_reason
from idservice.cli import counter_table, hints, tally_table
from idservice.cli.shown_key import shown_key
from idservice.cli.store_commands import asks_service, opened, operator
from idservice.client.address import ServiceAddress
from idservice.client.http_async import AsyncTransport
from idservice.core.amounts import written
from idservice.core.tally import TallyState
from idservice.errors.tallies import KEEP_KEY
from idservice.observability import logs
from idservice.observability.store_health import StoreHealth
from idservice.server.exits import EXIT_FAILURE, EXIT_OK
from idservice.stores.chained import ChainedStore
from idservice.stores.records import check_name
from idservice.stores.tally_source import Told, check_key
from idservice.tallies.changes import TallyPatch, new_tally
from idservice.tallies.service import Tallies

SETTLE_S = 10.0  # for a set to be settled
LIST_S = 600.0  # for a list, for which DynamoDB reads the whole table
GRACE_S = 1.0  # the tallies have the first word: they know why it takes long


class NotSettled(errors.Unavailable):
    text = "{why}. To find out, run `{again}`: with the same key it is counted once."
    code = "not_settled"
    outcome = errors.UNKNOWN


class AnswerNotPrinted(errors.Unavailable):
    text = (
        "The sum of tally {name!r} was changed, and the answer cannot be printed: {why}. To see it,"
        " run `{again}`: with the same key it is counted once."
    )
    code = "answer_not_printed"
    outcome = errors.UNKNOWN


class NotTold(errors.Unavailable):
    text = "The sum of tally {name!r} is not known: no answer within {seconds:g} s."
    code = "no_answer"


# --- sums -----------------------------------------------------------------------------------------


async def add(arguments: argparse.Namespace) -> None:
    """Add an amount under a key."""
    name, key = check_name(arguments.name), _key(arguments)
    amount, at = shlex.quote(arguments.amount), _where(arguments)
    again = f"idservice tally add {name} {amount} --key {key}{at}"
    async with _tallies(arguments, wait_s=arguments.timeout) as tallies:
        with _repeatable(again):
            told = await _added(tallies, name, key, arguments)
    record, before = told.record, " before" if told.replayed else ""
    text = (
        f"tally {name}: {written(record.amount, told.decimals)} was added{before} under key"
        f" {key}, which made {written(record.sum, told.decimals)} at revision {record.rev}"
    )
    _print_answer(name, _json(tally_table.told(told)) if arguments.json else text, again)


def _print_answer(name: str, text: str, again: str) -> None:
    """Print the answer to a change. Raises AnswerNotPrinted: without its key it would be counted
    twice if it was sent again."""
    try:
        print(text, flush=True)
    except OSError as error:
        raise AnswerNotPrinted(name=name, why=error.strerror or error, again=again) from None


async def _added(tallies: Tallies, name: str, key: str, arguments: argparse.Namespace) -> Told:
    """Return the record. Raises as `Tallies.add`, AddUnsettled also if a service is too slow."""
    try:
        async with asyncio.timeout(arguments.timeout + GRACE_S):
            return await tallies.add(name, key, arguments.amount)
    except TimeoutError:
        why = f"no answer within {arguments.timeout:g} s"
        raise errors.AddUnsettled(name=name, key=key, why=why) from None


async def set_sum(arguments: argparse.Namespace) -> None:
    """Set the sum, under a key."""
    name, key = check_name(arguments.name), _key(arguments)
    reason = check_reason(arguments.reason, errors.BadTally)
    wanted, at = shlex.quote(arguments.sum), _where(arguments)
    again = f"idservice tally set {name} --sum {wanted} --key {key}{at}"
    async with _tallies(arguments, wait_s=SETTLE_S) as tallies:
        with _repeatable(again):
            told = await tallies.set(name, key, arguments.sum, by=operator(), why=reason)
    record, before = told.record, ", as before" if told.replayed else ""
    text = (
        f"tally {name}: set from {written(told.before, told.decimals)} to"
        f" {written(record.sum, told.decimals)} at revision {record.rev}, under key {key}{before}"
    )
    _print_answer(name, text, again)


def _key(arguments: argparse.Namespace) -> str:
    """Return the key that was given, or a new one. Raises BadKey."""
    given: str | None = arguments.key
    return secrets.token_hex(16) if given is None else check_key(given)


def _where(arguments: argparse.Namespace) -> str:
    """Return the flag that names the place again."""
    if "url" in arguments and asks_service(arguments):
        return f" --url {shlex.quote(arguments.url)}"
    return f" --store {shlex.quote(arguments.store)}" if arguments.store else ""


@contextmanager
def _repeatable(again: str) -> Iterator[None]:
    """Say how to ask again if it is not known what happened, also after Ctrl-C.

    Raises NotSettled in place of any error with an unknown outcome.
    """
    try:
        yield
    except asyncio.CancelledError:
        print(
            f"idservice: It is not known if it is counted. To find out, run `{again}`.",
            file=sys.stderr,
        )
        raise
    except errors.IdserviceError as error:
        if error.outcome != errors.UNKNOWN:
            raise
        why = str(error).removesuffix(KEEP_KEY).rstrip(". ")
        raise NotSettled(why=why, again=again) from error


# --- show -----------------------------------------------------------------------------------------


async def show(arguments: argparse.Namespace) -> None:
    """Show one tally, as it is now."""
    name = check_name(arguments.name)
    async with _tallies(arguments, wait_s=arguments.timeout) as tallies:
        row = await _row(tallies, name, within_s=arguments.timeout + GRACE_S)
    if arguments.json:
        print(_json(row))
    else:
        words = {"adds": "records"}  # refused adds and sets are among them
        counter_table.print_row({words.get(field, field): value for field, value in row.items()})


async def _row(tallies: Tallies, name: str, *, within_s: float) -> dict[str, object]:
    """Return a tally with its configuration, if this store is ours. Raises StoreError, NotTold."""
    try:
        async with asyncio.timeout(within_s):
            try:
                return tally_table.described(await tallies.tally(name))
            except errors.ChangedElsewhere:
                return tally_table.reading(await tallies.value(name))
    except TimeoutError:
        raise NotTold(name=name, seconds=within_s) from None


async def list_all(arguments: argparse.Namespace) -> None:
    """List the tallies."""
    async with _tallies(arguments, wait_s=LIST_S) as tallies:
        found = [one.tally for one in await tallies.tallies()]  # none went back: it just began
    found.sort(key=lambda tally: counter_table.in_natural_order(tally.name))
    if not arguments.json:
        tally_table.print_table(found)
        return
    for tally in found:
        print(_json(tally_table.described(tally)))


async def audit(arguments: argparse.Namespace) -> int:
    """Compare a tally with its records; 1 if they differ."""
    name = check_name(arguments.name)
    async with _tallies(arguments) as tallies:
        audited = await tallies.audit(name)
    if arguments.json:
        print(_json(tally_table.audited(audited)))
    else:
        print(hints.at_store("\n".join(tally_table.verdict(audited)), arguments))
    return EXIT_OK if audited.agrees else EXIT_FAILURE


# --- changes --------------------------------------------------------------------------------------


async def create(arguments: argparse.Namespace) -> None:
    """Create a tally."""
    wanted = new_tally(
        arguments.name, decimals=arguments.decimals, floor=arguments.floor,
        ceiling=arguments.ceiling, start=arguments.start, only=arguments.only,
    )  # fmt: skip
    async with _tallies(arguments) as tallies:
        tally, created = await tallies.create(wanted, by=operator())
    how = "created" if created else "already there, configured the same"
    print(f"tally {tally.name}: {how}, its sum is {written(tally.sum, tally.decimals)}")


async def configure(arguments: argparse.Namespace) -> None:
    """Change the bounds."""
    if arguments.floor is arguments.ceiling is None:
        raise errors.Usage(why="tally configure needs --floor X or --ceiling X")
    floor, ceiling = (
        "" if bound == "none" else bound for bound in (arguments.floor, arguments.ceiling)
    )
    await _change(arguments, TallyPatch(floor=floor, ceiling=ceiling), "configure")


async def suspend(arguments: argparse.Namespace) -> None:
    """Take no adds until `resume`."""
    await _change(arguments, TallyPatch(state=TallyState.SUSPENDED), "suspend")


async def resume(arguments: argparse.Namespace) -> None:
    """End a suspension."""
    await _change(arguments, TallyPatch(state=TallyState.ACTIVE), "resume")


async def delete(arguments: argparse.Namespace) -> None:
    """Delete a tally; its records stay, and mean nothing if it is created again."""
    await _change(arguments, TallyPatch(state=TallyState.DELETED), "delete")


async def _change(arguments: argparse.Namespace, patch: TallyPatch, what: str) -> None:
    name, reason = check_name(arguments.name), check_reason(arguments.reason, errors.BadTally)
    async with _tallies(arguments) as tallies:
        tally = await tallies.change(name, patch, what, by=operator(), why=reason)
    bounds = ", ".join(
        f"{word} {'none' if bound is None else written(bound, tally.decimals)}"
        for word, bound in (("floor", tally.floor), ("ceiling", tally.ceiling))
    )
    said = f"tally {name}: {tally.state.value}, its sum is {written(tally.sum, tally.decimals)}"
    print(f"{said}, {bounds}" if what == "configure" else said)


# --- shared by the commands -----------------------------------------------------------------------


@asynccontextmanager
async def _tallies(
    arguments: argparse.Namespace, *, wait_s: float = SETTLE_S
) -> AsyncIterator[Tallies]:
    """Open the tallies of the store or service that was named."""
    logs.set_up("auto", sys.stderr)
    with _trouble_is_told_once():
        async with _opened_tallies(arguments, wait_s) as tallies:
            yield tallies


@contextmanager
def _trouble_is_told_once() -> Iterator[None]:
    """Keep from the log what a service would tell there: the command ends with the same words."""
    loggers = [logging.getLogger(f"idservice.{room}") for room in ("health", "tallies")]
    before = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for each, level in zip(loggers, before, strict=True):
            each.setLevel(level)


@asynccontextmanager
async def _opened_tallies(arguments: argparse.Namespace, wait_s: float) -> AsyncIterator[Tallies]:
    tasks: set[asyncio.Task[None]] = set()

    def spawn(work: Coroutine[object, object, None]) -> "asyncio.Task[None]":
        task = asyncio.get_running_loop().create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return task

    by_url = "url" in arguments and asks_service(arguments)
    async with _service(arguments, wait_s) if by_url else opened(arguments, bounded=False) as store:
        try:
            yield Tallies(
                store, wait_s=wait_s, waiting_max=1, health=StoreHealth(), spawn=spawn,
                random=SystemRandom(), clock=time.time, check_open=lambda: None,
            )  # fmt: skip
        finally:
            left = [*tasks]
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)


def _service(arguments: argparse.Namespace, wait_s: float) -> ChainedStore:
    """Return a running service, asked as a sidecar asks it. Raises Usage."""
    transport = AsyncTransport(ServiceAddress.parse(arguments.url), shown_key(arguments))
    return ChainedStore(transport, wait_s=wait_s)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
