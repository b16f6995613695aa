"""What is read of PEM files before they are used, so that a bad one is refused by name and not in the middle of a handshake.

Only the dates are taken out of a certificate by hand: the standard library tells them of a connection's other side alone, and a client
is not to install a library for it.
"""

import ssl
from datetime import UTC, datetime
from typing import Final

from mainspring.clock import calendar_now
from mainspring.errors import SettingsError
from mainspring.limits import pem_bytes_max
from mainspring.watched import read_bytes

_begin: Final = b"-----BEGIN CERTIFICATE-----"
_end: Final = b"-----END CERTIFICATE-----"
_sequence: Final = 0x30
_version: Final = 0xA0
_utc_time: Final = 0x17
_generalized_time: Final = 0x18


def read_identity(cert: str, key: str) -> tuple[bytes, bytes]:
    """Return certificate chain and key. `SettingsError` when they do not fit together, are no PEM, or the certificate's time is over."""
    chain = read_bytes("TLS_CERT", cert, pem_bytes_max)
    secret = read_bytes("TLS_KEY", key, pem_bytes_max)
    try:
        # An encrypted key would otherwise ask for its password on the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password="")
    except (ssl.SSLError, OSError) as error:
        reason = getattr(error, "reason", None) or error.strerror or "unreadable"
        raise SettingsError(
            f"TLS_CERT, TLS_KEY: {cert} and {key} cannot be used ({reason}); name a PEM certificate and its key, without a password"
        ) from error
    until = valid_until(chain)
    if until is not None and until <= calendar_now():
        raise SettingsError(f"TLS_CERT: the certificate in {cert} has expired at {until.isoformat()}; renew it")
    return chain, secret


def read_authorities(path: str) -> bytes:
    """Return the certificates of whom we trust. `SettingsError` when the file holds none."""
    found = read_bytes("TLS_CA", path, pem_bytes_max)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=found.decode("ascii"))
    except (ssl.SSLError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"TLS_CA: {path} holds no certificates in PEM; name the file of who signs, or `public`"
        ) from error
    return found


def valid_until(chain: bytes) -> datetime | None:
    """Return when the first certificate of a PEM file ends; None where it cannot be told."""
    at = chain.find(_begin)
    end = chain.find(_end, at)
    if at < 0 or end < 0:
        return None
    try:
        der = ssl.PEM_cert_to_DER_cert(chain[at : end + len(_end)].decode("ascii"))
        _, inside, _ = _element(der, 0)
        _, at, _ = _element(der, inside)
        kind, _, after = _element(der, at)
        # version (left out in the first), serial number, algorithm, issuer; then the dates
        for _ in range(3 if kind == _version else 2):
            _, _, after = _element(der, after)
        _, dates, _ = _element(der, after)
        _, _, second = _element(der, dates)
        kind, begin, end = _element(der, second)
        return _moment(kind, der[begin:end].decode("ascii"))
    except (ValueError, IndexError):
        return None


def _element(der: bytes, at: int) -> tuple[int, int, int]:
    """Return the tag of an element, where its content begins, and where it ends."""
    tag, length, at = der[at], der[at + 1], at + 2
    if length & 0x80:
        size = length & 0x7F
        length, at = int.from_bytes(der[at : at + size], "big"), at + size
    return tag, at, at + length


def _moment(kind: int, text: str) -> datetime:
    if kind == _utc_time:
        # Two digits of the year: RFC 5280 reads 50 and above as 19xx.
        text = ("19" if int(text[:2]) >= 50 else "20") + text
    elif kind != _generalized_time:
        raise ValueError("no time")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
