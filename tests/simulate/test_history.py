"""A workflow that ran is run again as it was."""

import orjson
import pytest

from mainspring.definition import definition_from_json
from mainspring.workflow import Definition
from mainspring_coordinator.simulate.history import read_history
from mainspring_coordinator.simulate.recording import RecordingError

definition: Definition = definition_from_json(
    {
        "name": "cleanup",
        "timeout": "1h",
        "strategy": "locality",
        "nodes": [
            {
                "id": "fetch",
                "executor": "fetch",
                "input": "${input.year}",
                "cache": {"ttl": "1h", "key": "${input.year}"},
            },
            {
                "id": "drop",
                "executor": "drop",
                "map": {"over": "${fetch}", "max_parallel": 2},
                "requires": {"zone": "a"},
            },
            {"id": "sum", "executor": "sum", "input": "${drop}", "allow_failure": True},
        ],
    }
)


def line(at_us: int, type_: str, node_id: str, instance: int = -1) -> bytes:
    return orjson.dumps({"at_us": at_us, "type": type_, "node_id": node_id, "instance": instance, "attempt": 1}) + b"\n"


history = b"".join(
    [
        line(0, "WORKFLOW_SUBMITTED", ""),
        line(10, "ATTEMPT_STARTED", "fetch"),
        line(20, "ATTEMPT_FAILED", "fetch"),
        line(30, "ATTEMPT_STARTED", "fetch"),
        line(530, "NODE_SUCCEEDED", "fetch"),
        line(540, "ATTEMPT_STARTED", "drop", 0),
        line(540, "ATTEMPT_STARTED", "drop", 1),
        line(640, "NODE_SUCCEEDED", "drop", 0),
        line(740, "NODE_SUCCEEDED", "drop", 1),
        line(740, "NODE_SUCCEEDED", "drop"),
        line(750, "ATTEMPT_STARTED", "sum"),
        line(760, "NODE_FAILED", "sum"),
    ]
)


def test_each_node_takes_as_long_as_its_last_attempt_and_wishes_stay() -> None:
    recording = read_history(definition, history, name="one")
    assert recording.run_us == {("fetch", -1): 500, ("drop", 0): 100, ("drop", 1): 200, ("sum", -1): 0}
    assert recording.widths == {"drop": 2}
    assert recording.critical_path_us() == 700
    fetch, drop, last = recording.definition.nodes
    assert (fetch.input, fetch.cache, drop.depends_on, last.depends_on) == (None, None, ("fetch",), ("drop",))
    assert drop.map is not None
    assert (drop.map.max_parallel, drop.requires, recording.definition.strategy) == (2, {"zone": "a"}, "locality")
    assert recording.input == {"w0": [0, 1]}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "no node succeeded in it"),
        (b"nonsense", "line 1 is not an event of a history; record it with: mainspring history WORKFLOW --json"),
        (b'{"at_us": 1}', "line 1 is not an event"),
        (line(1, "ATTEMPT_STARTED", "drop", 10**9), "line 1: instance 1000000000 is beyond the 100000"),
        (line(1, "ATTEMPT_STARTED", "other"), "line 1: node 'other' is not in definition 'cleanup'"),
    ],
)
def test_what_is_no_history_of_it_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(RecordingError) as caught:
        read_history(definition, data, name="one")
    assert said in str(caught.value)
