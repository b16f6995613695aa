"""What is measured: a chain, a fan, many diamonds, one node at a time, a small workflow behind a large one.

Payloads are about 100 bytes, executors do nothing.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from itertools import pairwise
from typing import Any, Final, TypeAlias

from mainspring.errors import MainspringError
from mainspring_client import Client, Submission

Figures: TypeAlias = dict[str, float]
payload: Final = {"text": "x" * 88}


def _definition(name: str, nodes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {"name": name, "nodes": [{"executor": "noop", "input": payload, **node} for node in nodes]}


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` of the values lie (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def chain(client: Client, *, length: int = 100, runs: int = 20) -> Figures:
    """Measure a hop: from the start of a node to the start of the next one, in a chain, one chain at a time."""
    nodes = [{"id": f"n{at}", "depends_on": [f"n{at - 1}"] if at else []} for at in range(length)]
    hops_ms: list[float] = []
    for run in range(runs + 1):
        handle = await client.submit(_definition("chain", nodes))
        await handle.result(timeout=60)
        started_us = [node.started_at_us async for node in client.nodes(handle.workflow_id)]
        if run:  # the first one warms up
            hops_ms += [(after - before) / 1_000 for before, after in pairwise(started_us)]
    return {"hop_ms_p50": percentile(hops_ms, 0.5), "hop_ms_p99": percentile(hops_ms, 0.99)}


async def fan(client: Client, *, width: int = 10_000, runs: int = 3) -> Figures:
    """Measure a fan, 1 → `width` → 1: nodes a second from submit to result, the best of a few runs."""
    nodes: list[dict[str, Any]] = [{"id": "first"}]
    nodes += [{"id": f"n{at}", "depends_on": ["first"]} for at in range(width)]
    nodes += [{"id": "last", "depends_on": [f"n{at}" for at in range(width)]}]
    definition = _definition("fan", nodes)
    best = 0.0
    for _ in range(runs):
        started = time.perf_counter()
        handle = await client.submit(definition)
        await handle.result(timeout=300)
        best = max(best, len(nodes) / (time.perf_counter() - started))
    return {"nodes_per_s": best}


async def diamonds(client: Client, *, count: int = 3_000) -> Figures:
    """Measure many small workflows at once: diamonds of 4 nodes, submitted together, each from its acceptance to its end."""
    nodes: list[dict[str, Any]] = [
        {"id": "a"},
        {"id": "b", "depends_on": ["a"]},
        {"id": "c", "depends_on": ["a"]},
        {"id": "d", "depends_on": ["b", "c"]},
    ]
    definition = _definition("diamond", nodes)
    started = time.perf_counter()
    handles = await client.submit_many(Submission(definition) for _ in range(count))
    failed = [handle for handle in handles if isinstance(handle, MainspringError)]
    if failed:
        raise failed[0]
    ids = [handle.workflow_id for handle in handles if not isinstance(handle, MainspringError)]
    took_ms = [
        (result.ended_at_us - result.submitted_at_us) / 1_000
        async for result in client.wait_many(ids, without_output=True)
    ]
    seconds = time.perf_counter() - started
    return {
        "workflows_per_s": count / seconds,
        "end_to_end_ms_p50": percentile(took_ms, 0.5),
        "end_to_end_ms_p99": percentile(took_ms, 0.99),
    }


async def single(client: Client, *, count: int = 500) -> Figures:
    """Measure one node at a time: from the call of submit to the result in the client's hands."""
    definition = _definition("single", [{"id": "only"}])
    took_ms: list[float] = []
    for run in range(count + 20):
        started = time.perf_counter()
        handle = await client.submit(definition)
        await handle.result(timeout=60)
        if run >= 20:  # the first ones warm up
            took_ms.append((time.perf_counter() - started) * 1_000)
    return {"submit_to_result_ms_p50": percentile(took_ms, 0.5), "submit_to_result_ms_p99": percentile(took_ms, 0.99)}


async def behind(client: Client, *, width: int = 99_999, count: int = 20) -> Figures:
    """Measure fairness: workflows of 4 nodes in a row, one at a time, on an idle cluster and while a wide fan fills all slots."""
    small = _definition("small", [{"id": f"n{at}", "depends_on": [f"n{at - 1}"] if at else []} for at in range(4)])
    nodes: list[dict[str, Any]] = [{"id": "first"}]
    nodes += [{"id": f"n{at}", "depends_on": ["first"]} for at in range(width)]

    async def took_ms() -> float:
        handle = await client.submit(small)
        result = await handle.wait(timeout=60)
        return (result.ended_at_us - result.submitted_at_us) / 1_000

    alone = [await took_ms() for _ in range(count + 5)][5:]
    fan = await client.submit(_definition("wide", nodes))
    beside = [await took_ms() for _ in range(count)]
    if (await fan.get()).status.terminal:
        raise RuntimeError("the fan ended too early to be in anyone's way; raise `width`")
    await fan.wait(timeout=300)
    median_alone, median_beside = percentile(alone, 0.5), percentile(beside, 0.5)
    return {"alone_ms_p50": median_alone, "behind_ms_p50": median_beside, "times_longer": median_beside / median_alone}


cases: Final[dict[str, Callable[[Client], Awaitable[Figures]]]] = {
    "chain": chain,
    "fan": fan,
    "diamonds": diamonds,
    "single": single,
    "behind": behind,
}
