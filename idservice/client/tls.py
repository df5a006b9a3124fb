"""Says in words that one end of a connection speaks TLS and the other does not.

It does not import `ssl`, which takes 10 ms: who has one of its errors has imported it.
"""

import os

SPOKEN = "the port speaks TLS: name it with https://"
NOT_SPOKEN = "the port does not speak TLS: name it with http://"
ENDED = "it ended the handshake: if the port does not speak TLS, name it with http://"
CLOSED = "it closed the connection without an answer: if the port speaks TLS, name it with https://"
ALERT = b"\x15\x03"  # so begins what TLS says to a request that is not in TLS

OWN_AUTHORITY = "; the variable SSL_CERT_FILE can name the file of your own authority"

# What OpenSSL calls an answer in another protocol; newer versions have the second and the third.
ANOTHER_PROTOCOL = {"WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"}
END = "UNEXPECTED_EOF_WHILE_READING"


def why_no_handshake(error: Exception) -> str:
    """Return why a TLS handshake failed; empty if the error is about something else."""
    refused = getattr(error, "verify_message", "")
    if refused:
        is_unknown = "self-signed" in refused or "issuer" in refused
        hint = _authority(os.environ.get("SSL_CERT_FILE", "")) if is_unknown else ""
        return f"its certificate is not accepted: {refused}{hint}"
    reason = getattr(error, "reason", "")
    if reason in ANOTHER_PROTOCOL:
        return NOT_SPOKEN
    return ENDED if reason == END else ""


def _authority(file: str) -> str:
    """Return what is to be done so that the authority of a certificate is known."""
    if not file:
        return OWN_AUTHORITY
    try:
        with open(file, "rb"):
            return f"; its authority is not in {file}, which the variable SSL_CERT_FILE names"
    except OSError as error:
        return f"; the variable SSL_CERT_FILE names {file}, which cannot be read: {error.strerror}"


def is_told(status: int, body: bytes) -> bool:
    """Return True if an HTTP server says that it expected TLS, as nginx, Go and AWS do."""
    return status == 400 and b"HTTPS" in body
