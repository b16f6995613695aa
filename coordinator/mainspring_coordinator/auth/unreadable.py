"""Messages that cannot be read, as what they are: the caller's fault.

gRPC reads a message before any handler, or the gate, hears of its call, and answers one that it cannot read as if we had failed. So it is
given nothing to read with: the gate reads what comes, once it knows who calls.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError

from mainspring.errors import BadRequestError

Read = Callable[[bytes], Any]


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Stands in a stream where a message should."""

    problem: str

    @property
    def error(self) -> BadRequestError:
        """What its sender is told."""
        return BadRequestError(
            f"the message cannot be read ({self.problem}); send what the contract in protos/ says, encoded as protobuf",
            reason="UNREADABLE",
        )


def reading(read: Read | None) -> Read:
    """Return what reads a message by `read`; without it messages are bytes."""

    def read_or_tell(data: bytes) -> Any:
        try:
            return read(data) if read is not None else data
        except DecodeError as error:
            return Unreadable(str(error))

    return read_or_tell
