"""Whether something grows: a line through what was seen, with its error, and what counts as growth."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

t_min: Final = 3.0
"""A slope of fewer standard errors may be chance."""
block_s: Final = 10.0
"""Samples of so many seconds become one point: neighbours are alike, and would make a slope look surer than it is."""
_blocks_min: Final = 4


@dataclass(frozen=True, slots=True)
class Trend:
    """A line through points."""

    slope: float
    """By a second."""
    error: float
    """The slope's standard error."""
    seconds: float
    """From the first point to the last."""
    mean: float

    @property
    def t(self) -> float:
        """By how many standard errors it rises; endless for a line without any noise."""
        if self.error == 0:
            return math.inf if self.slope > 0 else 0.0
        return self.slope / self.error

    @property
    def growth(self) -> float:
        """What the line rises by from its begin to its end."""
        return self.slope * self.seconds

    def grows(self, bound: float) -> bool:
        """Tell whether it rises by more than the bound, and not by chance."""
        return self.growth > bound and self.t >= t_min


def blocks(
    times: Sequence[float], values: Sequence[float], seconds: float = block_s
) -> tuple[list[float], list[float]]:
    """Return means of the samples of each so many seconds."""
    gathered: dict[int, list[tuple[float, float]]] = {}
    for at, value in zip(times, values, strict=True):
        gathered.setdefault(int((at - times[0]) // seconds), []).append((at, value))
    groups = [gathered[number] for number in sorted(gathered)]
    return [_mean([at for at, _ in group]) for group in groups], [
        _mean([value for _, value in group]) for group in groups
    ]


def fit(times: Sequence[float], values: Sequence[float]) -> Trend:
    """Fit a line by least squares to means of blocks. `ValueError` when there are too few of them for its error to mean something."""
    xs, ys = blocks(times, values)
    if len(xs) < _blocks_min:
        raise ValueError(f"{len(xs)} blocks of {block_s:g} s; a line needs {_blocks_min}: watch for longer")
    x_mean, y_mean = _mean(xs), _mean(ys)
    spread = sum((x - x_mean) ** 2 for x in xs)
    slope = sum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True)) / spread
    left = sum((y - y_mean - slope * (x - x_mean)) ** 2 for x, y in zip(xs, ys, strict=True))
    return Trend(slope, math.sqrt(left / (len(xs) - 2) / spread), xs[-1] - xs[0], y_mean)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
