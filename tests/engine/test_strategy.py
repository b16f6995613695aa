"""Which strategy is in force: a coordinator's own, an operator's for the whole cluster, what `dynamic` chose."""

import pytest

from mainspring_coordinator.batch import needs_proof
from mainspring_coordinator.engine.effects import Answer, AnswerCode, Effect, StrategyFailed
from mainspring_coordinator.engine.events import ShardLost
from mainspring_coordinator.engine.operator_events import StrategyChosen, StrategySeen, StrategySet
from mainspring_coordinator.engine.rows import StrategyChanged
from mainspring_coordinator.engine.strategy import ClusterStrategy
from tests.engine.rig import SECOND, Rig, define, of, only, rows_of, with_config


def rig_with(own: str = "load-balanced", *, own_shards: bool = True) -> Rig:
    return Rig(config=with_config(strategy=own), own=own_shards)


def set_to(rig: Rig, strategy: str, reason: str = "because") -> list[Effect]:
    return rig.step(StrategySet(7, 0, strategy, reason))


def changed(effects: list[Effect]) -> StrategyChanged:
    (row,) = rows_of(effects, StrategyChanged)
    return row


def choose(rig: Rig, strategy: str) -> list[Effect]:
    return rig.step(StrategyChosen(8, 0, strategy, "measured"))


@pytest.mark.parametrize(
    ("own", "wanted", "picked", "in_force"),
    [
        ("capability", "", "", "capability"),
        ("capability", "", "locality", "capability"),
        ("capability", "affinity", "locality", "affinity"),
        ("capability", "dynamic", "", "load-balanced"),
        ("capability", "dynamic", "locality", "locality"),
        ("dynamic", "", "", "load-balanced"),
        ("dynamic", "", "locality", "locality"),
        ("dynamic", "affinity", "locality", "affinity"),
    ],
)
def test_an_operators_strategy_goes_before_a_coordinators_own_and_dynamic_is_what_it_chose(
    own: str, wanted: str, picked: str, in_force: str
) -> None:
    standing = ClusterStrategy(wanted, picked, 5 if picked else 0, 9)
    assert standing.in_force(own) == in_force
    assert ClusterStrategy.parse(standing.text()) == standing
    rig = rig_with(own)
    rig.step(StrategySeen(standing.text()))
    assert rig.engine.strategy == in_force


def test_nothing_was_ever_set_in_a_new_cluster() -> None:
    assert ClusterStrategy.parse("") == ClusterStrategy()


def test_an_operators_strategy_is_stored_with_its_reason_before_it_is_answered() -> None:
    rig = rig_with()
    effects = set_to(rig, "locality", "slow network")
    row = changed(effects)
    assert (row.shard, row.before, row.after, row.by, row.reason) == (0, "", "locality", "operator", "slow network")
    assert (row.standing, row.changed_at_us) == (f"locality,,0,{rig.now_us}", rig.now_us)
    answer = only(effects, Answer)
    assert (answer.token, answer.code, answer.created) == (7, AnswerCode.OK, True)
    assert rig.engine.strategy == "locality"
    effects = set_to(rig, "")
    assert changed(effects).before == "locality"
    assert rig.engine.strategy == "load-balanced"


def test_setting_what_is_set_changes_nothing() -> None:
    rig = rig_with()
    set_to(rig, "locality")
    effects = set_to(rig, "locality")
    assert not rows_of(effects, StrategyChanged)
    answer = only(effects, Answer)
    assert answer.created is False
    assert needs_proof(answer), "another coordinator may own the shard by now, and know of another one"


def test_each_change_has_a_time_of_its_own() -> None:
    rig = rig_with()
    rows = [changed(set_to(rig, name)) for name in ("locality", "affinity", "")]
    assert [row.changed_at_us - rig.now_us for row in rows] == [0, 1, 2]


def test_dynamic_does_not_overrule_an_operator_who_set_another_one_meanwhile() -> None:
    rig = rig_with()
    set_to(rig, "dynamic")
    assert changed(choose(rig, "locality")).by == "dynamic"
    assert rig.engine.strategy == "locality"
    set_to(rig, "capability")
    effects = choose(rig, "affinity")
    assert not rows_of(effects, StrategyChanged)
    answer = only(effects, Answer)
    assert answer.created is False
    assert needs_proof(answer), "another coordinator may own the shard by now, and know of another one"
    assert rig.engine.strategy == "capability"
    # Back at it, what was chosen before still stands.
    set_to(rig, "dynamic")
    assert rig.engine.strategy == "locality"


def test_what_is_read_later_does_not_undo_what_was_stored_since() -> None:
    rig = rig_with()
    before = rig.engine.cluster_strategy
    set_to(rig, "locality")
    rig.step(StrategySeen(before.text()))
    rig.step(StrategySeen(""))
    assert rig.engine.strategy == "locality"
    rig.step(StrategySeen(ClusterStrategy("affinity", "", 0, rig.now_us + SECOND).text()))
    assert rig.engine.strategy == "affinity"
    assert changed(set_to(rig, "locality")).changed_at_us == rig.now_us + SECOND + 1


def test_what_was_set_and_never_stored_because_the_shard_was_lost_is_forgotten() -> None:
    rig = rig_with()
    set_to(rig, "locality")
    rig.step(ShardLost(0))
    rig.step(StrategySeen(""))
    assert rig.engine.strategy == "load-balanced"
    set_to(rig, "affinity")
    rig.step(StrategySeen(ClusterStrategy("capability", "", 0, 5).text()))
    assert rig.engine.strategy == "capability"


def test_only_the_owner_of_shard_0_speaks_for_the_cluster() -> None:
    rig = rig_with(own_shards=False)
    effects = [*set_to(rig, "locality"), *choose(rig, "affinity")]
    assert not rows_of(effects, StrategyChanged)
    assert {answer.code for answer in of(effects, Answer)} == {AnswerCode.NOT_OWNER}
    assert rig.engine.strategy == "load-balanced"


def test_a_strategy_of_a_newer_version_leaves_us_at_our_own() -> None:
    rig = rig_with("capability")
    rig.step(StrategySeen("best-of-two,,0,5,and more"))
    assert rig.engine.strategy == "capability"


def test_nodes_go_where_the_strategy_in_force_sends_them_unless_they_have_one_of_their_own() -> None:
    many = define([{"id": f"n{n}", "executor": "work"} for n in range(4)])
    own = define([{"id": f"n{n}", "executor": "work", "strategy": "load-balanced"} for n in range(4)])
    rig = rig_with()
    generalist = rig.attach("a", executors=("work", "other", "third"))
    specialist = rig.attach("b")
    set_to(rig, "capability")
    rig.submit(many, "many")
    assert (len(generalist.running), len(specialist.running)) == (0, 4)
    rig.submit(own, "own")
    assert (len(generalist.running), len(specialist.running)) == (4, 4)
    assert not of(rig.effects, StrategyFailed)


def test_attempts_are_counted_with_those_that_failed() -> None:
    rig = rig_with()
    rig.attach("w1")
    rig.submit(define([{"id": "a", "executor": "work", "retry": {"max_attempts": 2}}]), "wf")
    rig.fail()
    rig.after(60)
    rig.finish()
    assert (rig.engine.state.attempts_ended, rig.engine.state.attempts_failed) == (2, 1)
