"""How the batches of a strict counter's writer are numbered, and what became of each (I8).

A writer registers on the position under a name that was never used, and leaves a record there. Each
batch carries the next number and a nonce of its own, and is applied only where the record bears the
number before: once at most, however often and however late it is sent. Who finds its number taken
learns from the nonce by which of its batches.

    next_batch(count, nonce) -> Batch     to be sent, and sent again, until it has an answer
    applied(batch)                        it took its number
    left_open(batch)                      nobody waits for it any more, and what became of it is
                                          unknown: the next batch will tell
    displaced(record) -> Burnt            the number is another's, so the batch never is applied
    unregister() -> Burnt                 drops the name; what is open stays unknown
"""

from dataclasses import dataclass

OPEN_MAX = 100  # batches left open; with more it is cheaper to register anew than to remember


@dataclass(frozen=True, slots=True)
class Batch:
    """What a writer asks for: `count` indices, as number `seq`, which follows the record's."""

    writer: str
    seq: int
    nonce: str
    count: int

    def got(self, record: "Record | None") -> range | None:
        """The indices this very batch was granted, where the record on the position is of it.

        From where it ended, as was written with it, and not from the position: others move that.
        """
        if record is None or (record.seq, record.nonce) != (self.seq, self.nonce):
            return None
        return range(record.top - self.count, record.top)


@dataclass(frozen=True, slots=True)
class Record:
    """What a writer has on the position: number, end and nonce of its last batch."""

    seq: int
    top: int = 0
    nonce: str = ""


@dataclass(frozen=True, slots=True)
class Burnt:
    """Indices that nobody is given: certainly, or perhaps."""

    known: int = 0
    unknown: int = 0


class Writer:
    """A writer of one strict counter within one epoch. Not registered where `name` is empty."""

    __slots__ = ("_open", "_seq", "name")

    def __init__(self) -> None:
        self.name = ""
        self._seq = 0  # of the last batch that is known to have been applied
        self._open: dict[str, int] = {}  # counts of batches that all wanted the next number

    def registered(self, name: str) -> None:
        """The position has a new record under this name."""
        assert name
        assert not self._open
        self.name, self._seq = name, 0

    def next_batch(self, count: int, nonce: str) -> Batch:
        """A batch with a nonce that was never used. 0 < count."""
        assert self.name
        assert count > 0
        return Batch(self.name, self._seq + 1, nonce, count)

    def applied(self, batch: Batch) -> None:
        """The batch took its number, so none that was left open did."""
        assert batch.seq == self._seq + 1
        self._seq = batch.seq
        self._open.clear()

    def left_open(self, batch: Batch) -> Burnt:
        """Its outcome is unknown, and nobody waits for it any more."""
        assert batch.seq == self._seq + 1
        self._open[batch.nonce] = batch.count
        return self.unregister() if len(self._open) > OPEN_MAX else Burnt()

    def displaced(self, record: Record | None) -> Burnt:
        """The record as it was when a batch did not follow it: that batch is never applied.

        One of those left open may have taken the number. Else the writer was pruned, or somebody
        has the same name (a process that was copied while it ran), and it must register anew.
        """
        if record is not None and record.seq == self._seq + 1 and record.nonce in self._open:
            burnt = Burnt(known=self._open[record.nonce])
            self._seq = record.seq
            self._open.clear()
            return burnt
        return self.unregister()

    def unregister(self) -> Burnt:
        """Forget the name, and what was sent under it: one of the open ones may be applied."""
        burnt = Burnt(unknown=max(self._open.values(), default=0))
        self.name = ""
        self._open.clear()
        return burnt
