"""Delays before another try. Pure: chance is drawn by the caller, or made from names by `draw_for`."""

import zlib
from typing import Final

from mainspring.workflow import Retry

_draws: Final = 2**32


def delay_ms(retry: Retry, attempt: int, draw: float) -> int:
    """Return how long to wait after a failed `attempt` (from 1); `draw` is in [0, 1) and decides within the jitter."""
    # Cut so that the longest jittered delay is the longest interval: cut afterwards, half of all delays would be the same one.
    longest = retry.max_interval_ms / (1 + retry.jitter)
    # The exponent is bounded, because the largest float is; the interval is at its longest long before.
    base = min(longest, retry.initial_ms * retry.multiplier ** min(attempt - 1, 64))
    return min(retry.max_interval_ms, round(base * (1 - retry.jitter + 2 * retry.jitter * draw)))


def draw_for(*names: object) -> float:
    """Return a number in [0, 1) that names always give again, and that other names give differently: chance for pure code."""
    return zlib.crc32("/".join(str(name) for name in names).encode()) / _draws


def full_jitter_ms(base_ms: int, cap_ms: int, attempt: int, draw: float) -> int:
    """Return a delay between 0 and `base_ms` doubled with each `attempt` (from 1), at most `cap_ms`: spread reconnects widest."""
    return int(min(cap_ms, base_ms * 2 ** min(attempt - 1, 32)) * draw)
