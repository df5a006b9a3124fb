"""Sockets that are bound, and what is left of them."""

import errno
import socket
import stat
from pathlib import Path

import pytest

from idservice.errors import CannotListen
from idservice.server.listen_address import Address
from idservice.server.sockets import bind, bound


def parsed(*texts: str) -> list[Address]:
    return [Address.parse(text) for text in texts]


def test_a_unix_socket_goes_when_it_is_let_go(tmp_path: Path) -> None:
    path = tmp_path / "ids.sock"
    with bound(parsed(f"unix:{path}", "127.0.0.1:0"), None) as sockets:
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert len(sockets.data) == 2
        assert sockets.control_on_data
        sockets.close()
        assert path.exists(), "other processes may go on"
    assert not path.exists()


def test_the_socket_of_a_successor_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "ids.sock"
    with socket.socket(socket.AF_UNIX) as successor:
        with bound(parsed(f"unix:{path}"), None) as sockets:
            sockets.close()  # drained: from here on it looks as if nobody used it
            path.unlink()
            successor.bind(str(path))
        assert path.exists()


def test_a_socket_that_does_not_listen_yet_is_not_taken_for_left_behind(tmp_path: Path) -> None:
    path = tmp_path / "ids.sock"
    with bound(parsed(f"unix:{path}"), None) as sockets:
        mine = path.stat()
        with (
            pytest.raises(CannotListen, match=f"unix:{path}: Address already in use"),
            bound(parsed(f"unix:{path}"), None),
        ):
            pass
        assert path.stat() == mine
        assert sockets.data
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "ids.sock"
    (tmp_path / "ids.sock.lock").touch()
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    with bound(parsed(f"unix:{path}"), None):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_not_a_socket_is_left_and_told(tmp_path: Path) -> None:
    """It was told as in use, by a process that did not exist."""
    path = tmp_path / "ids.sock"
    path.write_text("notes")
    with (
        pytest.raises(CannotListen, match="it is not a socket"),
        bound(parsed(f"unix:{path}"), None),
    ):
        pass
    assert path.read_text() == "notes"


def test_a_lock_that_its_owner_removes_meanwhile_is_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed = []

    def removing(lock: int, how: int) -> None:
        if not removed:
            removed.append(lock)
            (tmp_path / "ids.sock.lock").unlink()

    monkeypatch.setattr("fcntl.flock", removing)
    with bound(parsed(f"unix:{tmp_path}/ids.sock"), None):
        assert (tmp_path / "ids.sock.lock").exists()
    assert removed


def test_sockets_are_closed_if_a_later_one_cannot_be_bound(tmp_path: Path) -> None:
    path = tmp_path / "ids.sock"
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        with (
            pytest.raises(CannotListen, match="Address already in use"),
            bound(parsed(f"unix:{path}", taken), None),
        ):
            pass
    assert not path.exists()


@pytest.mark.parametrize(
    ("data", "admin", "expected"),
    [
        (["127.0.0.1:0", "[::1]:0"], None, 0),
        (["127.0.0.1:0"], "127.0.0.1:0", 1),
        (["0.0.0.0:0"], "127.0.0.1:0", 1),
    ],
)
def test_control_has_its_own_address_if_ids_are_reachable_from_outside(
    data: list[str], admin: str | None, expected: int
) -> None:
    with bound(parsed(*data), admin and Address.parse(admin)) as sockets:
        assert len(sockets.admin) == expected
        assert sockets.control_on_data is not expected


@pytest.mark.parametrize(
    ("data", "admin", "allow", "expected"),
    [
        ("127.0.0.1:0", None, False, []),
        ("127.0.0.1:0", None, True, [True]),
        ("unix:ids", None, False, []),
        ("unix:ids", None, True, [True]),
        ("0.0.0.0:0", "0.0.0.0:0", True, []),
        ("0.0.0.0:0", "127.0.0.1:0", False, []),
        ("0.0.0.0:0", "127.0.0.1:0", True, [False]),
        ("127.0.0.1:0", "127.0.0.1:0", True, [False]),
        ("127.0.0.1:0", "unix:admin", False, [False]),
        ("127.0.0.1:0", "0.0.0.0:0", True, []),
    ],
)  # fmt: skip
def test_counters_are_changed_where_that_is_allowed_and_nowhere_else(
    data: str, admin: str | None, allow: bool, expected: list[bool],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """`expected` are the listeners that change counters: True for one that serves ids, too."""
    monkeypatch.chdir(tmp_path)
    named = admin and Address.parse(admin)
    with bound(parsed(data), named, allow_changes=allow) as sockets:
        both = [(one, True) for one, _ in sockets.data] + [(one, False) for one, _ in sockets.admin]
        assert [ids for one, ids in both if sockets.may_change(one, is_data=ids)] == expected


def test_every_ipv6_address_means_every_ipv4_address_too() -> None:
    with bind(Address.parse("[::]:0")) as both:
        assert both.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 0
        both.listen()
        for host in ("127.0.0.1", "::1"):
            socket.create_connection((host, both.getsockname()[1])).close()
    with bind(Address.parse("[::1]:0")) as one:
        assert one.getsockname()[0] == "::1"


def test_a_machine_without_ipv6_listens_on_every_ipv4_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = socket.socket

    def ipv4_alone(family: int, *kind: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return made(family, *kind)

    monkeypatch.setattr(socket, "socket", ipv4_alone)
    with bind(Address.parse("[::]:0")) as bound_to:
        assert bound_to.getsockname()[0] == "0.0.0.0"
    with pytest.raises(CannotListen, match="not supported"):
        bind(Address.parse("[::1]:0"))
