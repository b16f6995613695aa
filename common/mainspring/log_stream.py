"""Where log lines go: a stream whose failures stop nobody.

The disk of a log may be full, or who reads the pipe be gone. Nothing that this project promises depends on a log line, so a line that
cannot be written is counted, and the next one that can be is preceded by one that says how many are missing.
"""

import os
from typing import Final, TextIO

_missing: Final = '{{"event": "log_lines_lost", "level": "warning", "count": {count}, "reason": "{reason}"}}\n'


class LogStream:
    """Writes lines to a stream, each at once and without a buffer where the stream has a descriptor."""

    def __init__(self, out: TextIO) -> None:
        self.lost = 0
        """Lines that could not be written since the last one that could."""
        self._out = out
        self._reason = ""
        try:
            self._descriptor = out.fileno()
        except OSError:
            self._descriptor = -1

    def write(self, text: str) -> int:
        """Write a line, or count it as lost."""
        try:
            if self.lost:
                self._write(_missing.format(count=self.lost, reason=self._reason))
                self.lost = 0
            self._write(text)
        except OSError as error:
            self.lost += 1
            self._reason = error.strerror or "unknown"
        return len(text)

    def flush(self) -> None:
        """Nothing waits here."""

    def isatty(self) -> bool:
        """Tell whether somebody reads it on a terminal."""
        return self._out.isatty()

    def _write(self, text: str) -> None:
        if self._descriptor < 0:
            self._out.write(text)
            return
        left = memoryview(text.encode(errors="backslashreplace"))
        while left:
            left = left[os.write(self._descriptor, left) :]
