"""What operators pause, let go on and see, whichever coordinator they ask."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import grpc
import pytest

from mainspring.owner_hint import addressee_key
from mainspring.v1 import admin_pb2, client_pb2, peers_pb2
from mainspring.v1.peers_pb2_grpc import PeersServiceStub
from mainspring_coordinator.audit import user_key
from mainspring_coordinator.engine.effects import Answer, AnswerCode
from mainspring_coordinator.engine.operator_events import Audited, PauseSet, PausesSeen, WorkflowPauseSet
from mainspring_coordinator.engine.pauses import ClusterPauses, Pause
from mainspring_coordinator.engine.status import WorkflowStatus
from mainspring_coordinator.pausing import Pausing
from mainspring_coordinator.store.stored_record import StoredAuditEntry
from tests.services.rig import Host, error_of, fields_in, plan_of, story

_one_node = plan_of({"id": "a", "executor": "x"})
_pause = Pause(5, "ann", "a fire")


def answered(code: AnswerCode = AnswerCode.OK, **rest: Any) -> Callable[[Any], Answer]:
    given = {"created": True, "pause": _pause, "claims": False, **rest}
    return lambda event: Answer(event.token, event.shard, getattr(event, "workflow_id", ""), code, **given)


def both_read(host: Host) -> Callable[[Any], Answer]:
    """Let another coordinator find in the database what one writes."""

    def write(event: Any) -> Answer:
        row = event.entry
        said = (row.act, row.subject, row.reason, row.who, row.coordinator, row.outcome)
        host.reader.audit_rows = [StoredAuditEntry(row.entry_id, row.began_at_us, row.ended_at_us, *said)]
        return Answer(event.token, 0, "", AnswerCode.OK)

    return write


@story
async def test_the_owner_of_shard_0_pauses_for_who_asked_elsewhere_and_has_the_others_look() -> None:
    async with Host("one") as one, Host("two") as two:
        one.own(two)
        one.loop.serving = {}
        two.loop.answers |= {Audited: both_read(two), PauseSet: answered()}
        two.directory.live = [(host.directory.incarnation, host.directory.name, host.address) for host in (one, two)]
        one.reader.pauses_row = b"read anew"
        answer = await one.admin.PauseDispatch(
            admin_pb2.PauseDispatchRequest(executor="mail", reason="full"), metadata=((user_key, "ann@ops1"),)
        )
        assert (answer.changed, answer.pause.who, answer.pause.reason) == (True, "ann", "a fire")
        assert (list(answer.unseen_by), answer.workers) == ([], 0)
        (event,) = two.loop.events
        assert isinstance(event, PauseSet)
        assert (event.shard, event.executor, event.paused, event.reason) == (0, "mail", True, "full")
        assert event.who.startswith("anonymous, as ann@ops1, from "), "not who sent it on"
        assert one.loop.events == [PausesSeen(b"read anew")]
        assert two.loop.audited[0].entry.subject == "executor mail"


@story
async def test_who_has_shards_has_stored_what_it_gave_out_before_it_says_that_it_sees() -> None:
    async with Host("one") as host:
        host.loop.answers[PausesSeen] = answered()
        host.reader.pauses_row = b"{}"
        async with grpc.aio.insecure_channel(host.address) as channel:
            peers = PeersServiceStub(channel)
            await peers.SeePauses(peers_pb2.SeePausesRequest())
            (event,) = host.loop.events
            assert isinstance(event, PausesSeen)
            assert (event.data, event.shard, event.token > 0) == (b"{}", 0, True)
            meant = peers.SeePauses(peers_pb2.SeePausesRequest(), metadata=((addressee_key, "e" * 32),))
            assert (await error_of(meant)).code() is grpc.StatusCode.UNAVAILABLE


@story
async def test_who_does_not_confirm_is_named_and_the_pause_holds() -> None:
    async with Host("one") as host:
        host.loop.answers[PauseSet] = answered()
        me = host.directory.incarnation
        host.directory.live = [(me, "one", host.address), ("d" * 32, "deaf", "127.0.0.1:1")]
        answer = await host.admin.PauseDispatch(admin_pb2.PauseDispatchRequest(all=True))
        assert (answer.changed, list(answer.unseen_by)) == (True, ["deaf"])
        resumed = await host.admin.ResumeDispatch(admin_pb2.ResumeDispatchRequest(all=True))
        assert (resumed.changed, list(resumed.unseen_by)) == (True, ["deaf"])


@story
async def test_workers_may_come_while_the_others_look() -> None:
    async def looks(pausing: Pausing, _request: object) -> list[str]:
        newcomer: Any = SimpleNamespace(absent_since_us=0, hello=SimpleNamespace(executors=["work"]))
        cast("dict[str, Any]", pausing.workers)["f" * 32] = newcomer
        return []

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pausing, "_let_see", looks)
        async with Host("one") as host:
            host.loop.answers[PauseSet] = answered()
            answer = await host.admin.PauseDispatch(admin_pb2.PauseDispatchRequest(executor="work"))
            assert answer.workers == 1


@story
async def test_what_was_as_wanted_already_is_said_to_be() -> None:
    async with Host() as host:
        host.loop.answers[PauseSet] = answered(created=False)
        assert not (await host.admin.PauseDispatch(admin_pb2.PauseDispatchRequest(all=True))).changed
        host.loop.answers[PauseSet] = answered(created=False, pause=None)
        answer = await host.admin.ResumeDispatch(admin_pb2.ResumeDispatchRequest(executor="x"))
        assert (answer.changed, answer.HasField("pause")) == (False, False)


@story
async def test_a_workflow_is_paused_where_it_is_owned() -> None:
    async with Host("one") as one, Host("two") as two:
        one.own(two)
        two.loop.answers[WorkflowPauseSet] = answered(status=WorkflowStatus.RUNNING)
        answer = await one.admin.PauseDispatch(admin_pb2.PauseDispatchRequest(workflow_id="wf-1", reason="why"))
        assert answer.changed
        (event,) = two.loop.events
        assert isinstance(event, WorkflowPauseSet)
        assert (event.workflow_id, event.paused, event.reason) == ("wf-1", True, "why")


@story
async def test_only_a_workflow_that_goes_on_can_be_paused_and_any_may_be_let_go_on() -> None:
    async with Host() as host:
        host.store("over", _one_node, WorkflowStatus.SUCCEEDED)
        host.loop.answers[WorkflowPauseSet] = answered(AnswerCode.NOT_FOUND, created=False, pause=None)
        unknown = await error_of(host.admin.PauseDispatch(admin_pb2.PauseDispatchRequest(workflow_id="nobody")))
        assert unknown.code() is grpc.StatusCode.NOT_FOUND
        ended = await error_of(host.admin.PauseDispatch(admin_pb2.PauseDispatchRequest(workflow_id="over")))
        assert ended.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "'over' has ended (SUCCEEDED); there is nothing to pause" in (ended.details() or "")
        assert not (await host.admin.ResumeDispatch(admin_pb2.ResumeDispatchRequest(workflow_id="over"))).changed
        gone = await error_of(host.admin.ResumeDispatch(admin_pb2.ResumeDispatchRequest(workflow_id="nobody")))
        assert gone.code() is grpc.StatusCode.NOT_FOUND
        host.loop.answers[WorkflowPauseSet] = answered(created=False, pause=None, status=WorkflowStatus.CANCELLING)
        closing = await error_of(host.admin.PauseDispatch(admin_pb2.PauseDispatchRequest(workflow_id="over")))
        assert "is CANCELLING" in (closing.details() or "")
        assert closing.code() is grpc.StatusCode.FAILED_PRECONDITION


@story
async def test_what_is_more_than_may_be_paused_is_refused_and_not_tried_again() -> None:
    async with Host() as host:
        host.loop.answers[PauseSet] = answered(AnswerCode.REFUSED, created=False, pause=None, message="so many are")
        error = await error_of(host.admin.PauseDispatch(admin_pb2.PauseDispatchRequest(executor="x")))
        assert (error.code(), error.details()) == (grpc.StatusCode.FAILED_PRECONDITION, "so many are")


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (admin_pb2.PauseDispatchRequest(), "what"),
        (admin_pb2.PauseDispatchRequest(all=False), "what"),
        (admin_pb2.PauseDispatchRequest(executor=""), "executor"),
        (admin_pb2.PauseDispatchRequest(executor="x" * 129), "executor"),
        (admin_pb2.PauseDispatchRequest(workflow_id="no id"), "workflow_id"),
        (admin_pb2.PauseDispatchRequest(all=True, reason="x" * 1_025), "reason"),
    ],
)
def test_bad_input_is_named(request_: admin_pb2.PauseDispatchRequest, field: str) -> None:
    @story
    async def told() -> None:
        async with Host() as host:
            error = await error_of(host.admin.PauseDispatch(request_))
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert fields_in(error) == [field]
            assert not host.loop.events

    told()


@story
async def test_pauses_are_listed_by_page_those_of_the_cluster_first() -> None:
    async with Host() as host:
        pauses = ClusterPauses(Pause(1, "ann", "all"), {"b": Pause(2, "bob", ""), "a": Pause(3, "bob", "")}, 3)
        host.reader.pauses_row = pauses.data()
        host.reader.paused_rows = [(f"wf-{at}", Pause(at, "cid", "why")) for at in range(3)]
        seen: list[str] = []
        token = ""
        while True:
            page = await host.admin.ListPauses(admin_pb2.ListPausesRequest(page_size=2, page_token=token))
            seen += ["all" if one.all else one.executor or one.workflow_id for one in page.pauses]
            token = page.next_page_token
            if not token:
                break
        assert seen == ["all", "a", "b", "wf-0", "wf-1", "wf-2"]
        assert (page.pauses[0].pause.since_us, page.pauses[0].pause.who) == (2, "cid")


@story
async def test_a_read_shows_a_workflows_own_pause_from_memory_and_a_list_from_its_row() -> None:
    async with Host() as host:
        host.run("wf-1", _one_node, pause=_pause)
        found = (await host.workflows.Get(client_pb2.GetRequest(workflow_id="wf-1"))).workflow
        assert (found.pause.since_us, found.pause.who, found.pause.reason) == (5, "ann", "a fire")
        host.store("wf-2", _one_node, WorkflowStatus.RUNNING, pause=_pause)
        listed = (await host.workflows.List(client_pb2.ListRequest())).workflows
        assert {one.workflow_id: one.HasField("pause") for one in listed} == {"wf-1": False, "wf-2": True}
        host.run("wf-2", _one_node)
        found = (await host.workflows.Get(client_pb2.GetRequest(workflow_id="wf-2"))).workflow
        assert not found.HasField("pause")
