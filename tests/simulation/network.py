"""Who can reach whom, and how long it takes.

Names are those of hosts: a process that starts again has the name of the one before. While a link is cut nothing passes it, and what
was sent comes when it is healed, as TCP has it, unless its connection has ended meanwhile.
"""

from collections.abc import Callable

from tests.simulation.world import MS, World


class Network:
    """Links between named ends."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._cut: dict[frozenset[str], list[Callable[[], None]]] = {}
        self.latency_us = 1 * MS
        """The longest usual delay of a message."""

    def is_cut(self, one: str, other: str) -> bool:
        """Tell whether nothing passes between these."""
        return frozenset((one, other)) in self._cut

    def cut(self, one: str, other: str) -> None:
        """Let nothing pass any more."""
        self._cut.setdefault(frozenset((one, other)), [])

    def heal(self, one: str, other: str) -> None:
        """Let everything pass again, what waited first."""
        for arrive in self._cut.pop(frozenset((one, other)), []):
            self._world.at(0, arrive)

    def heal_all(self) -> None:
        """Heal every link."""
        for link in list(self._cut):
            for arrive in self._cut.pop(link):
                self._world.at(0, arrive)

    def delay_us(self) -> int:
        """Draw how long a message takes."""
        return 50 + self._world.soon_us(self.latency_us)

    def send(self, one: str, other: str, arrive: Callable[[], None]) -> None:
        """Let `arrive` be called when what `one` sends is at `other`."""

        def at_the_end() -> None:
            waiting = self._cut.get(frozenset((one, other)))
            if waiting is None:
                arrive()
            else:
                waiting.append(at_the_end)

        self._world.at(self.delay_us(), at_the_end)
