"""Fast connections: what they answer, keep, recognise and close."""

import asyncio
import socket
from contextlib import suppress

import pytest

from idservice.web.connection import Connection
from idservice.web.fast_lane import responses
from idservice.web.fast_lane.connection import BUFFER_MAX, TEMPLATES_MAX, FastConnection
from idservice.web.fast_lane.connections import UNREAD_MAX, FastConnections
from idservice.web.fast_lane.template import template_of
from tests.web.fast_lane.hand import OTHER, Hand, Transport, answered, empty, turns
from tests.web.fast_lane.pair import (
    GET,
    NEXT,
    H,
    head,
    traced,
)
from tests.web.wire import request


async def test_no_id_is_taken_while_the_client_does_not_read(hand: Hand) -> None:
    lane, transport = hand.lane()
    transport.full_after = 0
    issued = hand.issued
    lane.data_received(NEXT * 3 + OTHER)
    assert hand.issued == issued + 1
    lane.data_received(NEXT)
    assert hand.issued == issued + 1
    await turns()
    assert not hand.taken, "an earlier answer is not written yet"
    transport.full_after = None
    lane.resume_writing()
    assert hand.issued == issued + 3
    await answered(transport, 5)
    assert hand.taken == [("GET /other", b"")]
    assert hand.issued == issued + 4


async def test_the_bytes_that_are_kept_are_bounded(hand: Hand) -> None:
    lane, transport = hand.lane()
    lane.pause_writing()
    for _ in range(BUFFER_MAX // len(NEXT) + 1):
        assert "pause" not in transport.done
        lane.data_received(NEXT)
    assert transport.done == ["pause"]
    lane.resume_writing()
    assert transport.done == ["pause", "resume"]


async def test_no_id_is_taken_on_a_connection_that_closes(hand: Hand) -> None:
    lane, transport = hand.lane()
    hand.lanes.responder.drain()
    issued = hand.issued
    lane.data_received(NEXT * 3)
    assert hand.issued == issued + 1
    assert transport.done == ["close"]
    assert transport.written.count(b"Connection: close") == 1


async def test_what_a_client_repeats_is_not_parsed_again(
    hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[bytes] = []
    plain = hand.lanes.parser.plain
    monkeypatch.setattr(
        hand.lanes.parser, "plain", lambda head: (parsed.append(head), plain(head))[1]
    )
    lane, transport = hand.lane()
    for _ in range(3):
        await hand.stocked()
        lane.data_received(NEXT)
    assert parsed == [NEXT]
    await hand.stocked()
    lane.data_received(traced(1))
    lane.data_received(traced(2))
    assert parsed == [NEXT, traced(1), traced(2)]
    for number in range(3, 30):
        await hand.stocked()
        lane.data_received(traced(number))
    assert len(parsed) == 3
    assert transport.written.count(b"200 OK") == 32
    assert not hand.taken


@pytest.mark.parametrize("name", [b"Accept: ", b"aCCEPT: ", b"accept: "])
async def test_an_accept_header_that_varies_is_read_each_time(hand: Hand, name: bytes) -> None:
    lane, transport = hand.lane()
    for value in (b"text/plain      ", b"text/plain;q=0.5", b"application/json"):
        await hand.stocked()
        lane.data_received(head(GET, H, name + value))
    assert transport.written.count(b"text/plain; charset") == 2
    assert transport.written.endswith(b"}")


@pytest.mark.parametrize("name", [b"Connection: ", b"connection: "])
async def test_a_connection_header_that_varies_is_read_each_time(hand: Hand, name: bytes) -> None:
    lane, transport = hand.lane()
    for value in (b"keep-alive", b"Keep-Alive", b"close     "):
        await hand.stocked()
        lane.data_received(head(GET, H, name + value))
    assert transport.written.count(b"200 OK") == 2
    await answered(transport, 3)
    assert hand.taken == [("GET /next", b"")]
    assert transport.done == ["close"]


async def test_templates_are_learnt_as_long_as_they_fit_now_and_then(
    hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    learnt: list[bytes] = []
    monkeypatch.setattr(
        "idservice.web.fast_lane.connection.template_of",
        lambda one, other, **more: (learnt.append(other), template_of(one, other, **more))[1],
    )
    lane, _ = hand.lane()
    for token in range(3 * TEMPLATES_MAX):  # a header that has another name now and then
        for number in range(4):
            await hand.stocked()
            lane.data_received(traced(number, also=b"y%d: t" % token))
    assert len(learnt) == 6 * TEMPLATES_MAX - 1
    learnt.clear()
    for number in range(3 * TEMPLATES_MAX):  # never two with the same names
        await hand.stocked()
        lane.data_received(head(GET, H, b"y%d: t" % number))
    assert len(learnt) == TEMPLATES_MAX
    assert not hand.taken


@pytest.mark.parametrize("before", range(TEMPLATES_MAX + 2))
async def test_a_template_is_that_of_the_last_request_or_of_none(hand: Hand, before: int) -> None:
    """Also where the form of an earlier one was the last that was tried for."""
    lane, transport = hand.lane()
    for number in range(before):  # never two with the same names
        await hand.stocked()
        lane.data_received(head(GET, H, b"y%d: t" % number))
    for asked in (traced(1), traced(2), traced(3, of=b"/next?count=2")):
        await hand.stocked()
        lane.data_received(asked)
    assert transport.written.endswith(b"\n")
    await hand.stocked()
    lane.data_received(traced(4))
    assert transport.written[-1:].isdigit()
    assert not hand.taken


async def test_bytes_that_the_socket_does_not_take_follow_in_order(hand: Hand) -> None:
    lane, transport = hand.lane()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        for one in (ours, theirs):
            one.setblocking(False)
        lane._descriptor = ours.fileno()

        def received() -> bytes:
            found = b""
            with suppress(BlockingIOError):
                while chunk := theirs.recv(65536):
                    found += chunk
            return found

        await hand.stocked()
        lane.data_received(NEXT)
        assert received().count(b"200 OK") == 1
        assert transport.written == b""

        await hand.serving.service.local_counters["default"].next_batch(5)
        lane.data_received(head(b"GET /next?count=5000 HTTP/1.1", H))
        while not lane.is_busy() and not transport.written:
            await asyncio.sleep(0)
        while lane._waiting is not None:
            await asyncio.sleep(0)
        first = received()
        whole = first + transport.written
        body = whole.partition(b"\r\n\r\n")[2]
        assert first
        assert transport.written
        assert f"Content-Length: {len(body)}\r\n".encode() in whole
        assert body.count(b"\n") == 5000

        transport.written, transport.size = b"", 10  # the socket would take it, but not yet
        await hand.stocked()
        lane.data_received(NEXT)
        assert transport.written.count(b"200 OK") == 1
        assert received() == b""
        transport.written, transport.size = b"", 0
        lane.data_received(NEXT)
        assert transport.written == b""
        assert received().count(b"200 OK") == 1


async def test_a_client_that_reads_again_does_not_overtake_its_request(
    hand: Hand,
) -> None:
    lane, transport = hand.lane()
    go_on = await empty(hand.serving)
    lane.data_received(NEXT + request("/next?count=2"))
    lane.pause_writing()
    lane.resume_writing()
    assert hand.serving.service.local_counters["default"].reading().waiting <= 1
    await turns()
    assert hand.serving.service.local_counters["default"].reading().waiting == 1
    go_on()
    while transport.written.count(b"200 OK") < 2:
        await asyncio.sleep(0)
    ids = transport.written.split(b"\r\n\r\n")
    assert int(ids[1].partition(b"HTTP")[0]) < int(ids[2].split()[0])


async def test_a_request_that_waits_is_answered_before_known_ones(hand: Hand) -> None:
    lane, transport = hand.lane()
    lane.data_received(NEXT)
    go_on = await empty(hand.serving)
    issued = hand.issued
    for _ in range(3):
        lane.data_received(NEXT)
    assert hand.issued == issued
    assert transport.written.count(b"200 OK") == 1
    go_on()
    while transport.written.count(b"200 OK") < 4:
        await asyncio.sleep(0)
    ids = [int(part.partition(b"HTTP")[0]) for part in transport.written.split(b"\r\n\r\n")[1:]]
    assert ids == sorted(set(ids))


async def test_an_unfinished_request_is_not_taken_for_a_known_one(hand: Hand) -> None:
    lane, transport = hand.lane()
    lane.data_received(NEXT)
    lane.data_received(b"GET /next?x=")
    lane.data_received(NEXT)  # goes on: the target has a blank in it
    await answered(transport, 2)
    assert transport.written.count(b"200 OK") == 1
    assert transport.written.count(b"400 Bad Request") == 1


async def test_a_fault_in_a_parser_callback_surfaces(
    hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(hand.lanes.parser, "on_message_complete", broken, raising=False)
    hand.lanes.parser._new_parser()
    lane, _ = hand.lane()
    with pytest.raises(ZeroDivisionError, match="ours"):
        lane.data_received(NEXT)
    assert not hand.taken
    monkeypatch.undo()
    hand.lanes.parser._new_parser()
    lane, transport = hand.lane()
    lane.data_received(NEXT)
    assert transport.written.startswith(b"HTTP/1.1 200 OK\r\n")


async def test_silent_and_dripping_connections_are_closed(
    hand: Hand,
) -> None:
    (silent, one), (dripping, two), (served, three), (stuck, four) = (hand.lane() for _ in range(4))
    stuck.pause_writing()
    for sweep in range(UNREAD_MAX + 1):
        await hand.stocked()
        assert one.done == two.done == four.done == [], sweep
        dripping.data_received(NEXT[sweep : sweep + 1])
        served.data_received(NEXT)
        hand.lanes._sweep()
    assert (one.done, two.done, three.done, four.done) == (["close"], ["close"], [], ["abort"])
    assert silent.is_busy() is False


async def test_an_idle_connection_is_kept_for_the_time_that_was_set(hand: Hand) -> None:
    hand.limit.idle_s = 600.0
    lanes = FastConnections(hand.lanes.responder, hand.limit, lambda: hand.server)
    lane, transport = FastConnection(lanes), Transport()
    lane.connection_made(transport)
    for sweep in range(121):
        assert transport.done == [], sweep
        lanes._sweep()
    assert transport.done == ["close"]
    lanes.close()
    transport.socket.close()
    assert Connection(hand.server, hand.limit).keepalive_timeout == 600.0


async def test_a_client_that_does_not_read_an_answer_of_aiohttp_is_cut_off(hand: Hand) -> None:
    (unread, one), (slow, two), (closing, three) = (hand.lane() for _ in range(3))
    hand.go_on.clear()  # as an answer that cannot be written does not end
    unread.data_received(OTHER)
    slow.data_received(OTHER)
    closing.data_received(NEXT)
    three.close()  # and its answer is not sent yet
    await turns()
    for _ in range(UNREAD_MAX):
        hand.lanes._sweep()
    unread.pause_writing()  # counts from here
    for sweep in range(UNREAD_MAX + 1):
        slow.pause_writing()
        slow.resume_writing()
        assert "abort" not in one.done, sweep
        hand.lanes._sweep()
    hand.go_on.set()
    assert "abort" in one.done
    assert not two.done
    assert three.done[:2] == ["close", "abort"]


async def test_one_timer_serves_all_connections_and_none_runs_without(hand: Hand) -> None:
    assert hand.lanes._timer is None
    (one, _), (two, _) = hand.lane(), hand.lane()
    timer = hand.lanes._timer
    assert timer is not None
    for lane in (one, two):
        lane.connection_lost(None)
    hand.lanes._sweep()
    assert hand.lanes._timer is None
    timer.cancel()


async def test_the_date_follows_the_clock(hand: Hand) -> None:
    lane, transport = hand.lane()
    lane.data_received(NEXT)
    assert b"Date: Tue, 14 Nov 2023 22:13:20 GMT\r\n" in transport.written
    hand.now += 1
    hand.lanes.responder._end_second()  # what the timer calls
    transport.written = b""
    lane.data_received(NEXT)
    assert b"Date: Tue, 14 Nov 2023 22:13:21 GMT\r\n" in transport.written


OFFER = (b"Connection: Upgrade, HTTP2-Settings", H, b"HTTP2-Settings: AAEAAEAA", b"Upgrade: h2c")


@pytest.mark.parametrize("sent", [
    head(b"POST /next HTTP/1.1", H, b"Content-Length: 0"),
    head(GET, H, b"content-length: 0", b"Connection: keep-alive"),
    head(GET, *OFFER), head(b"POST /next HTTP/1.1", b"Content-Length: 0", *OFFER),
    head(GET, H, b"Sec-Fetch-Site: same-origin", b"Sec-Fetch-Mode: cors"),
])  # fmt: skip
async def test_what_common_clients_send_is_answered_in_the_lane(hand: Hand, sent: bytes) -> None:
    lane, transport = hand.lane()
    for number in range(1, 4):
        lane.data_received(sent)
        lane.data_received(NEXT)
        await answered(transport, 2 * number)
    lane.data_received(sent * 2)
    await answered(transport, 8)
    assert not hand.taken


@pytest.mark.parametrize("sent", [
    head(b"POST /next HTTP/1.1", H, b"Content-Length: 00"),
    head(GET, H, b"Connection: Upgrade", b"Upgrade: h2c"),
    head(GET, H, b"Sec-Fetch-Site: cross-site"),
    head(GET, H, b"Sec-Fetch-Site: other"),
])  # fmt: skip
async def test_what_differs_from_it_is_left_to_aiohttp(hand: Hand, sent: bytes) -> None:
    lane, transport = hand.lane()
    lane.data_received(NEXT)
    lane.data_received(sent)
    await answered(transport, 2)
    assert hand.taken


@pytest.mark.parametrize("name", [b"Content-Length", b"Sec-Fetch-Site", b"Upgrade"])
def test_a_value_that_is_read_is_no_gap_of_a_template(name: bytes) -> None:
    one, other = (head(GET, H, name + b": " + value) for value in (b"0", b"5"))
    assert template_of(one, other) is None


async def test_one_target_gives_way_to_the_next(
    hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Freeing a full table at once held up every connection."""
    monkeypatch.setattr(responses, "TARGETS_MAX", 4)
    responder = hand.lanes.responder
    lines = [b"GET /next?r=%d HTTP/1.1" % number for number in range(9)]
    for line in lines:
        assert responder.find(line, b"", b"")
    assert list(responder._open[0]) == lines[-4:]
