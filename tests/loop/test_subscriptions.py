"""Who waits for many ends leaves room for those who watch one workflow."""

import pytest

from mainspring import limits
from mainspring.errors import BusyError
from mainspring_coordinator.delivery import Delivery
from mainspring_coordinator.engine.effects import Changed
from mainspring_coordinator.engine.status import WorkflowStatus
from mainspring_coordinator.ports import WorkflowEffect
from tests.services.rig import ended


def new_delivery() -> Delivery:
    return Delivery(lambda wanted: None, lambda spent: None, lambda end: None, lambda failed: None)


def test_a_wait_for_as_many_ends_as_a_call_may_name_leaves_room_for_watchers() -> None:
    delivery = new_delivery()
    waits = [delivery.subscribe(f"w{n}", lambda end: None, end_only=True) for n in range(limits.wait_many_ids_max)]
    seen: list[WorkflowEffect] = []
    stop = delivery.subscribe("w0", seen.append)
    delivery.let_out([ended("w0")])
    assert [effect.workflow_id for effect in seen] == ["w0"]
    for end in (*waits, stop):
        end()


def test_ends_awaited_have_a_bound_that_is_free_again_when_the_waits_are_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ends_awaited_max", 2)
    delivery = new_delivery()
    waits = [delivery.subscribe(name, lambda end: None, end_only=True) for name in ("one", "two")]
    with pytest.raises(BusyError, match="three"):
        delivery.subscribe("three", lambda end: None, end_only=True)
    waits[0]()
    waits[0]()
    delivery.subscribe("three", lambda end: None, end_only=True)
    with pytest.raises(BusyError, match="four"):
        delivery.subscribe("four", lambda end: None, end_only=True)


def test_who_waits_for_an_end_hears_of_nothing_else() -> None:
    delivery = new_delivery()
    ends: list[WorkflowEffect] = []
    delivery.subscribe("w", ends.append, end_only=True)
    delivery.let_out([Changed(0, "w", 1, WorkflowStatus.RUNNING, []), ended("w")])
    assert [end.workflow_id for end in ends] == ["w"]
