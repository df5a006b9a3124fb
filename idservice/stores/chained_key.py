"""Says what it means for a sidecar that its access key was refused by the service that it asks."""

import logging

from idservice import errors
from idservice.client.own_key import UNAUTHORIZED, OwnKey
from idservice.client.protocol import Refused
from idservice.observability.logs import RateLimitedLog


class ChainedKey:
    """The key that the service at the address `store` is shown."""

    def __init__(self, own_key: OwnKey, store: str) -> None:
        self._own_key = own_key
        self._store = store
        # Callers of a sidecar may ask for any name, without end.
        self._log = RateLimitedLog(logging.getLogger("idservice.store"))

    def error(
        self, refused: Refused, action: str
    ) -> errors.StoreKeyRefused | errors.StoreKeyNotEnough | None:
        """Return the error of a refusal that another key would mend, with nothing applied by this
        request; else None. If the key is not enough, that is logged, because callers are not told
        where a wider key is to be set."""
        own_key, why = self._own_key, refused.why.rstrip(".")
        about = {"store": self._store, "action": action}
        if refused.status == UNAUTHORIZED:
            return errors.StoreKeyRefused(why=why, advice=own_key.advice, **about)
        if refused.code == errors.KeyNotEnough.code:
            why = why.partition(" may not do this: ")[2] or why
            advice = f"Ask the owner of that service for a wider key, and {own_key.place}"
        elif refused.code == errors.StoreKeyNotEnough.code:  # of a service that borrows itself
            advice = "It is the key of that service that has to be wider"
        else:
            return None
        error = errors.StoreKeyNotEnough(why=why, advice=advice, **about)
        self._log.warning("%s", error, extra={"action": "store_key_not_enough"})
        return error
