"""Databases that benchmarks start: PostgreSQL, and the DynamoDB engine of the tests."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.processes import ROOT, accepts, free_port, process, timed

ENGINE = ROOT / ".engines/node_modules/@dynoxide/linux-x64/dynoxide"
NO_ENGINE = "" if ENGINE.exists() else "dynoxide is not installed: make engines"
POSTGRES = max(Path("/usr/lib/postgresql").glob("*/bin/postgres"), default=None)  # as Debian has it
NO_POSTGRES = "" if POSTGRES else "postgresql is not installed"
POSTGRES_USER = "postgres"  # of the machine: PostgreSQL refuses to run as root
AWS = {
    "AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local", "AWS_REGION": "eu-west-1",
    "AWS_DEFAULT_REGION": "eu-west-1", "AWS_EC2_METADATA_DISABLED": "true",
}  # fmt: skip


@contextmanager
def engine(*, on_all_cores: bool = False) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the process of a DynamoDB engine, and the variables that lead the AWS SDK to it."""
    port = free_port()
    command = [str(ENGINE), "serve", "--host", "127.0.0.1", "--port", str(port)]
    with process(command, on_all_cores=on_all_cores) as child:
        accepts(port, child)
        yield child.pid, {**AWS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}


@contextmanager
def postgres() -> Iterator[tuple[int, str]]:
    """Yield the process of a new PostgreSQL, with the settings it comes with, and its address."""
    assert POSTGRES is not None
    user, port = POSTGRES_USER if os.geteuid() == 0 else None, free_port()
    with tempfile.TemporaryDirectory() as folder:
        if user is not None:
            shutil.chown(folder, user)
        data = ("-D", f"{folder}/data")
        about = (f"--username={POSTGRES_USER}", "--auth=trust", "--no-locale", "--no-sync")
        timed([str(POSTGRES.with_name("initdb")), *data, *about], user=user)
        command = [str(POSTGRES), *data, "-h", "127.0.0.1", "-p", str(port), "-k", folder]
        with process(command, user=user) as child:
            accepts(port, child)
            yield child.pid, f"postgresql://{POSTGRES_USER}@127.0.0.1:{port}/postgres"
