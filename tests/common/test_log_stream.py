"""A stream for log lines gets over a disk that is full for a while, and says what is missing."""

import errno
import io
import os
from pathlib import Path

import pytest

from mainspring.log_stream import LogStream


class Full(io.StringIO):
    """A stream with room only now and then."""

    full = False

    def write(self, text: str) -> int:
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(text)


def test_lines_that_find_no_room_are_counted_and_told_of() -> None:
    out = Full()
    stream = LogStream(out)
    stream.write("one\n")
    out.full = True
    stream.write("two\n")
    stream.write("three\n")
    assert stream.lost == 2
    out.full = False
    stream.write("four\n")
    stream.write("five\n")
    assert stream.lost == 0
    lost = '{"event": "log_lines_lost", "level": "warning", "count": 2, "reason": "No space left on device"}'
    assert out.getvalue().splitlines() == ["one", lost, "four", "five"]


def test_a_file_gets_each_line_at_once(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("w") as out:
        LogStream(out).write("a line with ü and \udc80\n")
        assert path.read_bytes() == b"a line with \xc3\xbc and \\udc80\n"


def test_a_reader_that_is_gone_stops_nobody() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as out:
        stream = LogStream(out)
        stream.write("nobody reads this\n")
        assert stream.lost == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_leaves_nothing_behind_that_would_fail_later() -> None:
    with Path("/dev/full").open("w") as out:
        LogStream(out).write("no room\n")
