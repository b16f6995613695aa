"""What the executors of `tasks` wrote: read while a story runs, and checked when it is over."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Effect:
    """One line of a journal; `at_ns` is of CLOCK_BOOTTIME, which all processes of a machine share."""

    act: str
    at_ns: int
    pid: int
    workflow: str
    node: str
    instance: int
    attempt: int
    worker: str = ""
    """The worker's name."""
    run: str = ""
    """A name that this execution gave itself, and its output; empty where the executor gives none."""
    seen: tuple[str, ...] = ()
    """Of the start: the names of the executions whose outputs it was given."""

    @property
    def key(self) -> tuple[str, str, int]:
        """The node or instance that it is about."""
        return self.workflow, self.node, self.instance


class Effects:
    """The journals of one folder, and the gates that executors wait at."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def open_gate(self, name: str) -> None:
        """Let every executor pass that waits at this gate, now and later."""
        (self.folder / f"{name}.gate").touch()

    def read(self, act: str | None = None, workflow: str | None = None) -> Sequence[Effect]:
        """Return what was done, in the order of time."""
        found = read_effects(self.folder)
        return [one for one in found if act in (None, one.act) and workflow in (None, one.workflow)]

    def starts(self) -> Counter[tuple[str, str, int]]:
        """Return how often each node was started."""
        return Counter(effect.key for effect in self.read("start"))

    def done(self, least: int) -> bool:
        """Tell whether so many nodes have ended."""
        return len(self.read("end")) >= least


def read_effects(folder: Path) -> Sequence[Effect]:
    """Return all lines of the journals of a folder, in the order of time."""
    found = [Effect(**line) for path in folder.glob("*.jsonl") for line in read_lines(path)]
    return sorted(found, key=lambda effect: effect.at_ns)


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a journal; one whose writer was killed in the middle of it has no end, and is left out."""
    with path.open("rb") as journal:
        for line in journal:
            if line.endswith(b"\n"):
                yield json.loads(line)
