"""Definitions are compiled once; large ones aside, so that nobody waits for them."""

import asyncio
import gc
from collections.abc import Mapping
from contextlib import suppress

import orjson
import pytest

from mainspring.errors import BusyError, DefinitionError
from mainspring.limits import KIB, compilations_waiting_max
from mainspring_coordinator.plans import PlanCache
from tests.services.rig import story


def large(name: str = "large", last: Mapping[str, object] | None = None) -> bytes:
    nodes: list[dict[str, object]] = [{"id": f"n{n}", "executor": "work", "input": {"n": n}} for n in range(4_000)]
    nodes[-1] |= last or {}
    return orjson.dumps({"name": name, "nodes": nodes})


@pytest.fixture
def _no_frozen_objects() -> None:
    gc.unfreeze()


@story
async def test_a_large_definition_is_compiled_once_for_all_who_bring_it() -> None:
    plans = PlanCache()
    try:
        data = large()
        assert len(data) > 64 * KIB
        first, second = await asyncio.gather(plans.compile(data), plans.compile(data))
        assert first is second
        assert plans.get(first.hash) is first
        assert await plans.compile(data) is first
    finally:
        plans.close()


@pytest.mark.usefixtures("_no_frozen_objects")
@pytest.mark.parametrize("last", [{}, {"depends_on": ["nobody"]}], ids=["fine", "wrong"])
def test_cycles_are_looked_for_again_after_a_large_definition_but_not_in_it(last: dict[str, object]) -> None:
    @story
    async def told() -> None:
        plans = PlanCache()
        try:
            with suppress(DefinitionError):
                await plans.compile(large(last=last))
        finally:
            plans.close()

    before = gc.get_freeze_count()
    told()
    assert gc.isenabled()
    assert gc.get_freeze_count() > before + 4_000


@story
async def test_more_than_may_wait_are_refused() -> None:
    plans = PlanCache()
    try:
        waiting = [asyncio.create_task(plans.compile(large(f"l{n}"))) for n in range(compilations_waiting_max + 1)]
        found = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(one) for one in found].count(BusyError) == 1
    finally:
        plans.close()
