"""How often an executor may be started, as an operator writes it: `sendEmail=10/s, report=100/m`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from mainspring import limits

_units_s: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_one: Final = re.compile(r"\s*(?P<executor>[^\s=,]+)\s*=\s*(?P<count>[0-9]{1,7})\s*/\s*(?P<unit>[smhd])\s*")


@dataclass(frozen=True, slots=True)
class Rate:
    """So many starts in so long."""

    count: int
    per_s: int

    def __str__(self) -> str:
        unit = next((name for name, seconds in _units_s.items() if seconds == self.per_s), f"{self.per_s} s")
        return f"{self.count}/{unit}"


def parse_rates(text: str) -> Mapping[str, Rate]:
    """Read rates by executor; `ValueError` that names the part which is none."""
    found: dict[str, Rate] = {}
    for part in text.split(","):
        if not part.strip():
            continue
        match = _one.fullmatch(part)
        if match is None or not 0 < int(match["count"]) <= limits.executor_rate_max:
            raise ValueError(
                f"{part.strip()[:64]!r} is no rate; write EXECUTOR=COUNT/UNIT, as in sendEmail=10/s, with a count from 1 to "
                f"{limits.executor_rate_max} and a unit of s, m, h or d"
            )
        if match["executor"] in found:
            raise ValueError(f"executor {match['executor']!r} has two rates; leave one out")
        found[match["executor"]] = Rate(int(match["count"]), _units_s[match["unit"]])
    if len(found) > limits.executor_rates_max:
        raise ValueError(f"{len(found)} executors have a rate, more than {limits.executor_rates_max}")
    return found
