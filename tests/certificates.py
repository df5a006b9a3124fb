"""Certificates for this machine and their keys, as files."""

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)


@dataclass(frozen=True)
class Files:
    """A certificate and its key."""

    cert: Path
    key: Path

    @property
    def arguments(self) -> tuple[str, ...]:
        """What `serve` is told of them."""
        return "--tls-cert", str(self.cert), "--tls-key", str(self.key)

    def trust(self) -> ssl.SSLContext:
        """A client's context that trusts this certificate and no other."""
        return ssl.create_default_context(cafile=self.cert)


def write(
    folder: Path, *, serial: int = 1, begins: float = -1, ends: float = 90, phrase: bytes = b""
) -> Files:
    """Write a certificate of a new key, valid from and to so many days from now."""
    key = ec.generate_private_key(ec.SECP256R1())
    # Of two with one name, a client that trusts both tries the first alone.
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"number {serial}")])
    local = [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), serial)
        .not_valid_before(now + timedelta(days=begins))
        .not_valid_after(now + timedelta(days=ends))
        .add_extension(x509.SubjectAlternativeName(local), critical=False)
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.PEM)
    )
    hidden = BestAvailableEncryption(phrase) if phrase else NoEncryption()
    files = Files(folder / "cert.pem", folder / "key.pem")
    files.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, hidden))
    files.cert.write_bytes(certificate)
    return files
