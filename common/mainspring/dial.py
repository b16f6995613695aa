"""How every part of Mainspring opens and serves gRPC connections.

Both sides of a connection run with the same build of these options. `ping_timeout_ms` matters most: without it a stopped peer,
whose kernel still acknowledges, is noticed only after a minute.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import grpc
import grpc.aio

from mainspring.access import Access, plain
from mainspring.channels import AccessChannel
from mainspring.errors import SettingsError
from mainspring.limits import answer_bytes_max, connections_max, message_bytes_max, streams_a_connection_max

default_grpc_port: Final = 7320
default_http_port: Final = 3000

Options = list[tuple[str, int]]


@dataclass(frozen=True, slots=True)
class Keepalive:
    """Transport pings; milliseconds."""

    time_ms: int = 5_000
    timeout_ms: int = 5_000
    ping_timeout_ms: int = 5_000


def _shared_options(keepalive: Keepalive) -> Options:
    return [
        ("grpc.keepalive_time_ms", keepalive.time_ms),
        ("grpc.keepalive_timeout_ms", keepalive.timeout_ms),
        ("grpc.http2.ping_timeout_ms", keepalive.ping_timeout_ms),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]


def server_options(keepalive: Keepalive = Keepalive()) -> Options:
    """Return the options of a server."""
    return [
        *_shared_options(keepalive),
        ("grpc.max_receive_message_length", message_bytes_max),
        # A workflow's output, or the collected output of a `map`, may be larger than any request.
        ("grpc.max_send_message_length", answer_bytes_max),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", max(1, keepalive.time_ms // 2)),
        # The name that gRPC reads for the line above; without it an idle stream is cut as "too_many_pings" after six pings.
        ("grpc.http2.min_ping_interval_without_data_ms", max(1, keepalive.time_ms // 2)),
        ("grpc.http2.max_ping_strikes", 5),
        ("grpc.max_allowed_incoming_connections", connections_max),
        ("grpc.max_concurrent_streams", streams_a_connection_max),
        ("grpc.server_handshake_timeout_ms", 5_000),
        ("grpc.so_reuseport", 0),
    ]


def channel_options(keepalive: Keepalive = Keepalive()) -> Options:
    """Return the options of a client's channel; retries are ours, because only we know which calls may be repeated."""
    return [
        *_shared_options(keepalive),
        ("grpc.max_receive_message_length", answer_bytes_max),
        ("grpc.max_send_message_length", message_bytes_max),
        ("grpc.enable_retries", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
        # The time that an attempt to connect has, whatever its name says: some round trips of a handshake, on a busy host.
        ("grpc.min_reconnect_backoff_ms", 1_000),
        ("grpc.max_reconnect_backoff_ms", 3_000),
        # A fresh channel must be a fresh connection, not another handle on one that is half-open.
        ("grpc.use_local_subchannel_pool", 1),
    ]


def open_channel(address: str, keepalive: Keepalive = Keepalive(), access: Access = plain) -> grpc.aio.Channel:
    """Open a channel to "host:port"; it connects at its first call. `SettingsError` when a file of `access` cannot be used."""
    options = channel_options(keepalive)
    if access.tls.ca or access.has_token:
        return AccessChannel(address, access, options)
    return grpc.aio.insecure_channel(address, options=options)


def parse_addresses(text: str, setting: str = "MAINSPRING_ADDRESS") -> Sequence[str]:
    """Return the "host:port" entries of a comma-separated list; a missing port is 7320.

    Raises `SettingsError` that names `setting` and the entry.
    """
    addresses: list[str] = []
    for entry in (part.strip() for part in text.split(",")):
        host, colon, port = entry.rpartition(":")
        if not colon or (entry.startswith("[") and entry.endswith("]")):
            host, port = entry, str(default_grpc_port)
        bare_ipv6 = ":" in host and not (host.startswith("[") and host.endswith("]"))
        if not host or not port.isdigit() or not 0 < int(port) < 65_536 or "/" in entry or bare_ipv6:
            raise SettingsError(
                f"{setting}: {entry!r} is not an address; write host:port, such as 127.0.0.1:{default_grpc_port}"
            )
        addresses.append(f"{host}:{port}")
    return addresses
