"""`mainspring simulate`: which strategy, and how many workers? The engine answers, on virtual time."""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

import orjson
from rich.console import Console
from rich.filesize import decimal
from rich.progress import Progress
from rich.table import Table

from mainspring.definition import parse_definition
from mainspring.errors import MainspringError, SettingsError
from mainspring.limits import map_width_max, simulated_copies_max, slots_max, workers_max
from mainspring.workflow import Definition, strategies
from mainspring_coordinator.engine.config import EngineConfig
from mainspring_coordinator.simulate.cluster import Arrival, SimulatedCluster
from mainspring_coordinator.simulate.figures import Figures, figures_of
from mainspring_coordinator.simulate.fleet import SimulatedWorker, equal_workers, read_fleet
from mainspring_coordinator.simulate.history import described, read_history
from mainspring_coordinator.simulate.picture import draw, formats
from mainspring_coordinator.simulate.recording import Recording, RecordingError
from mainspring_coordinator.simulate.wfformat import is_trace, read_trace

_unsimulated: Final = 1
_hop_ms: Final = 2.0
_legend: Final = """\
makespan  seconds from the first submit to the last end, and as a multiple of what no schedule can beat
mean      seconds from submit to end, the mean of all workflows
p50, p95  how many seconds nodes waited that could start
busy      of all slots' time; uneven: the busiest worker against the mean
moved     what was made on one host and used on another
spread    how many workflows ran on more than one worker"""
_epilog: Final = """\
A FILE is a recorded workflow in WfFormat 1.5 (https://wfcommons.org/format), or a definition: its times are then those of --history,
or of --seconds. Times are virtual: a day takes seconds.

examples:
  mainspring simulate montage.json --workers 4 --slots 16
  mainspring simulate montage.json blast.json --fleet fleet.yaml --strategy locality --strategy load-balanced
  mainspring history cleanup-2024 --json > cleanup.jsonl
  mainspring workers --json > fleet.json
  mainspring simulate cleanup.yaml --history cleanup.jsonl --fleet fleet.json --copies 50 --every 10 --picture cleanup.svg
  mainspring simulate cleanup.yaml --seconds fetch=2.5 --seconds delete=0.1 --width delete=1000 --workers 8

A fleet in YAML or JSON; what runs on one host needs no file to be moved, and executors left out are all:
  workers:
    - {name: big, count: 2, slots: 16, zone: a, speed: 1.5, labels: {gpu: "true"}, executors: [train, resize]}
    - {name: small, count: 8, slots: 4, zone: b}
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingsError(f"{message}; see: mainspring simulate --help")


def main(words: Sequence[str]) -> int:
    """Simulate what the words say; return the exit status: 0, or 1 when a workflow could not end."""
    options = _parser().parse_args(words)
    fleet = _fleet(options)
    arrivals = _arrivals(options)
    chosen: list[str] = options.strategy or list(strategies)
    if options.picture is not None and options.picture.suffix not in formats:
        raise SettingsError(f"--picture {options.picture}: a picture ends in {' or '.join(formats)}")
    out, side = Console(highlight=False), Console(stderr=True, highlight=False)
    nodes = sum(len(arrival.recording.run_us) for arrival in arrivals)
    found: list[Figures] = []
    stuck: list[str] = []
    with Progress(console=side, transient=True, disable=not side.is_terminal) as progress:
        for strategy in chosen:
            task = progress.add_task(strategy, total=nodes)
            cluster = SimulatedCluster(
                fleet,
                arrivals,
                EngineConfig(strategy=strategy),
                hop_us=round(options.hop * 1_000),
                bytes_a_s=options.bandwidth * 1e6,
                progress=lambda ended, of=task: progress.update(of, completed=ended),  # type: ignore[misc]  # a default binds the loop's value
            )
            cluster.run()
            found.append(figures_of(strategy, fleet, arrivals, cluster.ran, cluster.moved_bytes))
            stuck += _stuck(strategy, arrivals, cluster)
            if options.picture is not None:
                draw(_picture_of(options.picture, strategy, len(chosen)), _title(found[-1], fleet), fleet, cluster.ran)
    if options.as_json:
        sys.stdout.write(orjson.dumps(_document(fleet, found, stuck), option=orjson.OPT_INDENT_2).decode() + "\n")
    else:
        _print(out, found, fleet)
    for line in stuck:
        side.print(line, style="red", markup=False)
    return _unsimulated if stuck else 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="mainspring simulate",
        description="Run workflows on virtual time with the coordinator's own engine: which strategy, how many workers?",
        epilog=_epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="workflows: WfFormat 1.5, or definitions")
    parser.add_argument("--history", type=Path, help="the history of a workflow of the one definition that is given")
    parser.add_argument(
        "--seconds", action="append", default=[], metavar="[EXECUTOR=]S", help="how long nodes of a definition run"
    )
    parser.add_argument(
        "--width", action="append", default=[], metavar="NODE=N", help="how many instances a map node has (10)"
    )
    parser.add_argument("--fleet", type=Path, help="the workers, described or recorded")
    parser.add_argument("--workers", type=int, default=2, help="without --fleet: so many workers (2)")
    parser.add_argument("--slots", type=int, default=50, help="without --fleet: the slots of each (50)")
    parser.add_argument(
        "--strategy", action="append", choices=strategies, help="one of those to compare; may be repeated (all)"
    )
    parser.add_argument("--copies", type=int, default=1, help="how often each workflow is submitted (1)")
    parser.add_argument("--every", type=float, default=0.0, help="seconds between the copies (0)")
    parser.add_argument("--bandwidth", type=float, default=0.0, help="MB/s for files from host to host (0: no time)")
    parser.add_argument("--hop", type=float, default=_hop_ms, help=f"ms from an end to the next start ({_hop_ms})")
    parser.add_argument("--picture", type=Path, help="draw what ran where, one .svg or .png a strategy")
    parser.add_argument("--json", action="store_true", dest="as_json", help="print one JSON document")
    return parser


def _fleet(options: argparse.Namespace) -> list[SimulatedWorker]:
    if options.fleet is not None:
        try:
            return read_fleet(options.fleet.read_bytes())
        except (OSError, RecordingError) as error:
            raise SettingsError(f"--fleet {options.fleet}: {error}") from error
    for name, most in (("workers", workers_max), ("slots", slots_max)):
        if not 1 <= getattr(options, name) <= most:
            raise SettingsError(f"--{name} {getattr(options, name)}: it is 1 to {most}")
    return equal_workers(options.workers, options.slots)


def _arrivals(options: argparse.Namespace) -> list[Arrival]:
    if not 1 <= options.copies <= simulated_copies_max:
        raise SettingsError(f"--copies {options.copies}: it is 1 to {simulated_copies_max}")
    for name in ("every", "bandwidth", "hop"):
        if not 0 <= getattr(options, name) < float("inf"):
            raise SettingsError(f"--{name} {getattr(options, name)}: it is at least 0")
    recordings = [_recording(path, options) for path in options.files]
    arrivals = [
        Arrival(round(copy * options.every * 1e6), recording)
        for copy in range(options.copies)
        for recording in recordings
    ]
    return sorted(arrivals, key=lambda arrival: arrival.at_us)


def _recording(path: Path, options: argparse.Namespace) -> Recording:
    try:
        data = path.read_bytes()
        if path.suffix == ".json" and is_trace(orjson.loads(data)):
            return read_trace(data).recording()
        definition = parse_definition(data, format="json" if path.suffix == ".json" else "yaml")
        return _of_definition(path, definition, options)
    except orjson.JSONDecodeError as error:
        raise SettingsError(f"{path}: it is not JSON: {error}") from error
    except (OSError, MainspringError) as error:
        raise SettingsError(f"{path}: {error}") from error


def _of_definition(path: Path, definition: Definition, options: argparse.Namespace) -> Recording:
    if options.history is not None:
        if len(options.files) > 1:
            raise RecordingError("--history is of one workflow; give one definition with it")
        return read_history(definition, options.history.read_bytes(), name=path.stem)
    if not options.seconds:
        raise RecordingError("it says nothing of times; add --history FILE, or --seconds S for all nodes")
    default_s, seconds = 0.0, dict[str, float]()
    executors = {node.executor for node in definition.nodes}
    for word in options.seconds:
        name, _, value = word.rpartition("=")
        if name and name not in executors:
            raise RecordingError(
                f"--seconds {word}: no node has executor {name!r}; there are {', '.join(sorted(executors))}"
            )
        if name:
            seconds[name] = _number(word, value)
        else:
            default_s = _number(word, value)
    maps = {node.id: 10 for node in definition.nodes if node.map is not None}
    for word in options.width:
        name, _, value = word.rpartition("=")
        if name not in maps:
            raise RecordingError(
                f"--width {word}: no map node is named {name!r}; there are: {', '.join(maps) or 'none'}"
            )
        if not value.isdecimal() or int(value) > map_width_max:
            raise RecordingError(
                f"--width {word}: a width is a whole number up to {map_width_max}, as in --width {name}=100"
            )
        maps[name] = int(value)
    return described(definition, name=path.stem, seconds=seconds, widths=maps, default_s=default_s)


def _number(word: str, value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise RecordingError(f"--seconds {word}: seconds are a number of at least 0, as in --seconds fetch=2.5")
    return seconds


def _stuck(strategy: str, arrivals: Sequence[Arrival], cluster: SimulatedCluster) -> list[str]:
    lines: list[str] = []
    for number, node in cluster.waiting:
        definition = arrivals[number].recording.definition
        wanted = next(one for one in definition.nodes if one.id == node)
        labels = "".join(f", {name}={value}" for name, value in wanted.requires.items())
        lines.append(
            f"{strategy}: {arrivals[number].recording.name} never ends: node {node!r} waits for a worker with executor "
            f"{wanted.executor!r}{labels}, and this fleet has none"
        )
    return lines


def _picture_of(path: Path, strategy: str, count: int) -> Path:
    return path if count == 1 else path.with_name(f"{path.stem}-{strategy}{path.suffix}")


def _title(figures: Figures, fleet: Sequence[SimulatedWorker]) -> str:
    return f"{figures.strategy}: {figures.nodes} nodes on {sum(worker.slots for worker in fleet)} slots in {figures.makespan_s:,.1f} s"


def _document(fleet: Sequence[SimulatedWorker], found: Sequence[Figures], stuck: Sequence[str]) -> object:
    return {
        "workers": len(fleet),
        "slots": sum(worker.slots for worker in fleet),
        "strategies": [{**dataclasses.asdict(one), "over_bound": one.over_bound} for one in found],
        "problems": list(stuck),
    }


def _print(out: Console, found: Sequence[Figures], fleet: Sequence[SimulatedWorker]) -> None:
    first = found[0]
    slots = sum(worker.slots for worker in fleet)
    out.print(f"{first.workflows} workflows, {first.nodes} nodes on {len(fleet)} workers with {slots} slots")
    out.print(f"no schedule takes less than {first.bound_s:,.1f} s\n")
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("strategy", no_wrap=True)
    for column in ("makespan", "/bound", "mean", "p50", "p95", "busy", "uneven", "moved", "spread"):
        table.add_column(column, justify="right", no_wrap=True)
    for one in found:
        table.add_row(
            one.strategy,
            f"{one.makespan_s:,.1f}",
            f"{one.over_bound:.3f}",
            f"{one.workflow_mean_s:,.1f}",
            f"{one.wait_p50_s:,.1f}",
            f"{one.wait_p95_s:,.1f}",
            f"{one.busy:.0%}",
            f"{one.imbalance:.2f}",
            decimal(one.moved_bytes, precision=0),
            str(one.spread),
        )
    out.print(table)
    out.print(f"\n{_legend}")
