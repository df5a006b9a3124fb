"""What the parent and a worker say to each other, and how it is written on the socket between them.

A message is its length in four bytes and a tagged msgpack object. (Not JSON: it knows no infinity.)
"""

from typing import TypeAlias

import msgspec

from idservice.server.workers.totals import Report

LENGTH = 4  # bytes
MESSAGE_MAX = 2**28  # bytes; a report of 100,000 counters takes a tenth of that


class Stop(msgspec.Struct, tag=True, frozen=True):
    """Parent: drain and end."""


class Ask(msgspec.Struct, tag=True, frozen=True):
    """Parent: report, under this number, in `full` with all that is counted, and unless `ready` is
    False whether the next id can be served. Whoever does not for long, hangs."""

    number: int
    full: bool
    ready: bool = True


class Told(msgspec.Struct, tag=True, frozen=True):
    """Worker: how it is, under the number of the request; nothing while it starts."""

    number: int
    report: Report | None


class Serving(msgspec.Struct, tag=True, frozen=True):
    """Worker: it accepts connections."""


class Collect(msgspec.Struct, tag=True, frozen=True):
    """Worker: how are all, and in `full`, what do they count? One outstanding. Without `ready` it
    is asked for what is in memory only: to be sure of the former may take a look at the store."""

    full: bool
    ready: bool = True


class Whole(msgspec.Struct, tag=True, frozen=True):
    """Parent: the answer to that."""

    report: Report


Message: TypeAlias = Stop | Ask | Told | Serving | Collect | Whole

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Message).decode


def written(message: Message) -> bytes:
    """A message as it goes over the socket."""
    body = _encode(message)
    assert len(body) <= MESSAGE_MAX
    return len(body).to_bytes(LENGTH, "big") + body


class Reader:
    """Makes messages of what is received, however it is cut into pieces."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def messages(self, data: bytes) -> list[Message]:
        """The messages that are whole now."""
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
