"""The same worker name twice: the live one stays, and the newcomer is told, be it the one that had the name before."""

import asyncio
from pathlib import Path

import grpc.aio

from mainspring.v1 import worker_pb2
from mainspring.v1.worker_pb2_grpc import FleetServiceStub
from mainspring.wire import protocol_version
from tests.cluster.flows import gate
from tests.cluster.running import RealCluster, so


async def first_answer(address: str, name: str, incarnation: str) -> worker_pb2.AttachResponse:
    """Say hello as a worker of this name and incarnation; return what the coordinator says."""
    hello = worker_pb2.Hello(
        name=name, incarnation=incarnation, executors=["noop"], slots=1, workflows_max=1, protocol=protocol_version
    )
    async with grpc.aio.insecure_channel(address) as channel:
        call = FleetServiceStub(channel).Attach()
        await call.write(worker_pb2.AttachRequest(seq=1, hello=hello))
        answer = await call.read()
        call.cancel()
    assert isinstance(answer, worker_pb2.AttachResponse)
    return answer


def test_a_second_worker_of_a_name_is_told_and_gets_the_name_when_the_first_has_died(
    file_url: str, tmp_path: Path
) -> None:
    async def play() -> None:
        async with RealCluster(file_url, tmp_path) as cluster:
            await cluster.coordinator()
            elder = await cluster.worker("elder", ENGINE_INSTANCE_ID="twin")
            client = cluster.client()
            incarnation = (await client.workers())[0].incarnation
            handle = await client.submit(gate(), "open")
            await so(lambda: len(cluster.effects.read("start")) == 1)
            newcomer = await cluster.spawn_worker("newcomer", ENGINE_INSTANCE_ID="twin")
            told = await newcomer.said("NAME_TAKEN")
            assert "a worker named 'twin' is attached already" in told.replace('\\"', '"').replace("\\'", "'")
            assert "--name" in told
            assert [one.incarnation for one in await client.workers()] == [incarnation]
            assert [effect.pid for effect in cluster.effects.read("start")] == [elder.pid]

            await elder.killed()
            await newcomer.heard("attached", 30)
            await so(lambda: [effect.pid for effect in cluster.effects.read("start")] == [elder.pid, newcomer.pid])
            cluster.effects.open_gate("open")
            assert await handle.result(30) == {"pid": newcomer.pid}

            refused = await first_answer(cluster.address("c1"), "twin", incarnation)
            assert refused.goodbye.reason == worker_pb2.GOODBYE_REASON_NAME_TAKEN

    asyncio.run(play())
