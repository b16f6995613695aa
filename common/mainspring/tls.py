"""TLS on both sides of a connection, from the files of the settings, with certificates that may change while a process runs.

A server's new connections take what the files hold then. A client's channel is made anew for it (`mainspring.channels`).
"""

import ssl
from dataclasses import dataclass
from typing import Any, Final

import grpc

from mainspring.access import TlsFiles
from mainspring.certificates import read_authorities, read_identity
from mainspring.watched import Watched

_hints: Final = (
    ("certificate has expired", "its certificate has expired: renew the one of TLS_CERT there"),
    ("not yet valid", "its certificate is not valid yet: compare the clocks of both hosts"),
    (
        "CERTIFICATE_VERIFY_FAILED",
        "its certificate is not signed by whom TLS_CA names here: use the TLS_CA of the cluster",
    ),
    (
        "Hostname Verification Check failed",
        "its certificate is for another name: use an address that it names, or set TLS_SERVER_NAME to one that it names",
    ),
    ("WRONG_VERSION_NUMBER", "no TLS is spoken there: leave TLS_CA out here, or set TLS_CERT and TLS_KEY there"),
)
_closed: Final = "Socket closed"


@dataclass(frozen=True, slots=True)
class Pem:
    """What the files held."""

    ca: bytes | None
    """None: the public authorities."""
    cert: bytes | None
    key: bytes | None


def read_pem(files: TlsFiles) -> Pem:
    """Read and check the files. `SettingsError` names the setting and the file."""
    cert, key = read_identity(files.cert, files.key) if files.cert else (None, None)
    ca = read_authorities(files.ca) if files.ca not in ("", "public") else None
    return Pem(ca, cert, key)


def watch_pem(files: TlsFiles) -> Watched[Pem]:
    """Read the files, now and whenever they change."""
    return Watched(files.paths, lambda: read_pem(files))


def channel_credentials(pem: Pem) -> grpc.ChannelCredentials:
    """Return what a client proves itself with, and checks the other side by."""
    return grpc.ssl_channel_credentials(pem.ca, pem.key, pem.cert)


def server_credentials(files: TlsFiles, *, client_certs: bool) -> grpc.ServerCredentials:
    """Return what a server proves itself with; `client_certs`: callers must prove themselves, too."""
    watched = watch_pem(files)
    given = watched.get()

    def configuration(pem: Pem) -> grpc.ServerCertificateConfiguration:
        assert pem.key is not None
        assert pem.cert is not None
        return grpc.ssl_server_certificate_configuration([(pem.key, pem.cert)], pem.ca if client_certs else None)

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        """At each handshake, in a thread of gRPC's."""
        nonlocal given
        pem = watched.get()
        if pem is given:
            return None
        given = pem
        return configuration(pem)

    # The stubs do not know that None says "as before".
    return grpc.dynamic_ssl_server_credentials(configuration(given), fetch, client_certs)  # type: ignore[arg-type]


class _FreshContext(ssl.SSLContext):
    """A server's context that begins each connection with what the files hold."""

    watched: Watched[ssl.SSLContext]

    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:
        """Begin a connection: what event loops call."""
        return self.watched.get().wrap_bio(*arguments, **options)


def http_context(files: TlsFiles, *, client_certs: bool) -> ssl.SSLContext:
    """Return the context of an HTTP server."""

    def made() -> ssl.SSLContext:
        read_pem(files)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(files.cert, files.key, password="")
        if client_certs:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(files.ca)
        return context

    context = _FreshContext(ssl.PROTOCOL_TLS_SERVER)
    context.watched = Watched(files.paths, made)
    return context


def hint(details: str, *, by_tls: bool) -> str:
    """Return what a failed connection's details mean for whoever dialled, and what to do; empty when TLS has no part in it."""
    for text, meaning in _hints:
        if text in details:
            return meaning
    if _closed in details and by_tls:
        return "it ended the connection at once: it may want a certificate, TLS_CERT and TLS_KEY, that its TLS_CA has signed"
    if _closed in details:
        return "it ended the connection at once: if TLS is spoken there, set TLS_CA here"
    return ""
