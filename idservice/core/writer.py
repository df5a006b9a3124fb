"""Numbers the batches of the writer of a strict counter, and tells the fate of each (I8).

A writer registers on the position under a name that was never used, and leaves a record there. Each
batch carries the next number and its own nonce, and is applied only if the record bears the number
before. It is applied at most once, however often and however late it is sent. If the number is
taken, the nonce tells by which batch.

    next_batch(count, nonce) -> Batch     to be sent, and sent again, until it has an answer
    applied(batch)                        it took its number
    left_open(batch)                      no request waits for it any more, and its fate is
                                          unknown: the next batch will tell
    displaced(record) -> Burnt            the number is taken, so the batch is never applied
    unregister() -> Burnt                 drops the name; the fate of open batches stays unknown
"""

from dataclasses import dataclass

OPEN_MAX = 100  # open batches that are remembered; beyond it a new registration is cheaper


@dataclass(frozen=True, slots=True)
class Batch:
    """The request of a writer: `count` indices, as number `seq`, which follows the record's."""

    writer: str
    seq: int
    nonce: str
    count: int

    def got(self, record: "Record | None") -> range | None:
        """Return the indices that this very batch was granted, if the record on the position is of
        it.

        They are computed from the end in the record, not from the position, which other writers
        move.
        """
        if record is None or (record.seq, record.nonce) != (self.seq, self.nonce):
            return None
        return range(record.top - self.count, record.top)


@dataclass(frozen=True, slots=True)
class Record:
    """The record of a writer on the position: number, end and nonce of its last batch."""

    seq: int
    top: int = 0
    nonce: str = ""


@dataclass(frozen=True, slots=True)
class Burnt:
    """Indices that are never handed out: certainly, or perhaps."""

    known: int = 0
    unknown: int = 0


class Writer:
    """A writer of one strict counter within one epoch. It is not registered if `name` is empty."""

    __slots__ = ("_open", "_seq", "name")

    def __init__(self) -> None:
        self.name = ""
        self._seq = 0  # of the last batch that is known to have been applied
        self._open: dict[str, int] = {}  # counts of batches that all wanted the next number

    def registered(self, name: str) -> None:
        """Record that the position has a new record under this name."""
        assert name
        assert not self._open
        self.name, self._seq = name, 0

    def next_batch(self, count: int, nonce: str) -> Batch:
        """Return a batch with a nonce that was never used. 0 < count."""
        assert self.name
        assert count > 0
        return Batch(self.name, self._seq + 1, nonce, count)

    def applied(self, batch: Batch) -> None:
        """Record that the batch took its number, so none that was left open did."""
        assert batch.seq == self._seq + 1
        self._seq = batch.seq
        self._open.clear()

    def left_open(self, batch: Batch) -> Burnt:
        """Record that its outcome is unknown, and that no request waits for it any more."""
        assert batch.seq == self._seq + 1
        self._open[batch.nonce] = batch.count
        return self.unregister() if len(self._open) > OPEN_MAX else Burnt()

    def displaced(self, record: Record | None) -> Burnt:
        """Take in the record that a batch did not follow: that batch is never applied.

        One of those left open may have taken the number. Otherwise the writer was pruned, or a copy
        of this process uses the same name, and the writer must register again.
        """
        if record is not None and record.seq == self._seq + 1 and record.nonce in self._open:
            burnt = Burnt(known=self._open[record.nonce])
            self._seq = record.seq
            self._open.clear()
            return burnt
        return self.unregister()

    def unregister(self) -> Burnt:
        """Forget the name and the batches sent under it: one of the open ones may be applied."""
        burnt = Burnt(unknown=max(self._open.values(), default=0))
        self.name = ""
        self._open.clear()
        return burnt
