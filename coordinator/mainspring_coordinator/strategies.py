"""What operators see and set of the strategy that holds for the whole cluster."""

from collections.abc import Sequence
from typing import Final

import structlog

from mainspring import limits
from mainspring.errors import BadRequestError
from mainspring.v1 import admin_pb2
from mainspring.v1.admin_pb2_grpc import AdminServiceStub
from mainspring_coordinator.answering import Context
from mainspring_coordinator.dynamic import Counts
from mainspring_coordinator.engine.operator_events import StrategySet
from mainspring_coordinator.engine.placement import strategy_names
from mainspring_coordinator.engine.strategy import ClusterStrategy, dynamic, home
from mainspring_coordinator.forward import Forwarder, Peer
from mainspring_coordinator.ports import Directory, Loop
from mainspring_coordinator.reads import Reads
from mainspring_coordinator.store.protocol import CoordinatorRow, Reader, ShardRow
from mainspring_coordinator.workflow_reads import page_size, place, to_token

_log: Final = structlog.get_logger(__name__)
_operator: Final = "operator"


class Strategies:
    """Reads it from the database, and sets it at the owner of shard 0."""

    def __init__(self, loop: Loop, directory: Directory, reads: Reads, forwarder: Forwarder, counts: Counts) -> None:
        self._loop = loop
        self._directory = directory
        self._reads = reads
        self._forwarder = forwarder
        self._counts = counts

    async def get(self) -> admin_pb2.GetStrategyResponse:
        """Say what holds, and what each live coordinator does."""
        shards, rows = await self._reads.run(_shards_and_lease_rows)
        standing = ClusterStrategy.parse(shards[home].strategy)
        live = {incarnation for incarnation, _, _ in self._directory.coordinators()}
        return admin_pb2.GetStrategyResponse(
            wanted=standing.wanted,
            chosen=standing.chosen,
            changed_at_us=standing.changed_at_us,
            coordinators=[
                admin_pb2.CoordinatorStrategy(
                    name=row.name,
                    incarnation=row.incarnation,
                    own=row.strategy,
                    in_force=standing.in_force(row.strategy),
                )
                for row in rows
                if row.incarnation in live
            ],
        )

    async def set(self, request: admin_pb2.SetStrategyRequest, context: Context) -> admin_pb2.SetStrategyResponse:
        """Set it, or leave it to each coordinator again."""
        if request.strategy not in ("", dynamic, *strategy_names):
            raise BadRequestError(
                f"strategy: there is no {request.strategy[:64]!r}; there are {', '.join((*strategy_names, dynamic))}, and, to leave "
                "it to each coordinator, `mainspring strategy own` or an empty strategy in a call",
                field="strategy",
            )
        if len(request.reason.encode()) > limits.reason_bytes_max:
            raise BadRequestError(
                f"reason: it is over the bound of {limits.reason_bytes_max} bytes; say it shorter", field="reason"
            )

        async def here() -> admin_pb2.SetStrategyResponse:
            strategy, reason = request.strategy, request.reason
            answer = await self._loop.ask(home, lambda token: StrategySet(token, home, strategy, reason))
            if answer.created:
                self._counts.strategy_changed(strategy or "own", _operator)
                _log.info(
                    "strategy_changed", strategy=strategy or "each coordinator's own", by=_operator, reason=reason
                )
            return admin_pb2.SetStrategyResponse(changed=answer.created)

        async def there(peer: Peer, time_left_s: float | None) -> admin_pb2.SetStrategyResponse:
            return await AdminServiceStub(peer.channel).SetStrategy(
                request, timeout=time_left_s, metadata=peer.metadata
            )

        return await self._forwarder.call(home, context, here, there)

    async def changes(self, request: admin_pb2.ListStrategyChangesRequest) -> admin_pb2.ListStrategyChangesResponse:
        """List what changed, newest first."""
        limit = page_size(request.page_size, default=50)
        before_us = place(request.page_token)
        # One more than wanted tells whether there is a next page.
        rows = await self._reads.run(lambda reader: reader.strategy_changes(before_us, limit + 1))
        page = rows[:limit]
        return admin_pb2.ListStrategyChangesResponse(
            changes=[
                admin_pb2.StrategyChange(
                    changed_at_us=row.changed_at_us, before=row.before, after=row.after, by=row.by, reason=row.reason
                )
                for row in page
            ],
            next_page_token=to_token(page[-1].changed_at_us) if len(rows) > limit else "",
        )


def _shards_and_lease_rows(reader: Reader) -> tuple[Sequence[ShardRow], Sequence[CoordinatorRow]]:
    return reader.shards(), reader.coordinators()
