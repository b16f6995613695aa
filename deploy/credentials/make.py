"""Make the credentials of a cluster that are not there yet: a certificate authority, certificates signed by it, and tokens.

    python make.py FOLDER        FOLDER has a folder for each holder, so that each can be given its own alone

    authority/    ca.key, ca.crt
    coordinator/  ca.crt, tls.crt, tls.key, token, tokens      its own, and the hashes of all tokens
    worker/       ca.crt, tls.crt, tls.key, token
    nginx/        ca.crt, tls.crt, tls.key
    client/       ca.crt, tls.crt, tls.key, token, admin-token, read-only-token      for people and programs

What is there and good is kept, so it can run at every start: a certificate is made anew when it has less than 60 days left, when its
names have changed, or when the authority is another. PUBLIC_HOSTS (names and addresses, separated by commas) are those under which
clients reach nginx, beside localhost; COORDINATOR_HOSTS those of the coordinators. Nothing secret is printed.
"""

import hashlib
import os
import secrets
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

authority_days: Final = 3_650
certificate_days: Final = 397
renewed_days_before: Final = 60
clock_skew: Final = timedelta(minutes=5)
"""Hosts whose clock is behind by so much take a new certificate."""
coordinator_hosts_default: Final = "workflow-engine-1,workflow-engine-2,workflow-engine-3"
own_hosts: Final = ("localhost", "127.0.0.1", "::1")
tokens: Final = (
    ("coordinator", "token", "coordinator"),
    ("worker", "token", "worker"),
    ("client", "token", "client"),
    ("client", "admin-token", "admin"),
    ("client", "read-only-token", "read-only"),
)
"""Holder, file, role."""


@dataclass(frozen=True, slots=True)
class Signed:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def main(words: Sequence[str], environment: dict[str, str]) -> int:
    """Make what is missing in the folder that is the only word; return the exit status, 2 for a wrong usage."""
    if len(words) != 1:
        sys.stderr.write("usage: make.py FOLDER\n")
        return 2
    folder = Path(words[0])
    now = datetime.fromtimestamp(time.time_ns() / 1e9, UTC)  # what certificates are measured by
    public = [name.strip() for name in environment.get("PUBLIC_HOSTS", "").split(",") if name.strip()]
    coordinators = environment.get("COORDINATOR_HOSTS") or coordinator_hosts_default
    hosts = {
        "coordinator": [*(name.strip() for name in coordinators.split(",")), *own_hosts],
        "worker": ["worker", *own_hosts],
        "nginx": ["nginx", *own_hosts, *public],
        "client": ["client"],
    }
    authority = _authority(folder / "authority", now)
    for holder, names in hosts.items():
        (folder / holder).mkdir(parents=True, exist_ok=True)
        _write(folder / holder / "ca.crt", _pem(authority.certificate), secret=False)
        if _certify(folder / holder, holder, list(dict.fromkeys(names)), authority, now):
            sys.stdout.write(f"{holder}: a certificate for {', '.join(dict.fromkeys(names))}\n")
    lines = ["# Who may call, with which role, by the SHA-256 of which token."]
    for holder, name, role in tokens:
        digest = hashlib.sha256(_token(folder / holder / name).encode()).hexdigest()
        lines.append(f'{role} = {{ role = "{role}", sha256 = "{digest}" }}')
    _write(folder / "coordinator/tokens", ("\n".join(lines) + "\n").encode(), secret=True)
    return 0


def _authority(folder: Path, now: datetime) -> Signed:
    """Return the authority, made if there is none or it ends before a certificate that it would sign."""
    folder.mkdir(parents=True, exist_ok=True)
    found = _read(folder / "ca.crt", folder / "ca.key")
    if found is not None and found.certificate.not_valid_after_utc > now + timedelta(days=certificate_days):
        return found
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Mainspring cluster authority")])
    certificate = (
        _builder(name, name, key.public_key(), now, authority_days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    _save(folder / "ca.crt", folder / "ca.key", Signed(certificate, key))
    sys.stdout.write("authority: a new one; all certificates are made anew\n")
    return Signed(certificate, key)


def _certify(folder: Path, subject: str, hosts: Sequence[str], authority: Signed, now: datetime) -> bool:
    """Tell whether a certificate had to be made."""
    certificate_file, key_file = folder / "tls.crt", folder / "tls.key"
    found = _read(certificate_file, key_file)
    if found is not None and _is_good(found.certificate, hosts, authority, now):
        return False
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    # Both ways: a coordinator serves, and it calls other coordinators.
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    certificate = (
        _builder(authority.certificate.subject, name, key.public_key(), now, certificate_days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectAlternativeName(_names(hosts)), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False)
        .sign(authority.key, hashes.SHA256())
    )
    _save(certificate_file, key_file, Signed(certificate, key))
    return True


def _is_good(certificate: x509.Certificate, hosts: Sequence[str], authority: Signed, now: datetime) -> bool:
    try:
        certificate.verify_directly_issued_by(authority.certificate)
    except (InvalidSignature, ValueError):
        return False
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    lasts = certificate.not_valid_after_utc > now + timedelta(days=renewed_days_before)
    return lasts and list(names) == list(_names(hosts))


def _builder(
    issuer: x509.Name, subject: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .issuer_name(issuer)
        .subject_name(subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - clock_skew)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _names(hosts: Iterable[str]) -> list[x509.GeneralName]:
    return [_general_name(host) for host in hosts]


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _token(file: Path) -> str:
    """Return the token of a file, made if it is not there."""
    if not file.exists():
        _write(file, secrets.token_urlsafe(32).encode() + b"\n", secret=True)
    return file.read_text().strip()


def _read(certificate_file: Path, key_file: Path) -> Signed | None:
    """Return both, None if one is missing or they do not belong together."""
    if not (certificate_file.exists() and key_file.exists()):
        return None
    certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
    key = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or certificate.public_key() != key.public_key():
        return None
    return Signed(certificate, key)


def _save(certificate_file: Path, key_file: Path, signed: Signed) -> None:
    # The key first: a run that ends between the two leaves a pair that does not belong together, which the next run makes anew.
    pkcs8, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    _write(key_file, signed.key.private_bytes(serialization.Encoding.PEM, pkcs8, plain), secret=True)
    _write(certificate_file, _pem(signed.certificate), secret=False)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _write(file: Path, content: bytes, *, secret: bool) -> None:
    """Put a file in its place whole, and leave one alone that is the same already."""
    if file.exists() and file.read_bytes() == content:
        return
    making = file.with_name(file.name + ".making")
    making.unlink(missing_ok=True)
    with os.fdopen(os.open(making, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if secret else 0o644), "wb") as opened:
        opened.write(content)
    making.replace(file)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], dict(os.environ)))
