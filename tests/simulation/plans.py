"""The graphs that clients submit, of several ranks; what their nodes do stands in the workflow's input: `ms`, `fails`, `wide`."""

import random
from collections.abc import Sequence
from typing import Any, Final

import orjson

from mainspring.definition import definition_from_json
from mainspring_coordinator.engine.plan import Plan, compile_plan

_retry: Final = {"max_attempts": 3, "initial": "100ms", "max_interval": "500ms"}


def _node(name: str, depends_on: Sequence[str] = (), **rest: Any) -> dict[str, Any]:
    given = {"ms": "${input.ms}", "fails": "${input.fails}", "wide": "${input.wide}"}
    given |= {f"of_{parent}": f"${{{parent}}}" for parent in depends_on}
    return {"id": name, "executor": "work", "depends_on": list(depends_on), "input": given, "retry": _retry} | rest


_ranks: Final[tuple[dict[str, Any], ...]] = (
    {},
    {"priority": 9},
    {"priority": 2, "fairness_key": "many"},
    {"fairness_key": "many"},
    {},
)


_keys: Final = ({"key": "db", "limit": 2}, {"key": "api", "limit": 1})
"""Of limited graphs most nodes have one of these."""


def _limited(plan: Plan) -> Plan:
    """Return a plan of which two of three nodes share a concurrency key with those of other workflows."""
    value: Any = orjson.loads(plan.definition)
    for at, node in enumerate(value["nodes"]):
        if at % 3:
            node["concurrency"] = _keys[at % 3 - 1]
    return compile_plan(definition_from_json(value))


def _plan(name: str, nodes: Sequence[dict[str, Any]], **rest: Any) -> tuple[Plan, ...]:
    """Return a graph as a plan of each rank; in the last one some nodes have a priority of their own."""
    own = [{**node, "priority": 3 * (at % 3)} if at % 2 else node for at, node in enumerate(nodes)]
    return tuple(
        compile_plan(
            definition_from_json({"name": name, "nodes": own if at == len(_ranks) - 1 else nodes, **rest, **rank})
        )
        for at, rank in enumerate(_ranks)
    )


_each: Final = {
    "map": {"over": "${fetch.items}", "max_parallel": 3},
    "input": {"ms": "${input.ms}", "fails": "${input.fails}", "item": "${item}"},
}

many: Final = _plan("many", [_node(f"n{i}") for i in range(16)])[0]
"""As many nodes at once as two small workers have slots."""
_graphs: Final = (
    _plan("single", [_node("only")]),
    _plan("chain", [_node("a"), _node("b", ["a"]), _node("c", ["b"]), _node("d", ["c"]), _node("e", ["d"])]),
    _plan("diamond", [_node("top"), _node("left", ["top"]), _node("right", ["top"]), _node("end", ["left", "right"])]),
    _plan(
        "fan",
        [_node("fetch"), _node("each", ["fetch"], **_each), _node("sum", ["each"], affinity={"mode": "hard"})],
    ),
    _plan(
        "wide",
        [_node("fetch"), *(_node(f"n{i}", ["fetch"]) for i in range(5)), _node("sum", [f"n{i}" for i in range(5)])],
        strategy="locality",
    ),
    _plan(
        "hasty",
        [
            _node("first", timeouts={"start_to_close": "300ms"}),
            _node("maybe", ["first"], allow_failure=True, retry={"max_attempts": 2, "initial": "50ms"}),
            _node("last", ["maybe"], timeouts={"schedule_to_start": "20s"}),
        ],
        timeout="30s",
        affinity={"key": "shared", "mode": "hard"},
    ),
)


_limited_graphs: Final = {plan.hash: _limited(plan) for ranked in _graphs for plan in ranked}


def draw_plan(chance: random.Random, number: int, *, limited: bool) -> Plan:
    """Return the plan of the workflow of this number: chance draws its graph, and the number its rank.

    `limited`: two of three plans have nodes with limits.
    """
    ranked = chance.choice(_graphs)
    plan = ranked[number % len(ranked)]
    return _limited_graphs[plan.hash] if limited and number % 3 else plan
