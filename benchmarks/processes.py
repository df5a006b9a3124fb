"""Processes that benchmarks start: on the core for servers, on loopback, ended by their id."""

import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from random import SystemRandom
from subprocess import DEVNULL, STDOUT, Popen, TimeoutExpired

from benchmarks.measure import check, cores

ROOT = Path(__file__).parent.parent
START_MAX_S = 60.0
STOP_MAX_S = 12.0
POLL_S = 0.002


def free_port() -> int:
    """Return a port of loopback that is free at the moment. It is below the ports that the system
    gives to programs that ask for any port, so that no other program gets it soon."""
    given = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for port in SystemRandom().sample(range(given // 2, given), 100):
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise SystemExit(f"no port below {given} is free")


@contextmanager
def process(
    arguments: Sequence[str],
    environment: Mapping[str, str] | None = None,
    *,
    on_all_cores: bool = False,
    user: str | None = None,
) -> Iterator[Popen[bytes]]:
    """Run `arguments` as `user` until the block ends, then terminate the process, and kill it if it
    does not end in time."""
    clean = {name: value for name, value in os.environ.items() if name[:10] != "IDSERVICE_"}
    with tempfile.TemporaryFile() as output:
        child = Popen(
            arguments,
            cwd=ROOT,
            env={**clean, "PYTHONPATH": str(ROOT), **(environment or {})},
            stdin=DEVNULL,
            stdout=output,
            stderr=STDOUT,
            user=user,
        )
        try:
            if not on_all_cores:
                os.sched_setaffinity(child.pid, {cores()[0]})
            yield child
        except BaseException:
            output.seek(0)
            sys.stderr.write(output.read().decode(errors="replace")[-2000:])
            raise
        finally:
            child.terminate()
            try:
                child.wait(STOP_MAX_S)
            except TimeoutExpired:
                child.kill()
                child.wait()


@contextmanager
def serving(
    *flags: str,
    module: str = "idservice",
    environment: Mapping[str, str] | None = None,
    on_all_cores: bool = False,
) -> Iterator[tuple[int, Popen[bytes], float]]:
    """Run `idservice serve` with `flags`; yield its port, its process, and the seconds that it took
    to be ready. `module` is run in place of idservice."""
    port = free_port()
    listen = ("--listen", f"127.0.0.1:{port}", "--drain", "0", "--log", "json")
    began = time.perf_counter()
    with process(
        [sys.executable, "-m", module, "serve", *listen, *flags],
        environment,
        on_all_cores=on_all_cores,
    ) as child:
        is_ready(port, child)
        yield port, child, time.perf_counter() - began


def children(pid: int, count: int) -> tuple[int, ...]:
    """Return the processes that a process started, once there are `count`."""
    deadline = time.perf_counter() + START_MAX_S
    while True:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if len(found) == count:
            return tuple(map(int, found))
        check(time.perf_counter() < deadline, f"{len(found)} of {count} processes are there")
        time.sleep(POLL_S)


def is_ready(port: int, child: Popen[bytes]) -> None:
    """Wait until `/readyz` says yes, and the port is the child's: another process may have taken
    it before."""
    # To find out whose port it is costs more than a refused connection, so it comes last.
    _until(lambda: get(port, "/readyz")[0] == 200 and _listens(port, child.pid), child)


def _listens(port: int, pid: int) -> bool:
    """Return True if the process listens on a port of IPv4: see proc(5), `/proc/net/tcp`."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    listening = {
        f"socket:[{row[9]}]"
        for row in rows
        if row[3] == "0A" and int(row[1].partition(":")[2], 16) == port
    }
    with suppress(OSError):  # it has ended
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                if os.readlink(entry) in listening:
                    return True
    return False


def answers(port: int, child: Popen[bytes]) -> None:
    """Wait until another program than the service answers on its port, with any status."""
    _until(lambda: get(port, "/")[0] > 0, child)


def accepts(port: int, child: Popen[bytes]) -> None:
    """Wait until connections are accepted on a port."""

    def connects() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    _until(connects, child)


def _until(holds: Callable[[], bool], child: Popen[bytes]) -> None:
    deadline = time.perf_counter() + START_MAX_S
    while not holds():
        check(child.poll() is None, f"a server ended with exit code {child.returncode}")
        check(time.perf_counter() < deadline, f"a server is not ready after {START_MAX_S:g} s")
        time.sleep(POLL_S)


def get(port: int, target: str, key: str = "") -> tuple[int, str]:
    """Return status and body of one GET on a new connection; (0, "") if it is refused. It shows the
    access `key`, if there is one."""
    shown = f"Authorization: Bearer {key}\r\n" * bool(key)
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=START_MAX_S) as connection:
            connection.sendall(
                f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
                f"{shown}Connection: close\r\n\r\n".encode()
            )
            answer = b""
            while chunk := connection.recv(65536):
                answer += chunk
    except OSError:
        return 0, ""
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head[9:12] or 0), body.decode()


def timed(
    arguments: Sequence[str],
    environment: Mapping[str, str] | None = None,
    *,
    user: str | None = None,
) -> float:
    """Return the seconds from the start of a command to its end, which must be a success."""
    began = time.perf_counter()
    with process(arguments, environment, user=user) as child:
        check(child.wait(START_MAX_S) == 0, f"{' '.join(arguments)} ended with {child.returncode}")
        return time.perf_counter() - began


def run_to_end(*arguments: str, environment: Mapping[str, str] | None = None) -> None:
    """Run python with `arguments` until it ends, which must be a success."""
    timed([sys.executable, *arguments], environment)


@contextmanager
def on_load_core() -> Iterator[None]:
    """Hold this process to the core for load, if there is more than one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cores()[1]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def cores_awake() -> Iterator[None]:
    """Keep the cores for servers and for load from halting while they are idle. To wake a virtual
    core costs the server many times what it takes to send an answer."""
    with ExitStack() as stack:
        for core in set(cores()):
            spinner = [sys.executable, "-c", "while True: pass"]
            child = stack.enter_context(process(spinner, on_all_cores=True))
            os.sched_setscheduler(child.pid, os.SCHED_IDLE, os.sched_param(0))
            os.sched_setaffinity(child.pid, {core})
        yield
