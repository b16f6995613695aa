"""What operators do is stored for whoever owns the shard that it is stored under."""

from mainspring_coordinator.engine.effects import Answer, AnswerCode
from mainspring_coordinator.engine.operator_events import Audited
from mainspring_coordinator.engine.rows import AuditEntry
from tests.engine.rig import Rig, only, rows_of

ENTRY = AuditEntry(0, "", "a" * 32, 5, 0, "StepDown", "engine-2", "why", "me", "engine-1", "")


def test_an_entry_is_stored_and_answered() -> None:
    effects = Rig().step(Audited(7, 0, ENTRY))
    assert rows_of(effects, AuditEntry) == [ENTRY]
    answer = only(effects, Answer)
    assert (answer.token, answer.shard, answer.code) == (7, 0, AnswerCode.OK)


def test_without_its_shard_nothing_is_stored() -> None:
    effects = Rig(own=False).step(Audited(7, 0, ENTRY))
    assert rows_of(effects, AuditEntry) == []
    assert only(effects, Answer).code is AnswerCode.NOT_OWNER
