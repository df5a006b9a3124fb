"""`idservice bench` as it is run: what it prints, and how it ends."""

import json
import os
import re
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from idservice.cli import main
from idservice.cli.bench.request import BenchTarget, _trusted
from tests.certificates import Files
from tests.processes import Serving, command, environment

DURATIONS = ("0.1", "3", "30")  # a busy machine needs longer for an answer
LOAD = ("--duration", "600", "--warmup", "0", "--connections", "4")
ENOUGH = 40  # answers of the fake server, after which it has the load end, however long that takes
ANSWER_S = 0.004  # what each takes: all connections get some
Answer = Callable[[int], tuple[int, str]]


def ranges(id: int, *, mode: str = "block", epoch: int = 1, step: int = 1) -> str:
    block = {"first": id, "step": step, "count": 1}
    return json.dumps({"counter": "c", "count": 1, "epoch": epoch, "mode": mode, "ranges": [block]})


@contextmanager
def fake(answer: Answer, look: Answer, trust: ssl.SSLContext | None = None) -> Iterator[str]:
    """A server in a thread: `look` answers what asks for ranges, `answer` the rest, both told how
    many were answered before. It interrupts the load after enough of them."""
    numbers = count()
    lock, over = threading.Lock(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def do_GET(self) -> None:
            over.wait(ANSWER_S)
            with lock:
                number = next(numbers)
                status, text = (look if "format=ranges" in self.path else answer)(number)
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())
            if number % ENOUGH == ENOUGH - 1:
                os.kill(os.getpid(), signal.SIGINT)  # then it reports what was measured

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """A connection that was reset."""

    server = Server(("127.0.0.1", 0), Handler)
    if trust is not None:
        server.socket = trust.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"{'https' if trust else 'http'}://127.0.0.1:{server.server_port}"
    finally:
        over.set()
        server.shutdown()
        thread.join()
        server.server_close()


class Said:
    def __init__(self, capsys: pytest.CaptureFixture[str], *arguments: str) -> None:
        self.code = main.main(["bench", *arguments])
        self.out, self.err = capsys.readouterr()
        assert "Traceback" not in self.err

    @property
    def json(self) -> dict[str, Any]:
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found


Run = Callable[..., Said]


@pytest.fixture
def certified(certificate: Files, monkeypatch: pytest.MonkeyPatch) -> Iterator[ssl.SSLContext]:
    """A server's context, whose certificate clients of the test trust."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.cert))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.cert, certificate.key)
    _trusted.cache_clear()
    yield context
    _trusted.cache_clear()


@pytest.fixture
def bench(capsys: pytest.CaptureFixture[str]) -> Run:
    return lambda *arguments: Said(capsys, *arguments)


def good(id: int) -> tuple[int, str]:
    return 200, str(id)


def block(id: int) -> tuple[int, str]:
    return 200, ranges(id)


# --- a server in the hand -------------------------------------------------------------------------


def test_distinct_rising_ids_are_exit_0(bench: Run) -> None:
    with fake(good, block) as url:
        said = bench(url, *LOAD)
    assert said.code == 0, said.err
    assert "all distinct" in said.out
    assert "rising on each connection" in said.out
    assert "takes ids of counter c at" in said.err
    assert "they are real" in said.err


@pytest.mark.parametrize("again", [0, 1, 7], ids=["of the first", "of the second", "of the load"])
def test_a_repeated_id_is_exit_1_and_is_named(bench: Run, again: int) -> None:
    """Also one of the two that are asked for before the load begins."""
    for more in ((), ("--rate", "200", "--json")):
        with fake(lambda n: (200, str(n if n != 20 else again)), block) as url:
            said = bench(url, *LOAD, *more)
        assert said.code == 1
        assert f"DUPLICATE: id {again} came more than once" in said.err
        if "--json" not in more:
            assert "1 of them REPEATED" in said.out
            continue
        assert said.json["duplicates"] == said.json["ids"] - said.json["distinct"] == 1
        assert f"id {again} " in said.json["faults"][0]


def test_a_service_behind_tls_is_measured(
    bench: Run, certified: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fake(good, block, certified) as url:
        said = bench(url, *LOAD, "--json")
        assert said.code == 0
        assert said.json["errors"] == {}
        monkeypatch.delenv("SSL_CERT_FILE")
        _trusted.cache_clear()
        refused = bench(url, *LOAD)
    assert refused.code == 1
    assert "its certificate is not accepted: self-signed certificate" in refused.err


def test_ids_that_fall_are_exit_1_where_order_is_promised_and_only_there(bench: Run) -> None:
    def falls(id: int) -> tuple[int, str]:
        return 200, str(1_000_000 - id)

    with fake(falls, block) as url:
        said = bench(url, *LOAD)
        assert said.code == 1
        assert "ORDER: id " in said.err
        assert "--unordered" in said.err
        assert "BROKEN" in said.out
        assert bench(url, *LOAD, "--unordered").code == 0
    looks: list[tuple[str, Callable[[int], str], int]] = [
        ("strict over all connections", lambda n: ranges(n, mode="strict"), 1),
        ("shards", lambda n: ranges(8 * n + 2_000_000, step=8), 0),
        ("kind of the counter", lambda n: f"x{n}", 0),
        ("epoch went from", lambda n: ranges(n, epoch=1 + (n > 1)), 0),
    ]
    for words, look, code in looks:
        with fake(falls, lambda n, look=look: (200, look(n))) as url:  # type: ignore[misc]
            said = bench(url, *LOAD)
        assert said.code == code, said.err
        assert words in said.out
        if code == 0:
            assert "not checked" in said.out


def test_a_strict_counter_must_rise_over_all_connections(bench: Run) -> None:
    """Instances with a block each would do for one that is not strict."""
    blocks: dict[int, Iterator[int]] = {}

    def by_connection(_: int) -> tuple[int, str]:
        mine = blocks.setdefault(threading.get_ident(), count(100_000 * len(blocks)))
        return 200, str(next(mine))

    for mode, code in (("block", 0), ("strict", 1)):
        blocks.clear()

        def look(n: int, mode: str = mode) -> tuple[int, str]:
            return 200, ranges(10_000 if n == 1 else 10**9 + n, mode=mode)

        with fake(by_connection, look) as url:
            said = bench(url, *LOAD)
        assert said.code == code
        assert ("ORDER" in said.err) == (code == 1)


def test_errors_are_counted_and_no_failure_while_others_are_answered(bench: Run) -> None:
    def half(id: int) -> tuple[int, str]:
        return (503, '{"code":"waited_too_long"}') if id > 2 and id % 2 else (200, str(id))

    with fake(half, block) as url:
        said = bench(url, *LOAD, "--json")
    assert said.code == 0
    assert said.json["errors"]["503 waited_too_long"] > 0


def test_nothing_but_errors_is_exit_1(bench: Run) -> None:
    with fake(lambda n: (200, "0") if n == 0 else (503, "{}"), block) as url:
        said = bench(url, *LOAD)
    assert said.code == 1
    assert "no request was answered with ids" in said.err


def test_an_answer_that_is_not_what_was_asked_for_is_exit_1(bench: Run) -> None:
    with fake(lambda n: (200, str(n) if n < 9 else "soon"), block) as url:
        said = bench(url, *LOAD)
    assert said.code == 1
    assert "UNREADABLE" in said.err
    with fake(good, block) as url:
        said = bench(url, *LOAD, "--count", "5")
    assert said.code == 1
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert "count=5" in said.err


def test_a_refusal_comes_before_the_load_begins(bench: Run) -> None:
    with fake(lambda _: (404, '{"detail":"There is no counter ghost."}'), block) as url:
        said = bench(url, *LOAD, "--counter", "ghost")
    assert said.code == 1
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert "404: There is no counter ghost" in said.err


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        (["http://127.0.0.1:1"], 1, ["http://127.0.0.1:1", "refused"]),
        (["unix:no-such-socket"], 1, ["unix:no-such-socket", "No such file"]),
        ([], 2, ["URL"]),
        (["https://127.0.0.1:1"], 1, ["https://127.0.0.1:1", "refused"]),
        (["127.0.0.1:8080"], 2, ["127.0.0.1:8080", "http://HOST:PORT"]),
        (["http://localhost:0"], 2, ["http://localhost:0", "http://HOST:PORT"]),
        (["http://h:1/next?count=3"], 2, ["?count=3", "--count"]),
        (["http://h:1/n x"], 2, ["/n x"]),
        (["http://h:1/next", "--counter", "a"], 2, ["--counter", "/next"]),
        (["http://h:1", "--counter", "a b"], 2, ["a b"]),
        (["http://h:1", "--connections", "0"], 2, ["--connections", "'0'"]),
        (["http://h:1", "--rate", "0.5"], 2, ["--rate", "0.5"]),
        (["http://h:1", "--duration", "0"], 2, ["--duration", "'0'"]),
        (["http://h:1", "--count", "0"], 2, ["--count", "'0'"]),
        (["http://h:1", "--store", "sqlite:x"], 2, ["this command does not take --store,"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)  # fmt: skip
def test_bad_usage_is_one_line(
    bench: Run, arguments: list[str], code: int, parts: list[str]
) -> None:
    said = bench(*arguments)
    assert said.code == code
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert said.err.startswith("idservice: ")
    for part in parts:
        assert part in said.err


@pytest.mark.parametrize(
    ("url", "counter", "path", "host"),
    [
        ("http://127.0.0.1:8080", None, "/next", "127.0.0.1:8080"),
        ("http://h:1/", None, "/next", "h:1"),
        ("http://h:1", "orders", "/v1/counters/orders/next", "h:1"),
        ("http://[::1]:9/old/path", None, "/old/path", "[::1]:9"),
        ("unix:/run/a.sock", "b", "/v1/counters/b/next", "localhost"),
    ],
)
def test_a_url_names_a_service_and_a_path(
    url: str, counter: str | None, path: str, host: str
) -> None:
    where = BenchTarget.parse(url, counter)
    assert where.path == path
    lines = where.request(path).decode().split("\r\n")
    assert lines[:2] == [f"GET {path} HTTP/1.1", f"Host: {host}"]
    assert lines[-2:] == ["", ""]


# --- a real one -----------------------------------------------------------------------------------


@pytest.mark.process
def test_in_each_mode_over_tcp_and_a_unix_socket_the_figures_add_up(tmp_path: Path) -> None:
    command("init", folder=tmp_path)
    command("create", "strict", "--strict", folder=tmp_path)
    load = ("--warmup", "0.1", "--connections", "8", "--json")
    with Serving(tmp_path, listen=("127.0.0.1:0", "unix:front")) as serving:
        url = f"http://127.0.0.1:{serving.port}"
        for arguments, least in (
            ((url,), 1),
            ((url, "--rate", "100"), 1),
            ((url, "--count", "100"), 100),
            ((url, "--count", "1000", "--ranges"), 1000),
            (("unix:front", "--count", "1000", "--ranges"), 1000),
            (("unix:front", "--rate", "100", "--count", "7"), 7),
            ((url, "--counter", "strict"), 1),
        ):
            for duration in DURATIONS:
                ended = command("bench", *arguments, *load, "--duration", duration, folder=tmp_path)
                assert ended.returncode == 0, ended.stderr
                figures = json.loads(ended.stdout)
                if figures["requests_per_s"]:
                    break
            assert figures["ids"] == figures["distinct"] > 0
            assert (figures["duplicates"], figures["order_faults"]) == (0, 0)
            assert (figures["errors"], figures["faults"]) == ({}, [])
            assert not figures["order"].startswith("not checked")
            assert (figures["mode"] == "strict") == ("strict" in arguments)
            latency = figures["latency_ms"]
            assert 0 < latency["p50"] <= latency["p99"] <= latency["p99.9"] <= latency["max"]
            assert figures["ids_per_s"] == pytest.approx(
                least * figures["requests_per_s"], rel=0.01
            )
            assert (figures["generator_late_ms"] is None) == ("--rate" not in arguments)


@pytest.mark.process
def test_interrupted_it_reports_what_was_measured(tmp_path: Path) -> None:
    with Serving(tmp_path) as serving:
        process = subprocess.Popen(
            [sys.executable, "-m", "idservice", "bench", f"http://127.0.0.1:{serving.port}",
             "--connections", "4", "--duration", "600", "--warmup", "0", "--rate", "100"],
            cwd=tmp_path, env=environment(), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        with process:
            assert process.stderr is not None
            lines = [process.stderr.readline() for _ in range(2)]
            assert re.search(r"requests/s .* duplicates 0", lines[1])
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "all distinct" in out
    assert "100 requests/s" in out
    assert err == ""
