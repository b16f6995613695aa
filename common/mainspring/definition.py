"""The text forms of a definition: JSON and YAML in, canonical JSON out. docs/definition.md is the reference for users.

Reading collects every problem, each with its node and field. Durations carry a unit ("500ms", "30s", "5m", "2h", "1d"). The canonical
form leaves defaults out and sorts keys, so that a definition has the same hash in whichever text form it was written; the order of
its nodes is part of it, because it is the order in which ready nodes are started.
"""

import hashlib
import json
from typing import Final, Literal

import orjson

from mainspring.durations import format_duration, parse_duration
from mainspring.errors import DefinitionError, Problem
from mainspring.json_text import read_json, read_json_in_parts, trimmed
from mainspring.limits import MIB, definition_bytes_max
from mainspring.reading import item_path, read_definition
from mainspring.workflow import (
    ABSENT,
    Affinity,
    Definition,
    Json,
    Needed,
    Node,
    Retry,
    default_priority,
    default_retry,
)

__all__ = [
    "canonical_bytes",
    "definition_from_json",
    "definition_hash",
    "definition_to_json",
    "format_duration",
    "parse_definition",
    "parse_duration",
]

# Whatever else orjson knows how to write is not JSON's, and would come back as something else.
_freed_at_once: Final = 1_000
_short_bytes_max: Final = 1 * MIB
"""What is longer is read and written in parts, so that a coordinator goes on meanwhile."""
_strict: Final = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_SUBCLASS


def parse_definition(text: str | bytes, *, format: Literal["json", "yaml"]) -> Definition:  # noqa: A002  (the word of the command)
    """Read a definition; raises `DefinitionError` with every problem found."""
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if len(data) > definition_bytes_max:
        message = (
            f"it has {len(data)} bytes, more than the {definition_bytes_max} allowed; split it into several workflows"
        )
        raise DefinitionError([Problem("TOO_LARGE", message)])
    value = _json_value(data) if format == "json" else _yaml_value(data)
    definition = definition_from_json(value)
    _let_go(value)
    return definition


def _let_go(value: object) -> None:
    """Free what a definition was made from in parts; at once it would keep other threads waiting."""
    nodes = value.get("nodes") if isinstance(value, dict) else None
    while isinstance(nodes, list) and nodes:
        del nodes[-_freed_at_once:]


def _json_value(data: bytes) -> object:
    try:
        return read_json(data) if len(data) <= _short_bytes_max else read_json_in_parts(data)
    except json.JSONDecodeError as error:
        raise DefinitionError([Problem("NOT_JSON", f"it is not JSON: {error}")]) from error


def _yaml_value(data: bytes) -> object:
    # Loaded here, because only the command reads YAML, and every process of a cluster would load its parser at its start.
    from mainspring.yaml_text import NotYamlError, read_yaml  # noqa: PLC0415

    try:
        return read_yaml(data)
    except NotYamlError as error:
        raise DefinitionError([Problem("NOT_YAML", f"it is not YAML that can be read: {error}")]) from error


def definition_from_json(value: object) -> Definition:
    """Make a definition from the value that its JSON has; raises `DefinitionError` with every problem found.

    Whether it can run, `mainspring.graph` tells.
    """
    definition, problems = read_definition(value)
    if problems:
        raise DefinitionError(problems.all())
    return definition


def definition_to_json(definition: Definition) -> dict[str, Json]:
    """Return the value that a definition's JSON has, without what is at its default."""
    return {**_whole_to_json(definition), "nodes": [_node_to_json(node) for node in definition.nodes]}


def _whole_to_json(definition: Definition) -> dict[str, Json]:
    """Return it without its nodes."""
    value: dict[str, Json] = {"name": definition.name}
    if definition.output is not ABSENT:
        value["output"] = definition.output  # type: ignore[assignment]  # ABSENT is ruled out
    if definition.timeout_ms:
        value["timeout"] = format_duration(definition.timeout_ms)
    value.update(_placement_to_json(definition.strategy, definition.affinity))
    if definition.priority != default_priority:
        value["priority"] = definition.priority
    if definition.fairness_key:
        value["fairness_key"] = definition.fairness_key
    return value


def canonical_bytes(definition: Definition) -> bytes:
    """Return the canonical JSON: keys sorted, defaults left out. Raises `DefinitionError` for a value that JSON cannot hold."""
    try:
        written = {name: _dumped(one) for name, one in _whole_to_json(definition).items()}
        # One by one, so that neither writing nor freeing what is written keeps other threads waiting.
        written["nodes"] = b"[%b]" % b",".join(_dumped(_node_to_json(node)) for node in definition.nodes)
    except orjson.JSONEncodeError as error:
        raise DefinitionError([Problem("NOT_JSON", f"a value cannot be written as JSON: {error}")]) from error
    return b"{%b}" % b",".join(b'"%b":%b' % (name.encode(), written[name]) for name in sorted(written))


def _dumped(value: object) -> bytes:
    return trimmed(orjson.dumps(value, option=orjson.OPT_SORT_KEYS | _strict))


def definition_hash(canonical: bytes) -> bytes:
    """Return the SHA-256 of a canonical form: 32 bytes, the plan's hash."""
    return hashlib.sha256(canonical).digest()


def _node_to_json(node: Node) -> Json:
    value: dict[str, Json] = {"id": node.id, "executor": node.executor}
    if node.input != (None if node.map is None else item_path):
        value["input"] = node.input
    if node.depends_on:
        value["depends_on"] = [*sorted(set(node.depends_on))]
    if node.map is not None:
        most = node.map.max_parallel
        value["map"] = {"over": node.map.over, "max_parallel": most} if most else {"over": node.map.over}
    if node.retry is not default_retry and node.retry != default_retry:
        value["retry"] = _retry_to_json(node.retry)
    if node.start_to_close_ms or node.schedule_to_start_ms:
        value["timeouts"] = _timeouts_to_json(node)
    if node.allow_failure:
        value["allow_failure"] = True
    if node.requires:
        value["requires"] = {label: _needed_to_json(needed) for label, needed in node.requires.items()}
    if node.strategy or node.affinity is not None:
        value.update(_placement_to_json(node.strategy, node.affinity))
    if node.stop_on_disconnect:
        value["stop_on_disconnect"] = True
    if node.priority is not None:
        value["priority"] = node.priority
    if node.concurrency is not None or node.cache is not None:
        value.update(_sharing_to_json(node))
    return value


def _sharing_to_json(node: Node) -> dict[str, Json]:
    value: dict[str, Json] = {}
    if node.concurrency is not None:
        value["concurrency"] = {"key": node.concurrency.key, "limit": node.concurrency.limit}
    if node.cache is not None:
        key: dict[str, Json] = {} if node.cache.key is None else {"key": node.cache.key}
        value["cache"] = {**key, "ttl": format_duration(node.cache.ttl_ms)}
    return value


def _timeouts_to_json(node: Node) -> dict[str, Json]:
    value: dict[str, Json] = {}
    if node.start_to_close_ms:
        value["start_to_close"] = format_duration(node.start_to_close_ms)
    if node.schedule_to_start_ms:
        value["schedule_to_start"] = format_duration(node.schedule_to_start_ms)
    return value


def _needed_to_json(needed: Needed) -> Json:
    values = [needed] if isinstance(needed, str) else sorted(set(needed))
    return values[0] if len(values) == 1 else [*values]


def _placement_to_json(strategy: str, affinity: Affinity | None) -> dict[str, Json]:
    value: dict[str, Json] = {"strategy": strategy} if strategy else {}
    if affinity is not None:
        key: dict[str, Json] = {} if affinity.key is None else {"key": affinity.key}
        value["affinity"] = {**key, "mode": "hard"} if affinity.hard else key
    return value


def _retry_to_json(retry: Retry) -> dict[str, Json]:
    default, value = default_retry, dict[str, Json]()
    if retry.max_attempts is not None:
        value["max_attempts"] = retry.max_attempts
    if retry.initial_ms != default.initial_ms:
        value["initial"] = format_duration(retry.initial_ms)
    if retry.multiplier != default.multiplier:
        value["multiplier"] = float(retry.multiplier)
    if retry.max_interval_ms != default.max_interval_ms:
        value["max_interval"] = format_duration(retry.max_interval_ms)
    if retry.jitter != default.jitter:
        value["jitter"] = float(retry.jitter)
    if retry.non_retryable:
        value["non_retryable"] = list(retry.non_retryable)
    return value
