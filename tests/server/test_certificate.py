"""The certificate of https listeners: what is refused, what is warned of, and when it is read."""

import logging
import os
import ssl
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest

from idservice.errors import Usage
from idservice.server import certificate as module
from idservice.server.certificate import DAY_S, Certificate, examine, named, read
from idservice.server.listen_address import Address
from idservice.server.settings import ServeSettings
from idservice.stores.findings import FAULT, OK, WARNING
from tests.certificates import Files, write

SECURE = (Address("127.0.0.1", 8443, tls=True),)


def given(files: Files, listen: tuple[Address, ...] = SECURE) -> ServeSettings:
    return ServeSettings(listen=listen, tls_cert=str(files.cert), tls_key=str(files.key))


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return write(tmp_path)


def test_only_https_listeners_have_a_certificate(files: Files) -> None:
    assert named(ServeSettings()) is None
    assert named(given(files)) is not None
    admin = replace(given(files, (Address("127.0.0.1", 1),)), admin_listen=SECURE[0])
    assert named(admin) is not None


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"tls_key": None}, r"--listen https://127.0.0.1:8443 needs .*; --tls-key is missing\."),
        ({"tls_cert": None}, r"; --tls-cert is missing\."),
        ({"listen": (Address("127.0.0.1", 80),)}, "--tls-cert is given, and no address .* is http"),
        ({"tls_cert": "/no/such"}, "--tls-cert /no/such cannot be read: No such file"),
        ({"tls_key": "/"}, "--tls-key / cannot be read: Is a directory"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    files: Files, wrong: dict[str, object], said: str
) -> None:
    with pytest.raises(Usage, match=said):
        named(replace(given(files), **wrong))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_key_that_the_service_may_not_read_is_named(files: Files) -> None:
    files.key.chmod(0)
    with pytest.raises(Usage, match=r"key.pem cannot be read: Permission denied; .*\(uid \d+\)"):
        named(given(files))


def test_files_that_are_not_what_they_should_be_are_refused(files: Files) -> None:
    with pytest.raises(Usage, match=r"--tls-cert .*key.pem has no certificate in PEM"):
        read(str(files.key), str(files.key))
    with pytest.raises(Usage, match=r"--tls-key .*cert.pem has no private key in PEM"):
        read(str(files.cert), str(files.cert))
    files.cert.write_bytes(files.cert.read_bytes()[:200])
    with pytest.raises(Usage, match=r"cannot be used: one of them is cut off"):
        read(str(files.cert), str(files.key))
    files.key.unlink()
    os.mkfifo(files.key)  # nobody writes to it: who opens it waits, and serves nothing meanwhile
    with pytest.raises(Usage, match=r"key.pem is a pipe or a device"):
        read(str(files.cert), str(files.key))


def test_a_file_that_goes_away_while_it_is_read_is_told(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = files.cert.read_bytes() + files.key.read_bytes()
    monkeypatch.setattr(module, "_content", lambda *_: content)
    files.key.unlink()
    with pytest.raises(Usage, match=r"cannot be used: .*No such file"):
        read(str(files.cert), str(files.key))


def test_the_key_of_another_certificate_is_refused(files: Files, certificate: Files) -> None:
    with pytest.raises(Usage, match=r"the key in --tls-key .* is not that of the certificate"):
        read(str(files.cert), str(certificate.key))


def test_an_encrypted_key_is_refused_and_nobody_is_asked(tmp_path: Path) -> None:
    files = write(tmp_path, phrase=b"secret")
    with pytest.raises(Usage, match=r"is encrypted, .*: openssl pkey -in"):
        named(given(files))


def test_one_file_may_have_certificate_and_key(files: Files) -> None:
    files.cert.write_bytes(files.cert.read_bytes() + files.key.read_bytes())
    assert read(str(files.cert), str(files.cert)).names == ("localhost", "127.0.0.1")


@pytest.mark.parametrize(
    ("begins", "ends", "said"),
    [
        (-9, -1, "it ended on 20"),
        (3, 90, "it begins on 20"),
        (-400, 13, "it ends on 20"),
        (-400, 15, ""),
        (-5, 1, "it ends on 20"),  # of one that lives for days, a quarter is left
        (-3, 3, ""),
    ],
)
def test_an_end_that_is_near_or_over_is_warned_of_once_a_day(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, begins: int, ends: int, said: str
) -> None:
    files = write(tmp_path, begins=begins, ends=ends)
    now = files.cert.stat().st_mtime
    shown = Certificate(str(files.cert), str(files.key), lambda: now)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            shown.warn()
        assert len(caplog.messages) == bool(said)
        assert said in caplog.text
        if said:
            now += DAY_S
            shown.warn()
            assert len(caplog.messages) == 2


def test_files_are_read_again_once_they_have_settled(files: Files) -> None:
    shown = Certificate(str(files.cert), str(files.key))
    before = shown.context
    for _ in range(3):
        shown.look()
    assert shown.context is before, "nothing has changed"
    write(files.cert.parent, serial=2)
    shown.look()
    assert shown.context is before, "it may still be written"
    shown.look()
    assert shown.context is not before
    after = shown.context
    shown.look()
    assert shown.context is after


def test_a_mode_that_is_put_right_is_a_change(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of a new file which the service may not read; it moves no `mtime`."""

    def unreadable(cert: str, key: str) -> NoReturn:
        raise Usage(why="cannot be read: Permission denied")

    shown = Certificate(str(files.cert), str(files.key))
    before = shown.context
    write(files.cert.parent, serial=2)
    with monkeypatch.context() as denied:
        denied.setattr(module, "read", unreadable)
        for _ in range(2):
            shown.look()
    assert shown.context is before
    files.key.chmod(0o640)
    for _ in range(2):
        shown.look()
    assert shown.context is not before


def test_a_link_that_leads_elsewhere_is_a_change(tmp_path: Path) -> None:
    """So Kubernetes replaces a secret."""
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        write(tmp_path / str(number), serial=number)
    (tmp_path / "now").symlink_to("1")
    shown = Certificate(str(tmp_path / "now/cert.pem"), str(tmp_path / "now/key.pem"))
    before = shown.context
    (tmp_path / "new").symlink_to("2")
    (tmp_path / "new").rename(tmp_path / "now")
    for _ in range(2):
        shown.look()
    assert shown.context is not before


@pytest.mark.parametrize("spoil", ["half", "gone", "mismatch"])
def test_bad_files_keep_the_certificate_and_are_named_once(
    files: Files, certificate: Files, caplog: pytest.LogCaptureFixture, spoil: str
) -> None:
    shown = Certificate(str(files.cert), str(files.key))
    before, good = shown.context, files.key.read_bytes()
    if spoil == "gone":
        files.key.unlink()
    else:
        files.key.write_bytes(good[:50] if spoil == "half" else certificate.key.read_bytes())
    with caplog.at_level(logging.INFO):
        for _ in range(5):
            shown.look()
        assert shown.context is before
        (said,) = caplog.messages
        assert "the old one stays in use (serial 01" in said
        assert "key.pem" in said
        shown.renew()
        assert len(caplog.messages) == 2, "at SIGHUP it is said again"
        files.key.write_bytes(good)
        for _ in range(2):
            shown.look()
    assert shown.context is not before
    assert "certificate in use from now on: serial 01, for localhost, 127.0.0.1" in caplog.text


def test_no_version_of_tls_before_1_2_is_spoken(files: Files) -> None:
    context = read(str(files.cert), str(files.key)).context
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize(
    ("ends", "level", "said"),
    [
        (-0.5, FAULT, "it ended on"),
        (1, WARNING, "it ends on"),
        (90, OK, "serial 01, for localhost"),
    ],
)
def test_doctor_says_when_a_certificate_ends(
    tmp_path: Path, ends: float, level: str, said: str
) -> None:
    files = write(tmp_path, begins=-10, ends=ends)
    found = examine(str(files.cert), str(files.key), files.cert.stat().st_mtime)
    assert (found.level, found.about) == (level, "certificate")
    assert said in found.found
    files.key.unlink()
    found = examine(str(files.cert), str(files.key), 0.0)
    assert (found.level, "key.pem cannot be read" in found.found) == (FAULT, True)
