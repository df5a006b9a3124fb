"""The load on virtual time, on a server in the hand: what is sent when, and what is made of it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from idservice.cli.bench.load import GRACE_S, Load, LoadConnection, Plan
from idservice.cli.bench.request import BenchRequest
from idservice.cli.bench.results import BenchResults, Histogram
from tests.simulation.loop import elapse, run

MS = 1_000_000
PROBLEM = b'{"code":"waited_too_long"}'


def http(status: int, body: bytes, *, more: str = "") -> bytes:
    head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


@dataclass
class Server:
    """Answers each request after `takes_s`, but none between the two times of `stall`."""

    takes_s: float = 0.001
    stall: tuple[float, float] = (0.0, 0.0)
    refuses: Callable[[], bool] = lambda: False
    answer: Callable[["Server"], bytes | None] = lambda server: http(200, b"%d" % server.next)
    next: int = 0
    sent_at: list[float] = field(default_factory=list)
    transports: list["Transport"] = field(default_factory=list)

    async def connect(self, protocol: Callable[[], LoadConnection]) -> object:
        if self.refuses():
            raise ConnectionRefusedError(111, "Connection refused")
        transport = Transport(self, protocol())
        transport.protocol.connection_made(transport)
        self.transports.append(transport)
        return transport

    def asked(self, transport: "Transport") -> None:
        loop = asyncio.get_running_loop()
        self.sent_at.append(loop.time())
        answer = self.answer(self)
        self.next += 1
        begin, end = self.stall
        at = loop.time() + self.takes_s
        loop.call_at(end + self.takes_s if begin <= at < end else at, transport.bring, answer)


class Transport(asyncio.Transport):
    def __init__(self, server: Server, protocol: LoadConnection) -> None:
        super().__init__()
        self.server = server
        self.protocol = protocol
        self.gone = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert data == b"GET"
        if not self.gone:
            self.server.asked(self)

    def bring(self, answer: bytes | None) -> None:
        """Nothing: the connection breaks."""
        if answer is None:
            self.abort()
        elif not self.gone:
            self.protocol.data_received(answer)

    def abort(self) -> None:
        if not self.gone:
            self.gone = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)


def driven(
    server: Server,
    *,
    rate: int | None = None,
    connections: int = 10,
    duration_s: float = 10.0,
    warmup_s: float = 0.0,
    ask: BenchRequest = BenchRequest("/next"),  # noqa: B008  frozen
    overslept_s: Callable[[float], float] = lambda now: 0.0,
    stops_at: tuple[float, ...] = (),
) -> BenchResults:
    """What is seen of a server; the alarm rings late by `overslept_s`."""

    async def main() -> BenchResults:
        loop = asyncio.get_running_loop()
        results = BenchResults(ask)
        plan = Plan(b"GET", connections, rate, warmup_s, duration_s)

        def wake(ns: int) -> None:
            at = loop.time() + ns / 1e9
            loop.call_at(at + overslept_s(at), load.tick)

        load = Load(
            plan, results, connect=server.connect, wake=wake, clock=lambda: round(loop.time() * 1e9)
        )
        for at in stops_at:
            loop.call_at(at, load.stop)
        await load.run()
        results.distinct.settle()
        return results

    return run(main())


def ms(durations: Histogram, share: float) -> float:
    return durations.quantile(share) / MS


# --- latency --------------------------------------------------------------------------------------


def test_at_a_fixed_rate_a_pause_counts_for_every_delayed_request() -> None:
    server = Server(stall=(4.0, 5.0))
    results = driven(server, rate=1000)
    assert results.requests + results.unanswered == pytest.approx(10_000, abs=5)
    assert ms(results.latency, 0.5) == pytest.approx(1, rel=0.02)
    # A tenth of all were meant for that second; of those a tenth waited 0.9 s or longer.
    assert 850 < ms(results.latency, 0.99) < 960
    assert ms(results.latency, 1.0) == pytest.approx(1001, rel=0.02)
    assert ms(results.late, 1.0) < 0.01
    assert (results.errors, results.distinct.repeated) == ({}, 0)


def test_in_a_closed_loop_the_same_pause_delays_one_request_per_connection() -> None:
    results = driven(Server(stall=(4.0, 5.0)), connections=2)
    assert ms(results.latency, 0.999) == pytest.approx(1, rel=0.02)
    assert ms(results.latency, 1.0) == pytest.approx(1000, rel=0.02)


def test_requests_are_sent_at_their_times_and_none_twice() -> None:
    server = Server()
    results = driven(server, rate=250, duration_s=2.0)
    assert server.sent_at == pytest.approx([n / 250 for n in range(500)], abs=1e-6)
    assert results.distinct.seen == results.succeeded == 500
    assert results.latency.total == 500


def test_a_load_that_is_late_itself_says_so() -> None:
    results = driven(Server(), rate=1000, overslept_s=lambda at: 0.05 if 4 <= at < 5 else 0.0)
    assert ms(results.late, 1.0) == pytest.approx(50, rel=0.02)
    assert ms(results.late, 0.99) > 40
    assert ms(results.late, 0.5) < 0.01
    assert ms(results.latency, 1.0) > 50


def test_a_server_that_cannot_keep_up_is_no_lateness_of_the_load() -> None:
    """10 connections at 10 ms each carry 1,000 requests a second, and 2,000 are due."""
    results = driven(Server(takes_s=0.01), rate=2000, duration_s=4.0)
    assert results.requests == pytest.approx(4000, abs=20)
    assert ms(results.latency, 0.5) > 900
    assert ms(results.late, 1.0) < 0.01


def test_a_request_never_answered_counts_with_its_wait() -> None:
    server = Server(stall=(5.0, 1e9))
    results = driven(server, rate=1000)
    assert results.unanswered == pytest.approx(5000, abs=5)
    assert results.latency.total == 10_000
    assert ms(results.latency, 1.0) == pytest.approx(5000 + GRACE_S * 1000, rel=0.02)
    assert ms(results.latency, 0.5) >= 1


def test_the_warm_up_is_checked_and_not_measured() -> None:
    server = Server(stall=(0.0, 0.5))
    results = driven(server, rate=1000, warmup_s=1.0, duration_s=1.0)
    assert results.distinct.seen == 2000
    assert results.latency.total == 1000
    assert ms(results.latency, 1.0) == pytest.approx(1, rel=0.02)


def test_stopped_early_it_waits_for_what_is_under_way() -> None:
    for rate in (None, 1000):
        results = driven(Server(takes_s=0.1), rate=rate, connections=200, stops_at=(2.05,))
        assert (results.end - results.begin) / MS == pytest.approx(2050, rel=0.01)
        assert results.unanswered == 0
        assert results.succeeded > results.requests > 1500


def test_stopped_before_it_began_it_sends_nothing() -> None:
    server = Server()
    connect = server.connect

    async def slowly(protocol: Callable[[], LoadConnection]) -> object:
        await elapse(5.0)
        return await connect(protocol)

    server.connect = slowly  # type: ignore[method-assign]
    for stops_at in ((1.0,), (1.0, 1.5)):
        results = driven(server, rate=100, stops_at=stops_at)
        assert (server.sent_at, server.transports, results.succeeded) == ([], [], 0)


def test_stopped_twice_it_ends_at_once() -> None:
    results = driven(Server(stall=(1.0, 1e9)), rate=100, stops_at=(2.0, 2.5))
    assert ms(results.latency, 1.0) == pytest.approx(1500, rel=0.02)
    assert results.unanswered == pytest.approx(150, abs=52)


# --- connections and errors -----------------------------------------------------------------------


def test_a_connection_ended_in_order_is_replaced_without_an_error() -> None:
    def answer(server: Server) -> bytes:
        more = "Connection: close\r\n" if server.next % 10 == 9 else ""
        return http(200, b"%d" % server.next, more=more)

    for rate in (None, 1000):
        server = Server(answer=answer)
        results = driven(server, rate=rate, duration_s=1.0)
        assert results.errors == {}
        assert results.reconnects > 50
        assert results.distinct.seen == server.next > 900


def test_an_answer_lost_with_its_connection_is_counted_and_the_run_goes_on() -> None:
    def answer(server: Server) -> bytes | None:
        return None if server.next % 10 == 9 else http(200, b"%d" % server.next)

    server = Server(answer=answer)
    results = driven(server, rate=1000, duration_s=1.0)
    assert results.errors == {"connection lost": 100}
    assert (results.succeeded, results.distinct.repeated, results.order.faults) == (900, 0, 0)


def test_a_server_that_ends_every_connection_gets_no_tight_loop() -> None:
    server = Server(answer=lambda _: None)
    driven(server, connections=1, duration_s=10.0)
    assert len(server.sent_at) <= 101


def test_a_server_that_is_gone_for_a_while_is_asked_again() -> None:
    server = Server()

    async def outage() -> None:
        await elapse(1.0)
        for transport in server.transports:
            transport.abort()

    def answer(server: Server) -> bytes:
        return http(200, b"%d" % server.next)

    server.answer = answer
    server.refuses = lambda: bool(server.sent_at) and 1.0 <= asyncio.get_running_loop().time() < 2.0
    breaks: list[asyncio.Task[None]] = []
    connect = server.connect

    async def connect_and_plan(protocol: Callable[[], LoadConnection]) -> object:
        if not breaks:
            breaks.append(asyncio.create_task(outage()))
        return await connect(protocol)

    server.connect = connect_and_plan  # type: ignore[method-assign]
    results = driven(server, rate=1000, duration_s=4.0)
    assert results.succeeded + results.errors["connection lost"] == 4000
    assert results.errors["cannot connect (Connection refused)"] >= 90
    assert ms(results.latency, 1.0) > 900, "those that were due meanwhile waited"


def test_due_requests_wait_at_the_end_for_a_server_that_comes_back() -> None:
    server = Server(
        refuses=lambda: 0.5 < asyncio.get_running_loop().time() < 2.0,
        answer=lambda server: (
            None
            if 0.5 < asyncio.get_running_loop().time() < 2.0
            else http(200, b"%d" % server.next)
        ),
    )
    results = driven(server, rate=1000, duration_s=1.0)
    assert results.succeeded + results.errors["connection lost"] == 1000
    assert results.errors["connection lost"] <= 20
    assert ms(results.latency, 0.99) > 1000


def test_a_server_that_cannot_be_reached_is_an_error() -> None:
    with pytest.raises(ConnectionRefusedError):
        driven(Server(refuses=lambda: True))


def test_refusals_are_counted_by_status_and_code_and_are_no_latency() -> None:
    def answer(server: Server) -> bytes:
        return http(503, PROBLEM) if server.next % 4 == 0 else http(200, b"%d" % server.next)

    results = driven(Server(answer=answer), rate=1000, duration_s=1.0)
    assert results.errors == {"503 waited_too_long": 250}
    assert results.succeeded == results.latency.total == 750


def test_answers_that_make_no_sense_are_told_apart() -> None:
    for made, kind in (
        (http(200, b"x"), "200 unreadable"),
        (http(204, b""), "204"),
        (http(404, b"[]"), "404"),
        (b"hello\r\n\r\n", "not HTTP"),
    ):
        results = driven(
            Server(answer=lambda _, made=made: made),  # type: ignore[misc]
            rate=10, duration_s=1.0,
        )  # fmt: skip
        assert results.errors[kind] == 10
        assert results.succeeded == 0
    endless = driven(
        Server(answer=lambda server: http(500 + server.next, b"")), rate=100, duration_s=1.0
    )
    assert len(endless.errors) == 21
    assert endless.errors["other"] == 80


def test_an_answer_in_pieces_is_one_answer() -> None:
    class InPieces(Transport):
        def bring(self, answer: bytes | None) -> None:
            assert answer is not None
            for at in range(len(answer)):
                super().bring(answer[at : at + 1])

    server = Server(
        answer=lambda server: http(200, b"%d\n%d\n" % (server.next * 2, server.next * 2 + 1))
    )
    connect = server.connect

    async def connect_in_pieces(protocol: Callable[[], LoadConnection]) -> object:
        transport = await connect(protocol)
        assert isinstance(transport, Transport)
        transport.__class__ = InPieces
        return transport

    server.connect = connect_in_pieces  # type: ignore[method-assign]
    results = driven(server, rate=100, duration_s=1.0, ask=BenchRequest("/next", 2))
    assert (results.distinct.seen, results.errors) == (200, {})


def test_an_unasked_answer_is_an_error_and_ends_its_connection() -> None:
    at_once = driven(
        Server(answer=lambda server: http(200, b"%d" % server.next) * 2), rate=10, duration_s=1.0
    )
    assert (at_once.succeeded, at_once.unreadable) == (0, 10)
    assert at_once.reconnects >= 9

    class Chatty(Server):
        async def connect(self, protocol: Callable[[], LoadConnection]) -> object:
            transport = await super().connect(protocol)
            assert isinstance(transport, Transport)
            full = http(503, b'{"code":"too_many_connections"}', more="Connection: close\r\n")
            asyncio.get_running_loop().call_later(0.55, transport.bring, full)
            return transport

    later = driven(Chatty(), rate=10, duration_s=1.0)
    assert later.errors["unasked 503"] >= 10
    assert later.succeeded == 10


# --- faults of the server -------------------------------------------------------------------------


def test_an_id_repeated_on_another_connection_at_the_very_end_is_seen() -> None:
    def answer(server: Server) -> bytes:
        return http(200, b"%d" % (server.next if server.next < 999 else 500))

    results = driven(Server(answer=answer), rate=1000, duration_s=1.0)
    assert (results.distinct.repeated, results.distinct.examples) == (1, [500])


def test_an_id_below_the_one_before_on_its_connection_is_seen() -> None:
    def answer(server: Server) -> bytes:
        return http(200, b"%d" % (server.next if server.next != 700 else 2_000))

    results = driven(Server(answer=answer), rate=1000, duration_s=1.0)
    assert results.distinct.repeated == 0
    assert results.order.faults == pytest.approx(299 / 10, abs=2), "of one connection of ten"
    assert results.order.examples[0][1] == 2_000
