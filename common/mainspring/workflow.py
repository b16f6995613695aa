"""The user's nouns: a definition and what it is made of.

A definition is plain data. It is written as YAML or JSON, or built in Python with `Workflow`; `mainspring.definition` reads and
writes the text forms, `mainspring.graph` checks that it can run. docs/definition.md describes each field for users.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

reserved_names: Final = frozenset({"input", "item", "index", "workflow"})
"""Names that data paths use for themselves, so that no node may have them."""

default_priority: Final = 5
"""In the middle, so that work can be put behind all that names no priority, too."""


class _Absent:
    """The type of `ABSENT`, told apart from a JSON null."""

    def __reduce__(self) -> str:
        return "ABSENT"  # a copy is the same object, because it is known by identity

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Final = _Absent()


@dataclass(frozen=True, slots=True)
class Retry:
    """How often and how soon a failed attempt is followed by another.

    The delay before attempt n + 1 is `initial_ms * multiplier ** (n - 1)`, made longer or shorter by up to `jitter` of itself, and
    never longer than `max_interval_ms`.
    """

    max_attempts: int | None = None
    """Attempts in all, the first included; None: one more than the coordinator's MAX_RETRIES."""
    initial_ms: int = 1_000
    """The delay after the first attempt."""
    multiplier: float = 2.0
    """By how much each delay is longer than the one before; at least 1."""
    max_interval_ms: int = 60_000
    """No delay is longer."""
    jitter: float = 0.2
    """The share of the delay that chance may add or take away, 0 to 1."""
    non_retryable: tuple[str, ...] = ()
    """Error types after which no attempt follows."""


default_retry: Final = Retry()
"""That of nodes which say nothing else: one object, so that it is known by identity."""


@dataclass(frozen=True, slots=True)
class MapOver:
    """Makes a node run once for each element of a list."""

    over: str
    """A data path, "${...}", whose value is the list."""
    max_parallel: int = 0
    """How many instances may run at once; 0: as many as there are slots."""


strategies: Final = ("round-robin", "load-balanced", "capability", "locality", "affinity")
"""The ways to choose a worker that a definition may name (docs/placement.md)."""
Needed: TypeAlias = "str | Sequence[str]"
"""The value that a label must have, or several of which it must have one."""


@dataclass(frozen=True, slots=True)
class Affinity:
    """Nodes of one key go to one worker, as long as it lives."""

    key: str | None = None
    """What they have in common; None: the id of their workflow. Workflows with one key share a worker."""
    hard: bool = False
    """They wait for that worker when it has no room; otherwise they go to another one then."""


@dataclass(frozen=True, slots=True)
class Concurrency:
    """Of the nodes that share a key, only so many run at once in the whole cluster, whichever workflows they are of."""

    key: str
    """What they have in common: the name of the database that they load, say."""
    limit: int
    """The node waits while so many of the key run."""


@dataclass(frozen=True, slots=True)
class Cache:
    """A node takes the output of one that was the same, if it succeeded not long ago, and does not run then."""

    ttl_ms: int
    """How long an output counts: a younger one is taken, and its own is kept so long for others."""
    key: str | None = None
    """What makes nodes of one executor the same, with data paths as in `input`; None: what they get, their input."""


@dataclass(frozen=True, slots=True)
class Node:
    """A step of the graph."""

    id: str
    """Its name within the definition."""
    executor: str
    """The name of the function that workers run for it."""
    input: Json = None
    """What the executor gets; "${...}" within it are data paths. A `map` node written without one gets "${item}"."""
    depends_on: tuple[str, ...] = ()
    """Nodes that must have ended first, beside those that its data paths name."""
    map: MapOver | None = None
    """Set when the node runs once for each element of a list."""
    retry: Retry = default_retry
    """What follows a failed attempt."""
    start_to_close_ms: int = 0
    """How long one attempt may run; 0: without limit."""
    schedule_to_start_ms: int = 0
    """How long it may wait for a worker before it fails; 0: without limit."""
    allow_failure: bool = False
    """When it fails, the workflow goes on and its output is null."""
    requires: Mapping[str, Needed] = field(default_factory=dict[str, Needed])
    """Labels that the worker must have, with these values; "host" and "zone" are labels of every worker that tells them."""
    strategy: str = ""
    """How its worker is chosen; empty: by its `affinity` if it has one, otherwise as the definition says."""
    affinity: Affinity | None = None
    """Which nodes go to the same worker; None: as the definition says."""
    stop_on_disconnect: bool = False
    """A worker that reaches no coordinator stops it."""
    priority: int | None = None
    """Which of the nodes that wait goes first, 0 to 9: the higher one; None: as the workflow."""
    concurrency: Concurrency | None = None
    """With which other nodes it may not run beyond a number; each instance of a `map` counts as one."""
    cache: Cache | None = None
    """Whose output it may take instead of running; each instance of a `map` for itself."""


@dataclass(frozen=True, slots=True)
class Definition:
    """A graph of nodes."""

    name: str
    """What it is called in lists and metrics."""
    nodes: tuple[Node, ...]
    """Its steps, in any order."""
    output: "Json | _Absent" = ABSENT
    """The workflow's output, a value with data paths; absent: the outputs of the nodes that no other depends on, by node id."""
    timeout_ms: int = 0
    """How long the workflow may take from its submit; 0: without limit."""
    strategy: str = ""
    """How workers are chosen; empty: by its `affinity` if it has one, otherwise as the coordinator does."""
    affinity: Affinity | None = None
    """Which nodes go to the same worker, where `affinity` is the strategy; None: those of one workflow, softly."""
    priority: int = default_priority
    """Which of the nodes that wait goes first, 0 to 9: the higher one."""
    fairness_key: str = ""
    """Workflows with the same one, a customer's say, share the turns that one of them would have; empty: it has turns of its own."""
