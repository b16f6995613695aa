"""The workers of a simulation: as a file describes them, as `mainspring workers --json` recorded them, or so many of one kind."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mainspring.json_text import read_json
from mainspring.limits import executors_a_worker_max, slots_max, workers_max
from mainspring.yaml_text import NotYamlError, read_yaml
from mainspring_coordinator.simulate.recording import RecordingError

_example: Final = "workers: [{name: big, count: 2, slots: 8, zone: a, executors: [resize]}]"


@dataclass(frozen=True, slots=True)
class SimulatedWorker:
    """One worker."""

    name: str
    """Its name, of which there is one."""
    slots: int
    """How many nodes it runs at once."""
    speed: float = 1.0
    """How much faster than recorded each of its slots is."""
    executors: frozenset[str] | None = None
    """What it runs; None: everything."""
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    """Its labels."""
    host: str = ""
    """Its host; files stay on one."""
    zone: str = ""
    """Its zone."""


class _Described(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    name: str = Field(min_length=1, max_length=120)
    count: int = Field(default=1, ge=1, le=workers_max)
    slots: int = Field(ge=1, le=slots_max)
    speed: float = Field(default=1.0, gt=0, le=1_000, strict=False)
    executors: list[str] | None = Field(default=None, max_length=executors_a_worker_max)
    labels: dict[str, str] = Field(default_factory=dict)
    host: str = ""
    zone: str = ""


class _Fleet(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    workers: list[_Described] = Field(min_length=1, max_length=workers_max)


def equal_workers(count: int, slots: int) -> list[SimulatedWorker]:
    """Return so many workers, each on a host of its own."""
    return [SimulatedWorker(f"w{n}", slots, host=f"host-{n}") for n in range(1, count + 1)]


def read_fleet(data: bytes) -> list[SimulatedWorker]:
    """Return the workers that a file has, in JSON or YAML; raises `RecordingError` that says what is wrong with it."""
    try:
        document = read_json(data) if data.lstrip()[:1] in (b"[", b"{") else read_yaml(data)
    except (ValueError, NotYamlError) as error:
        raise RecordingError(f"it is neither JSON nor YAML: {error}") from error
    if isinstance(document, list) and all(isinstance(entry, dict) and "incarnation" in entry for entry in document):
        return _recorded(document)
    try:
        fleet = _Fleet.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the document"
        said = first["msg"].replace("Input should", f"{str(first['input'])[:64]!r} should")
        raise RecordingError(f"{place}: {said}; a fleet is, for example: {_example}") from error
    return _unique([worker for described in fleet.workers for worker in _expand(described)])


def _expand(described: _Described) -> list[SimulatedWorker]:
    names = [described.name] if described.count == 1 else [f"{described.name}-{n + 1}" for n in range(described.count)]
    executors = None if described.executors is None else frozenset(described.executors)
    return [
        SimulatedWorker(
            name,
            described.slots,
            described.speed,
            executors,
            described.labels,
            described.host or name,
            described.zone,
        )
        for name in names
    ]


def _recorded(document: Sequence[Mapping[str, Any]]) -> list[SimulatedWorker]:
    """Read what `mainspring workers --json` printed."""
    try:
        return _unique(
            [
                SimulatedWorker(
                    name=str(entry["name"]),
                    slots=int(entry["slots"]),
                    executors=frozenset(map(str, entry["executors"])),
                    labels={str(name): str(value) for name, value in dict(entry.get("labels", {})).items()},
                    host=str(entry["host"]) or str(entry["name"]),
                    zone=str(entry["zone"]),
                )
                for entry in document
            ]
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RecordingError(f"it is not what `mainspring workers --json` prints: {error!r}") from error


def _unique(workers: list[SimulatedWorker]) -> list[SimulatedWorker]:
    if not workers:
        raise RecordingError("it has no workers; start some, or describe some")
    if len(workers) > workers_max:
        raise RecordingError(f"it has {len(workers)} workers; a simulation takes {workers_max}")
    names: set[str] = set()
    for worker in workers:
        if worker.name in names:
            raise RecordingError(f"two workers are named {worker.name!r}; give each another name")
        names.add(worker.name)
    return workers
