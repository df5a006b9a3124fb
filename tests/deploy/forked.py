"""The command `aws` as a process that is forked, where starting a Python costs a second of CPU.

One process has imported the AWS command line. What stands for `aws` on a PATH hands it arguments,
environment, folder and files. It forks, the fork runs the command, and its exit code comes back.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

SERVICES = ("cloudformation", "dynamodb", "ecs", "iam", "logs")  # that the run-book asks
REGION = "eu-west-1"
AWS = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as there:
    there.connect({address!r})
    asked = json.dumps([sys.argv, dict(os.environ), os.getcwd()]).encode()
    socket.send_fds(there, [len(asked).to_bytes(4, "big")], [0, 1, 2])
    there.sendall(asked)
    sys.exit(int(there.recv(8)))
"""


@contextmanager
def aws(folder: Path) -> Iterator[Path]:
    """The folder of the command `aws`, while it runs."""
    address, bin_folder = folder / "socket", folder / "bin"
    bin_folder.mkdir()
    program = bin_folder / "aws"
    program.write_text(AWS.format(python=sys.executable, address=str(address)))
    program.chmod(0o755)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(address))
        listener.listen()
        with subprocess.Popen([sys.executable, __file__, str(listener.fileno())],
                              pass_fds=[listener.fileno()]) as process:  # fmt: skip
            try:
                yield bin_folder
            finally:
                process.terminate()
                process.wait()
    shutil.rmtree(bin_folder)


def serve(listener: socket.socket) -> None:
    """Run one command after the other, each in a fork."""
    from awscli import clidriver
    from botocore.loaders import JSONFileLoader

    known: dict[str, Any] = {}
    load = JSONFileLoader.load_file

    def load_once(self: JSONFileLoader, path: str) -> Any:
        if path not in known:
            known[path] = load(self, path)
        return known[path]

    JSONFileLoader.load_file = load_once  # type: ignore[method-assign]
    session = clidriver.create_clidriver().session
    for each in SERVICES:
        session.create_client(each, region_name=REGION)
    while True:
        connection, _ = listener.accept()
        with connection:
            head, files, _, _ = socket.recv_fds(connection, 4, 3)
            with connection.makefile("rb") as stream:
                asked = stream.read(int.from_bytes(head, "big"))
            child = os.fork()
            if not child:
                become(files, *json.loads(asked))
                sys.exit(clidriver.main())
            for each in files:
                os.close(each)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            with suppress(BrokenPipeError):  # the command was killed meanwhile
                connection.sendall(b"%d" % (code if code >= 0 else 128 - code))


def become(files: list[int], arguments: list[str], variables: dict[str, str], folder: str) -> None:
    """Be the process that was asked for."""
    for standard, given in enumerate(files):
        os.dup2(given, standard)
        os.close(given)
    data = os.environ["AWS_DATA_PATH"]  # which awscli sets when it is imported
    os.environ.clear()
    os.environ.update(variables, AWS_DATA_PATH=data)
    os.chdir(folder)
    sys.argv = arguments


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
