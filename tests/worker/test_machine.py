"""What the machine does with each event, one by one."""

import pytest

from mainspring.limits import items_a_message_max, message_split_bytes, unacknowledged_bytes_max
from mainspring_worker.attempts import Attempt, Cause, Instruction, Key, Outcome, Start, Stop, Work
from mainspring_worker.machine import Machine


def work(number: int, *, shard: int = 0, epoch: int = 1, stop_on_disconnect: bool = False) -> Work:
    return Work(shard, number, epoch, number, stop_on_disconnect)


def attached(slots: int = 2, *sessions: int) -> Machine:
    """A machine with a session for each number, which owns the shard of its place."""
    machine = Machine(slots)
    for shard, session in enumerate(sessions or (1,)):
        machine.welcomed(session, [(shard, 1)])
        machine.outgoing(session)
    return machine


def started(instructions: list[Instruction]) -> list[int]:
    return [instruction.work.id for instruction in instructions if isinstance(instruction, Start)]


def offered(machine: Machine, session: int = 1) -> list[Key]:
    return [attempt.work.key for attempt in machine.outgoing(session).results]


def finish(machine: Machine, number: int, *, shard: int = 0, size: int = 1) -> list[Instruction]:
    return machine.finished((shard, number), Outcome.SUCCEEDED, None, size)


def test_it_starts_what_fits_and_queues_the_rest() -> None:
    machine = attached(2)
    assert started(machine.assigned(1, [work(1), work(2), work(3)])) == [1, 2]
    assert (machine.running, machine.queued) == (2, 1)
    assert started(finish(machine, 1)) == [3]


def test_an_assignment_that_comes_twice_is_dropped() -> None:
    machine = attached()
    assert started(machine.assigned(1, [work(1), work(1)])) == [1]
    assert machine.assigned(1, [work(1)]) == []
    finish(machine, 1)
    assert machine.assigned(1, [work(1)]) == [], "not even when it has ended and waits for its acknowledgement"


def test_what_bears_a_lower_epoch_is_dropped() -> None:
    machine = attached()
    machine.welcomed(2, [(0, 5)])
    assert machine.assigned(1, [work(1, epoch=4)]) == []
    assert machine.attempts == {}
    assert started(machine.assigned(2, [work(2, epoch=5)])) == [2]
    assert machine.cancels(1, [(0, 2, 4, Cause.WORKFLOW_CANCELLED)]) == []
    machine.owns(1, [(0, 4, True)])
    finish(machine, 2)
    assert offered(machine, 1) == []
    assert offered(machine, 2) == [(0, 2)]


def test_whoever_claims_a_shard_under_a_lower_epoch_is_told_of_the_higher_one() -> None:
    machine = attached()
    machine.owns(1, [(0, 7, True)])
    machine.outgoing(1)
    machine.welcomed(2, [(0, 5)])
    assert [(stated.shard, stated.epoch) for stated in machine.outgoing(2).inventory] == [(0, 7)]


def test_a_queued_attempt_is_let_go_when_its_shard_has_a_higher_epoch() -> None:
    machine = attached(1)
    machine.assigned(1, [work(1), work(2)])
    machine.welcomed(2, [(0, 2)])
    (stated,) = machine.outgoing(2).inventory
    assert (stated.epoch, list(stated.running), list(stated.queued)) == (2, [1], [])
    assert finish(machine, 1) == [], "it was sent under a lower epoch than was stated"


@pytest.mark.parametrize("disposition", ["recorded", "stale"])
def test_a_result_is_kept_until_it_is_acknowledged(disposition: str) -> None:
    machine = attached()
    machine.assigned(1, [work(1)])
    finish(machine, 1)
    assert offered(machine) == [(0, 1)]
    assert offered(machine) == []
    machine.heartbeat(1)
    assert offered(machine) == [(0, 1)], "with each heartbeat"
    machine.ended(1)
    machine.welcomed(2, [(0, 1)])
    assert offered(machine, 2) == [(0, 1)], "and on the next stream"
    machine.acked(2, [(0, 1, 1, disposition)])
    assert machine.idle


def test_a_result_that_a_non_owner_refused_is_offered_again_with_heartbeats_and_to_the_owner() -> None:
    machine = attached()
    machine.assigned(1, [work(1)])
    finish(machine, 1)
    offered(machine)
    machine.acked(1, [(0, 1, 0, "not_owner")])
    assert offered(machine) == []
    machine.heartbeat(1)
    assert offered(machine) == [(0, 1)]
    machine.welcomed(2, [(0, 2)])
    assert offered(machine, 2) == [(0, 1)]


@pytest.mark.parametrize("disposition", ["recorded", "stale"])
def test_a_former_owner_cannot_make_a_result_forgotten(disposition: str) -> None:
    machine = attached()
    machine.welcomed(2, [(0, 2)])
    machine.assigned(2, [work(1, epoch=2)])
    finish(machine, 1)
    machine.acked(1, [(0, 1, 1, disposition)])
    assert offered(machine, 2) == [(0, 1)]


def test_a_cancel_that_overtakes_its_assignment_wins_until_the_stream_ends() -> None:
    machine = attached()
    assert machine.cancels(1, [(0, 1, 1, Cause.WORKFLOW_CANCELLED), (0, 2, 1, Cause.WORKFLOW_CANCELLED)]) == []
    assert machine.assigned(1, [work(1)]) == []
    assert [attempt.outcome for attempt in machine.outgoing(1).results] == [Outcome.CANCELLED]
    machine.ended(1)
    machine.welcomed(2, [(0, 1)])
    assert started(machine.assigned(2, [work(2)])) == [2]


def test_a_cancelled_attempt_holds_its_slot_until_its_code_has_ended() -> None:
    machine = attached(1)
    machine.assigned(1, [work(1), work(2)])
    assert machine.cancels(1, [(0, 1, 1, Cause.WORKFLOW_CANCELLED)]) == [Stop((0, 1), Cause.WORKFLOW_CANCELLED)]
    assert (machine.running, machine.queued) == (1, 1)
    assert started(machine.finished((0, 1), Outcome.CANCELLED, None, 0)) == [2]


def test_a_queued_attempt_that_is_cancelled_never_starts() -> None:
    machine = attached(1)
    machine.assigned(1, [work(1), work(2)])
    machine.cancels(1, [(0, 2, 1, Cause.WORKFLOW_CANCELLED)])
    assert finish(machine, 1) == []
    assert {attempt.work.id: attempt.outcome for attempt in machine.outgoing(1).results} == {
        1: Outcome.SUCCEEDED,
        2: Outcome.CANCELLED,
    }


def test_a_superseded_attempt_is_stopped_and_its_slot_given_to_nobody() -> None:
    machine = attached(2)
    machine.assigned(1, [work(1)])
    assert machine.cancels(1, [(0, 1, 1, Cause.SUPERSEDED)]) == [Stop((0, 1), Cause.SUPERSEDED)]
    assert machine.outgoing(1).credit == (2, 1)
    finish(machine, 1)
    assert machine.idle, "its result would only be refused"
    assert machine.outgoing(1).credit == (3, 2)


def test_an_inventory_names_everything_that_is_held_of_every_shard() -> None:
    machine = attached(1)
    machine.assigned(1, [work(1), work(2), work(3, shard=7)])
    finish(machine, 1)
    machine.ended(1)
    machine.welcomed(2, [(4, 1)])
    stated = {item.shard: item for item in machine.outgoing(2).inventory}
    assert sorted(stated) == [0, 4, 7]
    assert (stated[0].running, stated[0].finished, stated[0].ordinal_seen) == ([2], [1], 0)
    assert stated[7].queued == [3]


def test_results_are_split_so_that_each_message_fits() -> None:
    machine = attached(10)
    machine.assigned(1, [work(number) for number in range(1, 11)])
    for number in range(1, 11):
        finish(machine, number, size=message_split_bytes // 3)
    sizes = [len(offered(machine)) for _ in range(6)]
    assert sizes == [2, 2, 2, 2, 2, 0]


def test_a_result_of_any_size_can_be_sent() -> None:
    machine = attached(1)
    machine.assigned(1, [work(1)])
    finish(machine, 1, size=2 * message_split_bytes)
    assert offered(machine) == [(0, 1)]


def test_a_message_has_a_bounded_number_of_results() -> None:
    machine = attached(items_a_message_max + 1)
    machine.assigned(1, [work(number) for number in range(1, items_a_message_max + 2)])
    for number in range(1, items_a_message_max + 2):
        finish(machine, number)
    assert [len(offered(machine)) for _ in range(2)] == [items_a_message_max, 1]


def test_no_more_work_is_taken_while_too_many_bytes_wait_for_acknowledgement() -> None:
    machine = attached(4)
    machine.assigned(1, [work(1)])
    finish(machine, 1, size=unacknowledged_bytes_max + 1)
    assert machine.outgoing(1).credit == (2, 0)
    machine.acked(1, [(0, 1, 1, "recorded")])
    assert machine.outgoing(1).credit == (3, 4)


def test_a_draining_worker_gives_back_what_it_has_not_started() -> None:
    machine = attached(1)
    machine.assigned(1, [work(1), work(2)])
    machine.drain()
    machine.assigned(1, [work(3)])
    out = machine.outgoing(1)
    assert {attempt.work.id: attempt.outcome for attempt in out.results} == {
        2: Outcome.NOT_STARTED,
        3: Outcome.NOT_STARTED,
    }
    assert out.credit == (2, 0)
    assert machine.left_behind() == [(0, 1), (0, 2), (0, 3)]


def test_one_that_takes_work_again_states_all_that_it_has_and_gives_its_slots_again() -> None:
    machine = attached(2)
    machine.assigned(1, [work(1)])
    machine.owns(1, [(7, 1, True)])
    machine.drain()
    assert machine.outgoing(1).credit == (2, 0)
    machine.credit_echoed(1, 2)
    machine.take_work()
    out = machine.outgoing(1)
    assert [(stated.shard, list(stated.running)) for stated in out.inventory] == [(0, [1]), (7, [])]
    assert out.credit == (3, 2)
    assert started(machine.assigned(1, [work(2)])) == [2]


def test_work_goes_on_without_a_coordinator_unless_the_node_says_otherwise() -> None:
    machine = attached(2)
    machine.assigned(1, [work(1), work(2, stop_on_disconnect=True)])
    machine.ended(1)
    assert machine.cut_off() == [Stop((0, 2), Cause.DISCONNECTED)]
    machine.welcomed(2, [(0, 1)])
    assert machine.cut_off() == []


def test_slots_are_shared_equally_and_a_bound_is_raised_only_when_the_lower_one_was_echoed() -> None:
    machine = Machine(10)
    machine.welcomed(1, [(0, 1)])
    assert machine.outgoing(1).credit == (1, 10)
    machine.credit_echoed(1, 1)
    machine.welcomed(2, [(1, 1)])
    assert machine.outgoing(1).credit == (2, 5)
    assert machine.outgoing(2).credit == (1, 0), "the first may still believe in 10"
    machine.credit_echoed(1, 2)
    assert machine.outgoing(2).credit == (2, 5)
    machine.ended(1)
    assert machine.outgoing(2).credit == (3, 10)


def test_idle_credit_moves_to_where_work_waits_and_comes_back() -> None:
    machine = attached(10, 1, 2)
    for _ in range(3):
        for session in (1, 2):
            credit = machine.outgoing(session).credit
            machine.credit_echoed(session, credit[0] if credit else machine.sessions[session].credit_seq)
    assert [machine.sessions[session].limit for session in (1, 2)] == [5, 5]
    machine.backlog(2, waiting=True)
    settle(machine)
    assert [machine.sessions[session].limit for session in (1, 2)] == [0, 10]
    machine.backlog(1, waiting=True)
    settle(machine)
    assert [machine.sessions[session].limit for session in (1, 2)] == [5, 5]


def test_a_coordinator_that_gave_work_a_moment_ago_keeps_a_slot_for_what_follows_it() -> None:
    machine = attached(10, 1, 2)
    settle(machine)
    machine.assigned(1, [work(1)])
    machine.backlog(2, waiting=True)
    settle(machine)
    assert [machine.sessions[session].limit for session in (1, 2)] == [2, 8]
    finish(machine, 1)
    machine.acked(1, [(0, 1, 1, "recorded")])
    machine.rebalance()
    settle(machine)
    assert [machine.sessions[session].limit for session in (1, 2)] == [1, 9]
    machine.rebalance()
    settle(machine)
    assert [machine.sessions[session].limit for session in (1, 2)] == [0, 10]


def test_a_slot_that_several_coordinators_share_goes_to_the_one_that_has_work() -> None:
    machine = attached(1, 1, 2, 3)
    settle(machine)
    for session in (3, 2, 1):
        machine.backlog(session, waiting=True)
        settle(machine)
        assert [other for other, state in machine.sessions.items() if state.limit] == [session]
        machine.backlog(session, waiting=False)


def test_coordinators_that_are_more_than_the_slots_take_turns() -> None:
    machine = attached(1, 1, 2, 3)
    for session in (1, 2, 3):
        machine.backlog(session, waiting=True)
    had: set[int] = set()
    for _ in range(3):
        machine.rebalance()
        settle(machine)
        had |= {session for session, state in machine.sessions.items() if state.limit}
    assert had == {1, 2, 3}


def test_credit_is_not_given_twice_while_a_lowered_coordinator_still_has_more_than_its_bound() -> None:
    machine = Machine(4)
    machine.welcomed(1, [(0, 1)])
    settle(machine)
    machine.assigned(1, [work(number) for number in range(1, 5)])
    machine.welcomed(2, [(1, 1)])
    machine.backlog(2, waiting=True)
    settle(machine)
    assert machine.sessions[2].limit == 0, "all four slots are in use"
    finish(machine, 1)
    machine.rebalance()
    settle(machine)
    assert machine.sessions[2].limit == 1


def settle(machine: Machine) -> None:
    """Let all credit be sent and echoed until nothing moves."""
    for _ in range(5):
        for session in list(machine.sessions):
            credit = machine.outgoing(session).credit
            if credit is not None:
                machine.credit_echoed(session, credit[0])


def test_an_unknown_session_changes_nothing() -> None:
    machine = attached()
    machine.assigned(9, [work(1)])
    machine.owns(9, [(0, 7, True)])
    machine.acked(9, [(0, 1, 1, "recorded")])
    assert machine.attempts == dict[Key, Attempt]()
    assert machine.epochs == {0: 1}
