"""A program that a test starts and talks to."""

import subprocess
from types import TracebackType


class Program(subprocess.Popen[str]):
    """A process with text streams; one that a failing test leaves is killed, or the block's end would wait for it for ever."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.kill()
        super().__exit__(kind, error, trace)
