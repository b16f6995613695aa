"""What operators do: it is on record before it is done, with who did it and what came of it, whichever coordinator is asked."""

import re
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from mainspring.callers import forwarded_key
from mainspring.errors import NotOwnerError, UnavailableError
from mainspring.limits import audit_who_bytes_max, reason_bytes_max
from mainspring.v1 import admin_pb2
from mainspring_coordinator.audit import entry_key, user_key
from mainspring_coordinator.engine.effects import Answer, AnswerCode
from mainspring_coordinator.engine.events import Cancel
from mainspring_coordinator.engine.operator_events import Audited, StrategySet
from mainspring_coordinator.engine.status import WorkflowStatus
from mainspring_coordinator.store.stored_record import StoredAuditEntry
from tests.services.rig import Host, error_of, fields_in, plan_of, story

as_alice = ((user_key, "alice@ops1"),)
_one_node = plan_of({"id": "a", "executor": "x"})


def entries(host: Host) -> list[tuple[str, str, str]]:
    """Return act, subject and outcome of what was stored, in the order in which it was."""
    return [(event.entry.act, event.entry.subject, event.entry.outcome) for event in host.loop.audited]


def both_read(host: Host) -> Callable[[Any], Answer]:
    """Let another coordinator find in the database what one writes."""

    def write(event: Any) -> Answer:
        row = event.entry
        said = (row.act, row.subject, row.reason, row.who, row.coordinator, row.outcome)
        host.reader.audit_rows = [StoredAuditEntry(row.entry_id, row.began_at_us, row.ended_at_us, *said)]
        return Answer(event.token, 0, "", AnswerCode.OK)

    return write


def strategy_is_stored(host: Host) -> None:
    host.loop.answers[StrategySet] = lambda event: Answer(event.token, 0, "", AnswerCode.OK, created=True, claims=False)


def cancels(status: WorkflowStatus) -> Callable[[Any], Answer]:
    return lambda event: Answer(event.token, event.shard, event.workflow_id, AnswerCode.OK, status)


@story
async def test_an_act_is_stored_before_it_is_done_and_again_with_its_outcome() -> None:
    async with Host("one") as host:
        strategy_is_stored(host)
        before: list[int] = []
        host.loop.on_ask = lambda event: (
            before.append(len(host.loop.audited)) if isinstance(event, StrategySet) else None
        )
        request = admin_pb2.SetStrategyRequest(strategy="locality", reason="slow network")
        await host.admin.SetStrategy(request, metadata=as_alice)
        assert entries(host) == [("SetStrategy", "locality", ""), ("SetStrategy", "locality", "done")]
        assert before == [1]
        first, last = (event.entry for event in host.loop.audited)
        assert first.entry_id == last.entry_id
        assert (last.reason, last.coordinator) == ("slow network", "one")
        assert last.who.startswith("anonymous, as alice@ops1, from ")


@story
async def test_an_outcome_is_stored_under_another_shard_when_the_first_one_moves_meanwhile() -> None:
    async with Host() as host:
        strategy_is_stored(host)
        moved = iter((False, True, False))
        host.loop.answers[Audited] = lambda event: (
            NotOwnerError("it has moved") if next(moved) else Answer(event.token, 0, "", AnswerCode.OK)
        )
        await host.admin.SetStrategy(admin_pb2.SetStrategyRequest(strategy="locality"))
        assert [outcome for _, _, outcome in entries(host)] == ["", "done", "done"]


@story
async def test_what_is_refused_is_on_record_with_the_reason() -> None:
    async with Host() as host:
        await error_of(host.admin.SetStrategy(admin_pb2.SetStrategyRequest(strategy="localty")))
        assert entries(host)[0] == ("SetStrategy", "localty", "")
        assert "there is no 'localty'" in entries(host)[1][2]
        assert host.loop.audited[0].entry.who.startswith("anonymous, from ")


@story
async def test_what_cannot_be_put_on_record_is_not_done() -> None:
    async with Host() as host:
        host.loop.answers[Audited] = lambda _: UnavailableError("the term is over")
        error = await error_of(host.admin.SetStrategy(admin_pb2.SetStrategyRequest(strategy="locality")))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert host.loop.events == []


@story
async def test_who_is_asked_writes_the_entry_and_who_does_it_does_not() -> None:
    async with Host("one") as one, Host("two") as two:
        one.own(two, [0])
        strategy_is_stored(two)
        one.loop.answers[Audited] = both_read(two)
        await one.admin.SetStrategy(admin_pb2.SetStrategyRequest(strategy="locality"), metadata=as_alice)
        assert [outcome for _, _, outcome in entries(one)] == ["", "done"]
        assert entries(two) == []


@story
async def test_a_call_that_only_says_that_it_was_sent_on_is_put_on_record() -> None:
    for said in ((), ((entry_key, "f" * 32),), ((entry_key, "a" * 32),)):
        async with Host() as host:
            strategy_is_stored(host)
            # One that is over, of another act: nobody may hide behind it.
            host.reader.audit_rows = [StoredAuditEntry("a" * 32, 1, 2, "SetStrategy", "", "", "me", "c1", "done")]
            await host.admin.SetStrategy(
                admin_pb2.SetStrategyRequest(strategy="locality"), metadata=((forwarded_key, "1"), *said)
            )
            assert [outcome for _, _, outcome in entries(host)] == ["", "done"]


def test_only_a_coordinator_is_believed_that_a_call_is_on_record(monkeypatch: pytest.MonkeyPatch) -> None:
    @story
    async def told() -> None:
        for believed, outcomes in ((True, []), (False, ["", "done"])):
            async with Host() as host:
                strategy_is_stored(host)
                monkeypatch.setattr("mainspring_coordinator.audit.from_coordinator", lambda said=believed: said)
                host.reader.audit_rows = [StoredAuditEntry("a" * 32, 1, 0, "SetStrategy", "", "", "me", "c1", "")]
                marks = ((forwarded_key, "1"), (entry_key, "a" * 32))
                await host.admin.SetStrategy(admin_pb2.SetStrategyRequest(strategy="locality"), metadata=marks)
                assert [outcome for _, _, outcome in entries(host)] == outcomes

    told()


@story
async def test_what_a_caller_says_of_itself_does_not_hide_from_where_it_calls() -> None:
    async with Host("one") as host:
        strategy_is_stored(host)
        claim = ((user_key, "alice, from 10.1.2.3:4" + "~" * 300),)
        await host.admin.SetStrategy(admin_pb2.SetStrategyRequest(strategy="locality"), metadata=claim)
        who = host.loop.audited[0].entry.who
        assert len(who.encode()) <= audit_who_bytes_max
        assert re.search(r"~.{0,3}, from 127\.0\.0\.1:\d+$", who)


@story
async def test_who_serves_nothing_has_the_entry_written_by_one_that_does() -> None:
    async with Host("one") as one, Host("two") as two:
        one.own(two)
        strategy_is_stored(two)
        two.loop.answers[Audited] = both_read(two)
        await one.admin.SetStrategy(admin_pb2.SetStrategyRequest(strategy="locality"), metadata=as_alice)
        assert entries(one) == []
        assert [outcome for _, _, outcome in entries(two)] == ["", "done"]
        assert two.loop.audited[0].entry.coordinator == "one"
        assert two.loop.audited[0].entry.who.startswith("anonymous, as alice@ops1, from ")


@story
async def test_a_reason_is_bounded() -> None:
    async with Host() as host:
        request = admin_pb2.StepDownRequest(seconds=5, reason="x" * (reason_bytes_max + 1))
        error = await error_of(host.admin.StepDown(request))
        assert fields_in(error) == ["reason"]
        assert host.loop.audited == []


@story
async def test_workflows_that_fit_are_asked_to_stop_page_by_page() -> None:
    async with Host() as host:
        for name in ("import-1", "import-2", "import-3", "order-1"):
            host.store(name, _one_node, WorkflowStatus.RUNNING)
        host.store("import-4", _one_node, WorkflowStatus.SUCCEEDED)
        host.loop.answers[Cancel] = cancels(WorkflowStatus.CANCELLING)
        asked: list[str] = []
        token, pages = "", 0
        while True:
            request = admin_pb2.CancelWorkflowsRequest(
                id_prefix="import-", reason="bad source", page_size=2, page_token=token
            )
            page = await host.admin.CancelWorkflows(request)
            asked += page.workflow_ids
            pages += 1
            token = page.next_page_token
            if not token:
                break
        assert sorted(asked) == ["import-1", "import-2", "import-3"]
        assert pages == 2
        assert sorted((event.workflow_id, event.reason) for event in host.loop.events if isinstance(event, Cancel)) == [
            (name, "bad source") for name in sorted(asked)
        ]
        assert entries(host)[1] == ("CancelWorkflows", "id_prefix import-", "done")


@story
async def test_those_that_ended_meanwhile_are_told_apart() -> None:
    async with Host() as host:
        host.store("wf-1", _one_node, WorkflowStatus.RUNNING)
        host.loop.answers[Cancel] = cancels(WorkflowStatus.SUCCEEDED)
        page = await host.admin.CancelWorkflows(admin_pb2.CancelWorkflowsRequest(all=True))
        assert (list(page.workflow_ids), list(page.ended)) == ([], ["wf-1"])


@story
async def test_a_dry_run_asks_nobody_and_is_no_act() -> None:
    async with Host() as host:
        host.store("wf-1", _one_node, WorkflowStatus.RUNNING)
        page = await host.admin.CancelWorkflows(admin_pb2.CancelWorkflowsRequest(all=True, dry_run=True))
        assert list(page.workflow_ids) == ["wf-1"]
        assert host.loop.events == host.loop.audited == []


@pytest.mark.parametrize(
    ("request_", "field", "said"),
    [
        (admin_pb2.CancelWorkflowsRequest(), "all", "which would stop every workflow"),
        (admin_pb2.CancelWorkflowsRequest(name="x" * 129), "name", "128 bytes"),
        (admin_pb2.CancelWorkflowsRequest(id_prefix="x" * 201), "id_prefix", "1 to 200 letters"),
        (admin_pb2.CancelWorkflowsRequest(id_prefix="é"), "id_prefix", "begins no id"),
        (admin_pb2.CancelWorkflowsRequest(all=True, page_size=1_001), "page_size", "1000"),
    ],
)
def test_a_filter_that_is_none_or_too_long_is_refused(
    request_: admin_pb2.CancelWorkflowsRequest, field: str, said: str
) -> None:
    @story
    async def told() -> None:
        async with Host() as host:
            error = await error_of(host.admin.CancelWorkflows(request_))
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert fields_in(error) == [field]
            assert said in (error.details() or "")

    told()


@story
async def test_nobody_steps_down_when_no_other_could_take_over() -> None:
    async with Host("one") as host:
        host.directory.live = [(host.directory.incarnation, "one", host.address)]
        error = await error_of(host.admin.StepDown(admin_pb2.StepDownRequest(seconds=60)))
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "no other live coordinator has workers" in (error.details() or "")
        assert "no other live coordinator" in entries(host)[1][2]


@story
async def test_what_another_coordinator_refuses_is_on_record_with_its_reason() -> None:
    async with Host("one") as one, Host("two") as two:
        one.directory.live = [(two.directory.incarnation, "two", two.address)]
        one.loop.answers[Audited] = both_read(two)
        error = await error_of(one.admin.StepDown(admin_pb2.StepDownRequest(coordinator="two", seconds=60)))
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "no other live coordinator has workers" in entries(one)[1][2]
        assert entries(two) == []


@story
async def test_who_is_to_step_down_is_named_and_must_live() -> None:
    async with Host("one") as host:
        me = host.directory.incarnation
        host.directory.live = [(me, "one", host.address), ("b" * 32, "twin", "h:1"), ("c" * 32, "twin", "h:2")]
        gone = await error_of(host.admin.StepDown(admin_pb2.StepDownRequest(coordinator="c9", seconds=60)))
        assert gone.code() is grpc.StatusCode.NOT_FOUND
        two = await error_of(host.admin.StepDown(admin_pb2.StepDownRequest(coordinator="twin", seconds=60)))
        assert fields_in(two) == ["coordinator"]
        assert "b" * 32 in (two.details() or "")
        long = await error_of(host.admin.StepDown(admin_pb2.StepDownRequest(seconds=3_601)))
        assert fields_in(long) == ["seconds"]


@story
async def test_entries_are_listed_by_page() -> None:
    async with Host() as host:
        host.reader.audit_rows = [
            StoredAuditEntry(f"{at:032d}", at, at + 1, "StepDown", "c1", "why", "me", "c2", "done")
            for at in range(1, 6)
        ]
        seen: list[int] = []
        token = ""
        while True:
            page = await host.admin.ListAudit(admin_pb2.ListAuditRequest(page_size=2, page_token=token))
            seen += [entry.began_at_us for entry in page.entries]
            token = page.next_page_token
            if not token:
                break
        assert seen == [5, 4, 3, 2, 1]
        assert page.entries[0].outcome == "done"
