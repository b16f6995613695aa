"""The record of failovers: written under a fence, once, whoever writes it again; read by page."""

import orjson
import pytest

from mainspring.errors import FencedError
from mainspring.limits import deaths_noted_chars_max
from mainspring_coordinator.engine.rows import (
    DeathsRecorded,
    FailoverAffected,
    FailoverMarked,
    FailoverRecorded,
    Row,
)
from mainspring_coordinator.engine.status import FailoverKind, FailoverStage, Subject
from mainspring_coordinator.store.protocol import Store
from tests.store.members import Member, join, me, rival, shard_row

event = "e" * 32
gone = "d" * 32
NO_CHUNK = -1


def recorded(
    found: str = event, *, shard: int = 0, detected_at_us: int = 5, engine: str = "Köln'\\"
) -> FailoverRecorded:
    kind = FailoverKind.COORDINATOR_HUNG
    return FailoverRecorded(shard, "", found, kind, engine, gone, "two", me, detected_at_us, 6)


def affected(
    subject: Subject, *ids: str, chunk: int = 0, part: int = 0, shard: int = 0, found: str = event, at_us: int = 9
) -> FailoverAffected:
    return FailoverAffected(shard, "", found, subject, part, chunk, orjson.dumps(ids), len(ids), at_us)


def take_from_the_dead(store: Store, new: Member, shard: int, note: str) -> None:
    row = new.lock.take(shard_row(new, shard), new.incarnation, 0, note)
    assert row is not None
    new.journal.adopt(row)
    new.epochs[shard] = row.epoch


def test_an_event_is_read_back_with_what_it_affected(store: Store) -> None:
    member = join(store, me, 0, 1)
    member.commit(
        recorded(),
        affected(Subject.WORKFLOWS, chunk=NO_CHUNK),
        affected(Subject.WORKFLOWS, "w1", "w2"),
        affected(Subject.NODES, "w1/a", "w2/m[7]", at_us=11),
    )
    member.commit(recorded(shard=1), affected(Subject.WORKFLOWS, "w3", shard=1, part=1, at_us=30))
    found = store.reader().failover(event)
    assert found is not None
    assert (found.kind, found.failed_engine, found.failed_incarnation) == (
        FailoverKind.COORDINATOR_HUNG,
        "Köln'\\",
        gone,
    )
    assert (found.takeover_engine, found.takeover_incarnation) == ("two", me)
    assert (found.detected_at_us, found.settles_at_us, found.recovered_at_us) == (5, 6, 30)
    assert (found.workflows_count, found.nodes_count, found.stage) == (3, 2, FailoverStage.RECORDED)
    assert store.reader().affected(event, Subject.NODES, 0, 10) == ["w1/a", "w2/m[7]"]
    assert store.reader().failover("f" * 32) is None
    assert store.reader().affected("f" * 32, Subject.NODES, 0, 10) == []


def test_recording_again_changes_nothing(store: Store) -> None:
    member = join(store, me, 0)
    for try_ in range(3):
        member.commit(
            recorded(detected_at_us=5 + try_),
            recorded(detected_at_us=50),
            affected(Subject.WORKFLOWS, "w1", at_us=9 + try_),
            affected(Subject.WORKFLOWS, "other"),
        )
    (found,) = store.reader().failovers(None, 10)
    assert (found.detected_at_us, found.recovered_at_us, found.workflows_count) == (5, 9, 1)
    assert store.reader().affected(event, Subject.WORKFLOWS, 0, 10) == ["w1"]


def test_a_stale_owner_records_nothing(store: Store) -> None:
    old, new = join(store, me, 0), join(store, rival)
    new.take(0)
    with pytest.raises(FencedError):
        old.commit(recorded(), affected(Subject.WORKFLOWS, "w1"))
    assert store.reader().failovers(None, 10) == []
    assert store.reader().affected(event, Subject.WORKFLOWS, 0, 10) == []


def test_ids_come_by_page_across_shards_and_chunks(store: Store) -> None:
    member = join(store, me, 0, 1, 2)
    names = [f"w{n:03}" for n in range(25)]
    rows: list[Row] = [recorded(), affected(Subject.WORKFLOWS, chunk=NO_CHUNK)]
    rows += [affected(Subject.WORKFLOWS, *names[start : start + 4], chunk=start // 4) for start in range(0, 10, 4)]
    rows += [affected(Subject.WORKFLOWS, *names[12:], part=2)]
    member.commit(*rows)
    reader = store.reader()
    assert reader.affected(event, Subject.WORKFLOWS, 0, 100) == names
    assert [reader.affected(event, Subject.WORKFLOWS, start, 7) for start in range(0, 28, 7)] == [
        names[start : start + 7] for start in range(0, 28, 7)
    ]
    assert reader.affected(event, Subject.NODES, 0, 100) == []


def test_events_are_listed_newest_first_by_page(store: Store) -> None:
    member = join(store, me, 0)
    for number in range(6):
        member.commit(recorded(f"{number:032}", detected_at_us=number // 2))
    listed = store.reader().failovers(None, 4)
    assert [int(row.event_id) for row in listed] == [5, 4, 3, 2]
    last = listed[-1]
    more = store.reader().failovers((last.detected_at_us, last.event_id), 4)
    assert [int(row.event_id) for row in more] == [1, 0]


def test_what_is_still_to_be_told_is_found_until_it_is_closed(store: Store) -> None:
    member = join(store, me, 0)
    for number in range(4):
        member.commit(recorded(f"{number:032}", detected_at_us=number))
    member.commit(
        FailoverMarked(0, "", f"{1:032}", FailoverStage.ANNOUNCED, 70, 0),
        FailoverMarked(0, "", f"{2:032}", FailoverStage.ANNOUNCED, 71, 0),
        FailoverMarked(0, "", f"{2:032}", FailoverStage.CLOSED, 71, 80),
        FailoverMarked(0, "", "f" * 32, FailoverStage.CLOSED, 1, 1),
    )
    left = store.reader().failovers_to_tell(10)
    assert [(int(row.event_id), row.stage, row.announced_at_us) for row in left] == [
        (0, FailoverStage.RECORDED, 0),
        (3, FailoverStage.RECORDED, 0),
        (1, FailoverStage.ANNOUNCED, 70),
    ]
    closed = store.reader().failover(f"{2:032}")
    assert closed is not None
    assert (closed.stage, closed.announced_at_us, closed.alerted_at_us) == (FailoverStage.CLOSED, 71, 80)
    assert store.reader().failover("f" * 32) is None, "a mark makes no event"
    assert [int(row.event_id) for row in store.reader().failovers_to_tell(1)] == [0]


def test_a_takeover_notes_the_death_in_the_statement_that_takes_the_shard(store: Store) -> None:
    old, new = join(store, me, 0), join(store, rival)
    take_from_the_dead(store, new, 0, "one 'died' \\\n")
    assert shard_row(new, 0).deaths == store.reader().shards()[0].deaths == "one 'died' \\\n"
    take_from_the_dead(store, old, 0, "then the other\n")
    assert shard_row(new, 0).deaths == "one 'died' \\\nthen the other\n"
    old.commit(recorded(), DeathsRecorded(0), DeathsRecorded(0))
    assert shard_row(new, 0).deaths == ""
    old.commit(DeathsRecorded(0))
    assert shard_row(new, 0).deaths == ""


def test_the_note_of_a_death_stays_when_its_recording_is_refused(store: Store) -> None:
    join(store, me, 0)
    new = join(store, rival)
    take_from_the_dead(store, new, 0, "a death\n")
    third = join(store, "c" * 32)
    third.take(0)
    with pytest.raises(FencedError):
        new.commit(recorded(), DeathsRecorded(0))
    assert shard_row(third, 0).deaths == "a death\n"


def test_an_owner_that_left_on_purpose_is_not_noted_as_dead(store: Store) -> None:
    old, new = join(store, me, 0), join(store, rival)
    seen = shard_row(new, 0)
    old.journal.release({0: 1})
    row = new.lock.take(seen, rival, 0, "a death\n")
    assert row is not None
    assert row.deaths == ""


def test_no_more_deaths_are_noted_than_a_row_holds_and_the_shard_is_taken_all_the_same(store: Store) -> None:
    join(store, me, 0)
    new = join(store, rival)
    line = "x" * 999 + "\n"
    for _ in range(5):
        take_from_the_dead(store, new, 0, line)
    assert len(shard_row(new, 0).deaths) == deaths_noted_chars_max == 4 * len(line)
    assert shard_row(new, 0).epoch == 6
