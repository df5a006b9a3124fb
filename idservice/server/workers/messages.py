"""The messages between supervisor and worker, and their form on the socket.

A message is its length in four bytes and a tagged msgpack object. (Not JSON: it lacks infinity.)
"""

from typing import TypeAlias

import msgspec

from idservice.server.workers.totals import WorkerStatus

LENGTH = 4  # bytes
MESSAGE_MAX = 2**28  # bytes; a report of 100,000 counters takes about an eighth of that


class Stop(msgspec.Struct, tag=True, frozen=True):
    """From the supervisor: drain and end."""


class Renew(msgspec.Struct, tag=True, frozen=True):
    """From the supervisor: read the certificate again."""


class ReportRequest(msgspec.Struct, tag=True, frozen=True):
    """From the supervisor: send a report under this number.

    `full` asks for everything counted, `ready` for a verdict on the next id. A worker that owes a
    report for long is taken for hung.
    """

    number: int
    full: bool
    ready: bool = True


class Report(msgspec.Struct, tag=True, frozen=True):
    """From a worker: its status, under the number of the request, or None before it serves.

    Number 0 is its last report, which it sends unasked.
    """

    number: int
    status: WorkerStatus | None


class Serving(msgspec.Struct, tag=True, frozen=True):
    """From a worker: it accepts connections."""


class CollectRequest(msgspec.Struct, tag=True, frozen=True):
    """From a worker: send the status of the pool.

    One such request is outstanding at a time. Without `ready`, workers answer from memory.
    A verdict on the next id may read the store.
    """

    full: bool
    ready: bool = True


class PoolStatus(msgspec.Struct, tag=True, frozen=True):
    """From the supervisor: the status of all workers, in answer to a CollectRequest."""

    status: WorkerStatus


Message: TypeAlias = Stop | Renew | ReportRequest | Report | Serving | CollectRequest | PoolStatus

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Message).decode


def encoded(message: Message) -> bytes:
    """Return a message as bytes for the socket."""
    body = _encode(message)
    assert len(body) <= MESSAGE_MAX
    return len(body).to_bytes(LENGTH, "big") + body


class MessageReader:
    """Assembles messages from received bytes, however these are cut into pieces."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def messages(self, data: bytes) -> list[Message]:
        """Return the messages that `data` completes."""
        self._rest += data
        found: list[Message] = []
        while len(self._rest) >= LENGTH:
            end = LENGTH + int.from_bytes(self._rest[:LENGTH], "big")
            assert end <= LENGTH + MESSAGE_MAX
            if len(self._rest) < end:
                break
            found.append(_decode(self._rest[LENGTH:end]))
            del self._rest[:end]
        return found
