"""Answers Explain: the engine's reasons, with what only the streams know, as a message."""

from collections.abc import Callable, Mapping
from typing import Final

from mainspring import limits
from mainspring.clock import Clock
from mainspring.v1 import client_pb2, workflow_pb2
from mainspring.wire import clip
from mainspring_coordinator import views
from mainspring_coordinator.engine.effects import Explanation, Verdict, WorkerReason
from mainspring_coordinator.worker_book import WorkerEntry
from mainspring_coordinator.workflow_reads import WorkflowReads, no_such_node

_order: Final = (
    *(
        Verdict.ABLE,
        Verdict.PAUSED,
        Verdict.LIMIT,
        Verdict.NEARER,
        Verdict.KEY,
        Verdict.WORKFLOWS,
        Verdict.INVENTORY,
        Verdict.FULL,
        Verdict.ALONE,
    ),
    *(Verdict.DRAINING, Verdict.ABSENT, Verdict.LABELS, Verdict.EXECUTOR),
)
"""Those that come closest first."""


class Explaining:
    """Explains the workflows of our shards."""

    def __init__(
        self, reads: WorkflowReads, workers: Callable[[], Mapping[str, WorkerEntry]], clock: Clock, silent_ms: int
    ) -> None:
        """`workers`: by incarnation; of one that has said nothing for `silent_ms` that is told."""
        self._reads = reads
        self._workers = workers
        self._clock = clock
        self._silent_us = silent_ms * 1_000

    async def explain(self, shard: int, request: client_pb2.ExplainRequest) -> client_pb2.ExplainResponse:
        """Answer Explain."""
        about = (request.node_id, request.instance)
        told, plan = await self._reads.explained(shard, request.workflow_id, about)
        if isinstance(told, Explanation):
            if request.node_id and not told.nodes:
                raise no_such_node(request.workflow_id, request.node_id, request.instance)
            return client_pb2.ExplainResponse(
                status=views.workflow_status(told.status),
                nodes=[
                    client_pb2.NodeExplanation(
                        node_id=plan.graph.ids[one.node],
                        instance=one.instance,
                        status=views.node_status(one.status),
                        reason=clip(one.reason, limits.reason_bytes_max),
                    )
                    for one in told.nodes
                ],
                nodes_left_out=told.left_out,
                strategy=told.strategy,
                workers=self._grouped(told),
                pause=views.pause_message(told.pause),
            )
        # It has ended, and so has each of its nodes.
        response = client_pb2.ExplainResponse(status=views.workflow_status(told.status))
        if request.node_id:
            asked = client_pb2.GetNodeRequest(
                workflow_id=request.workflow_id, node_id=request.node_id, instance=request.instance
            )
            node = (await self._reads.get_node(shard, asked)).node
            state = workflow_pb2.NodeStatus.Name(node.status).removeprefix("NODE_STATUS_")
            response.nodes.add(
                node_id=node.node_id, instance=node.instance, status=node.status, reason=f"it has ended: {state}"
            )
        return response

    def _grouped(self, told: Explanation) -> list[client_pb2.WorkersExplanation]:
        known, now_us = self._workers(), self._clock.now_us()
        groups: dict[tuple[Verdict, str], list[str]] = {}
        for one in told.workers:
            groups.setdefault((one.verdict, self._reason(one, known, now_us)), []).append(one.worker)
        return [
            client_pb2.WorkersExplanation(
                verdict=client_pb2.WorkerVerdict.Value(f"WORKER_VERDICT_{verdict.name}"),
                reason=clip(reason, limits.reason_bytes_max),
                count=len(names),
                workers=sorted(names)[: limits.explained_workers_max],
            )
            for (verdict, reason), names in sorted(
                groups.items(), key=lambda group: (_order.index(group[0][0]), group[0][1])
            )
        ]

    def _reason(self, one: WorkerReason, known: Mapping[str, WorkerEntry], now_us: int) -> str:
        entry = known.get(one.incarnation)
        if entry is None or entry.absent_since_us or now_us - entry.heard_us < self._silent_us:
            return one.reason
        return f"{one.reason}; its last message is {(now_us - entry.heard_us) // 1_000_000} s old"
