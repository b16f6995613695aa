"""How a coordinator that passed a call on tells its client where the workflow's owner is: one entry of the answer's trailing metadata.

The client may go straight there with its next calls for workflows of that shard. It is a hint: whoever gets such a call and does
not own the shard any more passes it on, and gives another hint. The call names the incarnation that it means, because an address
may be another process's by now, or never have meant the same place to the client as to the coordinator.
"""

from dataclasses import dataclass
from typing import Final

from mainspring.ids import is_incarnation
from mainspring.limits import host_bytes_max, shards_max

owner_key: Final = "x-mainspring-owner"
"""In the trailing metadata of an answer: an `OwnerHint`."""
addressee_key: Final = "x-mainspring-addressee"
"""In the metadata of a call: the incarnation that it is meant for; any other one refuses it as NOT_OWNER."""
_text_characters_max: Final = host_bytes_max + 64


@dataclass(frozen=True, slots=True)
class OwnerHint:
    """Who owns a shard."""

    shard: int
    shards_total: int
    incarnation: str
    """The owner's."""
    address: str
    """"host:port" of its gRPC server."""

    def to_text(self) -> str:
        """Write it as "shard/shards incarnation address"."""
        return f"{self.shard}/{self.shards_total} {self.incarnation} {self.address}"

    @classmethod
    def from_text(cls, text: str) -> "OwnerHint | None":
        """Read it; None when it is none, because it comes from outside."""
        parts = text.split(" ") if len(text) <= _text_characters_max else []
        if len(parts) != 3:
            return None
        numbers, incarnation, address = parts
        shard, _, total = numbers.partition("/")
        host, _, port = address.rpartition(":")
        if not (shard.isdecimal() and total.isdecimal() and port.isdecimal() and host and is_incarnation(incarnation)):
            return None
        hint = cls(int(shard), int(total), incarnation, address)
        return hint if hint.shard < hint.shards_total <= shards_max else None
