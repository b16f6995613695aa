"""What a soak has shown: what grows and what does not, as text, JSON and a picture."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from tests.soak.samples import Watched
from tests.soak.trend import Trend, fit

memory_growth_mib_max: Final = 8.0
"""By so much the memory of a process may rise while it is watched, which is less than one heap's arena or two a minute of use takes."""
memory_growth_share_max: Final = 0.04
"""And by this share of what it has, if that is more."""
_bounds: Final[Mapping[str, float]] = {"threads": 6.0, "files": 8.0, "connections": 5.0, "queue": 1_000.0}
"""Pools of threads and connections that fill late are below; a step of one makes a line that rises by one and a half."""
_hour_s: Final = 3_600


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is said of one measure of one process."""

    process: str
    measure: str
    trend: Trend
    bound: float
    last: float

    @property
    def grows(self) -> bool:
        """Whether it grows beyond its bound, and not by chance."""
        return self.trend.grows(self.bound)

    @property
    def row(self) -> str:
        """A row of the table."""
        trend = self.trend
        told = "GROWS" if self.grows else "steady"
        by_hour, error = trend.slope * _hour_s, trend.error * _hour_s
        return (
            f"| {self.process} | {self.measure} | {trend.mean:.1f} | {self.last:.1f} | {by_hour:+.2f} ± {error:.2f} | {trend.t:.1f} "
            f"| {trend.growth:+.2f} of {self.bound:.1f} | {told} |"
        )


@dataclass(slots=True)
class Report:
    """All of a run."""

    peak: float
    """Workflows a second at the most."""
    rate: float
    """Those that were asked for."""
    done: int
    held_back: int
    warm_up_s: float
    times: Sequence[float]
    watched: Sequence[Watched]
    faults: Sequence[str] = field(default_factory=list[str])

    def verdicts(self) -> Sequence[Verdict]:
        """Judge each measure of each process from the end of the warm-up on."""
        first = next((index for index, at in enumerate(self.times) if at >= self.warm_up_s), len(self.times))
        found: list[Verdict] = []
        for one in self.watched:
            for measure, values in one.values.items():
                trend = fit(self.times[first:], values[first : len(self.times)])
                bound = _bounds.get(measure, max(memory_growth_mib_max, memory_growth_share_max * trend.mean))
                found.append(Verdict(one.name, measure, trend, bound, values[-1]))
        return found

    @property
    def sound(self) -> bool:
        """Whether nothing grows and nothing failed."""
        return not self.faults and not any(verdict.grows for verdict in self.verdicts())

    def to_text(self) -> str:
        """All of it as Markdown."""
        head = [
            f"{self.done} workflows of 4 nodes; the peak was {self.peak:.0f} a second, the load {self.rate:.0f} a second; "
            f"{self.times[-1]:.0f} s, of which the first {self.warm_up_s:.0f} s are left out below"
            + (f"; {self.held_back} were held back" if self.held_back else ""),
            "",
            "| process | measure | mean | last | slope by the hour | t | grew, at most | |",
            "| --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        faults = [f"- {fault}" for fault in self.faults[:20]]
        return "\n".join(
            [*head, *(verdict.row for verdict in self.verdicts()), *(["", "Faults:", *faults] if faults else [])]
        )

    def to_json(self) -> str:
        """All of it, each sample too."""
        verdicts = [{**asdict(verdict), "grows": verdict.grows} for verdict in self.verdicts()]
        samples = {one.name: one.values for one in self.watched}
        told = {
            **{name: getattr(self, name) for name in ("peak", "rate", "done", "held_back", "warm_up_s")},
            "sound": self.sound,
            "faults": list(self.faults),
            "verdicts": verdicts,
            "times": list(self.times),
            "samples": samples,
        }
        return json.dumps(told, indent=1, default=str)

    def picture(self, path: Path) -> None:
        """Draw each measure over time, a line a process."""
        # Loaded here, because it takes a second, and only the report needs it.
        import matplotlib as mpl  # noqa: PLC0415

        mpl.use("Agg")
        from matplotlib import pyplot as plt  # noqa: PLC0415

        shown = list(dict.fromkeys(measure for one in self.watched for measure in one.values))
        figure, places = plt.subplots(len(shown), 1, sharex=True, figsize=(10, 2.2 * len(shown)))
        for place, measure in zip(places, shown, strict=True):
            for one in self.watched:
                if (values := one.values.get(measure)) is not None:
                    place.plot(self.times, values[: len(self.times)], label=one.name, linewidth=1)
            place.axvline(self.warm_up_s, color="grey", linewidth=0.8)
            place.set_ylabel("memory, MiB" if measure == "memory" else measure)
            place.set_ylim(bottom=0)
        places[0].legend(loc="lower right", ncols=4)
        places[-1].set_xlabel("seconds")
        figure.tight_layout()
        figure.savefig(path, dpi=110)
        plt.close(figure)
