"""Which worker has a key."""

from collections import OrderedDict

from mainspring.limits import affinity_keys_max


class Affinities:
    """Remembers the workers that keys went to, so that a newcomer takes none over while they live.

    The key used longest ago is forgotten first; where it goes then follows from hashing, which is the same worker as long as that had
    room the first time and none has come that is nearer to the key.
    """

    def __init__(self) -> None:
        self._incarnations: OrderedDict[str, str] = OrderedDict()

    def __len__(self) -> int:
        return len(self._incarnations)

    def get(self, key: str) -> str | None:
        """Return the incarnation that has a key."""
        found = self._incarnations.get(key)
        if found is not None:
            self._incarnations.move_to_end(key)
        return found

    def note(self, key: str, incarnation: str) -> None:
        """A worker has a key from now on."""
        self._incarnations[key] = incarnation
        self._incarnations.move_to_end(key)
        if len(self._incarnations) > affinity_keys_max:
            self._incarnations.popitem(last=False)
