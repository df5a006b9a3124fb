"""Real `python -m idservice` processes: started, read, signalled and ended by their own id.

For tests that are marked `pytest.mark.process`.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Self

from tests import leaks
from tests.forked import ROOT, Forked

STORE = "sqlite:ids.db"  # in the folder that a process runs in
START_S = 60.0  # for what a process does by itself, on a machine under load


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a process of ours is given: the tests' environment, and where the package is."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **(more or {})}


def command(
    *arguments: str, folder: Path, env: Mapping[str, str] | None = None, timeout: float = START_S
) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    with TemporaryFile("w+") as out, TemporaryFile("w+") as err:
        process = started(arguments, folder, environment(env), out.fileno(), err.fileno())
        try:
            code = process.wait(timeout)
        except BaseException:
            process.kill()
            process.wait()
            raise
        out.seek(0)
        err.seek(0)
        done = subprocess.CompletedProcess(arguments, code, out.read(), err.read())
        if arguments[:2] != ("key", "create"):
            leaks.look(done.stdout, "standard output")
        leaks.look(done.stderr, "standard error")
        return done


def started(
    arguments: Sequence[str],
    folder: Path,
    env: Mapping[str, str],
    out: int,
    err: int,
    before: Callable[[], None] | None = None,
    group: bool = False,
) -> "subprocess.Popen[bytes] | Forked":
    """A process that runs a command: forked, unless its interpreter is to start otherwise. With
    `group` it leads a group of its own."""
    if before is None and env.get("PYTHONPATH") == str(ROOT):
        return Forked(arguments, folder=folder, env=env, out=out, err=err, group=group)
    return subprocess.Popen(
        [sys.executable, "-m", "idservice", *arguments],
        cwd=folder, env=env, stdout=out, stderr=err, preexec_fn=before,
        process_group=0 if group else None,
    )  # fmt: skip


async def until(
    holds: Callable[[], bool], seconds: float = START_S, what: str = "too late"
) -> None:
    """Wait for something to come true."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, what
        await asyncio.sleep(0.02)


def wait_until(
    holds: Callable[[], bool],
    seconds: float = START_S,
    said: Callable[[], str] = lambda: "too late",
) -> None:
    """The same, where no loop runs; `said` is what there is to read if it does not."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, said()
        time.sleep(0.02)


def fill(pipe: int) -> int:
    """Fill a pipe, and return the number of bytes that it took."""
    os.set_blocking(pipe, False)
    size = 0
    with suppress(BlockingIOError):
        while True:
            size += os.write(pipe, b"x")
    os.set_blocking(pipe, True)
    return size


class Serving:
    """A serving process on a port of its own; leave it to kill what is left of it."""

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        listen: Sequence[str] = ("127.0.0.1:0",),
        before: Callable[[], None] | None = None,
        group: bool = False,
    ) -> None:
        addresses = [word for address in listen for word in ("--listen", address)]
        given = ["serve", "--log", "json", *addresses, *arguments]
        read, write = os.pipe()
        self._said = os.fdopen(read)
        try:
            self.process = started(given, folder, environment(env), write, write, before, group)
        finally:
            os.close(write)
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()
        self._said.close()

    def _read(self) -> None:
        for line in self._said:
            leaks.look(line, "the output of `serve`")
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def records(self, action: str = "") -> list[dict[str, Any]]:
        """What was logged, of one action or of all."""
        with self._changed:
            lines = [json.loads(line) for line in self.lines if line.startswith("{")]
        return [line for line in lines if not action or line["action"] == action]

    def await_log(self, action: str, timeout: float = START_S) -> dict[str, Any]:
        """The first log record of an action, waited for."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._ended or any(f'"action":"{action}"' in line for line in self.lines),
                timeout,
            )
        found = self.records(action)
        assert found, f"no {action} was logged:\n{self.output}"
        return found[0]

    @property
    def port(self) -> int:
        """The port of the first listener, once it listens."""
        message = self.await_log("listening")["message"]
        return int(message.rpartition(":")[2].partition("/")[0])

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.process.kill()

    def end(self, timeout: float = START_S) -> int:
        """The exit code, once it has ended by itself."""
        code = self.process.wait(timeout)
        self._reader.join()
        return code

    def cpu_seconds(self) -> float:
        """User and system time so far, as the kernel counts it."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
