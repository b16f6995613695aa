"""What executors did must agree with what the database holds: the laws that their journals are held against. Pure."""

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from mainspring.ids import epoch_of
from mainspring_coordinator.engine.status import NodeStatus, WorkflowStatus
from tests.chaos.books import Violation
from tests.chaos.evidence import Evidence, Key, NodeRow
from tests.chaos.faults import Kind
from tests.chaos.flows import parents
from tests.cluster.effects import Effect

settle_ns: Final = 12_000_000_000
"""For so long after it is over a fault may still be the reason for something: silence is noticed, streams are made again, and a new
owner gives workers its recovery grace."""
_of_coordinators: Final = frozenset(
    {
        *(Kind.PAUSE_COORDINATOR, Kind.HANG_COORDINATOR, Kind.CUT_FROM_WORKERS),
        *(Kind.LOSS, Kind.LATENCY, Kind.FLAPPING, Kind.THIN),
    }
)
"""Faults of a coordinator that can part it from a worker for longer than its grace."""


def each_success_was_really_done(evidence: Evidence) -> Iterator[Violation]:
    """Each accepted result is that of one execution, of the attempt and by the worker that the row names."""
    ends: Mapping[str, Effect] = {effect.run: effect for effect in evidence.effects if effect.act == "end"}
    for key, row in evidence.nodes.items():
        run = _run_of(row)
        if row.status is not NodeStatus.SUCCEEDED or row.width or isinstance(row.output, list):
            continue
        end = ends.get(run)
        if end is None:
            yield Violation("a success that nobody did", f"{key}: {row}")
        elif (end.key, end.attempt, end.worker) != (key, row.attempt, row.worker):
            yield Violation("a result of another attempt than the current one", f"{key}: {row}, done by {end}")


def only_recorded_results_are_used(evidence: Evidence) -> Iterator[Violation]:
    """What was refused, or never recorded, reaches no other node and no output of a workflow."""
    recorded = {run for row in evidence.nodes.values() if (run := _run_of(row))}
    for effect in evidence.effects:
        for run in effect.seen if effect.act == "start" else ():
            if run not in recorded:
                yield Violation("a result that is not recorded was used", f"{run}, by {effect}")
    for name, workflow in evidence.workflows.items():
        run = workflow.output["run"] if isinstance(workflow.output, dict) else ""
        if workflow.status is WorkflowStatus.SUCCEEDED and run and run not in recorded:
            yield Violation("a result that is not recorded was used", f"{run}, as the output of {name}")


def no_node_starts_before_its_parents_have_ended(evidence: Evidence) -> Iterator[Violation]:
    """The execution that is recorded of each parent ended before any start of the node."""
    ended_ns = {effect.run: effect.at_ns for effect in evidence.effects if effect.act == "end"}
    instances = defaultdict[tuple[str, str], list[Key]](list)
    for workflow, node, instance in evidence.nodes:
        instances[workflow, node].append((workflow, node, instance))
    for effect in evidence.effects:
        if effect.act != "start":
            continue
        for parent in parents(evidence.kinds[effect.workflow])[effect.node]:
            rows = [evidence.nodes[key] for key in instances[effect.workflow, parent]]
            ready = [row for row in rows if row.status is NodeStatus.SUCCEEDED]
            runs = [run for row in ready if (run := _run_of(row))]
            if not ready or any(ended_ns.get(run, effect.at_ns + 1) > effect.at_ns for run in runs):
                yield Violation("a node was started before its parent had ended", f"{parent} of {effect}: {rows}")


def attempts_count_failures(evidence: Evidence) -> Iterator[Violation]:
    """Attempt n + 1 comes after attempt n has failed, and each failed one is recorded once."""
    failed = {(effect.key, effect.attempt) for effect in evidence.effects if effect.act == "failed"}
    for key, row in evidence.nodes.items():
        numbers = list(evidence.attempts.get(key, ()))
        if sorted(numbers) != list(range(1, max(row.attempt, 1))) and row.status is NodeStatus.SUCCEEDED:
            yield Violation("the failed attempts do not add up", f"{key}: {row}, failed: {numbers}")
        for number in numbers:
            if (key, number) not in failed:
                yield Violation("an attempt is recorded as failed that did not fail", f"{key}, attempt {number}: {row}")


def ids_are_minted_once_and_by_owners(evidence: Evidence) -> Iterator[Violation]:
    """No assignment id names two nodes, and none has an epoch that its shard never had."""
    assigned: dict[tuple[int, int], Key] = {}
    for key, row in evidence.nodes.items():
        if not row.assignment:
            continue
        shard = evidence.workflows[key[0]].shard
        other = assigned.setdefault((shard, row.assignment), key)
        if other != key:
            yield Violation(
                "an assignment id was minted twice", f"{row.assignment} of shard {shard}: {other} and {key}"
            )
        if epoch_of(row.assignment) > evidence.shards[shard].epoch:
            yield Violation("an assignment of an epoch that nobody had", f"{key}: {row}; {evidence.shards[shard]}")


def one_owner_a_shard(evidence: Evidence) -> Iterator[Violation]:
    """In the end each shard has one live owner, and all have their fair share."""
    shares = Counter(dict.fromkeys(evidence.live.values(), 0))
    for shard, row in evidence.shards.items():
        if row.holder not in shares:
            yield Violation("a shard without a live owner", f"shard {shard} is held by {row.holder or 'nobody'}")
        shares[row.holder] += 1
    if shares and max(shares.values()) - min(shares.values()) > 1:
        yield Violation("the shards are not shared fairly", str({**evidence.live, **shares}))


def nothing_runs_twice_without_a_reason(evidence: Evidence) -> Iterator[Violation]:
    """A node is started again only when an attempt has failed, or its worker died, stood still or was cut off."""
    starts = defaultdict[Key, list[Effect]](list)
    failed = {(effect.key, effect.attempt) for effect in evidence.effects if effect.act == "failed"}
    for effect in evidence.effects:
        if effect.act == "start":
            starts[effect.key].append(effect)
    for key, found in starts.items():
        for first, again in itertools.pairwise(found):
            explained = (key, first.attempt) in failed if again.attempt > first.attempt else False
            if not explained and not _reason(evidence, first, again):
                yield Violation("a node ran twice without a reason", f"{first}, then {again}")


def no_worker_runs_more_than_its_slots(evidence: Evidence) -> Iterator[Violation]:
    """A worker never runs more at once than it has slots."""
    running = defaultdict[tuple[str, int], set[str]](set)
    for effect in evidence.effects:
        runs = running[effect.worker, effect.pid]
        if effect.act == "start":
            runs.add(effect.run)
            if len(runs) > evidence.slots:
                yield Violation("a worker ran more than its slots", f"{len(runs)} at once: {effect}")
        else:
            runs.discard(effect.run)


def _reason(evidence: Evidence, first: Effect, again: Effect) -> bool:
    """Tell whether a fault explains it. Either worker may be the one that lost the node: what was sent to one that stands still is
    started by it when it goes on, after the other.
    """
    workers = {first.worker, again.worker}

    def meets(began_ns: int, ended_ns: int) -> bool:
        return began_ns <= again.at_ns and ended_ns + settle_ns >= first.at_ns

    if any(meets(at_ns, at_ns) for worker in workers for at_ns in evidence.ended.get(worker, ())):
        return True
    parting = [fault for fault in evidence.faults if fault.target in workers or fault.kind in _of_coordinators]
    return any(meets(fault.began_ns, fault.ended_ns) for fault in parting)


def _run_of(row: NodeRow) -> str:
    return row.output["run"] if isinstance(row.output, dict) else ""


def violations_of(evidence: Evidence, laws: Iterable[object]) -> Sequence[Violation]:
    """Hold the evidence against laws."""
    return [violation for law in laws for violation in law(evidence)]  # type: ignore[operator]


laws: Final = (
    each_success_was_really_done,
    only_recorded_results_are_used,
    no_node_starts_before_its_parents_have_ended,
    attempts_count_failures,
    ids_are_minted_once_and_by_owners,
    one_owner_a_shard,
    nothing_runs_twice_without_a_reason,
    no_worker_runs_more_than_its_slots,
)
