"""The text forms of a definition: JSON and YAML in, canonical JSON out. docs/definition.md is the reference for users.

Reading collects every problem, each with its node and field. Durations carry a unit ("500ms", "30s", "5m", "2h", "1d"). The canonical
form leaves defaults out and sorts keys, so that the same definition has the same hash however it was written.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Final, Literal

import orjson
import yaml

from mainspring.errors import DefinitionError, Problem
from mainspring.limits import definition_bytes_max, json_depth_max, labels_max, yaml_values_max
from mainspring.workflow import ABSENT, Definition, Json, MapOver, Node, Retry

_duration: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_unit_ms: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_definition_fields: Final = ("name", "nodes", "output", "timeout")
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
    "stop_on_disconnect",
)
_map_fields: Final = ("over", "max_parallel")
_retry_fields: Final = ("max_attempts", "initial", "multiplier", "max_interval", "jitter", "non_retryable")
_timeout_fields: Final = ("start_to_close", "schedule_to_start")


def parse_definition(text: str | bytes, *, format: Literal["json", "yaml"]) -> Definition:  # noqa: A002  (the word of the command)
    """Read a definition; raises `DefinitionError` with every problem found."""
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if len(data) > definition_bytes_max:
        message = (
            f"it has {len(data)} bytes, more than the {definition_bytes_max} allowed; split it into several workflows"
        )
        raise DefinitionError([Problem("TOO_LARGE", message)])
    if format == "json":
        try:
            return definition_from_json(orjson.loads(data))
        except orjson.JSONDecodeError as error:
            raise DefinitionError([Problem("NOT_JSON", f"it is not JSON: {error}")]) from error
    try:
        return definition_from_json(yaml.load(data, _Loader))  # noqa: S506  (a safe loader, with stricter rules)
    except yaml.YAMLError as error:
        raise DefinitionError([Problem("NOT_YAML", f"it is not YAML that can be read: {error}")]) from error


def definition_from_json(value: object) -> Definition:
    """Make a definition from the value that its JSON has; raises `DefinitionError` with every problem found."""
    reading = _Reading()
    definition = reading.definition(value)
    if reading.problems:
        raise DefinitionError(reading.problems)
    return definition


def definition_to_json(definition: Definition) -> dict[str, Json]:
    """Return the value that a definition's JSON has, without what is at its default."""
    value: dict[str, Json] = {"name": definition.name, "nodes": [_node_to_json(node) for node in definition.nodes]}
    if definition.output is not ABSENT:
        value["output"] = definition.output  # type: ignore[assignment]  # ABSENT is ruled out
    if definition.timeout_ms:
        value["timeout"] = format_duration(definition.timeout_ms)
    return value


def canonical_bytes(definition: Definition) -> bytes:
    """Return the canonical JSON: keys sorted, defaults left out. Raises `DefinitionError` for a value that JSON cannot hold."""
    try:
        return orjson.dumps(definition_to_json(definition), option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError as error:
        raise DefinitionError([Problem("NOT_JSON", f"a value cannot be written as JSON: {error}")]) from error


def definition_hash(canonical: bytes) -> bytes:
    """Return the SHA-256 of a canonical form: 32 bytes, the plan's hash."""
    return hashlib.sha256(canonical).digest()


def parse_duration(text: str) -> int | None:
    """Return the milliseconds of "500ms", "30s", "5m", "2h" or "1d"; None if it is none."""
    match = _duration.fullmatch(text.strip())
    return round(float(match[1]) * _unit_ms[match[2]]) if match else None


def format_duration(ms: int) -> str:
    """Write milliseconds in the largest unit that holds them whole."""
    unit = next(unit for unit in ("d", "h", "m", "s", "ms") if ms % _unit_ms[unit] == 0)
    return f"{ms // _unit_ms[unit]}{unit}"


def _node_to_json(node: Node) -> Json:
    value: dict[str, Json] = {"id": node.id, "executor": node.executor}
    if node.input is not None:
        value["input"] = node.input
    if node.depends_on:
        value["depends_on"] = [*sorted(set(node.depends_on))]
    if node.map is not None:
        value["map"] = {"over": node.map.over} | (
            {"max_parallel": node.map.max_parallel} if node.map.max_parallel else {}
        )
    retry = _retry_to_json(node.retry)
    if retry:
        value["retry"] = retry
    timeouts: dict[str, Json] = {}
    if node.start_to_close_ms:
        timeouts["start_to_close"] = format_duration(node.start_to_close_ms)
    if node.schedule_to_start_ms:
        timeouts["schedule_to_start"] = format_duration(node.schedule_to_start_ms)
    if timeouts:
        value["timeouts"] = timeouts
    if node.allow_failure:
        value["allow_failure"] = True
    if node.requires:
        value["requires"] = dict(node.requires)
    if node.stop_on_disconnect:
        value["stop_on_disconnect"] = True
    return value


def _retry_to_json(retry: Retry) -> dict[str, Json]:
    default, value = Retry(), dict[str, Json]()
    if retry.max_attempts is not None:
        value["max_attempts"] = retry.max_attempts
    if retry.initial_ms != default.initial_ms:
        value["initial"] = format_duration(retry.initial_ms)
    if retry.multiplier != default.multiplier:
        value["multiplier"] = retry.multiplier
    if retry.max_interval_ms != default.max_interval_ms:
        value["max_interval"] = format_duration(retry.max_interval_ms)
    if retry.jitter != default.jitter:
        value["jitter"] = retry.jitter
    if retry.non_retryable:
        value["non_retryable"] = list(retry.non_retryable)
    return value


@dataclass(slots=True)
class _Reading:
    """Reads one definition; `problems` tells what was wrong."""

    problems: list[Problem] = field(default_factory=list[Problem])
    node_id: str = ""

    def say(self, reason: str, message: str, at: str = "") -> None:
        self.problems.append(Problem(reason, message, self.node_id, at))

    def definition(self, value: object) -> Definition:
        fields = self.fields(value, "", _definition_fields)
        nodes = self._nodes(fields.get("nodes"))
        return Definition(
            self.text(fields, "name", ""),
            nodes,
            fields.get("output", ABSENT),
            self.duration(fields, "timeout", 0, "timeout"),
        )

    def _nodes(self, value: object) -> tuple[Node, ...]:
        if isinstance(value, dict):
            # A mapping of id to node says the same with less to type.
            value = [{"id": name, **node} if isinstance(node, dict) else node for name, node in value.items()]
        if not isinstance(value, list):
            self.say("MISSING", "`nodes` is a list of nodes, or a mapping from ids to nodes", "nodes")
            return ()
        nodes = []
        for number, one in enumerate(value):
            self.node_id = str(one.get("id", f"#{number + 1}")) if isinstance(one, dict) else f"#{number + 1}"
            nodes.append(self._node(one))
        self.node_id = ""
        return tuple(nodes)

    def _node(self, value: object) -> Node:
        fields = self.fields(value, "", _node_fields)
        retry = self.fields(fields.get("retry", {}), "retry", _retry_fields)
        timeouts = self.fields(fields.get("timeouts", {}), "timeouts", _timeout_fields)
        default = Retry()
        over = None
        if "map" in fields:
            mapped = self.fields(fields["map"], "map", _map_fields)
            over = MapOver(
                self.text(mapped, "over", "map.over"), self.number(mapped, "max_parallel", 0, "map.max_parallel", int)
            )
        attempts = retry.get("max_attempts")
        return Node(
            id=self.text(fields, "id", "id"),
            executor=self.text(fields, "executor", "executor"),
            input=self._json(fields.get("input"), "input"),
            depends_on=self.texts(fields, "depends_on", "depends_on"),
            map=over,
            retry=Retry(
                None if attempts is None else self.number(retry, "max_attempts", 0, "retry.max_attempts", int),
                self.duration(retry, "initial", default.initial_ms, "retry.initial"),
                self.number(retry, "multiplier", default.multiplier, "retry.multiplier", float),
                self.duration(retry, "max_interval", default.max_interval_ms, "retry.max_interval"),
                self.number(retry, "jitter", default.jitter, "retry.jitter", float),
                self.texts(retry, "non_retryable", "retry.non_retryable"),
            ),
            start_to_close_ms=self.duration(timeouts, "start_to_close", 0, "timeouts.start_to_close"),
            schedule_to_start_ms=self.duration(timeouts, "schedule_to_start", 0, "timeouts.schedule_to_start"),
            allow_failure=self.flag(fields, "allow_failure"),
            requires=self._labels(fields),
            stop_on_disconnect=self.flag(fields, "stop_on_disconnect"),
        )

    def fields(self, value: object, at: str, known: tuple[str, ...]) -> dict[str, Any]:
        if not isinstance(value, dict):
            self.say("BAD_TYPE", f"it must be an object with the fields {', '.join(known)}", at)
            return {}
        for name in value:
            if name not in known:
                close = get_close_matches(str(name), known, 1)
                hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}"
                self.say("UNKNOWN_FIELD", f"there is no field {name!r}; {hint}", f"{at}.{name}" if at else str(name))
        return value

    def text(self, fields: Mapping[str, Any], name: str, at: str) -> str:
        value = fields.get(name)
        if isinstance(value, str):
            return value
        self.say("MISSING" if value is None else "BAD_TYPE", f"`{name}` must be given, as a string", at or name)
        return ""

    def texts(self, fields: Mapping[str, Any], name: str, at: str) -> tuple[str, ...]:
        value = fields.get(name, [])
        if isinstance(value, list) and all(isinstance(one, str) for one in value):
            return tuple(value)
        self.say("BAD_TYPE", f"`{name}` is a list of strings", at)
        return ()

    def flag(self, fields: Mapping[str, Any], name: str) -> bool:
        value = fields.get(name, False)
        if not isinstance(value, bool):
            self.say("BAD_TYPE", f"`{name}` is true or false", name)
            return False
        return value

    def number(self, fields: Mapping[str, Any], name: str, default: float, at: str, kind: Callable[[Any], Any]) -> Any:
        value = fields.get(name, default)
        whole = kind is int
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            self.say("BAD_TYPE", f"`{name}` is a {'whole number' if whole else 'number'}", at)
            return kind(default)
        return kind(value)

    def duration(self, fields: Mapping[str, Any], name: str, default: int, at: str) -> int:
        value = fields.get(name)
        if value is None:
            return default
        if isinstance(value, int | float) and not isinstance(value, bool):
            self.say(
                "BAD_DURATION", f"{value} has no unit; write it with a unit, such as '{value}s' or '{value}ms'", at
            )
            return default
        found = parse_duration(value) if isinstance(value, str) else None
        if found is None:
            self.say("BAD_DURATION", f"{value!r} is no duration; write it with a unit: 500ms, 30s, 5m, 2h or 1d", at)
            return default
        return found

    def _labels(self, fields: Mapping[str, Any]) -> Mapping[str, str]:
        value = fields.get("requires", {})
        if isinstance(value, dict) and all(isinstance(k, str) and isinstance(v, str) for k, v in value.items()):
            return value
        message = f"`requires` maps labels to values, both strings, at most {labels_max}"
        self.say("BAD_TYPE", message, "requires")
        return {}

    def _json(self, value: object, at: str) -> Json:
        """Return a value if JSON can hold it; YAML knows dates and other things that it cannot."""
        stack: list[tuple[object, int]] = [(value, 0)]
        while stack:
            one, depth = stack.pop()
            if depth > json_depth_max:
                self.say("TOO_DEEP", f"it is nested deeper than {json_depth_max} levels", at)
                return None
            if isinstance(one, dict):
                if not all(isinstance(key, str) for key in one):
                    self.say("NOT_JSON", "the keys of an object are strings; put them in quotes", at)
                    return None
                stack += [(inner, depth + 1) for inner in one.values()]
            elif isinstance(one, list):
                stack += [(inner, depth + 1) for inner in one]
            elif one is not None and not isinstance(one, bool | int | float | str):
                self.say(
                    "NOT_JSON", f"{one!r} is a {type(one).__name__}, which JSON does not have; put it in quotes", at
                )
                return None
        return value  # type: ignore[return-value]  # what the walk has just shown


class _Loader(yaml.SafeLoader):
    """YAML without duplicate keys, and without more values than a definition can have (aliases can multiply them)."""

    def __init__(self, stream: bytes) -> None:
        super().__init__(stream)
        self._values = 0

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        self._values += 1
        if self._values > yaml_values_max:
            raise yaml.constructor.ConstructorError(
                None, None, f"it has more than {yaml_values_max} values", node.start_mark
            )
        return super().construct_object(node, deep)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
            if isinstance(key, str):
                seen.add(key)
        return super().construct_mapping(node, deep)
