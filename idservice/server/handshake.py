"""Opens accepted connections that speak TLS, within bounds of number and time.

A connection counts towards the limit from the beginning of its handshake, so that clients which
connect and send nothing are limited, too. The reason of a failed handshake is logged, but not if
the connection just ends, as those of load balancers' probes do.
"""

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable

from idservice.observability.logs import RateLimitedLog
from idservice.server.certificate import Certificate
from idservice.web.connection import ConnectionLimit

log = logging.getLogger("idservice.listener")
_failed = RateLimitedLog(log)

HANDSHAKE_S = 10.0  # for a client to finish it
# The reasons that OpenSSL gives, and what they say about the client.
WHY = {
    "HTTP_REQUEST": "it speaks plain HTTP: its URL must begin with https://",
    "HTTPS_PROXY_REQUEST": "it takes this port for a proxy",
    "WRONG_VERSION_NUMBER": "it does not speak TLS",
    "UNSUPPORTED_PROTOCOL": "it speaks only versions of TLS before 1.2",
    "NO_SHARED_CIPHER": "it has no cipher in common with this service",
    "TLSV1_ALERT_UNKNOWN_CA": (
        "it does not trust the certificate: give it the certificate of the authority"
    ),
    "SSLV3_ALERT_BAD_CERTIFICATE": (
        "it refuses the certificate, probably because it is for other names"
    ),
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "it refuses the certificate as expired: compare the clocks",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "it refuses the certificate",
}


class Handshakes:
    """Makes the TLS handshakes of one listener."""

    def __init__(self, certificate: Certificate, limit: ConnectionLimit) -> None:
        self._certificate = certificate
        self._limit = limit

    async def make(
        self, connection: socket.socket, protocol: Callable[[], asyncio.Protocol]
    ) -> None:
        """Make the handshake, and give the connection a protocol. Raises OSError."""
        if self._limit.takes_no_handshake:
            connection.close()
            return
        client = _client(connection)
        try:
            with self._limit.handshake():
                await asyncio.get_running_loop().connect_accepted_socket(
                    protocol,
                    connection,
                    ssl=self._certificate.context,
                    ssl_handshake_timeout=HANDSHAKE_S,
                )
        except ConnectionAbortedError:  # the loop raises it when the time is over
            _say(client, f"it took longer than {HANDSHAKE_S:g} s")
            raise
        except ssl.SSLError as error:
            _say(client, WHY.get(error.reason or "", error.reason or str(error)))
            raise


def _client(connection: socket.socket) -> str:
    try:
        return str(connection.getpeername()[0])
    except OSError:
        return "unknown"


def _say(client: str, why: str) -> None:
    _failed.warning(
        "no TLS connection with %s: %s", client, why, extra={"action": "handshake_failed"}
    )
