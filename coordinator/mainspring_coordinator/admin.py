"""The operators' service: what the cluster is, who lives in it, who owns what."""

from collections import Counter
from dataclasses import dataclass

from mainspring import limits
from mainspring.clock import Clock
from mainspring.v1 import admin_pb2
from mainspring.v1.admin_pb2_grpc import AdminServiceServicer
from mainspring.wire import clip
from mainspring_coordinator.answering import Context, answers
from mainspring_coordinator.ports import Directory, Loop
from mainspring_coordinator.reads import Reads
from mainspring_coordinator.store.protocol import CoordinatorRow, Reader, ShardRow
from mainspring_coordinator.worker_book import WorkerBook


@dataclass(frozen=True, slots=True)
class Build:
    """What a coordinator says of itself and of its database."""

    cluster: str
    version: str
    """Of the software."""
    schema_revision: str
    database: str
    """Kind and version, such as "MariaDB 10.11.19"."""


class AdminService(AdminServiceServicer):
    """Answers operators; every coordinator knows the same of the cluster, and each its own workers."""

    def __init__(
        self, loop: Loop, directory: Directory, reads: Reads, book: WorkerBook, build: Build, clock: Clock
    ) -> None:
        self._loop = loop
        self._directory = directory
        self._reads = reads
        self._book = book
        self._build = build
        self._clock = clock

    @answers
    async def GetCluster(self, request: admin_pb2.GetClusterRequest, context: Context) -> admin_pb2.GetClusterResponse:
        """Say what the cluster is."""
        rows, shards = await self._reads.run(_lease_rows_and_shards)
        ours = self._directory.incarnation
        own = [message for message in self._coordinators(rows, shards) if message.incarnation == ours]
        build = self._build
        return admin_pb2.GetClusterResponse(
            cluster=build.cluster,
            shards_total=self._loop.shards_total,
            version=clip(build.version, limits.version_bytes_max),
            schema_revision=clip(build.schema_revision, limits.version_bytes_max),
            database=clip(build.database, limits.name_bytes_max),
            # Between two terms we have no lease row.
            answered_by=own[0] if own else admin_pb2.Coordinator(name=self._directory.name, incarnation=ours),
        )

    @answers
    async def ListCoordinators(
        self,
        request: admin_pb2.ListCoordinatorsRequest,
        context: Context,
    ) -> admin_pb2.ListCoordinatorsResponse:
        """List the coordinators that the database knows."""
        rows, shards = await self._reads.run(_lease_rows_and_shards)
        return admin_pb2.ListCoordinatorsResponse(coordinators=self._coordinators(rows, shards))

    @answers
    async def ListShards(self, request: admin_pb2.ListShardsRequest, context: Context) -> admin_pb2.ListShardsResponse:
        """List the shards with their owners."""
        rows, shards = await self._reads.run(_lease_rows_and_shards)
        names = {row.incarnation: row.name for row in rows}
        return admin_pb2.ListShardsResponse(
            shards=[
                admin_pb2.Shard(
                    shard=shard.shard,
                    epoch=shard.epoch,
                    holder=shard.holder or "",
                    holder_name=names.get(shard.holder or "", ""),
                    batch_seq=shard.batch_seq,
                )
                for shard in shards
            ]
        )

    @answers
    async def ListWorkers(
        self, request: admin_pb2.ListWorkersRequest, context: Context
    ) -> admin_pb2.ListWorkersResponse:
        """List the workers attached here."""
        return admin_pb2.ListWorkersResponse(workers=self._book.messages(self._clock.now_us()))

    def _coordinators(self, rows: list[CoordinatorRow], shards: list[ShardRow]) -> list[admin_pb2.Coordinator]:
        live = {incarnation for incarnation, _, _ in self._directory.coordinators()}
        held = Counter(shard.holder for shard in shards)
        return [
            admin_pb2.Coordinator(
                name=row.name,
                incarnation=row.incarnation,
                address=row.grpc_address,
                live=row.incarnation in live,
                shards=held[row.incarnation],
                # Of itself each knows best; of the others the lease rows tell.
                workers=len(self._book) if row.incarnation == self._directory.incarnation else row.attached_workers,
                http_address=row.http_address,
            )
            for row in rows
        ]


def _lease_rows_and_shards(reader: Reader) -> tuple[list[CoordinatorRow], list[ShardRow]]:
    return list(reader.coordinators()), list(reader.shards())
