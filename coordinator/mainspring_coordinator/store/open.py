"""The way in: a database URL becomes a store."""

from typing import Final

from mainspring_coordinator.store.protocol import Store
from mainspring_coordinator.store.sql import SqlStore
from mainspring_coordinator.store.url import parse_url

lock_timeout_ms_default: Final = 300_000
lock_socket_timeout_ms_default: Final = 3_500
connects_max_default: Final = 3


def open_store(
    url: str,
    *,
    lock_timeout_ms: int = lock_timeout_ms_default,
    lock_socket_timeout_ms: int = lock_socket_timeout_ms_default,
    connects_max: int = connects_max_default,
) -> Store:
    """Return the store of a database; nothing is connected yet. `SettingsError` names what is wrong with the URL.

    `lock_timeout_ms` is `LOCK_TIMEOUT`: how long the server keeps the lock of a session that fell silent. `lock_socket_timeout_ms` is
    how long one answer on the lock session may take (Q). `connects_max` is how many connections one call of the journal may open
    before it says `StoreUnavailableError`.
    """
    return SqlStore(
        parse_url(url),
        lock_timeout_ms=lock_timeout_ms,
        lock_socket_timeout_ms=lock_socket_timeout_ms,
        connects_max=connects_max,
    )
