"""Several workers on one port: real processes, killed, stopped, suspected, and left alone."""

import asyncio
import os
import random
import re
import signal
import socket
import sqlite3
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import (
    AsyncExitStack,
    asynccontextmanager,
    closing,
    contextmanager,
    suppress,
)
from pathlib import Path

import pytest

from idservice.catalogue.counters import new_counter
from idservice.stores import open_store
from tests import engines
from tests.hammer import Hammer
from tests.processes import START_S, STORE, Serving, command, environment, until, wait_until
from tests.web.wire import Answer, Wire, ask, connected, request

pytestmark = pytest.mark.process
DRAIN = "3"  # seconds in which a test asks a worker that stops


@contextmanager
def working(
    folder: Path,
    *arguments: str,
    workers: int = 2,
    store: tuple[str, ...] = ("--store", STORE),
    listen: tuple[str, ...] = ("127.0.0.1:0",),
    group: bool = False,
) -> Iterator[Serving]:
    """A service with that many workers, all of which serve; whatever is left is killed."""
    more = ("--workers", str(workers), *store, *arguments)
    with Serving(folder, *more, listen=listen, group=group) as serving:
        try:
            await_starts(serving, workers)
            yield serving
        finally:
            serving.process.kill()
            for pid in pids(serving).values():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def await_starts(serving: Serving, count: int) -> None:
    """Wait until that many workers began to serve, all in all, and said so themselves."""

    def began() -> bool:
        assert serving.process.poll() is None, serving.output
        told = serving.records("worker_started"), serving.records("serving")
        return min(map(len, told)) >= count

    wait_until(began, said=lambda: serving.output)


def pids(serving: Serving) -> dict[int, int]:
    """The process of each worker that was the last to serve under its number."""
    return {record["worker"]: record["pid"] for record in serving.records("serving")}


def is_alive(pid: int) -> bool:
    """Whether a process runs."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def connections_of(pid: int) -> int:
    """Its sockets: those of clients, and as many others in each worker."""
    links = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            links.append(os.readlink(entry))
    return sum(link.startswith("socket:") for link in links)


@asynccontextmanager
async def one_connection_each(
    serving: Serving, ids: list[str] | None = None
) -> AsyncIterator[dict[int, Wire]]:
    """A connection to every worker, by its number; `ids` gets those that are answered."""
    found: dict[int, Wire] = {}
    async with AsyncExitStack() as stack:
        for _ in range(50):
            before = {number: connections_of(pid) for number, pid in pids(serving).items()}
            wire = await stack.enter_async_context(connected(serving.port))
            answer = await asked(wire)
            assert answer.status == 200
            if ids is not None:
                ids.append(answer.text)
            for number, pid in pids(serving).items():
                if connections_of(pid) > before[number]:
                    found.setdefault(number, wire)
            if len(found) == len(pids(serving)):
                break
        assert found.keys() == pids(serving).keys()
        yield found


async def asked(wire: Wire, target: str = "/next") -> Answer:
    await wire.send(request(target))
    return await wire.answer()


async def metrics(port: int) -> dict[str, float]:
    """Every sample of the page, by its name and labels."""
    answer = await ask(port, "/metrics")
    assert answer.status == 200, answer
    lines = [line for line in answer.text.splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


async def settled(port: int, issued: int) -> dict[str, float]:
    """The page once each worker has told of all it did: for one that is slow to report, its last
    report counts. Every id but those handed out is in memory then."""
    async with asyncio.timeout(START_S):
        while True:
            page, shown = await metrics(port), (await ask(port, "/v1/counters/default")).json
            told = page[ISSUED], page[RESERVED], page[HELD]
            if told == (issued, shown["next"], shown["ids_in_memory"]):
                return page


ISSUED = 'idservice_ids_issued_total{counter="default"}'
RESERVED = 'idservice_ids_reserved_total{counter="default"}'
HELD = 'idservice_ids_in_memory{counter="default"}'
KILLED = 'idservice_gap_ids_total{cause="killed",counter="default"}'

# --- the start ------------------------------------------------------------------------------------


async def test_a_start_that_fails_is_said_once_with_its_exit_code(tmp_path: Path) -> None:
    listen = ("--listen", "127.0.0.1:0", "--workers", "3")
    ended = command("serve", *listen, "--store", "sqlite:missing.db", folder=tmp_path)
    assert ended.returncode == 3
    assert ended.stderr.count("\n") == 1
    assert ended.stderr.startswith("idservice: The store sqlite:missing.db")
    ended = command("serve", *listen, "--default-counter", "a b", folder=tmp_path)
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert not (tmp_path / "idservice.db").exists()
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        ended = command("serve", "--listen", address, "--workers", "2", folder=tmp_path)
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"idservice: Cannot listen on {address}: Address already in use")


async def test_a_newcomer_is_told_once_that_ids_start_from_0(tmp_path: Path) -> None:
    with working(tmp_path, workers=3, store=()) as serving:
        assert len(serving.records("store_created")) == 1
        assert len(serving.records("listening")) == 1
        assert sorted(pids(serving)) == [0, 1, 2]
        assert len(set(pids(serving).values()) | {serving.pid}) == 4
        serving.terminate()
        assert serving.end() == 0


async def test_one_worker_is_one_process(folder: Path) -> None:
    with Serving(folder, "--store", STORE, "--workers", "1") as serving:
        assert (await ask(serving.port)).text == "0"
        children = Path(f"/proc/{serving.pid}/task/{serving.pid}/children").read_text()
        assert children == ""
        assert "worker" not in serving.records("serving")[0]
        page = await metrics(serving.port)
        assert (page["idservice_workers"], page["idservice_worker_restarts_total"]) == (1, 0)


@pytest.mark.parametrize("asked_for", [("--store", STORE, "--init"), ()], ids=["init", "newcomer"])
async def test_a_store_lost_meanwhile_does_not_start_again_from_0(
    tmp_path: Path, asked_for: tuple[str, ...]
) -> None:
    with working(tmp_path, "--store-wait", "0", store=asked_for) as serving:
        port = serving.port
        assert (await ask(port)).status == 200
        for file in tmp_path.glob("*.db"):
            file.unlink()
        for pid in pids(serving).values():
            os.kill(pid, signal.SIGKILL)
        await until(lambda: len(serving.records("worker_died")) >= 4)
        assert list(tmp_path.glob("*.db")) == []
        assert "is missing or empty" in serving.output
        assert len(serving.records("store_created")) == 1
        serving.terminate()
        assert serving.end() in (0, 1), "of workers that were just failing to start"


# --- death ----------------------------------------------------------------------------------------


class WorkersHammer(Hammer):
    """Kills a worker of the one instance, again and again; its requests may break."""

    async def _faults(self, faults: int, pause: float) -> None:
        [serving] = self._ports
        self._killed.add(serving)
        await_starts(serving, 3)
        while self.report.kills < faults:
            await self._rush_after(pause * self._random.uniform(0.5, 1.5))
            alive = [pid for pid in pids(serving).values() if is_alive(pid)]
            if alive:
                os.kill(self._random.choice(alive), signal.SIGKILL)
                self.report.kills += 1
            self._rushing = False
        await until(lambda: len(serving.records("worker_started")) == 3 + self.report.kills)
        assert len(serving.records("worker_died")) == self.report.kills
        self._over = True
        serving.terminate()
        self.report.terms += 1
        code = await asyncio.to_thread(serving.end)
        if code != 0:
            self.report.unclean.append(f"exit {code}: {serving.output[-500:]}")


@pytest.mark.parametrize("engine", ["sqlite", "dynamodb"])
async def test_killed_workers_cost_no_duplicate_and_no_refused_connection(
    folder: Path, engine: str, request: pytest.FixtureRequest
) -> None:
    store, env = STORE, None
    if engine == "dynamodb":
        url = request.getfixturevalue("moto_url")
        store = f"dynamodb:workers-{os.getpid()}?region={engines.REGION}&endpoint={url}"
        env = environment(engines.ENVIRONMENT)
        async with open_store(store) as opened:
            await opened.init(new_counter("default", random.Random(1)))
    seed = random.randrange(10**6)
    driver = WorkersHammer(folder, store, env=env, arguments=("--workers", "3"), seed=seed)
    report = await driver.run(processes=1, clients=16, faults=8, pause=0.4)
    print(report)
    assert report.duplicates == {}, report
    assert report.disorder == [], report
    assert report.refused == 0, report
    assert report.unclean == [], report
    assert report.torn == 0, report
    assert report.broken <= 16 * report.kills, report
    assert set(report.statuses) <= {200, 503}, report
    assert report.kills >= 3, report
    assert len(report.ids) > 1000, report


async def test_a_client_of_a_killed_worker_is_served_by_another(folder: Path) -> None:
    with working(folder) as serving:
        port = serving.port
        for pid in pids(serving).values():
            os.kill(pid, signal.SIGSTOP)
        held = [socket.create_connection(("127.0.0.1", port), timeout=START_S) for _ in range(20)]
        for connection in held:
            connection.sendall(request(headers={"Connection": "close"}))
        for pid in pids(serving).values():
            os.kill(pid, signal.SIGKILL)
        ids = []
        for connection in held:
            with connection, connection.makefile("rb") as answer:
                ids.append(int(answer.read().rpartition(b"\r\n\r\n")[2]))
        assert len(set(ids)) == 20


async def test_counts_add_up_over_workers_and_never_fall_when_one_dies(folder: Path) -> None:
    with working(folder, workers=3) as serving:
        port = serving.port
        ids: list[str] = []
        async with one_connection_each(serving, ids) as wires:
            for wire in wires.values():
                for _ in range(30):
                    assert (await asked(wire)).status == 200
            before = await settled(port, len(ids) + 30 * len(wires))
            assert before["idservice_workers"] == 3
            assert before[RESERVED] == before[ISSUED] + before[HELD]
            again = await metrics(port)
            assert again[ISSUED] == before[ISSUED]
            for number in (0, 2):
                os.kill(pids(serving)[number], signal.SIGKILL)
        await until(lambda: len(serving.records("worker_started")) == 5)
        after = await metrics(port)
        assert after[ISSUED] == before[ISSUED]
        assert after[KILLED] > 0
        assert after[RESERVED] == after[ISSUED] + after[HELD] + after[KILLED]
        assert after["idservice_worker_restarts_total"] == 2
        falling = [
            name
            for name, value in before.items()
            if re.match(r"\w+_(total|count|sum|bucket)\b", name) and after.get(name, 0) < value
        ]
        assert falling == []


async def test_a_stopped_worker_is_replaced_without_a_broken_request(
    folder: Path,
) -> None:
    with working(folder, "--drain", DRAIN) as serving:
        port = serving.port
        async with one_connection_each(serving) as wires:
            os.kill(pids(serving)[0], signal.SIGTERM)
            serving.await_log("stopping")
            answer = await asked(wires[0])
            assert (answer.status, answer.closes) == (200, True)
            assert not (await asked(wires[1])).closes
            await asyncio.sleep(2.5)  # it is asked all the time at the end of the drain
            while not serving.records("worker_died"):
                assert (await ask(port)).status == 200
            await until(lambda: len(serving.records("worker_started")) == 3)
            assert not (await asked(wires[1])).closes
        page = await metrics(port)
        assert KILLED not in page, "it said at its end what it counted"
        assert serving.records("ids_returned") or serving.records("ids_dropped")
        serving.terminate()
        assert serving.end() == 0


@pytest.mark.parametrize("how", ["both told", "one killed, its successor waits, one told"])
async def test_workers_that_end_by_themselves_leave_the_sockets_open(
    folder: Path, how: str
) -> None:
    path = folder / "ids.sock"
    with working(folder, "--drain", "0", listen=("127.0.0.1:0", f"unix:{path}")) as serving:
        port, workers = serving.port, pids(serving)
        with closing(sqlite3.connect(folder / "ids.db", isolation_level=None)) as other:
            if how != "both told":
                other.execute("BEGIN EXCLUSIVE")
                os.kill(workers.pop(0), signal.SIGKILL)
                await until(lambda: len(serving.records("store_wait")) == 1)
            for pid in workers.values():
                os.kill(pid, signal.SIGTERM)
            await until(lambda: len(serving.records("worker_died")) == 2)
        await_starts(serving, 4)
        assert (await ask(port)).status == 200
        assert command("next", "--url", f"unix:{path}", folder=folder).returncode == 0
        serving.terminate()
        assert serving.end() == 0


async def test_a_worker_that_hangs_holds_nobody_up(folder: Path) -> None:
    with working(folder) as serving:
        port = serving.port
        stopped = pids(serving)[0]
        os.kill(stopped, signal.SIGSTOP)
        try:
            for _ in range(30):
                assert (await ask(port)).status == 200
            assert (await ask(port, "/readyz")).text == "ready"
            assert (await metrics(port))["idservice_workers"] == 2
        finally:
            os.kill(stopped, signal.SIGCONT)
        serving.terminate()
        assert serving.end() == 0


# --- as one ---------------------------------------------------------------------------------------


async def test_a_worker_that_cannot_serve_makes_all_of_them_not_ready(folder: Path) -> None:
    with working(folder) as serving:
        port = serving.port
        async with one_connection_each(serving) as wires:
            for wire in wires.values():
                assert (await asked(wire, "/readyz")).text == "ready"
        async with one_connection_each(serving) as wires:
            with sqlite3.connect(folder / "ids.db", isolation_level=None) as database:
                database.execute("UPDATE position SET next = 1, rev = rev + 1")
            database.close()
            for _ in range(2000):
                answer = await asked(wires[0])
                if answer.status != 200:
                    break
            assert answer.json["code"] == "counter_suspect"
            assert (await asked(wires[1])).status == 200, "the other one has some in memory"
            async with asyncio.timeout(START_S):
                while (await ask(port, "/readyz")).status == 200:
                    pass  # its report before this counts, if it is slow
            for _ in range(5):
                answer = await ask(port, "/readyz")
                assert (answer.status, answer.json["code"]) == (503, "not_ready")
            assert (await ask(port, "/livez")).status == 200


@pytest.mark.parametrize("opened", ["at once", "one by one"])
async def test_connections_spread_evenly_over_the_workers(folder: Path, opened: str) -> None:
    """Left to the kernel, one of four had between 0 and 6 of 64 most times. A worker waits 2 ms for
    others with fewer, which may get no time in them on a busy machine: one of five rounds is to be
    even."""
    with working(folder, workers=4) as serving:
        workers = pids(serving).values()
        # The connection by which the start was seen may not be closed yet.
        await until(lambda: len({connections_of(pid) for pid in workers}) == 1)
        before = {pid: connections_of(pid) for pid in workers}

        def counts() -> list[int]:
            return [connections_of(pid) - before[pid] for pid in before]

        rounds: list[list[int]] = []
        while len(rounds) < 5 and not any(min(each) >= 12 for each in rounds):
            async with AsyncExitStack() as stack:
                for _ in range(64):
                    if opened == "at once":
                        address = ("127.0.0.1", serving.port)
                        client = socket.create_connection(address, timeout=START_S)
                        stack.callback(client.close)
                    else:
                        wire = await stack.enter_async_context(connected(serving.port))
                        assert (await asked(wire)).status == 200
                await until(lambda: sum(counts()) == 64)
                rounds.append(counts())
            await until(lambda: sum(counts()) == 0)
        assert min(rounds[-1]) >= 12, rounds


async def test_the_connections_that_may_be_open_are_shared_out(folder: Path) -> None:
    with working(folder, "--connections-max", "8") as serving:
        port = serving.port
        async with AsyncExitStack() as stack, asyncio.timeout(START_S):
            statuses: list[int] = []
            while statuses.count(200) < 8:  # one that is full may be too quick for the other
                wire = await stack.enter_async_context(connected(port))
                statuses.append((await asked(wire)).status)
            assert set(statuses) <= {200, 503}
            for _ in range(8):
                assert (await ask(port)).json["code"] == "too_many_connections"


async def test_a_unix_socket_and_a_port_are_served_by_all_workers(folder: Path) -> None:
    path = folder / "ids.sock"
    with working(folder, listen=("127.0.0.1:0", f"unix:{path}")) as serving:
        mode = path.stat().st_mode
        assert (stat.S_ISSOCK(mode), stat.S_IMODE(mode)) == (True, 0o660)
        ids = []
        for killed in (None, 0, 1):
            if killed is not None:
                os.kill(pids(serving)[killed], signal.SIGKILL)
            for _ in range(3):
                ids.append(int(command("next", "--url", f"unix:{path}", folder=folder).stdout))
                ids.append(int((await ask(serving.port)).text))
        assert len(set(ids)) == 18
        assert path.exists(), "a worker that dies does not take it along"
        assert command("wait", "--url", f"unix:{path}", folder=folder).returncode == 0
        await until(lambda: len(serving.records("worker_started")) == 4)
        serving.terminate()
        assert serving.end() == 0
    assert not path.exists()


# --- the end --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "number",
    [signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP],
    ids=lambda one: one.name,
)
async def test_a_stop_signal_to_the_whole_group_is_a_clean_stop(
    folder: Path, number: signal.Signals
) -> None:
    """As a terminal sends it on Ctrl-C, on Ctrl-\\ and when it closes, and systemd on a stop."""
    with working(folder, group=True) as serving:
        assert (await ask(serving.port)).status == 200
        os.killpg(serving.pid, number)
        if number is signal.SIGHUP:
            os.killpg(serving.pid, number)
        assert serving.end() == 0
        assert len(serving.records("stopped")) == 2
        assert not serving.records("worker_died")
        assert "Traceback" not in serving.output


async def test_workers_that_stop_together_lose_no_ids(folder: Path) -> None:
    """All of them give back to one position, which takes one write at a time."""
    with working(folder, "--drain", "0", workers=4) as serving:
        serving.terminate()
        assert serving.end() == 0
        assert len(serving.records("ids_returned")) == 4
        assert not serving.records("ids_dropped")


async def test_workers_may_be_told_by_their_parent_and_by_a_signal(folder: Path) -> None:
    with working(folder) as serving:
        workers = pids(serving)
        serving.terminate()
        await until(lambda: len(serving.records("stopping")) == 2)
        for pid in workers.values():
            os.kill(pid, signal.SIGTERM)
        assert serving.end() == 0


async def test_a_second_signal_ends_all_workers_at_once(folder: Path) -> None:
    with working(folder, "--drain", "8") as serving:
        workers = pids(serving)
        serving.terminate()
        serving.await_log("workers_stopping")
        serving.terminate()
        assert serving.end() == 1
        assert not any(is_alive(pid) for pid in workers.values())


async def test_workers_whose_parent_is_killed_drain_and_leave_the_port(folder: Path) -> None:
    with working(folder, "--drain", DRAIN) as serving:
        port, workers = serving.port, pids(serving)
        async with connected(port) as wire:
            assert not (await asked(wire)).closes
            os.kill(serving.pid, signal.SIGKILL)
            serving.process.wait()
            await until(lambda: len(serving.records("stopping")) == 2)
            answer = await asked(wire)
            assert (answer.status, answer.closes) == (200, True)
        await until(lambda: not any(is_alive(pid) for pid in workers.values()))
        assert "Traceback" not in serving.output
    with socket.create_server(("127.0.0.1", port), reuse_port=False):
        pass
