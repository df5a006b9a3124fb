"""A command finds the service of its container, wherever that listens."""

import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from idservice import errors
from idservice.cli import http_get, top
from idservice.server import left_address
from idservice.server.listen_address import Address
from tests.processes import Serving, command


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder for temporary files; there is no other that may be written to."""
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    kept = left_address._folders
    monkeypatch.setattr(left_address, "_folders", lambda environment: kept(environment)[:1])
    return tmp_path


def left(data: str, admin: str = "", **environment: str) -> AbstractContextManager[None]:
    addresses = ([Address.parse(data)], [Address.parse(admin)] if admin else [])
    return left_address.left(addresses, {**os.environ, **environment})


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_address_of_a_running_service_is_found_and_gone_with_it(folder: Path) -> None:
    with left("0.0.0.0:9000"):
        assert http_get.default_url(os.environ) == "http://127.0.0.1:9000"
        assert (folder / files(folder)[0]).stat().st_mode & 0o777 == 0o600
    assert http_get.default_url(os.environ) == "http://127.0.0.1:8080"
    assert files(folder) == []


def test_a_socket_is_found_from_every_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    with left("unix:ids.sock"):
        assert http_get.default_url(os.environ) == f"unix:{folder}/ids.sock"


def test_top_finds_where_counters_are_shown() -> None:
    with left("0.0.0.0:9000", "127.0.0.1:9999"):
        assert top.default_url(os.environ) == "http://127.0.0.1:9999"
        assert http_get.default_url(os.environ) == "http://127.0.0.1:9000"
    with left("127.0.0.1:9000"):
        assert top.default_url(os.environ) == "http://127.0.0.1:9000"


def test_of_two_services_the_one_at_the_usual_address_is_meant() -> None:
    with left("127.0.0.1:9000"), left("127.0.0.1:8080"):
        assert http_get.default_url(os.environ) == "http://127.0.0.1:8080"


def test_of_two_services_elsewhere_one_must_be_named() -> None:
    with (
        left("127.0.0.1:9000"),
        left("127.0.0.1:9001"),
        pytest.raises(errors.Usage, match=r"2 services run here; name one .* --url") as refused,
    ):
        http_get.default_url(os.environ)
    assert "http://127.0.0.1:9000" in str(refused.value)


@pytest.mark.parametrize(
    ("variables", "url"),
    [
        ({"IDSERVICE_LISTEN": "127.0.0.1:7000"}, "http://127.0.0.1:7000"),
        ({"IDSERVICE_LISTEN": "https://[::]:8443"}, "https://127.0.0.1:8443"),
        ({}, "http://127.0.0.1:8080"),
    ],
)
def test_a_service_with_other_settings_says_nothing_about_this_one(
    variables: dict[str, str], url: str
) -> None:
    with left("127.0.0.1:9000", IDSERVICE_LISTEN="127.0.0.1:9000"):
        assert http_get.default_url({**os.environ, **variables}) == url


def test_a_flag_beats_the_variable_for_the_command_too() -> None:
    both = {"IDSERVICE_LISTEN": "0.0.0.0:8080"}  # as an image or a manifest has it
    with left("0.0.0.0:9000", **both):
        assert http_get.default_url({**os.environ, **both}) == "http://127.0.0.1:9000"


@pytest.mark.parametrize("namespaces", [("pid", "net"), ("mnt", "pid")], ids="-".join)
def test_a_service_of_another_container_or_network_is_not_meant(
    namespaces: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with left("127.0.0.1:9000"):
        others = [f"/proc/self/ns/{name}" for name in namespaces]
        monkeypatch.setattr(left_address, "NAMESPACES", others)
        assert http_get.default_url(os.environ) == "http://127.0.0.1:8080"


@pytest.mark.parametrize("content", ["", "{}", "[[], [], []]", '[["", ""], ["x"], []]', "["])
def test_what_a_killed_service_left_is_not_believed_and_is_removed(
    content: str, folder: Path
) -> None:
    stale = folder / f"idservice-{os.getuid()}-1"
    stale.write_text(content or json.dumps([left_address._origin(os.environ), ["a:1"], []]))
    assert http_get.default_url(os.environ) == "http://127.0.0.1:8080"
    with left("127.0.0.1:9000"):
        assert not stale.exists()


@pytest.mark.parametrize(
    "make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/etc/passwd", path)]
)
def test_another_kind_of_file_in_its_place_is_let_be(
    make: Callable[[Path], None], folder: Path
) -> None:
    make(folder / f"idservice-{os.getuid()}-1")
    with left("127.0.0.1:9000"):
        assert http_get.default_url(os.environ) == "http://127.0.0.1:9000"
    assert files(folder) == [f"idservice-{os.getuid()}-1"]


def test_nowhere_to_leave_it_is_said_if_that_matters(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(left_address, "_folders", lambda environment: ["/proc/nowhere"])
    with left("127.0.0.1:8080"):
        assert caplog.text == ""
    with left("127.0.0.1:9000"):
        assert "needs --url" in caplog.text


@pytest.mark.process
def test_health_finds_a_service_on_another_port(tmp_path: Path) -> None:
    env = {"TMPDIR": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    with Serving(tmp_path, env=env) as service:  # on a free port
        service.await_log("listening")
        for name, said in (("health", "live"), ("wait", "ready")):
            assert command(name, folder=tmp_path, env=env).stdout.strip() == said
        service.process.kill()
        service.process.wait()
    assert "127.0.0.1:8080" in command("health", folder=tmp_path, env=env).stderr
