"""What files hold, read again when they change: certificates, tokens, keys."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Generic, TypeVar

import structlog

from mainspring.errors import SettingsError

_log: Final = structlog.get_logger(__name__)
_T = TypeVar("_T")
_Stamp = tuple[tuple[int, int, int], ...]


class Watched(Generic[_T]):
    """A value that is read from files; may be asked from any thread.

    Each `get` looks whether the files are still those that were read, which takes a microsecond a file, so a change counts from
    the next look on. Files that cannot be read, or do not fit together, leave what was read before in force, and the log says so once:
    they may be half written, and then change again.
    """

    def __init__(self, paths: Sequence[str], read: Callable[[], _T]) -> None:
        """Read at once; what `read` raises is a `SettingsError` that names file and setting."""
        self._paths = tuple(Path(path) for path in paths)
        self._read = read
        self._lock = threading.Lock()
        self._stamp = self._look()
        self._value = read()

    def get(self) -> _T:
        """Return what the files hold."""
        stamp = self._look()
        if stamp == self._stamp:
            return self._value
        with self._lock:
            if stamp == self._stamp:
                return self._value
            self._stamp = stamp
            try:
                self._value = self._read()
            except SettingsError as error:
                _log.error("file_not_taken", problem=str(error), action="what was read before stays in force")
            else:
                _log.info("files_read_again", files=[str(path) for path in self._paths])
            return self._value

    def _look(self) -> _Stamp:
        found: list[tuple[int, int, int]] = []
        for path in self._paths:
            try:
                status = path.stat()
            except OSError:
                found.append((0, 0, 0))
            else:
                found.append((status.st_mtime_ns, status.st_size, status.st_ino))
        return tuple(found)


def read_bytes(setting: str, path: str, bytes_max: int) -> bytes:
    """Return a file's bytes; `SettingsError` names the setting and the file."""
    try:
        with Path(path).open("rb") as file:
            found = file.read(bytes_max + 1)
    except OSError as error:
        raise SettingsError(f"{setting}: cannot read {path}: {error.strerror}; name a readable file") from error
    if len(found) > bytes_max:
        raise SettingsError(f"{setting}: {path} has more than {bytes_max} bytes; it is another file than is wanted")
    return found


def read_text(setting: str, path: str, bytes_max: int) -> str:
    """Return a file's text; `SettingsError` names the setting and the file."""
    try:
        return read_bytes(setting, path, bytes_max).decode()
    except UnicodeDecodeError as error:
        raise SettingsError(f"{setting}: {path} is not UTF-8 text: {error}") from error
