"""Answers a client that had sent its request by the time its connection was accepted.

Making a transport takes the event loop more time than answering. So if a client of this listener
recently sent the same bytes, the answer is sent before there is a transport. A connection that
ends with this answer never gets one. All other bytes are passed to the connection.
"""

import socket

from idservice.web.fast_lane.connections import FastConnections
from idservice.web.fast_lane.target import Target

READ_MAX = 4096  # bytes; more stay in the socket


def answer_on_arrival(connections: FastConnections, client: socket.socket) -> bytes | None:
    """Answer a request that is known. Return the bytes that are still to be answered; None if the
    connection was closed, because this was its last answer or the client is gone."""
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
    """Return the answer, None if the request is not known, and True if it is the last answer."""
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
        return client.send(answer) == len(answer)  # nothing was sent before: all is taken, or none
    except OSError:
        return False
