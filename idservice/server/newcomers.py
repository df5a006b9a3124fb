"""How a socket is closed without a reset for anybody who is about to connect.

The kernel completes a connection before it is accepted, and a client believes in its end of it even
sooner. To close the socket resets all of these, so nobody may be on the way in by then. To shorten
the queue, or to drop every packet, keeps them out half-way: the client's side is complete, and what
it sends is answered with a reset. What turns a client away unharmed is to ignore its *first* packet
(SYN): it sends it again a second later, when the port refuses it.
"""

import ctypes
import socket
import struct
import sys
from contextlib import suppress

ON_THE_WAY_S = 0.2  # for who was on the way in to arrive: a long round trip
SO_ATTACH_FILTER = 26  # of Linux; Python does not name it

# A classic BPF program over a TCP header: drop what has SYN and not ACK, pass the rest.
_OPENS = b"".join(
    struct.pack("HBBI", *instruction)
    for instruction in (
        (0x30, 0, 0, 13),  # the byte of flags
        (0x54, 0, 0, 0x12),  # SYN and ACK of it
        (0x15, 0, 1, 0x02),  # if SYN alone:
        (0x06, 0, 0, 0),  # drop
        (0x06, 0, 0, 0xFFFFFFFF),  # else pass, whole
    )
)


def turn_away(bound: socket.socket) -> None:
    """Let nobody begin to connect to `bound` any more, in whichever process; who is on the way in
    still comes. Where the system offers no such thing, nothing changes."""
    if sys.platform == "linux" and bound.family != socket.AF_UNIX:
        program = ctypes.create_string_buffer(_OPENS, len(_OPENS))
        size = len(_OPENS) // struct.calcsize("HBBI")
        told = struct.pack("HP", size, ctypes.addressof(program))
        with suppress(OSError):
            bound.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, told)


def refuse(bound: socket.socket) -> None:
    """The same for a Unix socket, to which there is no way in to be on: refused from now on."""
    if bound.family == socket.AF_UNIX:
        with suppress(OSError):
            bound.shutdown(socket.SHUT_RD)
