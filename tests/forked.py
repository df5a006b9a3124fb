"""Processes of ours that start at once: forked from one that has imported all they need.

Most of what a start costs is imports, half a second of them, and the tests start hundreds. This one
process imports them once for a run of the tests; the workers of a service are forked in the same
way. Each fork runs one command in a folder and an environment of its own, and ends as it would.
For tests that are marked `pytest.mark.process`.
"""

import atexit
import ctypes
import functools
import gc
import importlib
import io
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from idservice import __main__
from idservice.cli.commands import COMMANDS
from tests import engines

ROOT = Path(__file__).parent.parent
REQUEST_MAX = 2**17  # bytes
SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER, see prctl(2)
NEEDED = (
    "idservice.server.process",
    "idservice.stores.sqlite.store",
    "idservice.stores.dynamodb",
    "idservice.stores.chained",
    "aioboto3",
    "uvloop",
    *(f"idservice.{command.run.partition(':')[0]}" for command in COMMANDS.values()),
)


class Forked:
    """A process that runs one command, or another `module` as Python runs it by `-m`; of
    `subprocess.Popen` what the tests use."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        folder: Path,
        env: Mapping[str, str],
        out: int,
        err: int,
        group: bool = False,
        module: str = "idservice",
    ) -> None:
        request = json.dumps([str(folder.absolute()), dict(env), list(arguments), group, module])
        self._arguments = arguments
        self._lock = threading.Lock()
        self.returncode: int | None = None
        self.pid = _origin().fork(request.encode(), out, err)

    def poll(self) -> int | None:
        with self._lock:
            if self.returncode is None:
                ended, status = os.waitpid(self.pid, os.WNOHANG)
                if ended:
                    self.returncode = os.waitstatus_to_exitcode(status)
            return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        with self._lock:
            if self.returncode is not None:
                return self.returncode
            end = os.pidfd_open(self.pid)
        try:
            waiting = select.poll()
            waiting.register(end, select.POLLIN)
            if not waiting.poll(None if timeout is None else 1000 * timeout):
                raise subprocess.TimeoutExpired(list(self._arguments), timeout or 0.0)
        finally:
            os.close(end)
        code = self.poll()
        assert code is not None
        return code

    def send_signal(self, number: int) -> None:
        with self._lock:
            if self.returncode is None:
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class _Origin:
    """The process that all are forked from, seen from the tests."""

    def __init__(self) -> None:
        # What it forks loses its parent at once, and becomes a child of the tests.
        ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
        self._lock = threading.Lock()
        self._line, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.forked", str(far.fileno())], pass_fds=[far.fileno()],
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        far.close()
        atexit.register(self._end)

    def fork(self, request: bytes, out: int, err: int) -> int:
        with self._lock:
            socket.send_fds(self._line, [request], [out, err])
            answer = self._line.recv(REQUEST_MAX)
        assert answer, "the process that others are forked from has ended"
        return int(answer)

    def _end(self) -> None:
        self._line.close()
        self._process.wait()


def get_ready() -> None:
    """Start the process that all are forked from, unless it runs. What this one may use now, such
    as its cores, they all may."""
    _origin()


@functools.cache
def _origin() -> _Origin:
    return _Origin()


# --- in the process that all are forked from ------------------------------------------------------


def _fork_on_request(line: socket.socket) -> tuple[bytes, list[int]]:
    """Return in each fork, with the request and the descriptors of its output."""
    while True:
        request, given, _, _ = socket.recv_fds(line, REQUEST_MAX, 2)
        if not request:
            os._exit(0)
        told, tell = os.pipe()
        between = os.fork()
        if not between:
            pid = os.fork()
            if not pid:
                for unused in (told, tell):
                    os.close(unused)
                return request, given
            os.write(tell, str(pid).encode())
            os._exit(0)
        os.waitpid(between, 0)
        line.send(os.read(told, 64))
        for used in (told, tell, *given):
            os.close(used)


def import_all() -> None:
    """Import what commands need, and read what the AWS library does. A store that is there is
    connected to, also on a machine that does ten other things."""
    for name in NEEDED:
        importlib.import_module(name)
    for name in ("dynamodb.client", "chained"):
        sys.modules[f"idservice.stores.{name}"].CONNECT_MAX_S = 60.0  # type: ignore[attr-defined]
    engines.read_models_once()
    # No engine has a public certificate, but each client would read 140 for it, for 40 ms.
    session: Any = sys.modules["aiobotocore.httpsession"]
    session.get_cert_path = lambda verify: None if verify is True else verify
    with engines.by_hand("http://127.0.0.1:1"):
        pass
    gc.collect()
    gc.freeze()


def unbuffered(descriptor: int) -> io.TextIOWrapper:
    """A standard stream, anew: it may be a pipe where it was a file before."""
    raw = open(descriptor, "wb", buffering=0, closefd=False)  # noqa: SIM115
    return io.TextIOWrapper(raw, "utf-8", write_through=True)  # type: ignore[arg-type]


def _run() -> int:
    line = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: the tests end it
    import_all()
    request, given = _fork_on_request(line)
    line.close()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, descriptor in enumerate(given, 1):
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdout, sys.stderr = unbuffered(1), unbuffered(2)
    folder, env, arguments, group, module = json.loads(request)
    if group:
        os.setpgrp()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    sys.argv[1:] = arguments
    if module == "idservice":
        return __main__.main()
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    return 0


def end_after(run: Callable[[], object]) -> NoReturn:
    """Run a command, and end as Python does after it, but free no object: a fork would first copy
    all memory for that."""
    try:
        code = run()
    except SystemExit as asked:
        code = asked.code
    if code is None or isinstance(code, int):
        with suppress(Exception):  # then Python ends, as it would
            threading._shutdown()  # type: ignore[attr-defined]
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code or 0)
    sys.exit(code)  # type: ignore[arg-type]


if __name__ == "__main__":
    end_after(_run)
