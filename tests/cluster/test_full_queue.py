"""A coordinator whose queue is full says so and when to come again; what it refused can be sent again."""

import asyncio
from pathlib import Path

import grpc
import pytest

from mainspring import limits
from mainspring.dial import open_channel
from mainspring.settings import CoordinatorSettings
from mainspring.v1 import client_pb2, workflow_pb2
from mainspring.v1.client_pb2_grpc import WorkflowsServiceStub
from mainspring.wire import json_encoding
from mainspring_client import Client, WorkflowStatus
from mainspring_coordinator.app import Coordinator
from mainspring_coordinator.store.schema import upgrade
from tests.cluster.flows import chain
from tests.services.rig import error_of, reason_in, retry_ms_in


def test_a_full_queue_refuses_with_a_hint_and_takes_the_same_call_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path / 'mainspring.db'}"
    upgrade(url)
    settings = CoordinatorSettings.load(["--database-url", url, "--grpc-port", "0", "--http-port", "0"])

    async def play() -> None:
        coordinator = Coordinator(settings)
        await coordinator.start()
        try:
            async with Client(coordinator.grpc_address) as client, open_channel(coordinator.grpc_address) as channel:
                with monkeypatch.context() as full:
                    full.setattr(limits, "events_queue_max", 0)
                    payload = workflow_pb2.Payload(encoding=json_encoding, data=chain(1).to_json().encode())
                    request = client_pb2.SubmitRequest(workflow_id="w", definition=payload)
                    refused = await error_of(WorkflowsServiceStub(channel).Submit(request, timeout=10))
                    assert (refused.code(), reason_in(refused)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "BUSY")
                    assert "queue" in (refused.details() or "")
                    assert retry_ms_in(refused) == 500
                    # The client tries again by itself, for as long as its caller allows.
                    patient = asyncio.create_task(client.submit(chain(1), 1, workflow_id="patient"))
                    await error_of(WorkflowsServiceStub(channel).Submit(request, timeout=10))
                    assert not patient.done()
                assert (await patient).created
                assert (await client.get("patient")).status is WorkflowStatus.RUNNING
        finally:
            await coordinator.stop()

    asyncio.run(play())
