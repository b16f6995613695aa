"""Makes a recording of a definition and what `mainspring history WORKFLOW --json` printed of one of its workflows."""

from collections.abc import Mapping
from typing import Any, Final

import orjson

from mainspring.limits import map_width_max
from mainspring.workflow import Definition
from mainspring_coordinator.simulate.recording import Place, Recording, RecordingError, plain_definition

_started: Final = "ATTEMPT_STARTED"
_ended: Final = "NODE_SUCCEEDED"
_advice: Final = "record it with: mainspring history WORKFLOW --json > FILE"


def read_history(definition: Definition, data: bytes, *, name: str) -> Recording:
    """Return a workflow as it ran: each node takes as long as its last attempt did; one that never succeeded takes no time.

    Raises `RecordingError` when the lines are not a history, or not of this definition.
    """
    nodes = {node.id: node for node in definition.nodes}
    began: dict[Place, int] = {}
    run_us: dict[Place, int] = {}
    instances: dict[str, int] = {node.id: 0 for node in definition.nodes if node.map is not None}
    for number, line in enumerate(data.splitlines(), 1):
        if not line.strip():
            continue
        event = _event(line, number)
        place = (event["node_id"], event["instance"])
        if not place[0]:
            continue
        if place[0] not in nodes:
            raise RecordingError(
                f"line {number}: node {place[0]!r} is not in definition {definition.name!r}; is it another workflow's history?"
            )
        if place[1] >= map_width_max:
            raise RecordingError(
                f"line {number}: instance {place[1]} is beyond the {map_width_max} that a map may have"
            )
        if place[0] in instances:
            instances[place[0]] = max(instances[place[0]], place[1] + 1)
        if event["type"] == _started:
            began[place] = event["at_us"]
        elif event["type"] == _ended and place in began:
            run_us[place] = max(0, event["at_us"] - began[place])
    if not run_us:
        raise RecordingError(f"no node succeeded in it, so that nothing is known of their times; {_advice}")
    return described(definition, name=name, run_us=run_us, widths=instances)


def described(
    definition: Definition,
    *,
    name: str,
    run_us: Mapping[Place, int] | None = None,
    seconds: Mapping[str, float] | None = None,
    widths: Mapping[str, int],
    default_s: float = 0.0,
) -> Recording:
    """Return a recording whose times are `run_us`, else those of the nodes' executors in `seconds`, else `default_s`."""
    known, by_executor = run_us or {}, seconds or {}
    times: dict[Place, int] = {}
    for node in definition.nodes:
        usual_us = round(by_executor.get(node.executor, default_s) * 1e6)
        for instance in range(widths[node.id]) if node.map is not None else (-1,):
            times[node.id, instance] = known.get((node.id, instance), usual_us)
    return Recording(name, plain_definition(definition, widths), run_us=times, widths=widths)


def _event(line: bytes, number: int) -> dict[str, Any]:
    try:
        event = orjson.loads(line)
        fields = {"at_us": int, "type": str, "node_id": str, "instance": int}
        if all(isinstance(event[name], kind) for name, kind in fields.items()):
            return dict(event)
    except (orjson.JSONDecodeError, KeyError, TypeError):
        pass
    raise RecordingError(f"line {number} is not an event of a history; {_advice}")
