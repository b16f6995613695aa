"""Channels with a token on each call, or by TLS; with neither, gRPC's own is used as it is.

The token goes into the metadata of each call here, and not where calls are made, so that none can go without. gRPC's own ways are not
taken: call credentials want TLS, and interceptors change how streams behave. A channel keeps the certificates that it was made with, so
when their files change the next call makes another one; calls that are under way end where they began.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final, Self

import grpc
import grpc.aio

from mainspring.access import Access
from mainspring.errors import SettingsError
from mainspring.limits import client_stream_ms_max, token_bytes_max
from mainspring.tls import Pem, channel_credentials, read_pem, watch_pem
from mainspring.watched import Watched, read_text

authorization_key: Final = "authorization"
bearer: Final = "Bearer "
Options = list[tuple[str, int]]
_loopback: Final = ("127.", "localhost:", "[::1]:")


class AccessChannel(grpc.aio.Channel):
    """A channel to one address, by a process's access."""

    def __init__(self, address: str, access: Access, options: Options) -> None:
        """`SettingsError` when a file cannot be used, or a token would go to another host in the clear."""
        by_tls = bool(access.tls.ca)
        if access.has_token and not (by_tls or access.insecure or address.startswith(_loopback)):
            raise SettingsError(
                f"the token would go to {address} in the clear; set TLS_CA (docs/security.md), "
                "or say that it may be so with INSECURE=true (--insecure)"
            )
        self._address = address
        self._options: list[tuple[str, int | str]] = list(options)
        if access.tls.server_name:
            self._options.append(("grpc.ssl_target_name_override", access.tls.server_name))
        self._pem: Watched[Pem] | None = watch_pem(access.tls) if by_tls else None
        self._token: Callable[[], str] = _token_of(access)
        self._made_with = self._pem.get() if self._pem is not None else None
        self._inner = self._make()
        self._retired: dict[grpc.aio.Channel, asyncio.Task[None]] = {}
        """Those that still have calls under way, and the task that closes each after these."""

    def current(self) -> grpc.aio.Channel:
        """Return the channel for the next call."""
        if self._pem is not None and (pem := self._pem.get()) is not self._made_with:
            self._made_with, before = pem, self._inner
            self._inner = self._make()
            self._retired[before] = asyncio.get_running_loop().create_task(self._retire(before))
        return self._inner

    def metadata(self, given: Any) -> Any:
        """Return a call's metadata with the token."""
        token = self._token()
        return (*(given or ()), (authorization_key, bearer + token)) if token else given

    def _make(self) -> grpc.aio.Channel:
        if self._made_with is None:
            return grpc.aio.insecure_channel(self._address, options=self._options)
        return grpc.aio.secure_channel(self._address, channel_credentials(self._made_with), options=self._options)

    async def _retire(self, channel: grpc.aio.Channel) -> None:
        await channel.close(client_stream_ms_max / 1_000)
        del self._retired[channel]

    def unary_unary(self, *path: Any, **codecs: Any) -> Any:
        """See gRPC."""
        return _Method(self, lambda channel: channel.unary_unary(*path, **codecs))

    def unary_stream(self, *path: Any, **codecs: Any) -> Any:
        """See gRPC."""
        return _Method(self, lambda channel: channel.unary_stream(*path, **codecs))

    def stream_unary(self, *path: Any, **codecs: Any) -> Any:
        """See gRPC."""
        return _Method(self, lambda channel: channel.stream_unary(*path, **codecs))

    def stream_stream(self, *path: Any, **codecs: Any) -> Any:
        """See gRPC."""
        return _Method(self, lambda channel: channel.stream_stream(*path, **codecs))

    async def close(self, grace: float | None = None) -> None:
        """See gRPC."""
        retired = dict(self._retired)
        await asyncio.gather(*(channel.close(grace) for channel in (self._inner, *retired)))
        await asyncio.gather(*retired.values())

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """See gRPC."""
        return self.current().get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """See gRPC."""
        await self._inner.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """See gRPC."""
        await self.current().channel_ready()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()


class _Method:
    """A method of the channel's other side, as generated stubs call it."""

    def __init__(self, owner: AccessChannel, bind: Callable[[grpc.aio.Channel], Any]) -> None:
        self._owner = owner
        self._bind = bind
        self._channel: grpc.aio.Channel | None = None
        self._bound: Any = None

    def __call__(self, *request: Any, metadata: Any = None, **options: Any) -> Any:
        """Begin a call."""
        channel = self._owner.current()
        if channel is not self._channel:
            self._channel, self._bound = channel, self._bind(channel)
        return self._bound(*request, metadata=self._owner.metadata(metadata), **options)


def _token_of(access: Access) -> Callable[[], str]:
    if not access.token_file:
        return lambda: access.token
    watched = Watched((access.token_file,), lambda: read_token(access.token_file))
    return watched.get


def read_token(path: str) -> str:
    """Return the token that a file holds. `SettingsError` when it holds none."""
    token = read_text("MAINSPRING_TOKEN_FILE", path, 2 * token_bytes_max).strip()
    if not token.isascii() or not token.isprintable() or " " in token or not 0 < len(token) <= token_bytes_max:
        raise SettingsError(
            f"MAINSPRING_TOKEN_FILE: {path} does not hold one token; make one with: mainspring token create"
        )
    return token


def check(access: Access) -> None:
    """Read what the access names, so that a start fails and not a call. Raises `SettingsError`."""
    if access.tls.paths:
        read_pem(access.tls)
    if access.token_file:
        read_token(access.token_file)
