"""Decides which listeners ask for access keys, and tells the operator."""

import asyncio
import logging
import shlex
from collections.abc import Sequence

from idservice.access.gate import Gate
from idservice.access.keys import Keys
from idservice.core.access_key import BUCKETS
from idservice.server.listen_address import Address
from idservice.stores.findings import ADVICE, Clock, Finding, fine
from idservice.stores.protocol import IdStore, has_catalogue

log = logging.getLogger("idservice.server")

LOOK_MAX_S = 5.0


def asks(address: Address, asked: str | None) -> bool:
    """Return True if the listener at an address asks each request for a key. `asked` is the setting
    `require_keys`."""
    return asked == "all" or (asked is not None and not address.is_local)


def build_gate(
    keys: Keys | None, address: Address, url: str, asked: str | None, warned: memoryview
) -> Gate:
    """Return the gate of the listener at an address, whose clients know it by the URL. `warned` is
    a byte that the gates of this listener share over all workers."""
    is_overheard = not address.is_local and not address.tls
    plain = url if is_overheard else ""
    return Gate(keys, asks=asks(address, asked), plain=plain, warned=warned)


def log_asked(address: Address, url: str, asked: str | None) -> None:
    """Log if a listener asks for keys."""
    if asks(address, asked):
        said = f"each request at {url} needs one, except for /livez and /readyz"
    elif address.is_local:
        said = f"none is needed at {url}, which only this machine reaches"
    else:
        said = (
            f"none is needed at {url}, so every client that reaches it may take ids (see "
            "--require-keys)"
        )
    log.info("access keys: %s", said, extra={"action": "keys_asked"})


async def log_if_no_keys(store: IdStore, asked: str | None, clock: Clock) -> None:
    """Log if keys are asked for and the store has none that opens anything: nothing is served."""
    if asked is None or not has_catalogue(store):
        return
    try:
        async with asyncio.timeout(LOOK_MAX_S):
            buckets = await asyncio.gather(*map(store.keys.bucket, BUCKETS))
    except Exception:  # a store can be served from without this look
        log.info(
            "the access keys were not looked at: the store did not answer",
            extra={"action": "keys_not_examined"},
        )
        return
    now = int(clock() * 1000)
    if not any(key.is_usable(now) for bucket in buckets for key in bucket.keys):
        make = f"idservice key create --role admin --store {shlex.quote(store.address)} --scope '*'"
        log.warning(
            "%s has no valid access key, so nothing is served where one is asked for. Make one:"
            " `%s`",
            store.address, make,
            extra={"action": "no_keys"},
        )  # fmt: skip


def examine(listens: Sequence[Address], asked: str | None) -> list[Finding]:
    """Return findings about the listeners that other machines reach."""
    open_to_others = [one for one in listens if not one.is_local and not asks(one, asked)]
    if open_to_others:
        found = f"no access key is asked for at {' and '.join(map(str, open_to_others))}"
        why = (
            "every client that reaches it may take ids and add to tallies, unless the network "
            "keeps it away"
        )
        return [Finding(ADVICE, "access_keys", found, why, "idservice serve --require-keys")]
    if any(not one.is_local for one in listens):
        return [fine("access_keys", "the listeners that others reach ask for access keys")]
    return []
