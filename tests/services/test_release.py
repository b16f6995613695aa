"""A dead coordinator's shards are released by whoever is asked, and recorded before, or, where nothing is served, afterwards."""

import grpc
import grpc.aio
import pytest

from mainspring.errors import PreconditionError
from mainspring.v1 import admin_pb2
from mainspring_coordinator import audit
from mainspring_coordinator.admin import Build
from mainspring_coordinator.releasing import Released, ReleaseOrder
from mainspring_coordinator.services import Services, add_services
from tests.services.rig import Host, error_of, fields_in, shards_total, story

DEAD = "d" * 32


class Releasing(Host):
    """A host whose election frees shards as the test says."""

    refusal: Exception | None = None

    async def put_on(self, server: grpc.aio.Server) -> Services:
        self.orders: list[tuple[ReleaseOrder, int]] = []

        async def release(order: ReleaseOrder) -> Released:
            self.orders.append((order, len(self.loop.audited)))
            if self.refusal is not None:
                raise self.refusal
            return Released(3, was_live=order.force)

        return await add_services(
            server,
            loop=self.loop,
            directory=self.directory,
            reader=self.reader,
            plans=self.plans,
            build=Build("test", "0.1.0", "0001", "a table"),
            strategy=lambda: "round-robin",
            counts=self.counts,
            timings=self.timings,
            clock=self.clock,
            release=release,
        )


def wanted(**rest: object) -> admin_pb2.ReleaseInstanceRequest:
    fields: dict[str, object] = {"incarnation": DEAD, "name": "engine-2", "reason": "its host burned", **rest}
    return admin_pb2.ReleaseInstanceRequest(**fields)  # type: ignore[arg-type]  # fields of several types


def entries(host: Host) -> list[tuple[str, str, str]]:
    return [(event.entry.act, event.entry.subject, event.entry.outcome) for event in host.loop.audited]


@story
async def test_a_release_is_recorded_before_it_is_done_and_with_its_outcome() -> None:
    async with Releasing() as host:
        answer = await host.admin.ReleaseInstance(wanted())
        assert (answer.shards, answer.was_live) == (3, False)
        assert host.orders == [(ReleaseOrder(DEAD, "engine-2", force=False), 1)]
        subject = f"engine-2 ({DEAD})"
        assert entries(host) == [("ReleaseInstance", subject, ""), ("ReleaseInstance", subject, "done")]
        assert (await host.admin.ReleaseInstance(wanted(force=True))).was_live
        assert entries(host)[-1] == ("ReleaseInstance", f"{subject}, by force", "done")


@story
async def test_what_is_refused_is_on_record_as_well() -> None:
    async with Releasing() as host:
        host.refusal = PreconditionError("coordinator 'engine-2' lives: its lock is held")
        error = await error_of(host.admin.ReleaseInstance(wanted()))
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "its lock is held" in entries(host)[1][2]


def test_when_no_shard_is_served_it_is_done_all_the_same_and_recorded_once_one_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(audit, "_late_s", 0.01)

    @story
    async def told() -> None:
        async with Releasing() as host:
            host.loop.serving.clear()
            answer = await host.admin.ReleaseInstance(wanted())
            assert answer.shards == 3
            assert entries(host) == []
            host.loop.serving.update(dict.fromkeys(range(shards_total), 2))
            while not host.loop.audited:
                host.loop.arrived.clear()
                await host.loop.arrived.wait()
            assert entries(host) == [("ReleaseInstance", f"engine-2 ({DEAD})", "done")]
            assert host.loop.audited[0].entry.reason == "its host burned"
            # Other acts are not done without a record.
            host.loop.serving.clear()
            step_down = admin_pb2.StepDownRequest(seconds=60)
            assert (await error_of(host.admin.StepDown(step_down))).code() is grpc.StatusCode.UNAVAILABLE

    told()


@pytest.mark.parametrize(
    ("request_", "field"),
    [(wanted(reason=""), "reason"), (wanted(incarnation="7"), "incarnation"), (wanted(name=""), "name")],
)
def test_what_is_asked_must_be_in_order(request_: admin_pb2.ReleaseInstanceRequest, field: str) -> None:
    @story
    async def told() -> None:
        async with Releasing() as host:
            error = await error_of(host.admin.ReleaseInstance(request_))
            assert fields_in(error) == [field]
            assert host.orders == host.loop.audited == []

    told()


@story
async def test_without_an_election_nothing_is_released() -> None:
    async with Host() as host:
        error = await error_of(host.admin.ReleaseInstance(wanted()))
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
