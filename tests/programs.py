"""Commands that are forked, where starting a Python for each costs seconds of CPU.

One process has imported the command. What stands for it on a PATH hands it arguments, environment,
files and network. It forks, the fork runs the command, and its exit code comes back.
"""

import ctypes
import gc
import importlib
import json
import os
import pkgutil
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
import json, os, socket, sys
if sys.argv[1:2] == ["serve"]:  # it is ended by signals
    os.execv({itself!r}, sys.argv)
network = os.open("/proc/self/ns/net", os.O_RDONLY)
with socket.socket(socket.AF_UNIX) as there:
    there.connect({address!r})
    asked = json.dumps([sys.argv, dict(os.environ), os.getcwd()]).encode()
    socket.send_fds(there, [len(asked).to_bytes(4, "big")], [0, 1, 2, network])
    there.sendall(asked)
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
    itself = Path(sys.executable).with_name(name)
    program.write_text(
        HANDED_OVER.format(python=sys.executable, address=str(address), itself=str(itself))
    )
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
    """Run one command after the other, each in a fork."""
    while True:
        connection, _ = listener.accept()
        with connection:
            head, files, _, _ = socket.recv_fds(connection, 4, 4)
            with connection.makefile("rb") as stream:
                asked = stream.read(int.from_bytes(head, "big"))
            child = os.fork()
            if not child:
                become(files, *json.loads(asked))
                end_after(main)
            for each in files:
                os.close(each)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            with suppress(BrokenPipeError):  # the command was killed meanwhile
                connection.sendall(b"%d" % (code if code >= 0 else 128 - code))


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
