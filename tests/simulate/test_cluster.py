"""The engine on virtual time: what runs takes as long as it took, and nothing is faster than it can be."""

from collections import defaultdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.definition import definition_from_json
from mainspring.workflow import strategies
from mainspring_coordinator.engine.config import EngineConfig
from mainspring_coordinator.simulate.cluster import Arrival, SimulatedCluster
from mainspring_coordinator.simulate.figures import Figures, figures_of
from mainspring_coordinator.simulate.fleet import SimulatedWorker, equal_workers
from mainspring_coordinator.simulate.history import described
from mainspring_coordinator.simulate.recording import Recording

SECOND = 1_000_000


def recording(nodes: list[dict[str, Any]], run_s: dict[str, float], **about: Any) -> Recording:
    """Return a workflow without data whose nodes take so long."""
    definition = definition_from_json({"name": "made", "nodes": nodes})
    return Recording("made", definition, {(name, -1): round(s * SECOND) for name, s in run_s.items()}, **about)


def chain(*run_s: float) -> Recording:
    names = [f"n{at}" for at in range(len(run_s))]
    nodes = [
        {"id": name, "executor": "work", **({"depends_on": [names[at - 1]]} if at else {})}
        for at, name in enumerate(names)
    ]
    return recording(nodes, dict(zip(names, run_s, strict=True)))


def simulate(
    fleet: list[SimulatedWorker], *arrivals: Arrival, strategy: str = "load-balanced", hop_us: int = 0, **rest: Any
) -> tuple[SimulatedCluster, Figures]:
    cluster = SimulatedCluster(fleet, arrivals, EngineConfig(strategy=strategy), hop_us=hop_us, **rest)
    cluster.run()
    return cluster, figures_of(strategy, fleet, arrivals, cluster.ran, cluster.moved_bytes)


def test_a_chain_takes_the_sum_of_its_nodes_and_a_hop_for_each() -> None:
    cluster, figures = simulate(equal_workers(2, 2), Arrival(0, chain(1, 2, 3)), hop_us=1_000)
    assert figures.makespan_s == pytest.approx(6.003)
    assert figures.bound_s == 6
    assert [one.ready_us for one in cluster.ran] == [0, 1_001_000, 3_002_000]
    assert figures.wait_max_s == pytest.approx(0.001)


def test_a_faster_worker_takes_less_time() -> None:
    _, figures = simulate([SimulatedWorker("fast", 1, speed=4.0)], Arrival(0, chain(1, 3)))
    assert figures.makespan_s == figures.bound_s == 1


def test_workflows_that_arrive_later_begin_later() -> None:
    one = chain(2)
    cluster, figures = simulate(equal_workers(1, 1), Arrival(0, one), Arrival(5 * SECOND, one))
    assert [(ran.started_us, ran.ended_us) for ran in cluster.ran] == [(0, 2 * SECOND), (5 * SECOND, 7 * SECOND)]
    assert (figures.workflow_mean_s, figures.bound_s) == (2, 7)
    assert figures.busy == pytest.approx(4 / 7)


def test_nodes_of_one_concurrency_key_wait_for_each_other() -> None:
    limited = {"executor": "work", "concurrency": {"key": "db", "limit": 2}}
    nodes = [{"id": f"n{at}", **limited} for at in range(6)]
    _, figures = simulate(equal_workers(2, 3), Arrival(0, recording(nodes, {f"n{at}": 1.0 for at in range(6)})))
    assert figures.makespan_s == pytest.approx(3)


def test_a_map_runs_as_many_instances_as_it_has_slots_for() -> None:
    definition = definition_from_json(
        {
            "name": "wide",
            "nodes": [
                {"id": "list", "executor": "work"},
                {"id": "each", "executor": "work", "map": {"over": "${list}", "max_parallel": 3}},
                {"id": "sum", "executor": "work", "input": "${each}"},
            ],
        }
    )
    wide = described(definition, name="wide", widths={"each": 9}, default_s=1.0)
    cluster, figures = simulate(equal_workers(2, 4), Arrival(0, wide))
    assert figures.makespan_s == 5
    assert sorted(ran.instance for ran in cluster.ran if ran.node == "each") == list(range(9))


def test_a_map_over_nothing_ends_at_once_and_so_do_those_in_a_row() -> None:
    definition = definition_from_json(
        {
            "name": "empty",
            "nodes": [
                {"id": "first", "executor": "work", "map": {"over": "${input}"}},
                {"id": "second", "executor": "work", "map": {"over": "${first}"}},
                {"id": "last", "executor": "work", "input": "${second}"},
            ],
        }
    )
    empty = described(definition, name="empty", widths={"first": 0, "second": 0}, default_s=1.0)
    cluster, figures = simulate(equal_workers(1, 1), Arrival(0, empty))
    assert [(ran.node, ran.ready_us) for ran in cluster.ran] == [("last", 0)]
    assert figures.makespan_s == 1
    stuck, _ = simulate([SimulatedWorker("w", 1, executors=frozenset())], Arrival(0, empty))
    assert stuck.waiting == [(0, "last")]


def test_files_that_are_used_on_another_host_are_moved_there_once() -> None:
    nodes: list[dict[str, Any]] = [
        {"id": "make", "executor": "make"},
        {"id": "use1", "executor": "use", "depends_on": ["make"]},
        {"id": "use2", "executor": "use", "depends_on": ["use1"]},
        {"id": "near", "executor": "make", "depends_on": ["make"]},
    ]
    times = {str(node["id"]): 1.0 for node in nodes}
    used = {"use1": ["file", "from elsewhere"], "use2": ["file"], "near": ["file"]}
    made = recording(nodes, times, made={"make": {"file": 2_000_000}}, used=used)
    fleet = [
        SimulatedWorker("a", 1, executors=frozenset({"make"}), host="a"),
        SimulatedWorker("b", 1, executors=frozenset({"use"}), host="b"),
    ]
    cluster, figures = simulate(fleet, Arrival(0, made), bytes_a_s=1e6)
    assert cluster.moved_bytes == 2_000_000
    assert figures.makespan_s == 5  # two seconds of them to move the file


def test_a_workflow_that_no_worker_can_run_is_told_and_others_end() -> None:
    odd = recording([{"id": "odd", "executor": "other"}], {"odd": 1})
    fleet = [SimulatedWorker("w", 1, executors=frozenset({"work"}))]
    cluster, _ = simulate(fleet, Arrival(0, odd), Arrival(0, chain(1)))
    assert cluster.waiting == [(0, "odd")]
    assert set(cluster.ended_us) == {1}


@pytest.mark.parametrize("strategy", strategies)
def test_a_small_workflow_behind_a_wide_one_ends_within_five_times_its_time_on_an_idle_cluster(strategy: str) -> None:
    nodes = [{"id": "each", "executor": "work", "map": {"over": "${input}"}}]
    definition = definition_from_json({"name": "fan", "nodes": nodes})
    fan = described(definition, name="fan", widths={"each": 100_000}, default_s=0.7)
    small = chain(1, 1, 1, 1)
    _, alone = simulate(equal_workers(4, 16), Arrival(0, small), strategy=strategy, hop_us=2_000)
    arrivals = [Arrival(0, fan), Arrival(5_300_000, small)]
    cluster = SimulatedCluster(equal_workers(4, 16), arrivals, EngineConfig(strategy=strategy), hop_us=2_000)
    cluster.run(until=lambda: 1 in cluster.ended_us)
    took_s = cluster.ended_us[1] / 1e6 - 5.3
    assert sum(ran.workflow == 0 for ran in cluster.ran) > 64 * 7, "the fan fills all slots"
    print(f"{strategy}: {took_s:.1f} s behind 100,000 nodes, {alone.makespan_s:.1f} s alone")
    assert took_s < 5 * alone.makespan_s


@pytest.mark.parametrize("strategy", strategies)
def test_the_same_workload_ends_the_same_way(strategy: str) -> None:
    flows = [Arrival(n * SECOND, chain(1, 2, 1)) for n in range(10)]
    first, second = (simulate(equal_workers(3, 2), *flows, strategy=strategy)[0].ran for _ in range(2))
    assert first == second


@given(
    st.lists(st.tuples(st.integers(0, 5), st.sets(st.integers(0, 6), max_size=3)), min_size=1, max_size=12),
    st.lists(st.tuples(st.integers(1, 3), st.sampled_from([0.5, 1.0, 2.0])), min_size=1, max_size=4),
    st.sampled_from(strategies),
    st.integers(1, 4),
)
def test_no_schedule_beats_the_bound_nor_breaks_the_order_or_the_slots(
    tasks: list[tuple[int, set[int]]], workers: list[tuple[int, float]], strategy: str, copies: int
) -> None:
    nodes = [
        {
            "id": f"n{at}",
            "executor": "work",
            "depends_on": sorted({f"n{parent % at}" for parent in parents} if at else ()),
        }
        for at, (_, parents) in enumerate(tasks)
    ]
    flow = recording(nodes, {f"n{at}": float(run_s) for at, (run_s, _) in enumerate(tasks)})
    fleet = [SimulatedWorker(f"w{n}", slots, speed, host=f"h{n}") for n, (slots, speed) in enumerate(workers)]
    arrivals = [Arrival(n * SECOND, flow) for n in range(copies)]
    cluster, figures = simulate(fleet, *arrivals, strategy=strategy)
    assert len(cluster.ended_us) == copies
    assert len(cluster.ran) == copies * len(tasks)
    assert figures.makespan_s >= figures.bound_s - 1e-6
    ends = {(ran.workflow, ran.node): ran.ended_us for ran in cluster.ran}
    for ran in cluster.ran:
        assert ran.started_us >= ran.ready_us
        assert all(ends[ran.workflow, parent] <= ran.started_us for parent in nodes[int(ran.node[1:])]["depends_on"])
    in_slot = defaultdict(list)
    for ran in cluster.ran:
        assert ran.slot < fleet[ran.worker].slots
        in_slot[ran.worker, ran.slot].append((ran.started_us, ran.ended_us))
    for spans in in_slot.values():
        assert all(one[1] <= other[0] for one, other in zip(sorted(spans), sorted(spans)[1:], strict=False))
