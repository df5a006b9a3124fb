"""CPU time of the server for one `GET /next` over TLS, beside plain HTTP and nginx with TLS.

As `http`: the server runs on one core, 64 connections from wrk on the other, flat out, in turns.
Plain HTTP and TLS are two listeners of one process. A second figure is for connections of one
request each, where most of the CPU is the handshake. wrk resumes no session, so each handshake is a
full one.
"""

import shutil
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.http import wrk
from benchmarks.measure import (
    KIB,
    MB,
    ROUNDS,
    Row,
    check,
    cpu_seconds,
    interleaved,
    ratio,
    resident_mb,
    spread,
)
from benchmarks.processes import free_port, on_load_core, serving
from benchmarks.rivals import KINDS as RIVALS
from benchmarks.rivals import nginx
from benchmarks.wrk import CONNECTIONS
from idservice.server.sockets import may_open

NGINX_SECURE = """ ssl;
    ssl_certificate {cert}; ssl_certificate_key {key}; ssl_protocols TLSv1.2 TLSv1.3"""
WARM = 50  # connections before, for objects that the server makes once
CLOSING = {"Connection": "close"}
KEPT = {"User-Agent": "idservice-benchmark/1"}
PLAIN, SECURE, NEW = "plain HTTP", "TLS", "a new connection with TLS"
NGINX, NGINX_NEW = "nginx + Lua with TLS", "a new connection to nginx with TLS"
# What is compared, with what, and the most that the ratio may be.
GOALS: tuple[tuple[str, str, float | None], ...] = (
    (SECURE, PLAIN, None),
    (SECURE, NGINX, None),
    (NEW, NGINX_NEW, None),
)


def run(quick: bool) -> list[Row]:
    """Return the rows of `tls`."""
    if missing := [program for program in ("wrk", "openssl") if not shutil.which(program)]:
        return [Row("tls: CPU per GET / plain HTTP", None, note=f"{missing[0]} is not installed")]
    rounds, round_s, count = (1, 0.1, 4) if quick else (ROUNDS, 2.0, CONNECTIONS)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(on_load_core())
        cert, key = certificate(folder)
        secured = free_port()
        port, child, _ = stack.enter_context(
            serving(
                "--store", f"sqlite:{folder / 'tls'}", "--init", "--runway", "60",
                "--listen", f"https://127.0.0.1:{secured}", "--tls-cert", cert, "--tls-key", key,
            )
        )  # fmt: skip
        ours = partial(cost, child.pid, seconds=round_s, connections=count)
        asked: dict[str, Callable[[], float]] = {
            PLAIN: partial(ours, port, scheme="http", headers=KEPT),
            SECURE: partial(ours, secured, headers=KEPT),
            NEW: partial(ours, secured, headers=CLOSING),
        }
        if not RIVALS["nginx"].missing:
            rival = nginx(folder, stack, secure=NGINX_SECURE.format(cert=cert, key=key))
            theirs = partial(cost, rival.pids[0], rival.port, seconds=round_s, connections=count)
            asked |= {
                NGINX: partial(theirs, headers=KEPT),
                NGINX_NEW: partial(theirs, headers=CLOSING),
            }
        kib = memory(child.pid, secured, 20 if quick else 1_000)
        us = interleaved(asked, rounds)
    return [
        *(_compared(us, *goal) for goal in GOALS),
        Row("tls: memory of a kept connection, after an id", kib, "KiB"),
    ]


def memory(pid: int, port: int, count: int) -> float:
    """Return the growth of the server's resident memory with each connection, in KiB."""
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname = False
    trusting.verify_mode = ssl.CERT_NONE
    request = b"GET /next HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    may_open(count + 2 * WARM)
    with ExitStack() as stack:

        def opened() -> None:
            plain = socket.create_connection(("127.0.0.1", port))
            connection = stack.enter_context(trusting.wrap_socket(plain))
            connection.sendall(request)
            check(connection.recv(4096).startswith(b"HTTP/1.1 200"), "no id over TLS")

        for _ in range(WARM):
            opened()
        before = resident_mb(pid)
        for _ in range(count):
            opened()
        return (resident_mb(pid) - before) * MB / KIB / count


def certificate(folder: Path) -> tuple[str, str]:
    """Make a certificate with an ECDSA key; return the names of both files."""
    cert, key = str(folder / "cert.pem"), str(folder / "key.pem")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-days", "2", "-keyout", key, "-out", cert, "-subj", "/CN=localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    return cert, key


def cost(
    pid: int,
    port: int,
    *,
    seconds: float,
    connections: int,
    headers: dict[str, str],
    scheme: str = "https",
) -> float:
    """Return microseconds of CPU per request in one round."""
    before = cpu_seconds(pid)
    ran = wrk(port, seconds, headers=headers, scheme=scheme, connections=connections)
    return (cpu_seconds(pid) - before) / ran.answered * 1e6


def _compared(us: dict[str, list[float]], one: str, other: str, goal: float | None) -> Row:
    what = f"tls: CPU per GET over {one} / {other}"
    if other not in us:
        return Row(what, None, goal=goal, note=RIVALS["nginx"].missing)
    note = f"{median(us[one]):.1f} µs ({spread(us[one])}) beside {median(us[other]):.1f} µs"
    return Row(what, ratio(us[one], us[other]), "×", goal=goal, note=note)
