"""Answers a connection above the limit, which is closed then. Its requests are not read."""

END = b"\r\n\r\n"  # of a head


def _closing(status: bytes, kind: bytes, body: bytes) -> bytes:
    """Return a whole answer after which the connection is closed."""
    return (
        b"HTTP/1.1 %s\r\nCache-Control: no-store\r\nServer: idservice\r\nContent-Type: %s\r\n"
        b"Connection: close\r\nContent-Length: %d\r\n\r\n%s" % (status, kind, len(body), body)
    )


def _too_many(outcome: bytes) -> bytes:
    """Return the refusal, with this outcome."""
    return _closing(
        b"503 Service Unavailable\r\nRetry-After: 1",
        b"application/problem+json",
        b'{"type":"urn:idservice:problem:too_many_connections","title":"Service Unavailable",'
        b'"status":503,"detail":"Too many connections are open.","code":"too_many_connections",'
        b'"retryable":true,"outcome":"%s"}' % outcome,
    )


LIVE = _closing(b"200 OK", b"text/plain; charset=utf-8", b"live")
TOO_MANY = _too_many(b"not_applied")
UNKNOWN = _too_many(b"unknown")
PROBES = (b"GET /livez ", b"HEAD /livez ")
ADD = b"POST /v1/tallies/"  # the beginning of one


def answer_above_limit(data: bytes) -> bytes:
    """Return the answer to what a client sent, if anything. The outcome is unknown for what
    may be an add, also if nothing has come yet: an earlier add with its key may be counted (T3)."""
    may_add = ADD.startswith(data[: len(ADD)])
    answer = LIVE if data.startswith(PROBES) else UNKNOWN if may_add else TOO_MANY
    return answer[: answer.index(END) + len(END)] if data.startswith(b"HEAD ") else answer
