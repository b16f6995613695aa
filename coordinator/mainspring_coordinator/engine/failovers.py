"""Every death is put on record: who failed, who took over, and what that affected.

An event's id follows from the two incarnations (see `event_id`), and each shard adds what was affected in it under a key of its own. So
whoever is killed while he records, and whoever does it again, the event is there once and whole.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import orjson

from mainspring import limits
from mainspring_coordinator.engine.effects import Answer, AnswerCode
from mainspring_coordinator.engine.events import Death, DeathsFound, FailoverTold, IdChunk
from mainspring_coordinator.engine.rows import DeathsRecorded, FailoverAffected, FailoverMarked, FailoverRecorded
from mainspring_coordinator.engine.state import Assignment, ShardState
from mainspring_coordinator.engine.status import FailoverKind, Subject
from mainspring_coordinator.engine.turn import Turn
from mainspring_coordinator.engine.worker import WorkerState

_no_chunk: Final = -1
"""The number of the empty chunk, by which a part of an event is there even if it affected nothing."""


def event_id(failed: str, takeover: str, session: int = 0) -> str:
    """Return the id of the event of two incarnations; `takeover` is empty when nobody may take over.

    A worker that was given up can come back, and be given up again: the number of its last stream to us tells these apart.
    """
    last = f"/{session}" if session else ""
    return hashlib.sha256(f"{failed}/{takeover}{last}".encode()).hexdigest()[:32]


def id_chunks(ids: Sequence[str]) -> list[IdChunk]:
    """Cut a list of ids into chunks as they are stored."""
    size = limits.failover_ids_a_chunk_max
    parts = (ids[start : start + size] for start in range(0, len(ids), size))
    return [IdChunk(orjson.dumps(part), len(part)) for part in parts]


def node_name(workflow_id: str, node_id: str, instance: int) -> str:
    """Return how the record names a node, or one instance of a `map` node."""
    return f"{workflow_id}/{node_id}" + (f"[{instance}]" if instance >= 0 else "")


@dataclass(slots=True)
class Missed:
    """What a worker held that never came to the new owner of a shard."""

    worker: str
    """Its name."""
    workflows: dict[str, None] = field(default_factory=dict[str, None])
    nodes: list[str] = field(default_factory=list[str])

    def add(self, shard: ShardState, assignment: Assignment) -> None:
        """Take in an assignment, by its names, because it may be gone when it is recorded."""
        self.workflows[assignment.workflow_id] = None
        plan = shard.workflows[assignment.workflow_id].plan
        self.nodes.append(node_name(assignment.workflow_id, plan.nodes[assignment.node].id, assignment.instance))


def deaths_found(turn: Turn, shard: ShardState, event: DeathsFound) -> None:
    """Coordinators that owned a shard have died: record it, then take the note of it out of the fence row."""
    for death in event.deaths:
        found = _record(turn, shard, death, holder=shard.holder if event.taken else "", settles_at_us=turn.now_us)
        _affect(turn, shard.shard, event.part, found, event.workflows, event.nodes)
    if event.taken:
        turn.store(DeathsRecorded(shard.shard))


def worker_died(turn: Turn, worker: WorkerState, held: Sequence[Assignment]) -> None:
    """A worker is given up: record it with all that it held, or that it held nothing."""
    name, incarnation, shards = worker.name, worker.incarnation, turn.state.shards
    if not shards:
        return  # whoever owns some has seen it too
    turn.state.remember_given_up(worker)
    loading = [shard for shard in shards.values() if not shard.ready]
    settles_at_us = max((shard.grace_until_us for shard in loading), default=turn.now_us)
    death = Death(FailoverKind.WORKER_LOST, name, incarnation, worker.absent_since_us)
    parts: dict[int, Missed] = {}
    for assignment in held:
        parts.setdefault(assignment.shard, Missed(name)).add(shards[assignment.shard], assignment)
    for part in sorted(parts):
        _mourn(turn, shards[part], death, parts[part], settles_at_us)
    if not held:
        shard = shards[min(shards)]
        found = _record(turn, shard, death, holder=shard.holder, settles_at_us=settles_at_us)
        _affect(turn, shard.shard, shard.shard, found, (), ())


def worker_never_came(turn: Turn, shard: ShardState, incarnation: str, held: Missed) -> None:
    """A worker has not come back since we took a shard: record it with what it held of the shard."""
    if _id_of(turn, incarnation, shard.holder) in shard.mourned and not turn.state.config.failover:
        return  # what it held is still waiting
    graces = (other.grace_until_us for other in turn.state.shards.values())
    settles_at_us = max((*graces, turn.now_us)) + turn.state.config.stream_grace_us
    death = Death(FailoverKind.WORKER_LOST, held.worker, incarnation, turn.now_us)
    _mourn(turn, shard, death, held, settles_at_us)


def told(turn: Turn, event: FailoverTold) -> None:
    """Store how far the telling is."""
    if event.shard not in turn.state.shards:
        turn.emit(Answer(event.token, event.shard, "", AnswerCode.NOT_OWNER))
        return
    mark = FailoverMarked(event.shard, "", event.event_id, event.stage, event.announced_at_us, event.alerted_at_us)
    turn.store(mark)
    turn.emit(Answer(event.token, event.shard, "", AnswerCode.OK, claims=False))


def _id_of(turn: Turn, incarnation: str, holder: str) -> str:
    return event_id(incarnation, holder, turn.state.given_up.get(incarnation, 0))


def _record(turn: Turn, shard: ShardState, death: Death, *, holder: str, settles_at_us: int) -> str:
    found = _id_of(turn, death.incarnation, holder)
    turn.store(
        FailoverRecorded(
            shard.shard,
            "",
            found,
            death.kind,
            death.name,
            death.incarnation,
            turn.state.config.instance if holder else "",
            holder,
            death.detected_at_us,
            settles_at_us,
        )
    )
    return found


def _mourn(turn: Turn, shard: ShardState, death: Death, held: Missed, settles_at_us: int) -> None:
    """Record a worker's death with what it held of one shard; a second time adds what was loaded meanwhile."""
    found = _record(turn, shard, death, holder=shard.holder, settles_at_us=settles_at_us)
    first = shard.mourned.get(found, 0)
    workflows, nodes = id_chunks(list(held.workflows)), id_chunks(held.nodes)
    shard.mourned[found] = first + max(len(workflows), len(nodes))
    if len(shard.mourned) > limits.workers_max:
        del shard.mourned[next(iter(shard.mourned))]
    _affect(turn, shard.shard, shard.shard, found, workflows, nodes, first=first)


def _affect(
    turn: Turn,
    fence: int,
    part: int,
    found: str,
    workflows: Iterable[IdChunk],
    nodes: Iterable[IdChunk],
    *,
    first: int = 0,
) -> None:
    chunks = [(Subject.WORKFLOWS, _no_chunk, IdChunk(b"[]", 0))]
    chunks += [(Subject.WORKFLOWS, number, chunk) for number, chunk in enumerate(workflows, first)]
    chunks += [(Subject.NODES, number, chunk) for number, chunk in enumerate(nodes, first)]
    for subject, number, chunk in chunks:
        turn.store(FailoverAffected(fence, "", found, subject, part, number, chunk.ids, chunk.count, turn.now_us))
