"""An authority for one test, with the certificates that it signs, as PEM files."""

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Identity:
    """A certificate and its key, as files."""

    cert: Path
    key: Path


class Authority:
    """Signs what a test needs."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        """Write its own certificate into the folder."""
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named(name)
        self.path = folder / f"{name}.pem"
        """Its certificate."""
        cert = self._begun(self._name, self._key.public_key(), days=30, is_ca=True).sign(self._key, SHA256())
        self.path.write_bytes(cert.public_bytes(Encoding.PEM))

    def sign(
        self,
        name: str,
        *names: str,
        days: float = 30,
        into: Identity | None = None,
        password: bytes = b"",
    ) -> Identity:
        """Make a certificate for hosts and addresses, loopback's unless named; `into` takes the place of another one."""
        at = into or Identity(self._folder / f"{name}.crt", self._folder / f"{name}.key")
        key = ec.generate_private_key(ec.SECP256R1())
        begun = self._begun(_named(name), key.public_key(), days=days, is_ca=False)
        others = x509.SubjectAlternativeName([_alternative(one) for one in names or ("127.0.0.1", "localhost")])
        cert = begun.add_extension(others, critical=False).sign(self._key, SHA256())
        encryption = BestAvailableEncryption(password) if password else NoEncryption()
        at.cert.write_bytes(cert.public_bytes(Encoding.PEM))
        at.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
        return at

    def _begun(
        self, name: x509.Name, key: ec.EllipticCurvePublicKey, *, days: float, is_ca: bool
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)  # noqa: TID251  (certificates are dated by the calendar)
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=60))
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
