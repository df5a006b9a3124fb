"""Commands that are forked, where starting a Python for each costs seconds of CPU.

One process has imported the command. What stands for it on a PATH hands it arguments, environment,
files and network. It forks, the fork runs the command, and its exit code comes back. Meanwhile the
fork gets the signals that its stand-in gets, and is killed when that is.
"""

import ctypes
import functools
import gc
import importlib
import json
import os
import pkgutil
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests import engines
from tests.forked import end_after, import_all, unbuffered
from tests.processes import environment

SERVICES = ("cloudformation", "dynamodb", "ecs", "iam", "logs")  # that the run-book asks
REGION = "eu-west-1"
NETWORK = 0x40000000  # CLONE_NEWNET, see setns(2)
HANDED_OVER = """#!{python} -IS
import json, os, signal, socket, sys
passed_on = signal.SIGTERM, signal.SIGINT, signal.SIGHUP
signal.pthread_sigmask(signal.SIG_BLOCK, passed_on)  # until there is somebody to pass them on to
network = os.open("/proc/self/ns/net", os.O_RDONLY)
with socket.socket(socket.AF_UNIX) as there:
    there.connect({address!r})
    asked = json.dumps([sys.argv, dict(os.environ), os.getcwd()]).encode()
    socket.send_fds(there, [len(asked).to_bytes(4, "big")], [0, 1, 2, network])
    there.sendall(asked)
    for each in passed_on:
        signal.signal(each, lambda number, _: there.send(bytes([number])))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, passed_on)
    sys.exit(int(there.recv(8)))
"""


def aws() -> Callable[[], object]:
    """The AWS command line, with what it reads of each service."""
    from awscli import clidriver

    engines.read_models_once()
    session = clidriver.create_clidriver().session
    for each in SERVICES:
        session.create_client(each, region_name=REGION)
    return clidriver.main  # type: ignore[no-any-return]


def schemathesis() -> Callable[[], object]:
    """The fuzzer, all of it, with what it works out of every character that there is."""
    import hypothesis
    import schemathesis as package
    from hypothesis import strategies
    from schemathesis.cli import schemathesis as main

    for each in pkgutil.walk_packages(package.__path__, "schemathesis."):
        if each.name.endswith("__main__"):
            continue
        with suppress(ModuleNotFoundError):  # of what is optional
            importlib.import_module(each.name)
    kept_nowhere = hypothesis.settings(database=None)
    hypothesis.find(strategies.characters(codec="utf-8"), lambda _: True, settings=kept_nowhere)
    return main


def idservice() -> Callable[[], object]:
    """Commands of ours that end by themselves. A store that is there answers them, also on a
    machine that does ten other things."""
    from idservice.catalogue import in_time
    from idservice.cli import main
    from idservice.stores.dynamodb import client

    import_all()
    client.CALL_MAX_S = in_time.CALL_MAX_S = 60.0
    return main.main


PROGRAMS = {"aws": aws, "schemathesis": schemathesis, "idservice": idservice}


@contextmanager
def forked(name: str, folder: Path) -> Iterator[Path]:
    """The program, in a folder of its own, while it runs."""
    address, program = folder / "socket", folder / "bin" / name
    program.parent.mkdir()
    program.write_text(HANDED_OVER.format(python=sys.executable, address=str(address)))
    program.chmod(0o755)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(address))
        listener.listen()
        with subprocess.Popen(
            [sys.executable, "-m", "tests.programs", name, str(listener.fileno())],
            env=environment(), pass_fds=[listener.fileno()],
        ) as process:  # fmt: skip
            listener.close()  # nobody is kept waiting if the process dies
            try:
                yield program
            finally:
                process.terminate()


def serve(main: Callable[[], object], listener: socket.socket) -> None:
    """Run commands, each in a fork, until this process is ended."""
    with selectors.DefaultSelector() as waiting:
        begun = functools.partial(begin, main, listener, waiting)
        waiting.register(listener, selectors.EVENT_READ, begun)
        while True:
            waiting.select()[0][0].data()  # one: it may end what another would go on with


def begin(
    main: Callable[[], object], listener: socket.socket, waiting: selectors.BaseSelector
) -> None:
    """Fork, and wait for the end of the fork and for what its stand-in says."""
    connection, _ = listener.accept()
    head, files, _, _ = socket.recv_fds(connection, 4, 4)
    with connection.makefile("rb") as stream:
        asked = stream.read(int.from_bytes(head, "big"))
    child = os.fork()
    if not child:
        become(files, *json.loads(asked))
        end_after(main)
    for each in files:
        os.close(each)
    end = os.pidfd_open(child)

    def ended() -> None:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        waiting.unregister(end)
        os.close(end)
        if connection in waiting.get_map():
            waiting.unregister(connection)
        with suppress(BrokenPipeError):  # the stand-in was killed
            connection.sendall(b"%d" % (code if code >= 0 else 128 - code))
        connection.close()

    def signalled() -> None:
        numbers = connection.recv(8)
        for number in numbers or [signal.SIGKILL]:
            os.kill(child, number)
        if not numbers:
            waiting.unregister(connection)

    waiting.register(end, selectors.EVENT_READ, ended)
    waiting.register(connection, selectors.EVENT_READ, signalled)


def become(files: list[int], arguments: list[str], variables: dict[str, str], folder: str) -> None:
    """Be the process that was asked for."""
    if not os.path.samestat(os.fstat(files[-1]), os.stat("/proc/self/ns/net")):
        entered = ctypes.CDLL(None, use_errno=True).setns(files[-1], NETWORK)
        assert entered == 0, os.strerror(ctypes.get_errno())
    os.close(files.pop())
    for standard, given in enumerate(files):
        os.dup2(given, standard)
        os.close(given)
    sys.stdout, sys.stderr = unbuffered(1), unbuffered(2)
    data = {name: os.environ[name] for name in ("AWS_DATA_PATH",) if name in os.environ}
    os.environ.clear()
    os.environ.update(variables | data)  # awscli sets it when it is imported
    sys.path[:0] = variables.get("PYTHONPATH", "").split(os.pathsep)
    os.chdir(folder)
    sys.argv = arguments


if __name__ == "__main__":
    command = PROGRAMS[sys.argv[1]]()
    gc.collect()
    gc.freeze()
    serve(command, socket.socket(fileno=int(sys.argv[2])))
