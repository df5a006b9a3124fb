"""Real processes on SQLite, from their start to their end, whatever happens in between."""

import asyncio
import ctypes
import os
import resource
import shutil
import signal
import socket
import sqlite3
import stat
import time
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from idservice.server.process import DESCRIPTORS_MIN, connections_max
from idservice.server.settings import ServeSettings
from tests.hammer import Hammer, Report, hammer
from tests.ports import port_of
from tests.processes import START_S, STORE, Serving, command, environment, fill, started, until
from tests.web.wire import Wire, ask, connected, request

pytestmark = pytest.mark.process


async def taken(port: int, count: int) -> list[int]:
    """That many ids, one by one, on one connection."""
    ids = []
    async with connected(port) as wire:
        for _ in range(count):
            await wire.send(request())
            answer = await wire.answer()
            assert answer.status == 200, answer
            ids.append(int(answer.body))
    return ids


# --- the start ------------------------------------------------------------------------------------


async def test_a_newcomer_is_served_from_a_new_file_and_told_so(tmp_path: Path) -> None:
    with Serving(tmp_path) as serving:
        assert await taken(serving.port, 3) == [0, 1, 2]
        assert "ids start from 0" in serving.await_log("store_created")["message"]
        assert (tmp_path / "idservice.db").exists()
        serving.terminate()
        assert serving.end() == 0
    with Serving(tmp_path) as serving:
        assert (await taken(serving.port, 1))[0] >= 3
        assert not serving.records("store_created")


async def test_a_port_in_use_is_a_clear_line_and_exit_1(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        ended = command("serve", "--listen", address, "--store", STORE, folder=folder)
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"idservice: Cannot listen on {address}: Address already in use")
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "wrong", [("--store", "foo:x"), ("--route", "/a=b", "--route", "/a=c")], ids=lambda one: one[0]
)
async def test_wrong_usage_is_told_before_a_port_in_use(
    folder: Path, wrong: tuple[str, ...]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        ended = command("serve", "--listen", address, *wrong, folder=folder)
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert ended.stderr.startswith(f"idservice: {wrong[0]}")


async def test_a_second_stop_of_the_start_is_prompt_too(folder: Path) -> None:
    with (
        sqlite3.connect(folder / "ids.db", isolation_level=None) as other,
        Serving(folder, "--store", STORE, "--store-wait", "3600") as serving,
    ):
        other.execute("BEGIN EXCLUSIVE")
        serving.await_log("store_wait")
        serving.terminate()
        assert serving.end() == 0
        other.execute("ROLLBACK")
    other.close()


async def test_a_store_that_comes_free_in_time_is_waited_for(folder: Path) -> None:
    with (
        sqlite3.connect(folder / "ids.db", isolation_level=None) as other,
        Serving(folder, "--store", STORE) as serving,
    ):
        other.execute("BEGIN EXCLUSIVE")
        assert ".;" not in serving.await_log("store_wait")["message"]
        other.execute("ROLLBACK")
        assert await taken(serving.port, 1) == [0]
    other.close()


async def test_a_copied_store_is_refused(folder: Path) -> None:
    shutil.copy(folder / "ids.db", folder / "copy.db")
    ended = command("serve", "--store", "sqlite:copy.db", "--listen", "127.0.0.1:0", folder=folder)
    assert ended.returncode == 3
    assert "is a copy or was restored from a backup" in ended.stderr
    assert command("next", "--store", "sqlite:copy.db", folder=folder).returncode == 3


def without_root_override() -> None:
    """In the child: root, too, is bound by the permissions of files."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(24, 1, 0, 0, 0):  # PR_CAPBSET_DROP, CAP_DAC_OVERRIDE
            raise OSError(ctypes.get_errno(), "prctl")


async def test_a_read_only_folder_is_a_clear_refusal(folder: Path) -> None:
    folder.chmod(0o555)
    try:
        with Serving(
            folder, "--store", STORE, "--store-wait", "0", before=without_root_override
        ) as serving:
            assert serving.end() == 3, serving.output
            said = serving.lines[-1]
            assert said.startswith("idservice: The store sqlite:ids.db cannot be used: ")
            assert "readonly database" in said
            assert "Traceback" not in serving.output
    finally:
        folder.chmod(0o755)


# --- the end --------------------------------------------------------------------------------------


async def test_a_stop_signal_finishes_what_is_in_flight(folder: Path) -> None:
    with Serving(folder, "--store", STORE, "--drain", "3") as serving:
        async with connected(serving.port) as wire, connected(serving.port) as keeping:
            await keeping.send(request())
            assert not (await keeping.answer()).closes
            await wire.send(request(method="POST", headers={"Content-Length": "2"}))
            serving.terminate()
            serving.await_log("stopping")
            ready = await ask(serving.port, "/readyz")
            assert (ready.status, ready.closes) == (503, True)
            assert (await ask(serving.port, "/livez")).status == 200
            await keeping.send(request())
            answer = await keeping.answer()
            assert (answer.status, answer.closes) == (200, True)
            await until(lambda: refused(serving.port), what="it goes on accepting")
            await wire.send(b"{}")
            answer = await wire.answer()
            assert (answer.status, answer.closes) == (200, True)
        assert serving.end() == 0
        assert serving.records("stopped")
        assert "Traceback" not in serving.output


def refused(port: int) -> bool:
    try:  # who is turned away is refused when it tries again after a second
        socket.create_connection(("127.0.0.1", port), timeout=START_S).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGQUIT], ids=lambda one: one.name)
async def test_other_signals_that_end_a_process_are_clean_stops(
    folder: Path, number: signal.Signals
) -> None:
    with Serving(folder, "--store", STORE, "--drain", "0") as serving:
        assert await taken(serving.port, 1) == [0]
        serving.process.send_signal(number)
        if number is signal.SIGHUP:  # a terminal that closes sends it twice
            serving.await_log("stopping")
            serving.process.send_signal(number)
        assert serving.end() == 0
        assert serving.records("ids_returned")


async def test_a_request_that_never_ends_does_not_hold_the_stop_up(folder: Path) -> None:
    with Serving(folder, "--store", STORE, "--drain", "0") as serving:
        async with connected(serving.port) as wire:
            await wire.send(request(method="POST", headers={"Content-Length": "3"}))
            assert (await ask(serving.port, "/livez")).status == 200
            serving.terminate()
            assert serving.end() == 0


async def test_a_second_signal_ends_at_once(folder: Path) -> None:
    with Serving(folder, "--store", STORE, "--drain", "8") as serving:
        assert await taken(serving.port, 1) == [0]
        serving.terminate()
        serving.await_log("stopping")
        serving.terminate()
        assert serving.end() == 1


@dataclass
class Seen:
    """What the clients of a stopping server met."""

    ids: list[int] = field(default_factory=list)
    begun: int = 0  # clients with an answer
    closing: int = 0
    broken: list[str] = field(default_factory=list)
    refused: int = 0


@pytest.mark.parametrize("workers", ["1", "3"], ids=["alone", "three workers"])
@pytest.mark.parametrize("fresh", [False, True], ids=["kept open", "a connection per request"])
async def test_fifty_clients_across_a_stop_see_no_broken_request(
    folder: Path, fresh: bool, workers: str
) -> None:
    seen, asking = Seen(), asyncio.Event()
    asking.set()

    async def client(port: int) -> None:
        answered = False
        while True:
            await asking.wait()
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                seen.refused += 1
                return
            wire, closes = Wire(reader, writer), False
            while not closes:
                try:
                    await wire.send(request(headers={"Connection": "close"} if fresh else {}))
                    answer = await wire.answer()
                except (ConnectionError, asyncio.IncompleteReadError, TimeoutError) as error:
                    seen.broken.append(repr(error))
                    break
                assert answer.status == 200, answer
                seen.ids.append(int(answer.body))
                seen.begun += not answered
                answered, closes = True, answer.closes
                seen.closing += closes
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    # Each client must ask once in the drain, also if the machine stands still for a second or two.
    with Serving(folder, "--store", STORE, "--workers", workers, "--drain", "3") as serving:
        port = serving.port
        clients = [asyncio.create_task(client(port)) for _ in range(50)]
        await until(lambda: seen.begun == 50 and len(seen.ids) > 200)
        serving.terminate()
        asking.clear()  # who is told that its connection closes comes back for the end of the drain
        await asyncio.sleep(2.5)
        asking.set()
        await asyncio.gather(*clients)
        assert serving.end() == 0
    assert not seen.broken
    assert seen.refused == 50
    assert seen.closing >= 50
    assert len(set(seen.ids)) == len(seen.ids)


async def test_after_a_kill_ids_go_on_above(folder: Path) -> None:
    before: list[int] = []
    for _ in range(3):
        with Serving(folder, "--store", STORE) as serving:
            ids = await taken(serving.port, 25)
            assert not before or ids[0] > before[-1]
            before += ids
            serving.kill()
            assert serving.end() == -9
    assert before == sorted(set(before))
    assert before[-1] < 25 * 3 * 20, "a crash loses no more than what was in memory"


# --- many connections -----------------------------------------------------------------------------


def few_descriptors() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))


async def test_a_server_short_of_descriptors_neither_spins_nor_stops(folder: Path) -> None:
    with Serving(folder, "--store", STORE, before=few_descriptors) as serving:
        port = serving.port
        assert await taken(port, 1) == [0]
        held = [socket.create_connection(("127.0.0.1", port), timeout=START_S) for _ in range(120)]
        try:
            held[0].sendall(request("/next?count=5000"))  # more than memory holds: from the store
            assert held[0].recv(12) == b"HTTP/1.1 200"
            await asyncio.sleep(0.5)
            before = serving.cpu_seconds()
            await asyncio.sleep(1.0)
            assert serving.cpu_seconds() - before < 0.25, "it spins"
            assert serving.process.poll() is None
        finally:
            for connection in held:
                connection.close()
        answered = False
        end = time.monotonic() + START_S
        while not answered and time.monotonic() < end:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                answered = (await ask(port)).status == 200
        assert answered
        assert "Traceback" not in serving.output
        serving.terminate()
        assert serving.end() == 0


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="only Linux limits another process")
async def test_who_waits_for_a_descriptor_is_served_once_one_is_free(folder: Path) -> None:
    with Serving(folder, "--store", STORE) as serving:
        port = serving.port
        assert await taken(port, 1) == [0]
        used = set(map(int, os.listdir(f"/proc/{serving.pid}/fd")))
        lowest_free = next(number for number in range(10_000) if number not in used)
        limits = resource.prlimit(serving.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(serving.pid, resource.RLIMIT_NOFILE, (lowest_free, limits[1]))
        with socket.create_connection(("127.0.0.1", port), timeout=START_S) as client:
            client.sendall(request())
            await until(lambda: "Too many open files" in serving.output)
            assert serving.output.count("cannot accept a connection") == 1
            resource.prlimit(serving.pid, resource.RLIMIT_NOFILE, limits)
            assert client.recv(12) == b"HTTP/1.1 200"
        serving.terminate()
        assert serving.end() == 0


@pytest.mark.parametrize("files", [41, 64, 128, 256, 1024, 65_536])
def test_few_descriptors_leave_enough_for_the_store(files: int) -> None:
    settings = ServeSettings()
    most, refused = connections_max(settings, files)
    assert most + refused + DESCRIPTORS_MIN <= files + 1
    assert files < 1024 or most >= 0.8 * min(files, settings.connections_max)


async def test_a_client_beyond_the_cap_is_told_so_though_it_speaks_first(folder: Path) -> None:
    with Serving(folder, "--store", STORE, "--connections-max", "4") as serving:
        port = serving.port
        async with AsyncExitStack() as stack:
            for _ in range(4):
                wire = await stack.enter_async_context(connected(port))
                await wire.send(request())
                assert (await wire.answer()).status == 200

            async def told() -> int:
                try:
                    return (await ask(port)).status
                except (ConnectionError, asyncio.IncompleteReadError):
                    return 0

            statuses = [
                status
                for _ in range(10)
                for status in await asyncio.gather(*(told() for _ in range(20)))
            ]
        assert set(statuses) == {503}, statuses
        async with asyncio.timeout(START_S):
            while (await ask(port)).status != 200:
                pass  # until it has seen that they are closed


async def test_idle_and_slow_clients_disturb_nobody(folder: Path) -> None:
    with Serving(folder, "--store", STORE) as serving:
        port = serving.port
        await taken(port, 10)
        held = []
        try:
            for number in range(500):
                connection = socket.create_connection(("127.0.0.1", port), timeout=START_S)
                held.append(connection)
                connection.sendall(
                    (b"", b"GET /next HT", b"POST /next HTTP/1.1\r\nHost: ")[number % 3]
                )
            before = serving.cpu_seconds()
            for _ in range(100):
                assert (await ask(port)).status == 200
            await asyncio.sleep(0.5)
            assert serving.cpu_seconds() - before < 1
            serving.terminate()
            assert serving.end() == 0, "they do not hold the stop up either"
        finally:
            for connection in held:
                connection.close()


# --- a Unix socket --------------------------------------------------------------------------------


async def test_a_unix_socket_is_for_owner_and_group_and_goes_with_the_process(
    folder: Path,
) -> None:
    path = folder / "ids.sock"
    with Serving(folder, "--store", STORE, listen=[f"unix:{path}"]) as serving:
        serving.await_log("listening")
        mode = path.stat().st_mode
        assert (stat.S_ISSOCK(mode), stat.S_IMODE(mode)) == (True, 0o660)
        assert command("next", "--url", f"unix:{path}", folder=folder).stdout == "0\n"
        second = command("serve", "--store", STORE, "--listen", f"unix:{path}", folder=folder)
        assert second.returncode == 1
        assert f"Cannot listen on unix:{path}: Address already in use" in second.stderr
        assert command("next", "--url", f"unix:{path}", folder=folder).stdout == "1\n"
        serving.kill()
        serving.end()
    assert path.exists(), "a killed process leaves it behind"
    with Serving(folder, "--store", STORE, listen=[f"unix:{path}"]) as serving:
        serving.await_log("listening")
        assert command("health", "--url", f"unix:{path}", folder=folder).returncode == 0
        serving.terminate()
        assert serving.end() == 0
    assert not path.exists()


async def test_a_file_in_the_way_of_a_unix_socket_is_left_alone(folder: Path) -> None:
    (folder / "file").write_text("mine")
    ended = command("serve", "--store", STORE, "--listen", "unix:file", folder=folder)
    assert ended.returncode == 1
    assert (folder / "file").read_text() == "mine"


# --- the store goes away --------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["deleted", "replaced"])
async def test_a_store_that_is_swapped_under_a_server_never_starts_again_from_0(
    folder: Path, how: str
) -> None:
    with Serving(folder, "--store", STORE, "--wait", "0.1") as serving:
        port = serving.port
        ids = await taken(port, 5)
        if how == "replaced":
            assert command("init", "--store", "sqlite:new.db", folder=folder).returncode == 0
            (folder / "new.db").replace(folder / "ids.db")
        else:
            (folder / "ids.db").unlink()
        refusals = 0
        for _ in range(100_000):
            answer = await ask(port)
            if answer.status == 200:
                assert not refusals, "it believed the new file"
                ids.append(int(answer.body))
            else:
                assert answer.status == 503
                assert answer.json["outcome"] == "not_applied"
                refusals += 1
            if refusals == 8:
                break
        assert refusals == 8
        assert ids == sorted(set(ids))
        assert (await ask(port, "/readyz")).status == 503
        assert (await ask(port, "/livez")).status == 200
        serving.terminate()
        assert serving.end() == 0


async def test_a_full_disk_is_served_from_memory_then_503_and_exact_afterwards(
    folder: Path,
) -> None:
    with Serving(folder, "--store", STORE, "--wait", "0.1") as serving:
        port = serving.port
        ids = await taken(port, 5)
        # No file may grow, as on a disk without room: the journal cannot be written.
        resource.prlimit(serving.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        refusals = 0
        while refusals < 3:
            answer = await ask(port)
            if answer.status == 200:
                ids.append(int(answer.body))
            else:
                assert (answer.status, answer.json["code"]) == (503, "waited_too_long")
                refusals += 1
        assert len(ids) > 5, "from memory"
        assert ids == list(range(len(ids)))
        resource.prlimit(
            serving.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        )
        answer = await ask(port)
        end = time.monotonic() + START_S
        while answer.status == 503 and time.monotonic() < end:
            answer = await ask(port)
        assert int(answer.body) == len(ids), "nothing was lost"
        serving.terminate()
        assert serving.end() == 0
    with sqlite3.connect(folder / "ids.db") as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_log_that_nobody_reads_holds_up_neither_requests_nor_the_stop(
    folder: Path, workers: str
) -> None:
    read, write = os.pipe()
    given = (
        *("serve", "--listen", "127.0.0.1:0", "--store", STORE, "--workers", workers),
        *("--access-log", "--drain", "0"),
    )
    with os.fdopen(read), os.fdopen(write, "w"):
        fill(write)
        process = started(given, folder, environment(), write, write)
        try:
            await until(lambda: port_of(process.pid) is not None)
            port = port_of(process.pid)
            assert port is not None
            waited = command("wait", "--url", f"http://127.0.0.1:{port}", folder=folder)
            assert waited.returncode == 0
            async with connected(port) as wire:
                await wire.send(b"\0\r\n\r\n")
                assert (await wire.answer()).status == 400
            for target in ("/livez", "/next", "/metrics"):
                assert (await ask(port, target)).status == 200
            process.send_signal(signal.SIGTERM)
            assert process.wait(START_S) == 0
        finally:
            process.kill()
            process.wait()


# --- several processes ----------------------------------------------------------------------------


def assert_sound(report: Report) -> None:
    print(report)
    assert report.duplicates == {}, report
    assert report.disorder == [], report
    assert report.unclean == [], report
    assert report.torn == 0, report
    assert set(report.statuses) <= {200, 503}, report
    assert report.kills >= 1, report
    assert report.terms >= 1, report
    assert len(report.ids) > 1000, report


async def test_three_processes_on_one_file_under_kill_and_term_repeat_no_id(
    folder: Path,
) -> None:
    assert_sound(await hammer(folder, STORE, faults=8))


async def test_the_hammer_sees_a_duplicate(folder: Path) -> None:
    report = Hammer(folder, STORE, env=None, arguments=(), seed=1).report
    report.ids += [1, 2, 3, 2]
    assert report.duplicates == {2: 2}
    with pytest.raises(AssertionError):
        assert_sound(report)
