"""Each strategy by example."""

from typing import Any, ClassVar

import pytest

from mainspring import limits
from mainspring_coordinator.engine.effects import Assign, StrategyFailed
from mainspring_coordinator.engine.explain import reasons
from mainspring_coordinator.engine.plan import Plan
from tests.engine.placement.ledger import Ledger
from tests.engine.rig import define

one = define([{"id": "a", "executor": "work"}])
pair = define([{"id": "a", "executor": "work"}, {"id": "b", "executor": "work", "input": "${a}"}])


def fan(width: int, **rest: Any) -> Plan:
    return define([{"id": f"n{at}", "executor": "work", **rest} for at in range(width)], output="${input}")


def test_round_robin_gives_to_whoever_was_given_something_longest_ago() -> None:
    ledger = Ledger(strategy="round-robin")
    for name in ("c", "a", "b"):
        ledger.attach(name)
    ledger.submit(fan(4), "wf")
    assert [ledger.workers[assign.session].name for assign in ledger.assigned] == ["a", "b", "c", "a"]
    ledger.attach("newcomer")
    ledger.submit(fan(3), "wf2")
    assert [ledger.workers[assign.session].name for assign in ledger.assigned[4:]] == ["newcomer", "b", "c"]


def test_load_balanced_weighs_cpu_memory_and_assignments() -> None:
    ledger = Ledger()
    for name, cpu, memory in (("busy", 90, 10), ("large", 10, 95), ("idle", 20, 20)):
        ledger.report(ledger.attach(name), cpu, memory)
    ledger.submit(fan(5), "wf")
    assert set(ledger.counts()) == {"idle"}
    ledger.report(next(worker for worker in ledger.workers.values() if worker.name == "idle"), 100, 100)
    ledger.submit(one, "wf2")
    assert ledger.where("wf2", "a") == "busy"


def test_capability_leaves_versatile_workers_free() -> None:
    ledger = Ledger(strategy="capability")
    ledger.attach("many", executors=("work", "other", "third"))
    for name in ("one", "two"):
        ledger.attach(name, slots=2)
    ledger.submit(fan(5), "wf")
    assert ledger.counts() == {"one": 2, "two": 2, "many": 1}


@pytest.mark.parametrize(
    ("full", "expected"),
    [((), "maker"), (("maker",), "beside"), (("maker", "beside"), "near"), (("maker", "beside", "near"), "away")],
)
def test_locality_prefers_the_worker_then_its_host_then_its_zone(full: tuple[str, ...], expected: str) -> None:
    ledger = Ledger(strategy="locality", locality_wait_us=0)
    for name, host, zone in (("away", "h3", "z2"), ("beside", "h1", "z1"), ("maker", "h1", "z1"), ("near", "h2", "z1")):
        load = {"away": 50, "maker": 0}.get(name, 90)
        ledger.report(ledger.attach(name, host=host, zone=zone, slots=1, labels={"id": name}), load, load)
    ledger.submit(pair, "wf")
    assert ledger.where("wf", "a") == "maker"
    for name in full:
        # What waits for the maker takes its slot before the next node of the pair is ready.
        ledger.submit(fan(1, requires={"id": name}), f"fill-{name}")
    ledger.end(ledger.assigned[0])
    assert ledger.where("wf", "b") == expected


def test_where_most_inputs_were_made_comes_first() -> None:
    ledger = Ledger(strategy="locality")
    for name in ("a", "b"):
        ledger.attach(name, host=f"host-{name}", executors=("work", f"only-{name}"))
    makers = [("x", "only-a"), ("y", "only-b"), ("z", "only-b")]
    nodes: list[dict[str, Any]] = [{"id": node, "executor": executor} for node, executor in makers]
    ledger.submit(define([*nodes, {"id": "sum", "executor": "work", "input": ["${x}", "${y}", "${z}"]}]), "wf")
    for assign in list(ledger.assigned):
        ledger.end(assign)
    assert ledger.where("wf", "sum") == "b"


def local_pair(**config: Any) -> tuple[Ledger, Assign]:
    """Return a ledger in which a node was made ready whose maker is full, beside an idle worker elsewhere."""
    ledger = Ledger(strategy="locality", **config)
    ledger.attach("maker", host="h1", slots=1)
    ledger.submit(pair, "wf")
    ledger.attach("away", host="h2")
    ledger.submit(fan(1, requires={"host": "h1"}), "next")
    ledger.end(ledger.assigned[0])
    return ledger, ledger.assigned[-1]


def test_a_node_waits_for_its_host_for_a_while_and_then_goes_elsewhere() -> None:
    ledger, _ = local_pair()
    assert ledger.where("wf", "b") == ""
    ledger.after(199)
    assert ledger.where("wf", "b") == ""
    ledger.after(1)
    assert ledger.where("wf", "b") == "away"


def test_a_node_that_waits_for_its_host_goes_there_when_there_is_room_and_keeps_nobody_up() -> None:
    ledger, holder = local_pair()
    ledger.submit(one, "other")
    assert ledger.where("other", "a") == "away"
    ledger.end(holder)
    assert ledger.where("wf", "b") == "maker"
    ledger.after(1_000)
    assert ledger.where("wf", "b") == "maker"


def test_without_a_wait_a_node_goes_elsewhere_at_once() -> None:
    ledger, _ = local_pair(locality_wait_us=0)
    assert ledger.where("wf", "b") == "away"


def test_a_node_waits_for_its_host_no_longer_than_somebody_is_there() -> None:
    ledger = Ledger(strategy="locality")
    maker = ledger.attach("maker", host="h1")
    ledger.submit(pair, "wf")
    ledger.attach("away", host="h2")
    ledger.drain(maker)
    ledger.end(ledger.assigned[0])
    assert ledger.where("wf", "b") == "away"


def test_the_instances_of_a_map_wait_as_one() -> None:
    plan = define(
        [
            {"id": "a", "executor": "work"},
            {"id": "m", "executor": "work", "map": {"over": "${input}"}, "input": "${a}"},
        ]
    )
    ledger = Ledger(strategy="locality")
    ledger.attach("maker", host="h1", slots=1)
    ledger.submit(plan, "wf", value=b"[1,2,3,4]")
    ledger.attach("away", host="h2")
    ledger.end(ledger.assigned[0])
    assert ledger.counts() == {"maker": 2}
    ledger.after(200)
    assert ledger.counts() == {"maker": 2, "away": 3}


@pytest.mark.parametrize("key", [None, "tenant"])
def test_nodes_of_one_key_go_to_one_worker_while_it_lives(key: str | None) -> None:
    affinity = {} if key is None else {"key": key}
    ledger = Ledger()
    for name in ("a", "b", "c"):
        ledger.attach(name)
    ledger.submit(define([{"id": f"n{at}", "executor": "work"} for at in range(5)], affinity=affinity), "wf")
    (holder,) = ledger.counts()
    for name in ("d", "e", "f", "g"):
        ledger.attach(name)
    for number in range(4):
        ledger.submit(define([{"id": "x", "executor": "work"}], affinity=affinity), f"other{number}", shard=number % 2)
    went = {ledger.where(f"other{number}", "x") for number in range(4)}
    assert went == {holder} if key else len(went) > 1
    ledger.leave(next(worker for worker in ledger.workers.values() if worker.name == holder))
    assert {
        worker.name for worker in ledger.workers.values() for work in worker.work.values() if work.workflow_id == "wf"
    }
    again = {worker.name for worker in ledger.workers.values() for w in worker.work.values() if w.workflow_id == "wf"}
    assert len(again) == 1


@pytest.mark.parametrize("hard", [False, True])
def test_a_full_worker_is_waited_for_or_not_as_the_node_says(hard: bool) -> None:
    ledger = Ledger()
    for name in ("a", "b"):
        ledger.attach(name, slots=2)
    plan = fan(3, affinity={"key": "k", "mode": "hard" if hard else "soft"})
    ledger.submit(plan, "wf")
    if not hard:
        assert sorted(ledger.counts().values()) == [1, 2]
        return
    (holder,) = ledger.counts()
    assert ledger.counts() == {holder: 2}
    ledger.submit(one, "other")
    assert ledger.where("other", "a") not in ("", holder)
    ledger.end(ledger.assigned[0])
    assert ledger.counts()[holder] == 3


def test_what_waits_for_a_worker_that_leaves_or_drains_goes_to_another() -> None:
    for way in ("leave", "drain"):
        ledger = Ledger()
        for name in ("a", "b"):
            ledger.attach(name, slots=2)
        ledger.submit(fan(3, affinity={"mode": "hard"}), "wf")
        (holder,) = ledger.counts()
        worker = next(worker for worker in ledger.workers.values() if worker.name == holder)
        getattr(ledger, way)(worker)
        other = next(worker for worker in ledger.workers.values() if worker.name != holder)
        assert len(other.work) == (2 if way == "leave" else 1)


def test_a_hard_key_waits_for_its_worker_and_says_so() -> None:
    ledger = Ledger()
    ledger.attach("a", slots=1)
    ledger.submit(fan(2, affinity={"mode": "hard"}), "wf")
    ledger.attach("b")
    assert ledger.counts() == {"a": 1}
    assert explained(ledger, "wf") == "waits for worker 'a', which has its affinity key, to have room"


def explained(ledger: Ledger, workflow_id: str) -> str:
    workflow = ledger.engine.state.shards[0].workflows[workflow_id]
    return next(iter(reasons(ledger.engine.state, workflow).values()))


def test_what_waits_for_a_host_or_a_shard_is_explained() -> None:
    ledger, _ = local_pair()
    assert explained(ledger, "wf").startswith("waits a moment for a worker on host 'h1'")
    ledger = Ledger()
    ledger.leave(ledger.attach(shards=[0]))
    worker = ledger.attach(shards=[1])
    ledger.submit(one, "wf")
    assert explained(ledger, "wf") == "no worker that may run it has stated yet what it has of this shard"
    ledger.state(worker, 0)
    assert ledger.where("wf", "a") == worker.name


@pytest.mark.parametrize(
    ("definition", "node", "goes_to"),
    [
        ({}, {}, "general"),
        ({"strategy": "capability"}, {}, "special"),
        ({"strategy": "capability"}, {"strategy": "load-balanced"}, "general"),
        ({"affinity": {"key": "k"}}, {"strategy": "capability"}, "special"),
    ],
)
def test_the_node_overrules_the_definition_and_that_the_coordinator(
    definition: dict[str, Any], node: dict[str, Any], goes_to: str
) -> None:
    ledger = Ledger(strategy="load-balanced")
    ledger.attach("general", executors=("work", "other"))
    ledger.report(ledger.attach("special"), 90, 90)
    ledger.submit(define([{"id": "a", "executor": "work", **node}], **definition), "wf")
    assert ledger.where("wf", "a") == goes_to


def test_of_several_values_of_a_label_one_is_enough_and_host_and_zone_are_labels() -> None:
    ledger = Ledger()
    ledger.attach("a", zone="x", host="h1", labels={"gpu": "true"})
    ledger.submit(fan(1, requires={"zone": ["y", "z"], "gpu": "true"}), "wf")
    ledger.submit(fan(1, requires={"host": "h2"}), "wf2")
    assert not ledger.assigned
    ledger.attach("b", zone="z", host="h2")
    assert [assign.workflow_id for assign in ledger.assigned] == ["wf2"]
    ledger.attach("c", zone="z", labels={"gpu": "true"})
    assert ledger.where("wf", "n0") == "c"
    ledger.attach("d", zone="z", labels={"zone": "mine"})
    ledger.submit(fan(1, requires={"zone": "mine"}), "wf3")
    assert ledger.where("wf3", "n0") == "d"


@pytest.mark.parametrize("answer", [None, 0, 99])
def test_a_strategy_that_raises_or_errs_is_told_of_and_workers_take_turns(answer: int | None) -> None:
    class Broken:
        remembers: ClassVar[bool] = False

        def choose(self, choices: object) -> int:
            if answer is None:
                raise ValueError("no idea")
            return answer

    ledger = Ledger()
    ledger.engine._strategies = {**ledger.engine._strategies, "": Broken()}
    for name in ("a", "b"):
        ledger.attach(name)
    failures: list[StrategyFailed] = []
    step = ledger.engine.step

    def noting(event: Any, now_us: int) -> Any:
        effects = step(event, now_us)
        failures.extend(effect for effect in effects if isinstance(effect, StrategyFailed))
        return [effect for effect in effects if not isinstance(effect, StrategyFailed)]

    ledger.engine.step = noting  # type: ignore[method-assign]
    ledger.submit(fan(4), "wf")
    assert ledger.counts() == {"a": 2, "b": 2}
    assert [(told.strategy, told.node_id) for told in failures] == [("load-balanced", f"n{at}") for at in range(4)]
    assert ("no idea" in failures[0].error) is (answer is None)


def test_an_output_that_is_loaded_first_does_not_keep_up_what_waits_for_the_same_worker() -> None:
    ledger = Ledger(payload_cache_bytes=0)
    ledger.attach("a", slots=1)
    hard = {"affinity": {"key": "k", "mode": "hard"}}
    nodes = [{"id": "x", "executor": "work", **hard}, {"id": "y", "executor": "work", "input": "${x}", **hard}]
    ledger.submit(define(nodes), "wf")
    ledger.attach("b")
    ledger.submit(fan(1, **hard), "first")
    ledger.end(ledger.assigned[0])
    assert ledger.where("first", "n0") == "a"
    # Its other node waits for the worker as well, and before the next one; but its input leaves memory meanwhile.
    ledger.submit(fan(1, **hard), "second")
    ledger.submit(pair, "large")
    ledger.end(ledger.assigned[2])
    ledger.end(ledger.assigned[1])
    assert (ledger.where("wf", "y"), ledger.where("second", "n0")) == ("", "a")


def test_a_worker_of_the_host_that_is_at_its_bound_of_workflows_takes_what_is_of_one_that_it_has() -> None:
    plan = define(
        [
            {"id": "a", "executor": "work", "requires": {"who": "maker"}},
            {"id": "long", "executor": "work", "requires": {"who": "mate"}},
            {"id": "b", "executor": "work", "depends_on": ["a"]},
        ]
    )
    ledger = Ledger(strategy="locality")
    ledger.attach("maker", host="h1", labels={"who": "maker"}, slots=1)
    ledger.attach("mate", host="h1", labels={"who": "mate"}, workflows_max=1)
    ledger.submit(plan, "wf")
    ledger.attach("away", host="h2")
    ledger.submit(fan(1, requires={"who": "maker"}), "next")
    ledger.end(ledger.assigned[0])
    assert ledger.where("next", "n0") == "maker"
    assert ledger.where("wf", "b") == "mate"


def test_an_epoch_that_has_no_more_ids_ends_what_a_worker_at_its_bound_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "assignment_number_max", 3)
    ledger = Ledger()
    ledger.attach("w", workflows_max=1, slots=20)
    ledger.submit(fan(10), "wf")
    assert len(ledger.assigned) == 4
