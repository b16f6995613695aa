"""A disk of a few megabytes, mounted over a folder by whoever may mount, that can be filled and emptied."""

import subprocess
from pathlib import Path
from typing import Final, Self

_filler: Final = ".filler"
_block: Final = 64 * 1024


class NoMountError(Exception):
    """This user may not mount anything."""


class SmallDisk:
    """A file system of its own at a folder, gone with the context."""

    def __init__(self, folder: Path, mebibytes: int) -> None:
        """`folder` must be there. `NoMountError` when it is entered and nothing can be mounted."""
        self.folder = folder
        self._mebibytes = mebibytes

    def __enter__(self) -> Self:
        options = ["-t", "tmpfs", "-o", f"size={self._mebibytes}m", "tmpfs", str(self.folder)]
        done = subprocess.run(["mount", *options], check=False, capture_output=True, text=True)
        if done.returncode != 0:
            raise NoMountError(done.stderr.strip())
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", str(self.folder)], check=True, capture_output=True)

    def fill(self) -> None:
        """Leave no room at all."""
        with (self.folder / _filler).open("ab", buffering=0) as filler:
            for size in (_block, 1):
                try:
                    while filler.write(b"\0" * size) == size:
                        pass
                except OSError:
                    continue

    def free(self) -> None:
        """Give the room back."""
        (self.folder / _filler).unlink()
