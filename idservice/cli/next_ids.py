"""The command `next` prints ids from a store or from a running service."""

import argparse
import json
import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from random import SystemRandom
from typing import Any

from idservice import errors
from idservice.allocation import direct
from idservice.catalogue.changes import word_of
from idservice.cli import http_get
from idservice.cli.shown_key import shown_key
from idservice.cli.store_commands import asks_service, in_use, opened
from idservice.client import protocol
from idservice.client.address import ServiceAddress
from idservice.client.http_sync import ConnectionPool
from idservice.core.limits import NUMBER_MAX
from idservice.core.timeouts import backoff
from idservice.stores.protocol import has_catalogue
from idservice.stores.records import DEFAULT_COUNTER, MOVED, SUSPENDED, Counter, check_name
from idservice.web.request import read_count

COUNT_MAX = 1_000_000_000
TEXT_MAX = 10_000  # ids that a service answers as text, by default
LINES = 10_000  # that are written at once
LOOK_S = 0.2  # for a service on this machine to say that it is there


class Incomplete(errors.Unavailable):
    text = "{why} {done} of {count} ids were printed."
    code = "incomplete"


def next_ids(arguments: argparse.Namespace) -> Any:
    """Take ids, from the store or from a service."""
    count = read_count(arguments.count, COUNT_MAX)
    name = check_name(arguments.name or DEFAULT_COUNTER)
    output = _Output(arguments.format, several=count is not None)
    if not asks_service(arguments):
        return _from_store(arguments, name, count or 1, output)
    if arguments.format == "text" and (count or 1) <= TEXT_MAX:
        _print_answer(arguments, count or 1)
    else:
        _from_service(arguments, count or 1, output)
    return 0


class _Output:
    """Prints ids as they come, and as JSON or ranges a document for each epoch at the end."""

    def __init__(self, form: str, *, several: bool) -> None:
        self.printed = 0
        self._form = form
        self._several = several
        self._documents: list[tuple[str, protocol.ClientAnswer]] = []

    def add(self, name: str, answer: protocol.ClientAnswer) -> None:
        """Print ids, or keep them for the end."""
        self.printed += sum(map(len, answer.blocks))
        if self._form == "text":
            for block in answer.blocks:
                for at in range(0, len(block), LINES):
                    sys.stdout.write("".join(f"{id}\n" for id in block[at : at + LINES]))
            return
        last = self._documents[-1][1] if self._documents else None
        if last is not None and (last.ordinal, last.strict) == (answer.ordinal, answer.strict):
            blocks = last.blocks + answer.blocks
            answer = protocol.ClientAnswer(last.ordinal, last.strict, last.as_text, blocks)
            self._documents.pop()
        self._documents.append((name, answer))

    def end(self) -> None:
        """Print what was kept."""
        for name, answer in self._documents:
            make = _json if self._form == "json" else _ranges
            body = {"counter": name, **make(answer, several=self._several)}
            print(json.dumps(body, separators=(",", ":")))


def _json(answer: protocol.ClientAnswer, *, several: bool) -> dict[str, object]:
    number = str if answer.as_text else int
    ids = [number(id) for block in answer.blocks for id in block]
    return {"count": len(ids), "ids": ids} if several else {"id": ids[0]}


def _ranges(answer: protocol.ClientAnswer, *, several: bool) -> dict[str, object]:
    number = str if answer.as_text else int
    return {
        "count": sum(map(len, answer.blocks)),
        "epoch": answer.ordinal,
        "mode": "strict" if answer.strict else "block",
        "ranges": [
            {"first": number(block.start), "step": block.step, "count": len(block)}
            for block in answer.blocks
        ],
    }


# --- from a service -------------------------------------------------------------------------------


def _path(arguments: argparse.Namespace) -> str:
    """Return the path of the counter; without a name that of the service's own default."""
    return f"/v1/counters/{arguments.name}/next" if arguments.name else "/next"


def _print_answer(arguments: argparse.Namespace, count: int) -> None:
    target = f"{_path(arguments)}?count={count}"
    key = shown_key(arguments)
    body = http_get.asked(arguments.url, target, timeout=arguments.timeout, key=key)
    if not re.fullmatch(rf"([0-9]+\n){{{count}}}", body, re.ASCII):
        why = f"{body[-80:]!r} is not the end of {count} ids; they may be used up"
        raise http_get.NoAnswer(url=arguments.url, why=why)
    print(body, end="")


def _from_service(arguments: argparse.Namespace, count: int, output: _Output) -> None:
    """Take ids as ranges, by as many requests as it takes. None is sent twice."""
    url, path, part_max, failures = arguments.url, _path(arguments), protocol.RANGES_MAX, 0
    until = time.monotonic() + arguments.timeout
    key = shown_key(arguments)
    pool = ConnectionPool(ServiceAddress.parse(url), key)
    with _whole(output, count), closing(pool), _progress(count) as advance:
        while output.printed < count:
            part, nonce = min(count - output.printed, part_max), secrets.token_hex(16)
            target = f"{path}?format=ranges&count={part}&nonce={nonce}"
            try:
                reply = pool.send("POST", target, timeout=arguments.timeout)
                name = arguments.name or str(protocol.read_object(reply, url=url).get("counter"))
                answer = protocol.read_answer(reply, url=url, name=name, count=part, nonce=nonce)
            except protocol.Refused as refused:
                failures += 1
                pause = backoff(failures, first_s=0.05, max_s=1.0)
                late = time.monotonic() + pause > until
                if refused.code == "bad_count" and part > 1:  # its --range-max is lower
                    part_max = part // 2
                elif late or not refused.retryable or refused.outcome == errors.UNKNOWN:
                    if http_get.lacks_key(refused.status, key):
                        raise http_get.RefusedBy(url=url, why=http_get.NO_KEY) from None
                    raise _refused(refused, url) from None
                else:
                    time.sleep(pause)
                continue
            output.add(name, answer)
            advance(part)
            failures, until = 0, time.monotonic() + arguments.timeout
    output.end()


def _refused(refused: protocol.Refused, url: str) -> http_get.RefusedBy:
    return http_get.RefusedBy(url=url, why=f"{refused.status}: {refused.why}")


@contextmanager
def _whole(output: _Output, count: int) -> Iterator[None]:
    """Tell how many ids were printed if an error ends it half-way."""
    try:
        yield
    except errors.IdserviceError as error:
        if not output.printed:
            raise
        output.end()
        raise Incomplete(why=error, done=output.printed, count=count) from error


@contextmanager
def _progress(count: int) -> Iterator[Callable[[int], object]]:
    """Show progress on stderr, if that is a terminal and the ids go elsewhere."""
    if count <= TEXT_MAX or not sys.stderr.isatty() or sys.stdout.isatty():
        yield lambda done: None
        return
    from rich.console import Console  # slow to load: for a terminal only
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("ids", total=count)
        yield lambda done: progress.advance(task, done)


# --- from the store -------------------------------------------------------------------------------


async def _from_store(
    arguments: argparse.Namespace, name: str, count: int, output: _Output
) -> None:
    async with opened(arguments, bounded=False) as store:
        counter = in_use(await store.counter(name), name)
        _check_open(counter, store.address)
        with _whole(output, count), _progress(count) as advance:
            while output.printed < count:
                part = min(count - output.printed, protocol.RANGES_MAX)
                blocks = await direct.take(store, counter, part, random=SystemRandom())
                output.add(name, _answer(counter, blocks))
                advance(sum(map(len, blocks)))
        output.end()
    if has_catalogue(store):  # else the store is a service
        _offer_url(arguments)


def _answer(counter: Counter, blocks: Sequence[range]) -> protocol.ClientAnswer:
    as_text = counter.limit > NUMBER_MAX
    return protocol.ClientAnswer(counter.ordinal, counter.strict, as_text, tuple(blocks))


def _check_open(counter: Counter, store: str) -> None:
    """Raise the error of a counter that hands out nothing now."""
    if counter.target_state == SUSPENDED:
        raise errors.Suspended(name=counter.name, by=str(counter.last_change or "by an operator"))
    if counter.target_state == MOVED:
        raise errors.Moved(name=counter.name, why=counter.whereabouts)
    if counter.intent is not None:  # its position is closed, or will be soon
        raise errors.NotApplied(
            store=store,
            action=f"handing out ids of counter {counter.name!r}",
            why=f"a change ({word_of(counter.intent.kind)}) is under way, {counter.last_change};"
            " try again, and if it stands still, run the command of that change again",
        )


def _offer_url(arguments: argparse.Namespace) -> None:
    """Print a hint at `--url`, if a service runs on this machine or stderr is a terminal."""
    url = ""
    with suppress(errors.IdserviceError):
        here = http_get.default_url(os.environ)
        if http_get.ask(here, "/livez", timeout=LOOK_S, here=True) == (200, "live"):
            url = here
    if url or sys.stderr.isatty():
        name = f" {arguments.name}" if arguments.name else ""
        print(
            "idservice: taken from the store itself, above the ids that running services hold in"
            f" memory; to ask a service: idservice next{name} --url {url or 'URL'}",
            file=sys.stderr,
        )
