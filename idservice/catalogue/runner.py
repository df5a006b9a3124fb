"""Carries out the changes of an instance: changes asked for here, and changes left unfinished."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from random import Random

from idservice import errors
from idservice.catalogue.changer import EpochChanger
from idservice.catalogue.changes import Change
from idservice.core.timeouts import stale_after
from idservice.stores.protocol import CatalogueStore
from idservice.stores.records import Counter

log = logging.getLogger("idservice.change")

Done = tuple[Counter, Counter]


class ChangeRunner:
    """Carries changes out in tasks of their own.

    `spawn` starts a task that the owner ends, and that must not fail. `on_change` takes each entry
    that was written.
    """

    def __init__(
        self,
        store: CatalogueStore,
        *,
        runway_s: float,
        random: Random,
        spawn: Callable[[Coroutine[object, object, None]], object],
        on_change: Callable[[Counter], None],
    ) -> None:
        self._changer = EpochChanger(store, random=random, stale_s=stale_after(runway_s))
        self._on_change = on_change
        self._spawn = spawn
        self._finishing: set[str] = set()

    async def change(self, name: str, wanted: Change) -> Done:
        """Return the entry of a counter before and after a change. Raises as `EpochChanger.change`.

        The change goes on if the caller does not wait for it.
        """
        changing: asyncio.Future[Done] = asyncio.get_running_loop().create_future()
        changing.add_done_callback(_retrieve)
        self._spawn(self._change(name, wanted, changing))
        return await asyncio.shield(changing)

    async def _change(self, name: str, wanted: Change, changing: asyncio.Future[Done]) -> None:
        try:
            before, after = await self._changer.change(name, wanted)
            self._on_change(after)
            changing.set_result((before, after))
        except asyncio.CancelledError:
            changing.set_exception(errors.Stopped())
            raise
        except Exception as error:
            changing.set_exception(error)

    def finish(self, name: str) -> None:
        """Finish a change that stands still, unless this instance does so already."""
        if name not in self._finishing:
            self._finishing.add(name)
            self._spawn(self._finish(name))

    async def _finish(self, name: str) -> None:
        log.warning(
            "finishing a change of counter %s that stands still",
            name,
            extra={"action": "change_finished"},
        )
        try:
            self._on_change(await self._changer.carry_out(name))
        except errors.IdserviceError as error:
            log.error("%s", error, extra={"action": "change_stuck"})
        except Exception:  # a bug of ours or of a library
            log.exception("finishing a change failed", extra={"action": "change_bug"})
        finally:
            self._finishing.discard(name)


def _retrieve(changing: asyncio.Future[Done]) -> None:
    if not changing.cancelled():
        changing.exception()  # the caller may have left: not an error that was never retrieved
