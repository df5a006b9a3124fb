"""A real sidecar over a real central that asks for keys: it serves, its key is renewed, and no
output has a secret."""

import urllib.request
from pathlib import Path

import pytest

from tests.processes import Serving, command, wait_until

pytestmark = pytest.mark.process
CENTRAL = ("--store", "sqlite:ids.db", "--require-keys", "all")


def test_a_key_of_a_sidecar_is_renewed_while_it_serves(tmp_path: Path) -> None:
    def idservice(*words: str, code: int = 0) -> str:
        done = command(*words, folder=tmp_path)
        assert done.returncode == code, done.stderr
        return done.stdout.strip() if code == 0 else done.stderr

    def make() -> str:
        return idservice("key", "create", "--role", "use", "--scope", "default", *CENTRAL[:2])

    def taken(port: int) -> int:
        """An id for an application, which shows nothing."""
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/next", timeout=60) as answer:
            return int(answer.read())

    idservice("init", *CENTRAL[:2])
    first, file = make(), tmp_path / "key"
    file.write_text(first)
    with Serving(tmp_path, *CENTRAL) as central:
        at = ("--store", f"http://127.0.0.1:{central.port}", "--store-key-file", str(file))
        with Serving(tmp_path, *at, "--hold", "1") as sidecar:
            ids = [taken(sidecar.port)]
            file.write_text(second := make())
            idservice("key", "revoke", first.split("_")[2], "--reason", "renewed", *CENTRAL[:2])

            def is_refused() -> bool:
                ids.append(taken(sidecar.port))
                return bool(central.records("key_refused"))

            wait_until(is_refused)
            ids.append(taken(sidecar.port))
        file.write_text(first)
        said = idservice("serve", "--listen", "127.0.0.1:0", *at, "--store-wait", "0", code=3)
        assert "was revoked" in said
        assert f"into the file {file}, which is read again" in said
    assert len(set(ids)) == len(ids)
    for secret in (text.rpartition("_")[2] for text in (first, second)):
        assert secret not in central.output + sidecar.output + said
