"""The certificate of https listeners: read at the start, and again when its files change.

A file is often replaced while it is read, and a certificate and its key one after the other. So new
files are read once they have not changed between two looks. Files that cannot be used change
nothing: the certificate that was read before stays in use, and the log says why.
"""

import asyncio
import logging
import os
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from stat import S_IFDIR, S_IFMT, S_IFREG
from typing import Any, NoReturn

from idservice.errors import Usage
from idservice.server.settings import ServeSettings
from idservice.stores.findings import FAULT, WARNING, Finding, fine

log = logging.getLogger("idservice.server")

LOOK_S = 2.0  # between two looks at the files
WARN_AGAIN_S = 86_400.0
DAY_S = 86_400.0
# The end of a certificate is near for the last NEAR_S of its life, or for the last NEAR_SHARE of a
# short one.
NEAR_S = 14 * DAY_S
NEAR_SHARE = 1 / 4
HANDSHAKE_STEPS = 8
NO_CHECK_TIME = 0x200000  # of OpenSSL; Python does not name it
CERTIFICATE, KEY = b"-----BEGIN CERTIFICATE-----", b"PRIVATE KEY-----"


@dataclass(frozen=True, slots=True)
class ReadCertificate:
    """A certificate as it was read: its names, its times in seconds since 1970, and the `context`
    that serves it."""

    context: ssl.SSLContext
    serial: str
    names: tuple[str, ...]
    begins: float
    ends: float

    def trouble(self, now: float) -> str:
        """Return what is wrong with its times, or will be soon; empty if nothing is."""
        if now >= self.ends:
            return f"it ended on {_shown(self.ends)}, and clients refuse it"
        if now < self.begins:
            return f"it begins on {_shown(self.begins)}, and clients refuse it until then"
        if self.ends - now < min(NEAR_S, NEAR_SHARE * (self.ends - self.begins)):
            return f"it ends on {_shown(self.ends)}"
        return ""

    def __str__(self) -> str:
        names = ", ".join(self.names) or "no name"
        return f"serial {self.serial}, for {names}, until {_shown(self.ends)}"


class Certificate:
    """The certificate in use, from the files `cert` and `key`; `clock` tells seconds since 1970.

    Raises Usage if they cannot be used.
    """

    def __init__(self, cert: str, key: str, clock: Callable[[], float] = time.time) -> None:
        self._files = cert, key
        self._clock = clock
        self._read_as = self._looked_like = self._state()
        self._in_use = read(cert, key)
        self._warned_at = float("-inf")

    @property
    def context(self) -> ssl.SSLContext:
        """The context that serves the next connection."""
        return self._in_use.context

    def renew(self, *, is_news: bool = True) -> bool:
        """Read the files again; return True if they are in use from now on. If they cannot be used,
        that is logged, and nothing changes. With `is_news` a new certificate is logged, too."""
        self._read_as = self._state()
        try:
            found = read(*self._files)
        except Usage as error:
            log.error(
                "the new certificate is not used, and the old one stays in use (%s): %s Correct "
                "the files; they are read again when one changes, and at SIGHUP",
                self._in_use,
                error,
                extra={"action": "certificate_refused"},
            )
            return False
        self._in_use = found
        self._warned_at = float("-inf")
        if is_news:
            log.info(
                "certificate in use from now on: %s", found, extra={"action": "certificate_renewed"}
            )
        return True

    def look(self) -> bool:
        """Read the files again if they have changed, but not since the last look. Return True if
        they are in use from now on. Warn as `warn` does."""
        renewed, state = False, self._state()
        if state not in (self._read_as, self._looked_like):
            self._looked_like = state
        elif state != self._read_as:
            renewed = self.renew()
        self.warn()
        return renewed

    def warn(self) -> None:
        """Log, once a day, that the end of the certificate is near or over."""
        now = self._clock()
        trouble = self._in_use.trouble(now)
        if trouble and now - self._warned_at >= WARN_AGAIN_S:
            self._warned_at = now
            log.warning(
                "certificate %s: %s. Replace the files; they are read again by themselves",
                self._files[0],
                trouble,
                extra={"action": "certificate_ends"},
            )

    async def watch(self) -> NoReturn:
        """Look at the files until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(LOOK_S)

    def _state(self) -> tuple[tuple[int, ...], ...]:
        """Return what differs if a file is changed, replaced or may be read again. Kubernetes
        replaces a link; a mode or an owner that is put right changes only `ctime`."""
        found = []
        for path in self._files:
            with suppress(OSError):
                stat = os.stat(path)
                found.append(
                    (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
                )
        return tuple(found)


def examine(cert: str, key: str, now: float) -> Finding:
    """Return the finding about a certificate at a time, in seconds since 1970."""
    try:
        found = read(cert, key)
    except Usage as error:
        return Finding(FAULT, "certificate", str(error).rstrip("."), "no https listener starts")
    if trouble := found.trouble(now):
        level = WARNING if found.begins <= now < found.ends else FAULT
        why = (
            "put a new certificate and its key in place of these files; they are read by themselves"
        )
        return Finding(level, "certificate", f"{cert}: {trouble}", why)
    return fine("certificate", str(found))


def named(settings: ServeSettings) -> Certificate | None:
    """Return the certificate of the https listeners; None if there are none. Raises Usage."""
    listens = [("--listen", one) for one in settings.listen]
    if settings.admin_listen is not None:
        listens.append(("--admin-listen", settings.admin_listen))
    secured = [f"{flag} {one}" for flag, one in listens if one.tls]
    files = {"--tls-cert": settings.tls_cert, "--tls-key": settings.tls_key}
    if not secured:
        for flag in (flag for flag, path in files.items() if path):
            why = f"{flag} is given, and no address to listen on is https; name one, as --listen"
            raise Usage(why=f"{why} https://{settings.listen[0] if settings.listen else ''}")
        return None
    for flag in (flag for flag, path in files.items() if not path):
        raise Usage(why=f"{secured[0]} needs --tls-cert and --tls-key; {flag} is missing")
    return Certificate(settings.tls_cert or "", settings.tls_key or "")


def read(cert: str, key: str) -> ReadCertificate:
    """Read a certificate and its key. Raises Usage with what is wrong and what to do."""
    if CERTIFICATE not in _content(cert, "--tls-cert"):
        raise Usage(why=f"--tls-cert {cert} has no certificate in PEM (BEGIN CERTIFICATE)")
    if KEY not in _content(key, "--tls-key"):
        raise Usage(why=f"--tls-key {key} has no private key in PEM (BEGIN PRIVATE KEY)")

    def refuse() -> str:
        raise Usage(
            why=f"--tls-key {key} is encrypted, and nobody is there to give its pass phrase; write"
            f" it without one: openssl pkey -in {key} -out FILE, readable by the service alone"
        )

    try:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        context.load_cert_chain(cert, key, refuse)
        seen = _seen_by_clients(context, cert)
    except (OSError, ValueError) as error:  # of TLS, or of a file that is being replaced
        reason = getattr(error, "reason", "")
        if reason == "KEY_VALUES_MISMATCH":
            why = (
                f"the key in --tls-key {key} is not that of the certificate in --tls-cert {cert};"
                " the service's own certificate comes first in its file"
            )
            raise Usage(why=why) from None
        cut = "one of them is cut off, or not whole yet" if "PEM lib" in str(error) else ""
        why = getattr(error, "verify_message", "") or reason or cut or str(error)
        raise Usage(why=f"--tls-cert {cert} and --tls-key {key} cannot be used: {why}") from None
    names = tuple(name for _, name in seen.get("subjectAltName", ()))
    times = (ssl.cert_time_to_seconds(seen[time]) for time in ("notBefore", "notAfter"))
    return ReadCertificate(context, seen["serialNumber"], names, *times)


def _content(path: str, flag: str) -> bytes:
    try:
        kind = S_IFMT(os.stat(path).st_mode)
        if kind not in (S_IFREG, S_IFDIR):  # reading it could block the service
            why = f"{flag} {path} is a pipe or a device; it must be a file, to be read again"
            raise Usage(why=why)
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        why = f"{flag} {path} cannot be read: {error.strerror}; check the path, and that the user"
        raise Usage(why=f"{why} of the service (uid {os.geteuid()}) may read it") from None


def _seen_by_clients(context: ssl.SSLContext, cert: str) -> dict[str, Any]:
    """Return what a client sees of a certificate, by a handshake in memory. Raises SSLError.

    Python shows the contents of a certificate only to an end that trusts it.
    """
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname = False
    trusting.load_verify_locations(cert)
    trusting.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | NO_CHECK_TIME
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting.wrap_bio(back, there)
    server = context.wrap_bio(there, back, server_side=True)
    for _ in range(HANDSHAKE_STEPS):
        for end in (client, server):
            with suppress(ssl.SSLWantReadError):
                end.do_handshake()
    return client.getpeercert() or {}


def _shown(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(moment))
