"""What the executors of `tasks` wrote: read while a story runs, and checked when it is over."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


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
        lines = [line for path in self.folder.glob("*.jsonl") for line in path.read_text().splitlines(keepends=True)]
        # A worker that was killed in the middle of a line leaves it without an end.
        found = [Effect(**json.loads(line)) for line in lines if line.endswith("\n")]
        return sorted(
            (one for one in found if act in (None, one.act) and workflow in (None, one.workflow)),
            key=lambda effect: effect.at_ns,
        )

    def starts(self) -> Counter[tuple[str, str, int]]:
        """Return how often each node was started."""
        return Counter(effect.key for effect in self.read("start"))

    def done(self, least: int) -> bool:
        """Tell whether so many nodes have ended."""
        return len(self.read("end")) >= least
