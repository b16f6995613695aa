"""What operators are told, health, reflection."""

from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from mainspring.limits import message_split_bytes
from mainspring.v1 import admin_pb2
from mainspring_coordinator.engine.status import FailoverKind, FailoverStage, Subject
from mainspring_coordinator.services import service_names
from mainspring_coordinator.store.protocol import ShardRow
from mainspring_coordinator.store.stored_record import StoredFailover
from tests.services.rig import INCARNATIONS, Host, WorkerEnd, lease, story


def two_coordinators(host: Host) -> None:
    """Let the database know of two coordinators, of which one is live."""
    host.reader.leases = [lease("one", "127.0.0.1:1"), lease("two", "127.0.0.1:2", workers=3)]
    host.reader.shard_rows = [
        ShardRow(0, 4, INCARNATIONS["one"], 17, None, 0),
        ShardRow(1, 2, INCARNATIONS["two"], 5, None, 0),
        ShardRow(2, 9, "f" * 32, 1, None, 0),
        ShardRow(3, 0, None, 0, None, 0),
    ]


@story
async def test_the_cluster_tells_who_answers() -> None:
    async with Host() as host:
        two_coordinators(host)
        await WorkerEnd(host).welcome()
        answer = await host.admin.GetCluster(admin_pb2.GetClusterRequest())
        assert (answer.cluster, answer.shards_total, answer.version) == ("test", 4, "0.1.0")
        assert (answer.schema_revision, answer.database) == ("0001", "a table")
        own = answer.answered_by
        assert (own.name, own.live, own.shards, own.workers) == ("one", True, 1, 1)


@story
async def test_between_two_terms_a_coordinator_still_says_who_it_is() -> None:
    async with Host() as host:
        answer = await host.admin.GetCluster(admin_pb2.GetClusterRequest())
        assert (answer.answered_by.name, answer.answered_by.live) == ("one", False)


@story
async def test_coordinators_are_listed_with_what_they_hold() -> None:
    async with Host() as host:
        two_coordinators(host)
        answer = await host.admin.ListCoordinators(admin_pb2.ListCoordinatorsRequest())
        told = [(item.name, item.live, item.shards, item.workers) for item in answer.coordinators]
        assert told == [("one", True, 1, 0), ("two", False, 1, 3)]


@story
async def test_shards_are_listed_with_their_holders() -> None:
    async with Host() as host:
        two_coordinators(host)
        answer = await host.admin.ListShards(admin_pb2.ListShardsRequest())
        told = [(item.shard, item.epoch, item.holder_name, bool(item.holder), item.batch_seq) for item in answer.shards]
        assert told == [(0, 4, "one", True, 17), (1, 2, "two", True, 5), (2, 9, "", True, 1), (3, 0, "", False, 0)]


@story
async def test_workers_are_listed_by_name_with_what_they_can_do() -> None:
    async with Host() as host:
        for name, letter in (("w2", "b"), ("w1", "a")):
            await WorkerEnd(host).welcome(name=name, incarnation=letter * 32)
        answer = await host.admin.ListWorkers(admin_pb2.ListWorkersRequest())
        assert [worker.name for worker in answer.workers] == ["w1", "w2"]
        first = answer.workers[0]
        assert (first.host, first.zone, dict(first.labels), list(first.executors)) == (
            "h1",
            "z1",
            {"gpu": "no"},
            ["echo"],
        )
        assert (first.slots, first.version) == (100, "0.1.0")


@story
async def test_an_absent_worker_is_forgotten_when_its_grace_is_over() -> None:
    async with Host() as host:
        worker = WorkerEnd(host)
        await worker.welcome()
        await worker.call.done_writing()
        assert await worker.read() is None
        host.clock.us += 2_000_001
        host.services.fleet.beat()
        answer = await host.admin.ListWorkers(admin_pb2.ListWorkersRequest())
        assert list(answer.workers) == []


def failover(number: int, *, workflows: int = 1, nodes: int = 0) -> StoredFailover:
    return StoredFailover(
        f"{number:032}",
        FailoverKind.COORDINATOR_HUNG,
        "one",
        INCARNATIONS["one"],
        "two",
        INCARNATIONS["two"],
        detected_at_us=number,
        settles_at_us=number,
        stage=FailoverStage.CLOSED,
        announced_at_us=number + 2,
        alerted_at_us=number + 3,
        recovered_at_us=number + 1,
        workflows_count=workflows,
        nodes_count=nodes,
    )


@story
async def test_failovers_are_listed_newest_first_by_page_with_their_first_ids() -> None:
    async with Host() as host:
        host.reader.failover_rows = [failover(number, workflows=1_500, nodes=2) for number in range(1, 6)]
        for row in host.reader.failover_rows:
            host.reader.affected_ids[row.event_id, Subject.WORKFLOWS] = [f"w{n}" for n in range(1_500)]
            host.reader.affected_ids[row.event_id, Subject.NODES] = ["w0/a", "w1/m[7]"]
        pages: list[list[admin_pb2.Failover]] = []
        request = admin_pb2.ListFailoversRequest(page_size=2)
        while not pages or request.page_token:
            answer = await host.admin.ListFailovers(request)
            pages.append(list(answer.failovers))
            request.page_token = answer.next_page_token
        assert [[int(event.event_id) for event in page] for page in pages] == [[5, 4], [3, 2], [1]]
        (one,) = pages[-1]
        assert (one.kind, one.failed_engine_id, one.takeover_engine_id) == (
            admin_pb2.FAILOVER_KIND_COORDINATOR_HUNG,
            "one",
            "two",
        )
        assert (one.affected_workflows_count, len(one.affected_workflows)) == (1_500, 1_000)
        assert (one.affected_nodes_count, list(one.affected_nodes)) == (2, ["w0/a", "w1/m[7]"])
        assert (one.detected_at_us, one.recovered_at_us, one.alerted_at_us) == (1, 2, 4)


@story
async def test_a_page_of_failovers_ends_where_a_message_would_be_too_large() -> None:
    async with Host() as host:
        host.reader.failover_rows = [failover(number) for number in range(1, 30)]
        for row in host.reader.failover_rows:
            host.reader.affected_ids[row.event_id, Subject.NODES] = [f"{n:0300}" for n in range(1_000)]
        found: list[int] = []
        request = admin_pb2.ListFailoversRequest(page_size=1_000)
        sizes: list[int] = []
        while not sizes or request.page_token:
            answer = await host.admin.ListFailovers(request)
            sizes.append(answer.ByteSize())
            found += [int(event.event_id) for event in answer.failovers]
            request.page_token = answer.next_page_token
        assert found == list(range(29, 0, -1))
        assert len(sizes) > 1
        assert max(sizes) <= message_split_bytes


@story
async def test_all_that_a_failover_affected_comes_by_page() -> None:
    async with Host() as host:
        host.reader.failover_rows = [failover(1)]
        names = [f"w{n}" for n in range(2_500)]
        host.reader.affected_ids[f"{1:032}", Subject.WORKFLOWS] = names
        request = admin_pb2.ListAffectedRequest(event_id=f"{1:032}", subject=admin_pb2.FAILOVER_SUBJECT_WORKFLOWS)
        found: list[str] = []
        while not found or request.page_token:
            answer = await host.admin.ListAffected(request)
            found += answer.ids
            request.page_token = answer.next_page_token
        assert found == names


@pytest.mark.parametrize(
    ("method", "request_", "code"),
    [
        ("ListFailovers", admin_pb2.ListFailoversRequest(event_id="f" * 32), grpc.StatusCode.NOT_FOUND),
        ("ListFailovers", admin_pb2.ListFailoversRequest(event_id="é" * 32), grpc.StatusCode.NOT_FOUND),
        ("ListFailovers", admin_pb2.ListFailoversRequest(page_size=1_001), grpc.StatusCode.INVALID_ARGUMENT),
        ("ListFailovers", admin_pb2.ListFailoversRequest(page_token="?"), grpc.StatusCode.INVALID_ARGUMENT),
        (
            "ListAffected",
            admin_pb2.ListAffectedRequest(event_id="f" * 32, subject=admin_pb2.FAILOVER_SUBJECT_NODES),
            grpc.StatusCode.NOT_FOUND,
        ),
        ("ListAffected", admin_pb2.ListAffectedRequest(event_id="f" * 32), grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
def test_what_the_record_does_not_have_or_understand_is_refused(
    method: str, request_: Any, code: grpc.StatusCode
) -> None:
    @story
    async def play() -> None:
        async with Host() as host:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await getattr(host.admin, method)(request_)
            assert refused.value.code() is code

    play()


@story
async def test_health_is_told_for_the_server_and_each_service() -> None:
    async with Host() as host:
        stub: Any = health_pb2_grpc.HealthStub(host.channel)
        for serving in (True, False):
            await host.services.set_serving(serving)
            for name in ("", *service_names):
                answer = await stub.Check(health_pb2.HealthCheckRequest(service=name))
                wanted = (
                    health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
                )
                assert answer.status == wanted


@story
async def test_reflection_names_all_services() -> None:
    async with Host() as host:
        channel: Any = host.channel
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        request: Any = reflection_pb2.ServerReflectionRequest
        asked = request(list_services="")
        answers = [answer async for answer in stub.ServerReflectionInfo(iter([asked]))]
        named = {service.name for service in answers[0].list_services_response.service}
        assert named >= {*service_names, "grpc.health.v1.Health"}
        assert service_names[0] == "mainspring.v1.WorkflowsService"
