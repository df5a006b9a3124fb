"""A look at a service that is the store: whether it answers, and can serve."""

import asyncio

from idservice.client.http_async import AsyncTransport
from idservice.client.protocol import NoUsableAnswer
from idservice.stores.findings import FAULT, Finding, fine

ANSWER_MAX_S = 5.0


async def examine(central: AsyncTransport) -> list[Finding]:
    """What the service says of itself; the rest is looked at where its store is."""
    try:
        async with asyncio.timeout(ANSWER_MAX_S):
            reply = await central.ask("GET", "/readyz")
    except (NoUsableAnswer, TimeoutError) as error:
        why = error.why if isinstance(error, NoUsableAnswer) else f"within {ANSWER_MAX_S:g} s"
        found = f"no service answers there ({why})"
        return [Finding(FAULT, "reach", found, "ids that are held expire within seconds")]
    if reply.status == 200:
        return [fine("central", "it answers, and can serve the next id")]
    said = reply.body.decode(errors="replace").strip()[:300]
    why = "its own logs and `idservice doctor` beside it, with its --store, tell more"
    return [Finding(FAULT, "central", f"it is not ready ({reply.status}): {said}", why)]
