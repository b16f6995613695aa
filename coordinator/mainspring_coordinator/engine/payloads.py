"""Outputs in memory, and what is made of them: inputs, lists to map over, the workflow's output.

An output is kept only while something may still name it, and only within the bound of the cache; the database has it in any case.
What is missing is asked for by `LoadOutputs`, which leaves after the commit that holds the output, and comes as `OutputsLoaded`.
"""

from collections.abc import Iterator

import orjson

from mainspring.paths import Template
from mainspring_coordinator.engine.effects import LoadOutputs
from mainspring_coordinator.engine.state import State, WorkflowState
from mainspring_coordinator.engine.status import NodeStatus
from mainspring_coordinator.engine.turn import Turn


def keep_output(state: State, workflow: WorkflowState, node: int, output: bytes) -> None:
    """Keep an output if anything names it; other workflows' outputs may leave memory for it."""
    if not workflow.plan.needed[node] or node in workflow.outputs:
        return
    workflow.outputs[node] = output
    workflow.output_bytes += len(output)
    state.cached_bytes += len(output)
    state.cached[workflow.key] = workflow
    state.cached.move_to_end(workflow.key)
    while state.cached_bytes > state.config.payload_cache_bytes and len(state.cached) > 1:
        _, oldest = state.cached.popitem(last=False)
        _clear(state, oldest)


def forget_outputs(state: State, workflow: WorkflowState) -> None:
    """Let a workflow's outputs leave memory."""
    if state.cached.pop(workflow.key, None) is not None:
        _clear(state, workflow)


def _clear(state: State, workflow: WorkflowState) -> None:
    state.cached_bytes -= workflow.output_bytes
    workflow.output_bytes = 0
    workflow.outputs = {}
    for expanded in workflow.maps.values():
        expanded.items = None


def lacking(workflow: WorkflowState, refs: tuple[int, ...]) -> list[int]:
    """Return those of the nodes whose outputs are not in memory."""
    outputs = workflow.outputs
    return [ref for ref in refs if ref not in outputs]


def load(turn: Turn, workflow: WorkflowState, nodes: list[int]) -> None:
    """Ask for outputs, each once."""
    wanted = [node for node in nodes if node not in workflow.loading]
    if wanted:
        workflow.loading.update(wanted)
        maps, failed = workflow.maps, NodeStatus.FAILED
        widths = {node: maps[node].width for node in wanted if node in maps and workflow.statuses[node] != failed}
        turn.emit(LoadOutputs(workflow.shard, workflow.id, wanted, widths))


def scope_of(
    workflow: WorkflowState, template: Template, refs: tuple[int, ...], *, item: bytes = b"", index: int = -1
) -> dict[str, bytes]:
    """Return the JSON values that the template's data paths may name; all `refs` are in memory."""
    names = template.references
    scope = {workflow.plan.graph.ids[ref]: workflow.outputs[ref] for ref in refs}
    if "input" in names:
        scope["input"] = workflow.input
    if "workflow" in names:
        scope["workflow"] = orjson.dumps({"id": workflow.id, "name": workflow.plan.name})
    if index >= 0:
        scope["item"] = item
        scope["index"] = b"%d" % index
    return scope


def elements_of(workflow: WorkflowState, node: int) -> tuple[int, Iterator[bytes]]:
    """Return how many elements a `map` node runs over, and what makes them; both raise `PathError`. All it names is in memory."""
    template = workflow.plan.graph.overs[node]
    assert template is not None
    return template.elements(scope_of(workflow, template, workflow.plan.over_refs[node]))


def input_of(workflow: WorkflowState, node: int, instance: int) -> bytes:
    """Return the input of a node or an instance; raises `PathError`. All it names is in memory."""
    return _filled(workflow, node, instance, workflow.plan.graph.inputs[node])


def key_of(workflow: WorkflowState, node: int, instance: int) -> bytes:
    """Return the cache key of a node or an instance, which has one; raises `PathError`. All it names is in memory."""
    template = workflow.plan.graph.cache_keys[node]
    assert template is not None
    return _filled(workflow, node, instance, template)


def _filled(workflow: WorkflowState, node: int, instance: int, template: Template) -> bytes:
    if template.is_literal:
        return template.render({})
    item = b""
    if instance >= 0:
        items = workflow.maps[node].items
        assert items is not None
        item = items[instance]
    return template.render(scope_of(workflow, template, workflow.plan.input_refs[node], item=item, index=instance))


def output_of(workflow: WorkflowState) -> bytes:
    """Return the workflow's output; raises `PathError`. All it names is in memory."""
    plan = workflow.plan
    template = plan.graph.output
    if template is not None:
        return template.render(scope_of(workflow, template, plan.output_refs))
    parts = (orjson.dumps(plan.graph.ids[node]) + b":" + workflow.outputs[node] for node in plan.output_refs)
    return b"{" + b",".join(parts) + b"}"
