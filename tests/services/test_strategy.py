"""What operators see and set of the cluster's strategy."""

from dataclasses import replace

import grpc
import pytest

from mainspring.limits import reason_bytes_max
from mainspring.v1 import admin_pb2
from mainspring_coordinator.engine.effects import Answer, AnswerCode
from mainspring_coordinator.engine.operator_events import StrategySet
from mainspring_coordinator.store.protocol import ShardRow
from mainspring_coordinator.store.stored_record import StoredStrategyChange
from tests.services.rig import Host, error_of, fields_in, lease, story


def answering(host: Host, *, created: bool = True) -> None:
    host.loop.answers[StrategySet] = lambda event: Answer(
        event.token, event.shard, "", AnswerCode.OK, created=created, claims=False
    )


@story
async def test_it_is_told_with_what_each_live_coordinator_does() -> None:
    async with Host() as host:
        host.reader.shard_rows = [
            ShardRow(0, 1, None, 0, None, 0, "", ",locality,3,9"),
            ShardRow(1, 1, None, 0, None, 0),
        ]
        one, two = lease("one", "127.0.0.1:1"), lease("two", "127.0.0.1:2")
        gone = replace(two, name="gone", incarnation="f" * 32, strategy="affinity")
        host.reader.leases = [gone, replace(one, strategy="dynamic"), replace(two, strategy="capability")]
        host.directory.live = [(one.incarnation, "one", ""), (two.incarnation, "two", "")]
        answer = await host.admin.GetStrategy(admin_pb2.GetStrategyRequest())
        assert (answer.wanted, answer.chosen, answer.changed_at_us) == ("", "locality", 9)
        told = [(one.name, one.own, one.in_force) for one in answer.coordinators]
        assert told == [("one", "dynamic", "locality"), ("two", "capability", "capability")]


@story
async def test_it_is_set_at_the_owner_of_shard_0_and_counted_there() -> None:
    async with Host("one") as one, Host("two") as two:
        one.own(two)
        answering(two)
        answer = await one.admin.SetStrategy(admin_pb2.SetStrategyRequest(strategy="dynamic", reason="why not"))
        assert answer.changed
        (event,) = two.loop.events
        assert isinstance(event, StrategySet)
        assert (event.shard, event.strategy, event.reason) == (0, "dynamic", "why not")
        assert (one.counts.changes, two.counts.changes) == ([], [("dynamic", "operator")])
        assert not one.loop.events


@story
async def test_setting_what_is_set_is_no_change() -> None:
    async with Host() as host:
        answering(host, created=False)
        answer = await host.admin.SetStrategy(admin_pb2.SetStrategyRequest(strategy=""))
        assert not answer.changed
        assert host.counts.changes == []


@pytest.mark.parametrize(
    ("request_", "field", "said"),
    [
        (
            admin_pb2.SetStrategyRequest(strategy="localty"),
            "strategy",
            "'localty'; there are round-robin, load-balanced",
        ),
        (
            admin_pb2.SetStrategyRequest(strategy="own"),
            "strategy",
            "and, to leave it to each coordinator, `mainspring strategy own` or an empty",
        ),
        (
            admin_pb2.SetStrategyRequest(strategy="locality", reason="x" * (reason_bytes_max + 1)),
            "reason",
            "1024 bytes",
        ),
    ],
)
def test_bad_input_is_named(request_: admin_pb2.SetStrategyRequest, field: str, said: str) -> None:
    @story
    async def told() -> None:
        async with Host() as host:
            error = await error_of(host.admin.SetStrategy(request_))
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert fields_in(error) == [field]
            assert said in (error.details() or "")
            assert not host.loop.events

    told()


@story
async def test_changes_are_listed_by_page() -> None:
    async with Host() as host:
        host.reader.strategy_rows = [StoredStrategyChange(at, "", "locality", "dynamic", "slow") for at in range(1, 6)]
        seen: list[int] = []
        token = ""
        while True:
            page = await host.admin.ListStrategyChanges(
                admin_pb2.ListStrategyChangesRequest(page_size=2, page_token=token)
            )
            seen += [change.changed_at_us for change in page.changes]
            token = page.next_page_token
            if not token:
                break
        assert seen == [5, 4, 3, 2, 1]
        assert (page.changes[0].after, page.changes[0].by, page.changes[0].reason) == ("locality", "dynamic", "slow")
