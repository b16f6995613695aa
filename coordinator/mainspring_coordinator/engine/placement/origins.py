"""Where outputs were made, kept as a number a node."""

from collections import OrderedDict
from dataclasses import dataclass

from mainspring.limits import origins_max


@dataclass(slots=True)
class Origin:
    """A worker that made outputs, as far as it is known; empty is what is not known."""

    incarnation: str
    host: str = ""
    zone: str = ""


class Origins:
    """Numbers for workers. A number is never given twice: of a worker that is forgotten, it is not known where its outputs were made."""

    def __init__(self) -> None:
        self._number = 0
        self._by_number: OrderedDict[int, Origin] = OrderedDict()
        self._numbers: dict[str, int] = {}
        """By incarnation."""

    def number_of(self, incarnation: str) -> int:
        """Return the number of a worker, above 0; where it is may not be known, as after a takeover before it has attached."""
        number = self._numbers.get(incarnation)
        if number is None:
            if len(self._by_number) >= origins_max:
                _, oldest = self._by_number.popitem(last=False)
                del self._numbers[oldest.incarnation]
            number = self._number = self._number + 1
            self._numbers[incarnation] = number
            self._by_number[number] = Origin(incarnation)
        return number

    def locate(self, incarnation: str, host: str, zone: str) -> None:
        """A worker tells where it is."""
        origin = self._by_number[self.number_of(incarnation)]
        origin.host, origin.zone = host, zone

    def get(self, number: int) -> Origin | None:
        """Return the worker of a number, None if it is forgotten."""
        return self._by_number.get(number)
