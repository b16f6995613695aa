"""Random runs: whatever is asked of a database and of the store in memory, both answer the same and hold the same."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mainspring.errors import FencedError, PoisonBatchError
from mainspring_coordinator.engine.rows import (
    AffectedDeleted,
    AttemptEnded,
    AuditEntry,
    DeathsRecorded,
    DeletionBegun,
    FailoverAffected,
    FailoverDeleted,
    FailoverMarked,
    FailoverRecorded,
    GraceEnded,
    MapExpanded,
    NodeAssigned,
    NodeChanged,
    NodesCopied,
    NodesDeleted,
    PausesChanged,
    PermitsHeld,
    PlanDeleted,
    PlanSaved,
    ProgressSaved,
    ResultCached,
    ResultDropped,
    RetryDue,
    Row,
    WorkersEvicted,
    WorkflowDeleted,
    WorkflowInserted,
    WorkflowPaused,
    WorkflowUpdated,
)
from mainspring_coordinator.engine.status import FailoverKind, FailoverStage, NodeStatus, Subject, WorkflowStatus
from mainspring_coordinator.store.memory import MemoryStore
from mainspring_coordinator.store.protocol import Batch, Store, WorkflowFilter
from tests.store.conftest import databases
from tests.store.members import Member, join, me, rival, shards_total

shards = st.integers(0, shards_total - 1)
names = st.integers(0, 4)
nodes = st.integers(0, 2)
instances = st.integers(-1, 1)
attempts = st.integers(1, 3)
times = st.integers(0, 2**50)
payloads = st.one_of(
    st.none(), st.binary(max_size=40), st.sampled_from([b"", b"'", b"\\", b"\\'", b"%s", b"{}", b'"\xf0\x9f"'])
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
statuses = st.sampled_from(list(NodeStatus))


@dataclass
class Pair:
    """A database and the oracle, which live through the same history."""

    stores: list[Store]
    members: list[list[Member]] = field(default_factory=list)
    run: int = 0
    version: int = 0
    begun: list[dict[int, tuple[int, int]]] = field(default_factory=list)
    """Per store, each shard's epoch and sequence when the run began."""

    def __post_init__(self) -> None:
        self.members = [[join(store, me), join(store, rival)] for store in self.stores]

    def begin(self) -> None:
        """Begin a run that nothing of the runs before it shows through: the first member owns all, the second knows nothing."""
        self.run += 1
        for first, second in self.members:
            first.take(*range(shards_total))
            second.epochs.clear()
            for shard in range(shards_total):
                second.journal.drop(shard)
        self.begun = [
            {row.shard: (row.epoch, row.batch_seq) for row in store.reader().shards()} for store in self.stores
        ]

    def fences(self) -> list[list[tuple[int, str | None, int]]]:
        """Return per store how far each shard has come in this run, and its holder."""
        return [
            [
                (row.epoch - begun[row.shard][0], row.holder, row.batch_seq - begun[row.shard][1])
                for row in store.reader().shards()
            ]
            for store, begun in zip(self.stores, self.begun, strict=True)
        ]

    def answers(self, act: Callable[[list[Member]], Any]) -> list[Any]:
        """Do the same to both; return what each answered, errors too."""
        return [_answer(act, members) for members in self.members]


def _answer(act: Callable[[list[Member]], Any], members: list[Member]) -> Any:
    try:
        return act(members)
    except FencedError as error:
        return "fenced", error.lost
    except PoisonBatchError as error:
        return "poison", error.workflow_id


@pytest.fixture(scope="module", params=databases)
def pair(request: pytest.FixtureRequest, new_store: Callable[[str], Store]) -> Iterator[Pair]:
    store = new_store(request.param)
    with contextlib.closing(store), contextlib.closing(MemoryStore()) as oracle:
        yield Pair([store, oracle])


def plan_hash(run: int, node: int) -> bytes:
    return run.to_bytes(31) + bytes([node])


@st.composite
def row(draw: st.DrawFn, run: int, version: Callable[[], int]) -> Row:
    """Make any row of any of a few workflows; a workflow's shard follows from its number."""
    number = draw(names)
    shard, name = number % shards_total, f"run{run}-{number}"
    kind = draw(
        st.sampled_from([WorkflowInserted, WorkflowUpdated, NodeAssigned, NodeAssigned, NodeChanged, NodeChanged, None])
    )
    if kind is WorkflowInserted:
        digest = draw(st.binary(min_size=32, max_size=32))
        plan = plan_hash(run, draw(nodes))
        return WorkflowInserted(
            shard, name, digest, draw(texts), plan, draw(payloads) or b"", draw(times), draw(times), "affinity"
        )
    if kind is WorkflowUpdated:
        status = draw(st.sampled_from(list(WorkflowStatus)))
        return WorkflowUpdated(
            shard, name, version(), status, draw(texts), draw(payloads), draw(payloads), draw(times), draw(times)
        )
    node, instance, attempt = draw(nodes), draw(instances), draw(attempts)
    if kind is NodeAssigned:
        number = draw(st.integers(0, 2**62))
        return NodeAssigned(
            shard, name, node, instance, version(), attempt, number, draw(texts), "e" * 32, draw(times), 1
        )
    if kind is NodeChanged:
        at_us = draw(times)
        return NodeChanged(
            shard,
            name,
            node,
            instance,
            version(),
            draw(statuses),
            attempt,
            draw(payloads),
            draw(payloads),
            at_us,
            3,
            draw(times),
            2,
        )
    others: list[Row] = [
        PlanSaved(shard, name, plan_hash(run, node), b"definition" * attempt),
        MapExpanded(shard, name, node, version(), attempt, 9),
        AttemptEnded(shard, name, node, instance, attempt, "one", 1, 2, 3, b"{}"),
        ProgressSaved(shard, name, node, instance, version(), b"at %d" % attempt),
        RetryDue(shard, name, node, instance, version(), attempt),
        NodesCopied(
            shard, name, f"run{run}-{draw(names)}", (node, 2), (node - 1, instance), (attempt, draw(instances))
        ),
        DeathsRecorded(shard),
        GraceEnded(shard),
        WorkersEvicted(shard, "", f"{node:032x}"),
        AuditEntry(
            shard,
            "",
            f"{run:030d}{node:02d}",
            draw(times),
            attempt,
            "StepDown",
            draw(texts),
            draw(texts),
            "me",
            "c1",
            "done",
        ),
        PermitsHeld(shard, "", f"run{run}-{draw(texts)}", node, attempt, draw(st.integers(0, 2))),
        WorkflowPaused(shard, name, draw(st.sampled_from([0, 7, 2**50])), draw(texts), draw(texts)),
        PausesChanged(shard, "", draw(payloads) or b"{}"),
        DeletionBegun(shard, name),
        NodesDeleted(shard, name, node, instance),
        WorkflowDeleted(shard, name),
        PlanDeleted(shard, "", plan_hash(run, node)),
        ResultCached(shard, name, plan_hash(run, node), draw(payloads) or b"", attempt, 10 * attempt),
        ResultDropped(shard, "", plan_hash(run, node), 10 * attempt),
        *_of_the_record(f"{run:030d}{node:02d}", shard, node, attempt, draw(texts)),
    ]
    return draw(st.sampled_from(others))


def _of_the_record(event: str, shard: int, node: int, attempt: int, text: str) -> list[Row]:
    ids = orjson.dumps([f"w{n}" for n in range(attempt)])
    kind, subject = FailoverKind.WORKER_LOST, Subject(1 + node % 2)
    return [
        FailoverRecorded(shard, "", event, kind, text, "a" * 32, "", "", attempt, node),
        FailoverAffected(shard, "", event, subject, shard, node - 1, ids, attempt, 7 * attempt),
        FailoverMarked(shard, "", event, FailoverStage(attempt - 1), attempt, node),
        AffectedDeleted(shard, "", event, subject, shard, node - 1),
        FailoverDeleted(shard, "", event),
    ]


@settings(
    max_examples=40,
    print_blob=True,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(data=st.data())
def test_a_database_and_the_oracle_agree(pair: Pair, data: st.DataObject) -> None:
    pair.begin()

    def version() -> int:
        pair.version += 1
        return pair.version

    for _ in range(data.draw(st.integers(1, 8), label="steps")):
        act = _step(data, pair.run, version)
        answers = pair.answers(act)
        assert answers[0] == answers[1]
        fences = pair.fences()
        assert fences[0] == fences[1]
    dumps = [_dump(store, pair.run) for store in pair.stores]
    assert dumps[0] == dumps[1]


def _step(data: st.DataObject, run: int, version: Callable[[], int]) -> Callable[[list[Member]], Any]:
    """Choose what one of the two members does next."""
    who = data.draw(st.integers(0, 1), label="who")
    what = data.draw(st.sampled_from(["commit", "commit", "commit", "take", "release", "prove"]), label="what")
    if what == "commit":
        rows = _submitted_once(data.draw(st.lists(row(run, version), min_size=1, max_size=12), label="rows"))
        batch_id = version().to_bytes(16)
        return lambda members: _commit(members[who], batch_id, rows)
    chosen = sorted(data.draw(st.sets(shards, min_size=1, max_size=shards_total), label="shards"))
    return lambda members: _own(members[who], what, chosen)


def _submitted_once(rows: list[Row]) -> list[Row]:
    """Leave out a second submit of an id, which the engine answers from memory; what speaks of other rows stands after them.

    What is copied stands before: it is of workflows of which nothing is written any more, or yet.
    """
    found: dict[str, Row] = {}
    for each in rows:
        if isinstance(each, WorkflowInserted):
            found.setdefault(each.workflow_id, each)
    later = FailoverMarked | ProgressSaved | RetryDue
    copied = [each for each in rows if isinstance(each, NodesCopied)]
    rest = [each for each in rows if not isinstance(each, WorkflowInserted | NodesCopied | later)]
    return [*found.values(), *copied, *rest, *(each for each in rows if isinstance(each, later))]


def _commit(member: Member, batch_id: bytes, rows: list[Row]) -> Any:
    epochs = {each.shard: member.epochs.get(each.shard, 0) for each in rows}
    return member.journal.commit(Batch(batch_id, epochs, rows)).existing


def _own(member: Member, what: str, chosen: list[int]) -> None:
    epochs = {shard: member.epochs.get(shard, 0) for shard in chosen}
    if what == "take":
        member.take(*chosen)
    elif what == "prove":
        member.journal.prove(epochs)
    else:
        member.journal.release(epochs)


def _dump(store: Store, run: int) -> Any:
    """Return all that a run left, as the readers show it."""
    reader = store.reader()
    ids = [f"run{run}-{number}" for number in range(5)]
    prefix = f"run{run}-"
    events = [f"{run:030d}{node:02d}" for node in range(3)]
    return {
        "failovers": [reader.failover(event) for event in events],
        "affected": [reader.affected(event, subject, 1, 3) for event in events for subject in Subject],
        "workflows": [reader.workflow(name) for name in ids],
        "nodes": reader.nodes_of(ids),
        "outputs": [reader.outputs(name, [0, 1, 2]) for name in ids],
        "sizes": [reader.row_sizes(name, (0, 0), 3) for name in ids],
        "single": [reader.node(name, 0, 0) for name in ids],
        "pages": [reader.node_page(name, (0, 0), 4, [NodeStatus.RUNNING, NodeStatus.FAILED]) for name in ids],
        "ended": [reader.instances_ended(name, node) for name in ids for node in range(3)],
        "attempts": [reader.attempts(name) for name in ids],
        "open": [
            [row for row in reader.open_workflows(shard, (-1, ""), 1_000_000) if row.workflow_id.startswith(prefix)]
            for shard in range(shards_total)
        ],
        "list": reader.list_workflows(WorkflowFilter(id_prefix=prefix), None, 3),
        "succeeded": reader.list_workflows(
            WorkflowFilter([WorkflowStatus.SUCCEEDED], id_prefix=prefix), (2**40, ""), 9
        ),
        "permits": [
            [one for one in reader.permits(shard, (prefix, -1), 1_000) if one.key.startswith(prefix)]
            for shard in range(shards_total)
        ],
        "pauses": reader.pauses(),
        "paused": [one for one in reader.paused_workflows((6, ""), 1_000) if one[0].startswith(prefix)],
        "kept": [reader.is_kept(name, 2**40) for name in ids],
        "row keys": reader.row_keys(ids, 9),
        "deleting": [
            [name for name in reader.deletions_begun(shard, 1_000_000) if name.startswith(prefix)]
            for shard in range(shards_total)
        ],
        "ends": [
            [one for one in reader.ended_workflows(shard, 5, 1_000_000) if one[1].startswith(prefix)]
            for shard in range(shards_total)
        ],
        "chunks": reader.affected_keys(events, 5),
        "results": [reader.cached_results([plan_hash(run, node) for node in range(3)], now) for now in (0, 10, 20)],
        "expired": [
            [one for one in reader.expired_results(shard, 20, 1_000_000) if one[0][:31] == run.to_bytes(31)]
            for shard in range(shards_total)
        ],
        "audit": [one for one in reader.audit(None, 1_000) if one.entry_id.startswith(f"{run:030d}")],
        "plans": [reader.plan(shard, plan_hash(run, node)) for shard in range(shards_total) for node in range(3)],
    }
