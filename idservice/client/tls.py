"""Says in words that one end of a connection speaks TLS and the other does not.

It does not import `ssl`, which takes 10 ms: who has one of its errors has imported it.
"""

import os

SPOKEN = "the port speaks TLS: name it with https://"
NOT_SPOKEN = "the port does not speak TLS: name it with http://"
ENDED = "it ended the handshake: if the port does not speak TLS, name it with http://"
CLOSED = "it closed the connection without an answer: if the port speaks TLS, name it with https://"
ALERT = b"\x15\x03"  # so begins what TLS says to a request that is not in TLS

AUTHORITIES = "SSL_CERT_FILE"  # the environment variable with the authorities that Python trusts

# What OpenSSL calls an answer in another protocol; newer versions have the second and the third.
ANOTHER_PROTOCOL = {"WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"}
END = "UNEXPECTED_EOF_WHILE_READING"


def why_no_handshake(error: Exception, variable: str = AUTHORITIES) -> str:
    """Return why a TLS handshake failed, or "" if the error is of another kind.

    `variable` is the environment variable that the message advises: it names trusted authorities.
    """
    refused = getattr(error, "verify_message", "")
    if refused:
        is_unknown = "self-signed" in refused or "issuer" in refused
        hint = _authority(variable) if is_unknown else ""
        return f"its certificate is not accepted: {refused}{hint}"
    reason = getattr(error, "reason", "")
    if reason in ANOTHER_PROTOCOL:
        return NOT_SPOKEN
    return ENDED if reason == END else ""


def _authority(variable: str) -> str:
    """Return what is to be done so that the authority of a certificate is known."""
    file = os.environ.get(variable, "")
    if not file:
        return f"; the variable {variable} can name the file of your own authority"
    try:
        with open(file, "rb"):
            return f"; its authority is not in {file}, which the variable {variable} names"
    except OSError as error:
        return f"; the variable {variable} names {file}, which cannot be read: {error.strerror}"


def is_told(status: int, body: bytes) -> bool:
    """Return True if an HTTP server says that it expected TLS, as nginx, Go and AWS do."""
    return status == 400 and b"HTTPS" in body
