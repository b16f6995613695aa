"""Workflows written in Python.

    flow = Workflow("calendar-cleanup")
    fetch = flow.node("fetch", "fetchOldCalendarMappings")
    delete = flow.map("delete", "deleteSingleCalendar", over=fetch["mappings"], input={"calendar": flow.item["old_id"]})
    flow.node("mail", "sendEmailNotification", input={"deleted": delete})

What a node gives is named by a reference: `fetch["mappings"]` is the data path `${fetch.mappings}`. References may stand anywhere in
an input; they are dependencies, too.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Final, TypeAlias

import orjson

from mainspring.definition import definition_to_json
from mainspring.durations import parse_duration
from mainspring.errors import DefinitionError, Problem
from mainspring.graph import check
from mainspring.reading import item_path
from mainspring.workflow import (
    ABSENT,
    Affinity,
    Cache,
    Concurrency,
    Definition,
    Json,
    MapOver,
    Needed,
    Node,
    Retry,
    default_priority,
    default_retry,
)

Duration: TypeAlias = timedelta | str
_plain: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _quoted(name: str) -> str:
    return name if _plain.fullmatch(name) else orjson.dumps(name).decode()


class Reference:
    """Names a value that exists only while the workflow runs; turns into a data path wherever it stands."""

    __slots__ = ("expression",)

    def __init__(self, expression: str) -> None:
        self.expression = expression
        """The JMESPath expression, without "${" and "}"."""

    def __getitem__(self, key: str | int) -> "Reference":
        """Return a reference to a field or to an element."""
        step = f"[{key}]" if isinstance(key, int) else f".{_quoted(key)}"
        return Reference(self.expression + step)

    def __iter__(self) -> Iterator["Reference"]:
        raise TypeError(
            f"{self} has no elements before the workflow runs; use Workflow.map to run a node for each of them"
        )

    def __bool__(self) -> bool:
        raise TypeError(
            f"{self} has no value before the workflow runs; decide in an executor, or by a filter in the path"
        )

    def path(self, more: str) -> "Reference":
        """Return a reference with a JMESPath continuation, such as "[*].old_id"."""
        return Reference(self.expression + more)

    def __str__(self) -> str:
        return f"${{{self.expression}}}"

    def __repr__(self) -> str:
        return f"Reference({self.expression!r})"


class NodeReference(Reference):
    """A node of a workflow being built; stands for its output."""

    __slots__ = ("id",)

    def __init__(self, node_id: str) -> None:
        super().__init__(_quoted(node_id))
        self.id = node_id

    @property
    def output(self) -> Reference:
        """The node's output, said in so many words."""
        return Reference(self.expression)


class Workflow:
    """Builds a definition, node by node. Problems are raised by `definition`, all at once."""

    item: Final = Reference("item")
    """Within a `map` node's input: the element."""
    index: Final = Reference("index")
    """Within a `map` node's input: the place of the element, from 0."""
    input: Final = Reference("input")
    """The workflow's input."""

    def __init__(
        self,
        name: str,
        *,
        timeout: Duration | None = None,
        strategy: str = "",
        affinity: Affinity | None = None,
        priority: int = default_priority,
        fairness_key: str = "",
    ) -> None:
        self.name = name
        self.priority = priority
        """0 to 9; which of the nodes that wait goes first: the higher one."""
        self.fairness_key = fairness_key
        """At most 128 bytes; workflows with the same one share their turns."""
        self._strategy = strategy
        self._affinity = affinity
        self._problems: list[Problem] = []
        self._timeout_ms = self._ms(timeout, "timeout", "")
        self._nodes: list[Node] = []
        self._output: object = ABSENT

    def node(
        self,
        node_id: str,
        executor: str,
        *,
        input: object = None,  # noqa: A002  (the word of the definition)
        after: "NodeReference | str | Sequence[NodeReference | str]" = (),
        retry: Retry | None = None,
        start_to_close: Duration | None = None,
        schedule_to_start: Duration | None = None,
        allow_failure: bool = False,
        requires: Mapping[str, Needed] | None = None,
        strategy: str = "",
        affinity: Affinity | None = None,
        stop_on_disconnect: bool = False,
        priority: int | None = None,
        concurrency: Concurrency | None = None,
        cache: Cache | None = None,
    ) -> NodeReference:
        """Add a node that runs once, after the nodes in `after` and those that its input names."""
        waits_for = [after] if isinstance(after, str | NodeReference) else after
        self._nodes.append(
            Node(
                id=node_id,
                executor=executor,
                input=_plain_json(input),
                depends_on=tuple(one.id if isinstance(one, NodeReference) else one for one in waits_for),
                retry=retry or default_retry,
                start_to_close_ms=self._ms(start_to_close, "timeouts.start_to_close", node_id),
                schedule_to_start_ms=self._ms(schedule_to_start, "timeouts.schedule_to_start", node_id),
                allow_failure=allow_failure,
                requires=dict(requires or {}),
                strategy=strategy,
                affinity=affinity,
                stop_on_disconnect=stop_on_disconnect,
                priority=priority,
                concurrency=concurrency,
                cache=cache,
            )
        )
        return NodeReference(node_id)

    def map(
        self,
        node_id: str,
        executor: str,
        *,
        over: Reference | str,
        input: object = item_path,  # noqa: A002  (the word of the definition)
        max_parallel: int = 0,
        after: "NodeReference | str | Sequence[NodeReference | str]" = (),
        retry: Retry | None = None,
        start_to_close: Duration | None = None,
        schedule_to_start: Duration | None = None,
        allow_failure: bool = False,
        requires: Mapping[str, Needed] | None = None,
        strategy: str = "",
        affinity: Affinity | None = None,
        stop_on_disconnect: bool = False,
        priority: int | None = None,
        concurrency: Concurrency | None = None,
        cache: Cache | None = None,
    ) -> NodeReference:
        """Add a node that runs once for each element of a list; its output is the list of theirs, in the same order.

        Without `input`, each instance gets its element.
        """
        reference = self.node(
            node_id,
            executor,
            input=input,
            after=after,
            retry=retry,
            start_to_close=start_to_close,
            schedule_to_start=schedule_to_start,
            allow_failure=allow_failure,
            requires=requires,
            strategy=strategy,
            affinity=affinity,
            stop_on_disconnect=stop_on_disconnect,
            priority=priority,
            concurrency=concurrency,
            cache=cache,
        )
        self._nodes[-1] = replace(self._nodes[-1], map=MapOver(str(over), max_parallel))
        return reference

    def output(self, value: object) -> None:
        """Set the workflow's output, a value with references."""
        self._output = _plain_json(value)

    def definition(self) -> Definition:
        """Return the definition; raises `DefinitionError` with every problem found."""
        definition = Definition(
            self.name,
            tuple(self._nodes),
            self._output,  # type: ignore[arg-type]  # JSON or ABSENT
            self._timeout_ms,
            self._strategy,
            self._affinity,
            self.priority,
            self.fairness_key,
        )
        problems = [*self._problems, *check(definition)]
        if problems:
            raise DefinitionError(problems)
        return definition

    def to_json(self) -> str:
        """Return the definition as JSON."""
        return orjson.dumps(definition_to_json(self.definition()), option=orjson.OPT_INDENT_2).decode()

    def to_yaml(self) -> str:
        """Return the definition as YAML."""
        import yaml  # noqa: PLC0415  (as `definition` loads it: only for whoever asks for YAML)

        return yaml.safe_dump(definition_to_json(self.definition()), sort_keys=False, allow_unicode=True)

    def _ms(self, value: Duration | None, at: str, node_id: str) -> int:
        if value is None:
            return 0
        found = _whole_ms(value)
        if found is None:
            message = f"{value!r} is no duration; give a timedelta of whole milliseconds, or 500ms, 30s, 5m, 2h or 1d"
            self._problems.append(Problem("BAD_DURATION", message, node_id, at))
        return found or 0


def _whole_ms(value: object) -> int | None:
    if isinstance(value, timedelta):
        ms, rest = divmod(value, timedelta(milliseconds=1))
        return None if rest else ms
    return parse_duration(value) if isinstance(value, str) else None


def _plain_json(value: object) -> Json:
    if isinstance(value, Reference):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _plain_json(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain_json(one) for one in value]
    return value  # type: ignore[return-value]  # what JSON cannot hold is refused when the definition is checked
