"""What a fleet may be, and what is said of one that is not."""

import orjson
import pytest

from mainspring_coordinator.simulate.fleet import SimulatedWorker, equal_workers, read_fleet
from mainspring_coordinator.simulate.recording import RecordingError


def test_a_description_stands_for_its_workers() -> None:
    text = b"""
    workers:
      - {name: big, count: 2, slots: 8, speed: 2, zone: a, labels: {gpu: "true"}, executors: [train]}
      - {name: small, slots: 1, host: shared}
    """
    assert read_fleet(text) == [
        SimulatedWorker("big-1", 8, 2.0, frozenset({"train"}), {"gpu": "true"}, "big-1", "a"),
        SimulatedWorker("big-2", 8, 2.0, frozenset({"train"}), {"gpu": "true"}, "big-2", "a"),
        SimulatedWorker("small", 1, 1.0, None, {}, "shared", ""),
    ]


def test_what_the_command_workers_prints_is_a_fleet() -> None:
    recorded = [
        {
            "name": "w1",
            "incarnation": "0" * 32,
            "host": "h",
            "zone": "z",
            "labels": {"gpu": "true"},
            "executors": ["a", "b"],
            "slots": 5,
            "status": "ACTIVE",
        }
    ]
    (worker,) = read_fleet(orjson.dumps(recorded))
    assert worker == SimulatedWorker("w1", 5, 1.0, frozenset({"a", "b"}), {"gpu": "true"}, "h", "z")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("workers: []", "workers: List should have at least 1 item"),
        ("workers: [{name: a}]", "workers.0.slots: Field required"),
        ("workers: [{name: a, slots: 0}]", "workers.0.slots: '0' should be greater than or equal to 1"),
        ("workers: [{name: a, slots: 2, speed: 0}]", "workers.0.speed: '0' should be greater than 0"),
        ("workers: [{name: a, slots: 2, slot: 3}]", "workers.0.slot: Extra inputs are not permitted"),
        ("workers: [{name: a, slots: 2}, {name: a, slots: 3}]", "two workers are named 'a'"),
        ("workers: [{name: a, slots: 2, count: 9000}, {name: b, slots: 2, count: 9000}]", "it has 18000 workers"),
        ("[]", "it has no workers"),
        ('[{"incarnation": "x", "name": "w"}]', "it is not what `mainspring workers --json` prints"),
        ("{", "it is neither JSON nor YAML"),
        ("a: [", "it is neither JSON nor YAML"),
        ("just text", "the document: 'just text' should be a valid dictionary"),
    ],
)
def test_what_is_no_fleet_is_refused_with_the_place(text: str, said: str) -> None:
    with pytest.raises(RecordingError) as caught:
        read_fleet(text.encode())
    assert said in str(caught.value)


def test_equal_workers_have_a_host_each() -> None:
    assert [(worker.name, worker.slots, worker.host) for worker in equal_workers(2, 3)] == [
        ("w1", 3, "host-1"),
        ("w2", 3, "host-2"),
    ]
