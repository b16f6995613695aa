"""What is wrong with a definition, collected: all of it, up to a bound."""

from collections.abc import Collection
from difflib import get_close_matches

from mainspring.errors import Problem
from mainspring.limits import hint_comparisons_max, problems_max


class Problems:
    """Collects problems and counts those over the bound; makes hints as long as they are cheap."""

    def __init__(self) -> None:
        self._found: list[Problem] = []
        self._more = 0
        self._comparisons_left = hint_comparisons_max

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(self, problem: Problem) -> None:
        """Keep a problem, or count it when there are too many."""
        if len(self._found) < problems_max:
            self._found.append(problem)
        else:
            self._more += 1

    def say(self, reason: str, message: str, node_id: str = "", field: str = "") -> None:
        """Keep a problem; the arguments are the fields of `Problem`."""
        self.add(Problem(reason, message, node_id, field))

    def closest(self, name: str, known: Collection[str]) -> str | None:
        """Return the known name that is most like a wrong one; None if none is, or so many are known that it would take long."""
        self._comparisons_left -= len(known)
        if self._comparisons_left < 0:
            return None
        close = get_close_matches(name, known, 1)
        return close[0] if close else None

    def all(self) -> list[Problem]:
        """Return them in the order in which they were found; the last one tells how many more there are."""
        if not self._more:
            return list(self._found)
        return [
            *self._found,
            Problem("MORE", f"there are {self._more} more problems; these are the first {problems_max}"),
        ]
