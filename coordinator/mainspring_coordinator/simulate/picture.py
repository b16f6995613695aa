"""Draws what ran where, and when: a row for each slot, a colour for each workflow."""

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Final

from mainspring.extras import wheel_with
from mainspring_coordinator.simulate.cluster import Ran
from mainspring_coordinator.simulate.fleet import SimulatedWorker
from mainspring_coordinator.simulate.recording import RecordingError

formats: Final = (".png", ".svg")
_row_inches: Final = 0.16
_colours: Final = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#997700", "#994455")
"""Told apart by most people who see colours differently, too (Paul Tol's bright scheme)."""


def draw(path: Path, title: str, fleet: Sequence[SimulatedWorker], ran: Sequence[Ran]) -> None:
    """Write a picture; `RecordingError` when the package that draws is not installed."""
    try:
        # Loaded here, because only pictures need it, and it takes a second.
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError as error:
        raise RecordingError(f"pictures need matplotlib: {wheel_with('pictures')}") from error
    # The row of each worker's first slot, and the end of all.
    *first, rows = accumulate((worker.slots for worker in fleet), initial=0)
    figure = Figure(figsize=(12, max(2.0, 1.2 + rows * _row_inches)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for number in sorted({one.workflow for one in ran}):
        bars = [one for one in ran if one.workflow == number]
        axes.barh(
            [first[one.worker] + one.slot for one in bars],
            [(one.ended_us - one.started_us) / 1e6 for one in bars],
            left=[one.started_us / 1e6 for one in bars],
            height=0.85,
            color=_colours[number % len(_colours)],
            edgecolor="white",
            linewidth=0.2,
        )
    axes.set_yticks(
        [start + (worker.slots - 1) / 2 for start, worker in zip(first, fleet, strict=True)],
        [worker.name for worker in fleet],
    )
    for start in first[1:]:
        axes.axhline(start - 0.5, color="#bbbbbb", linewidth=0.5)
    axes.set_ylim(rows - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.set_xlabel("seconds")
    axes.set_title(title)
    figure.savefig(path, format=path.suffix[1:], dpi=120)
