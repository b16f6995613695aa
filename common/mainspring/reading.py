"""From the JSON value of a definition to its nouns. What is wrong is collected, and what can be read is read all the same."""

from collections.abc import Mapping
from typing import Any, Final

from mainspring.durations import parse_duration
from mainspring.graph import check
from mainspring.limits import cache_ttl_ms_min
from mainspring.problems import Problems
from mainspring.workflow import (
    ABSENT,
    Affinity,
    Cache,
    Concurrency,
    Definition,
    MapOver,
    Needed,
    Node,
    Retry,
    default_priority,
    default_retry,
)

_definition_fields: Final = ("name", "nodes", "output", "timeout", "strategy", "affinity", "priority", "fairness_key")
_node_fields: Final = (
    "id",
    "executor",
    "input",
    "depends_on",
    "map",
    "retry",
    "timeouts",
    "allow_failure",
    "requires",
    "strategy",
    "affinity",
    "stop_on_disconnect",
    "priority",
    "concurrency",
    "cache",
)
_only_text: Final[frozenset[type]] = frozenset({str})
_usual_fields: Final = frozenset({"id", "executor", "input", "depends_on"})
"""Nodes that have no others are nearly all there are, and read in half the time."""
_map_fields: Final = ("over", "max_parallel")
_retry_fields: Final = ("max_attempts", "initial", "multiplier", "max_interval", "jitter", "non_retryable")
_affinity_fields: Final = ("key", "mode")
_concurrency_fields: Final = ("key", "limit")
_cache_fields: Final = ("key", "ttl")
_timeout_fields: Final = ("start_to_close", "schedule_to_start")
item_path: Final = "${item}"
"""The input of a `map` node that has none of its own: each instance gets its element."""


def read_definition(value: object) -> tuple[Definition, Problems]:
    """Return the definition, and all that is wrong: with its form and, if that is not as it should be, with its meaning as well."""
    reading = _Reading()
    definition = reading.definition(value)
    problems = reading.problems
    if problems:
        # A reader should learn everything at once; where the form is wrong, the meaning would only say so again.
        told = {(problem.node_id, problem.field) for problem in problems.all()}
        for problem in check(definition):
            if (problem.node_id, problem.field) not in told and (problem.node_id or problem.field != "id"):
                problems.add(problem)
    return definition, problems


class _Reading:
    """Reads one definition; `problems` tells what was wrong."""

    def __init__(self) -> None:
        self.problems = Problems()
        self._node_id = ""

    def definition(self, value: object) -> Definition:
        fields = self._fields(value, "", _definition_fields)
        if fields is None:
            return Definition("", ())
        return Definition(
            self._text(fields, "name", "name"),
            self._nodes(fields.get("nodes")),
            fields.get("output", ABSENT),
            self._duration(fields, "timeout", 0, "timeout"),
            self._optional_text(fields, "strategy", "strategy") or "",
            self._affinity(fields),
            self._whole_number(fields, "priority", default_priority, "priority"),
            self._text(fields, "fairness_key", "fairness_key") if "fairness_key" in fields else "",
        )

    def _say(self, reason: str, message: str, at: str) -> None:
        self.problems.say(reason, message, self._node_id, at)

    def _nodes(self, value: object) -> tuple[Node, ...]:
        if isinstance(value, dict):
            return self._nodes_by_id(value)
        if not isinstance(value, list):
            reason = "MISSING" if value is None else "BAD_TYPE"
            self._say(reason, "`nodes` must be given, as a list of nodes or a mapping from ids to nodes", "nodes")
            return ()
        nodes = []
        for number, one in enumerate(value, 1):
            found = one.get("id") if isinstance(one, dict) else None
            self._node_id = found[:200] if isinstance(found, str) and found else f"#{number}"
            nodes.append(self._node(one, None))
        self._node_id = ""
        return tuple(nodes)

    def _nodes_by_id(self, value: Mapping[str, Any]) -> tuple[Node, ...]:
        nodes = []
        for name, one in value.items():
            self._node_id = str(name)[:200]
            if isinstance(one, dict) and "id" in one:
                self._say("UNKNOWN_FIELD", "in a mapping from ids to nodes the key is the id; remove this field", "id")
            nodes.append(self._node(one, str(name)))
        self._node_id = ""
        return tuple(nodes)

    def _node(self, value: object, node_id: str | None) -> Node:
        fields = self._fields(value, "", _node_fields)
        if fields is None:
            return Node(node_id or "", "")
        if fields.keys() <= _usual_fields:
            return Node(
                self._text(fields, "id", "id") if node_id is None else node_id,
                self._text(fields, "executor", "executor"),
                fields.get("input"),
                self._texts(fields, "depends_on", "depends_on"),
            )
        timeouts = self._fields(fields["timeouts"], "timeouts", _timeout_fields) if "timeouts" in fields else None
        over = self._map(fields["map"]) if "map" in fields else None
        return Node(
            id=self._text(fields, "id", "id") if node_id is None else node_id,
            executor=self._text(fields, "executor", "executor"),
            input=fields.get("input", None if over is None else item_path),
            depends_on=self._texts(fields, "depends_on", "depends_on"),
            map=over,
            retry=self._retry(fields["retry"]) if "retry" in fields else default_retry,
            start_to_close_ms=self._duration(timeouts or {}, "start_to_close", 0, "timeouts.start_to_close"),
            schedule_to_start_ms=self._duration(timeouts or {}, "schedule_to_start", 0, "timeouts.schedule_to_start"),
            allow_failure=self._flag(fields, "allow_failure"),
            requires=self._labels(fields),
            strategy=self._optional_text(fields, "strategy", "strategy") or "",
            affinity=self._affinity(fields),
            stop_on_disconnect=self._flag(fields, "stop_on_disconnect"),
            priority=self._whole_number(fields, "priority", 0, "priority") if "priority" in fields else None,
            concurrency=self._concurrency(fields["concurrency"]) if "concurrency" in fields else None,
            cache=self._cache(fields["cache"]) if "cache" in fields else None,
        )

    def _map(self, value: object) -> MapOver | None:
        fields = self._fields(value, "map", _map_fields)
        if fields is None:
            return None
        return MapOver(
            self._text(fields, "over", "map.over"), self._whole_number(fields, "max_parallel", 0, "map.max_parallel")
        )

    def _retry(self, value: object) -> Retry:
        fields, default = self._fields(value, "retry", _retry_fields), default_retry
        if fields is None:
            return default
        attempts = None
        if "max_attempts" in fields:
            attempts = self._whole_number(fields, "max_attempts", 1, "retry.max_attempts")
        return Retry(
            attempts,
            self._duration(fields, "initial", default.initial_ms, "retry.initial"),
            self._number(fields, "multiplier", default.multiplier, "retry.multiplier"),
            self._duration(fields, "max_interval", default.max_interval_ms, "retry.max_interval"),
            self._number(fields, "jitter", default.jitter, "retry.jitter"),
            self._texts(fields, "non_retryable", "retry.non_retryable"),
        )

    def _affinity(self, within: Mapping[str, Any]) -> Affinity | None:
        if "affinity" not in within:
            return None
        fields = self._fields(within["affinity"], "affinity", _affinity_fields)
        if fields is None:
            return None
        mode = fields.get("mode", "soft")
        if mode not in ("soft", "hard"):
            self._say("BAD_TYPE", "`mode` is soft or hard", "affinity.mode")
        return Affinity(self._optional_text(fields, "key", "affinity.key"), mode == "hard")

    def _concurrency(self, value: object) -> Concurrency | None:
        fields = self._fields(value, "concurrency", _concurrency_fields)
        if fields is None:
            return None
        if "limit" not in fields:
            message = "`limit` must be given: how many nodes of the key may run at once"
            self._say("MISSING", message, "concurrency.limit")
        return Concurrency(
            self._text(fields, "key", "concurrency.key"), self._whole_number(fields, "limit", 1, "concurrency.limit")
        )

    def _cache(self, value: object) -> Cache | None:
        fields = self._fields(value, "cache", _cache_fields)
        if fields is None:
            return None
        if fields.get("ttl") is None:
            self._say("MISSING", "`ttl` must be given: how long an output counts, such as '1h'", "cache.ttl")
        return Cache(
            self._duration(fields, "ttl", cache_ttl_ms_min, "cache.ttl"),
            self._optional_text(fields, "key", "cache.key"),
        )

    def _fields(self, value: object, at: str, known: tuple[str, ...]) -> dict[str, Any] | None:
        if not isinstance(value, dict):
            self._say("BAD_TYPE", f"it must be an object with the fields {', '.join(known)}", at)
            return None
        unknown = value.keys() - known
        for name in [one for one in value if one in unknown] if unknown else ():
            close = self.problems.closest(str(name), known)
            hint = f"did you mean {close!r}?" if close else f"there are {', '.join(known)}"
            self._say("UNKNOWN_FIELD", f"there is no field {name!r}; {hint}", f"{at}.{name}" if at else str(name))
        return value

    def _text(self, fields: Mapping[str, Any], name: str, at: str) -> str:
        value = fields.get(name)
        if isinstance(value, str):
            return value
        self._say("MISSING" if value is None else "BAD_TYPE", f"`{name}` must be given, as a string", at)
        return ""

    def _optional_text(self, fields: Mapping[str, Any], name: str, at: str) -> str | None:
        value = fields.get(name)
        if value is None or isinstance(value, str):
            return value
        self._say("BAD_TYPE", f"`{name}` is a string; put it in quotes", at)
        return None

    def _texts(self, fields: Mapping[str, Any], name: str, at: str) -> tuple[str, ...]:
        value = fields.get(name)
        if value is None:
            return ()
        if isinstance(value, list) and {*map(type, value)} <= _only_text:
            return tuple(value)
        self._say("BAD_TYPE", f"`{name}` is a list of strings", at)
        return ()

    def _flag(self, fields: Mapping[str, Any], name: str) -> bool:
        value = fields.get(name, False)
        if isinstance(value, bool):
            return value
        self._say("BAD_TYPE", f"`{name}` is true or false", name)
        return False

    def _whole_number(self, fields: Mapping[str, Any], name: str, default: int, at: str) -> int:
        value = fields.get(name, default)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        self._say("BAD_TYPE", f"`{name}` is a whole number", at)
        return default

    def _number(self, fields: Mapping[str, Any], name: str, default: float, at: str) -> float:
        value = fields.get(name, default)
        if isinstance(value, int | float) and not isinstance(value, bool):
            try:
                return float(value)
            except OverflowError:
                return float("inf")
        self._say("BAD_TYPE", f"`{name}` is a number", at)
        return default

    def _duration(self, fields: Mapping[str, Any], name: str, default: int, at: str) -> int:
        value = fields.get(name)
        if value is None:
            return default
        if isinstance(value, int | float) and not isinstance(value, bool):
            message = f"{value} has no unit; write it with a unit, such as '{value}s' or '{value}ms'"
            self._say("BAD_DURATION", message, at)
            return default
        found = parse_duration(value) if isinstance(value, str) else None
        if found is None:
            message = f"{value!r} is no duration; write it with a unit: 500ms, 30s, 5m, 2h or 1d"
            self._say("BAD_DURATION", message, at)
            return default
        return found

    def _labels(self, fields: Mapping[str, Any]) -> Mapping[str, Needed]:
        value = fields.get("requires")
        if value is None:
            return {}
        if isinstance(value, dict) and all(isinstance(k, str) and _is_needed(v) for k, v in value.items()):
            return {label: needed if isinstance(needed, str) else tuple(needed) for label, needed in value.items()}
        message = "`requires` maps labels to values, or to lists of values, all of them strings; put them in quotes"
        self._say("BAD_TYPE", message, "requires")
        return {}


def _is_needed(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(one, str) for one in value))
