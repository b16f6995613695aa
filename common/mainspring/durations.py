"""Durations as people write them: a number and a unit, "500ms", "30s", "1.5h". Inside they are whole milliseconds.

`span` writes one that was measured, for a person.
"""

import re
from typing import Final

_duration: Final = re.compile(r"([0-9]{1,15})(?:\.([0-9]{1,9}))?(ms|s|m|h|d)", re.ASCII)
_unit_ms: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def parse_duration(text: str) -> int | None:
    """Return the milliseconds of "500ms", "30s", "5m", "2h" or "1d"; None if it is none, or no whole number of them."""
    match = _duration.fullmatch(text)
    if not match:
        return None
    whole, fraction, unit = match.groups()
    # In integers: a fraction of a millisecond that were rounded to 0 would mean "without limit".
    digits = fraction or ""
    ms, rest = divmod(int(whole + digits) * _unit_ms[unit], 10 ** len(digits))
    return None if rest else ms


def format_duration(ms: int) -> str:
    """Write milliseconds in the largest unit that holds them whole."""
    if not ms:
        return "0s"
    unit = next(unit for unit in ("d", "h", "m", "s", "ms") if ms % _unit_ms[unit] == 0)
    return f"{ms // _unit_ms[unit]}{unit}"


def span(us: int) -> str:
    """Return a duration for a person."""
    if us < 1_000_000:
        return f"{max(0, us) / 1000:.0f} ms"
    seconds = us / 1e6
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02} min"
