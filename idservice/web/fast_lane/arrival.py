"""Answers a client that had sent its request by the time its connection was accepted.

To make a transport takes the event loop more time than to answer. So where the bytes are known,
because a client of this listener lately sent the same, the answer is sent first; and a connection
that ends with it never gets a transport. Anything else is left to the connection, which is given
the bytes.
"""

import socket

from idservice.web.fast_lane.connections import FastConnections
from idservice.web.fast_lane.target import Target

READ_MAX = 4096  # bytes; more stay in the socket


def answer_on_arrival(connections: FastConnections, client: socket.socket) -> bytes | None:
    """Return what came of a client and is not answered. None if its connection is closed: it wants
    no further answer, or is gone."""
    try:
        data = client.recv(READ_MAX)
    except BlockingIOError:
        return b""
    except OSError:
        data = b""
    if data:
        answer, is_last = _known(connections, data)
        if answer is None:
            return data
        if _is_sent(client, answer) and not is_last:
            return b""
    client.close()
    return None


def _known(connections: FastConnections, head: bytes) -> tuple[bytes | None, bool]:
    """Return the answer to a request that is known, and True if it is the last one."""
    found, question = connections.known(head) or (None, None)
    closes = question is not None and question.closes
    responder = connections.responder
    if isinstance(found, Target):
        id = next(found.epoch_state.buffer.cursor, None) if found.single else None
        found = None if id is None else responder.single(found, id)
    if found is not None and closes:
        found = responder.last(found)
    return found, closes or responder.draining


def _is_sent(client: socket.socket, answer: bytes) -> bool:
    """Send an answer; return False if the client is gone."""
    try:
        return client.send(answer) == len(answer)  # nothing was sent before: it takes all, or fails
    except OSError:
        return False
