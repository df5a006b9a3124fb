"""The aim of a request line, found for one pass: ids of a counter, in one form."""

from idservice import errors
from idservice.allocation.local_counter import LocalCounter
from idservice.allocation.wait_queue import Served
from idservice.web.ids import form
from idservice.web.request import IdRequest

PLAIN = IdRequest(None, "text", None)


class Target:
    """The aim of a request line: ids of a counter, in one form.

    The answer with a `single` id is `body % id`, worded for the `entry` of the counter. A target
    was judged for one pass. Once that ends, `refusal` says why, and requests are judged again.
    """

    __slots__ = (
        "__weakref__", "asked", "body", "content_type", "cost", "count", "counter", "entry",
        "epoch_state", "listed", "plain", "refusal", "single",
    )  # fmt: skip

    def __init__(self, counter: LocalCounter, asked: IdRequest) -> None:
        self.counter = counter
        self.epoch_state = counter.epoch_state
        self.asked = asked
        self.refusal: errors.IdserviceError | None = None
        self.count = asked.count or 1
        self.cost = asked.cost
        self.listed = asked.format != "ranges"  # each id is written
        self.single = self.count == 1 and self.listed
        self.plain = self.single and asked == PLAIN
        self.renew()

    def renew(self) -> None:
        """Word the answer with one id again, since the counter has another entry."""
        self.entry = self.epoch_state.counter
        if self.single:
            self.content_type, self.body = form(self.entry, self.asked)

    def disarm(self, refusal: errors.IdserviceError) -> None:
        """Serve no more requests (K3). The path of a single id does not look at the refusal, so it
        is closed."""
        self.refusal = refusal
        self.single = self.plain = False

    def received(self, served: Served) -> Served:
        """Return what came for a request that waited; the refusal if its key ended meanwhile."""
        if self.refusal is None or not isinstance(served, list):
            return served
        self.waste()
        return self.refusal

    def waste(self) -> None:
        """Count the ids of a request that were taken and are not sent."""
        self.counter.allocator.record_wasted(self.count)
