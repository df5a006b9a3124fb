"""The text of `/livez` and `/readyz`, for aiohttp and the fast lane alike."""

from idservice import errors
from idservice.observability.readings import ServiceView

LIVE = "live"


class NotReady(errors.Unavailable):
    text = "Not ready: {why}."
    code = "not_ready"


async def ready(view: ServiceView, *, draining: bool) -> str:
    """Return the text that says that the next id can be served. Raises NotReady, ParentSilent."""
    if draining:
        raise NotReady(why="it is stopping")
    readiness = await view.readiness()
    if readiness.not_ready:
        raise NotReady(why=readiness.not_ready.rstrip("."))
    return f"ready; degraded: {readiness.degraded}" if readiness.degraded else "ready"
