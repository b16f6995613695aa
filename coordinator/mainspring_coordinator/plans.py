"""Compiled definitions, shared by all who need them, so that each is compiled once.

A plan is found by the SHA-256 of the bytes that a client sent, or by its own hash (that of the canonical JSON). Big definitions are
compiled in a thread of their own, one at a time, so that nobody else waits for them; small ones at once. Bounded by number and by
size: the plan used longest ago is forgotten, and compiled again when it is needed again.
"""

import asyncio
import gc
import hashlib
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from mainspring import limits
from mainspring.definition import parse_definition
from mainspring.errors import BusyError
from mainspring_coordinator.engine.plan import Plan, compile_plan

_inline_bytes_max: Final = 64 * limits.KIB


@dataclass(slots=True, eq=False)
class _Kept:
    plan: Plan
    raw_hashes: list[bytes]


def compile_bytes(data: bytes) -> Plan:
    """Parse and compile the JSON of a definition; raises `DefinitionError` with every problem found."""
    return compile_plan(parse_definition(data, format="json"))


def _hash(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _compile_aside(data: bytes) -> Plan:
    """Compile in a thread, so that the loop goes on.

    A plan is many objects and no cycles. Looking for such among them would hold the loop for a third of a second, so nobody looks
    meanwhile, and afterwards they count as what stays, as the modules do.
    """
    gc.disable()
    try:
        return compile_bytes(data)
    finally:
        gc.freeze()
        gc.enable()


class PlanCache:
    """The plans in memory; belongs to the event loop."""

    def __init__(
        self, *, plans_max: int = limits.plans_in_memory_max, bytes_max: int = limits.definition_bytes_max * 2
    ) -> None:
        self._plans_max = plans_max
        self._bytes_max = bytes_max
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()
        self._by_raw: dict[bytes, bytes] = {}
        self._bytes = 0
        self._compiling: dict[bytes, asyncio.Future[Plan]] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="plans")

    def __len__(self) -> int:
        """Return how many plans are kept."""
        return len(self._kept)

    def get(self, plan_hash: bytes) -> Plan | None:
        """Return the plan of this hash, if it is in memory."""
        kept = self._kept.get(plan_hash)
        if kept is None:
            return None
        self._kept.move_to_end(plan_hash)
        return kept.plan

    def add(self, plan: Plan) -> Plan:
        """Keep a plan; return the one that was there already, if any, so that all share it."""
        return self._keep(plan, None)

    async def compile(self, data: bytes) -> Plan:
        """Return the plan of a definition's JSON as it was sent. Raises `DefinitionError`; `BusyError` when too many wait."""
        raw_hash = _hash(data) if len(data) <= _inline_bytes_max else await asyncio.to_thread(_hash, data)
        known = self._by_raw.get(raw_hash)
        if known is not None:
            plan = self.get(known)
            assert plan is not None, "a raw hash leaves together with its plan"
            return plan
        if len(data) <= _inline_bytes_max:
            return self._keep(compile_bytes(data), raw_hash)
        return await self._in_thread(raw_hash, data)

    def close(self) -> None:
        """Let the thread end."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _in_thread(self, raw_hash: bytes, data: bytes) -> Plan:
        # Everyone who brings the same bytes meanwhile waits for the one compilation.
        running = self._compiling.get(raw_hash)
        if running is None:
            if len(self._compiling) >= limits.compilations_waiting_max:
                raise BusyError(
                    f"{len(self._compiling)} big definitions wait to be compiled; try again", retry_after_ms=1_000
                )
            running = asyncio.get_running_loop().run_in_executor(self._thread, _compile_aside, data)
            self._compiling[raw_hash] = running
            running.add_done_callback(lambda done: self._compiled(raw_hash, done))
        # A caller who leaves must not stop it for the others.
        plan = await asyncio.shield(running)
        return self._keep(plan, raw_hash)

    def _compiled(self, raw_hash: bytes, done: "asyncio.Future[Plan]") -> None:
        del self._compiling[raw_hash]
        if not done.cancelled():
            done.exception()  # taken, so that asyncio does not report one whose callers have all left

    def _keep(self, plan: Plan, raw_hash: bytes | None) -> Plan:
        kept = self._kept.get(plan.hash)
        if kept is None:
            kept = self._kept[plan.hash] = _Kept(plan, [])
            self._bytes += len(plan.definition)
        self._kept.move_to_end(plan.hash)
        if raw_hash is not None and raw_hash not in self._by_raw:
            self._by_raw[raw_hash] = plan.hash
            kept.raw_hashes.append(raw_hash)
            if len(kept.raw_hashes) > limits.spellings_a_plan_max:
                del self._by_raw[kept.raw_hashes.pop(0)]
        while len(self._kept) > 1 and (len(self._kept) > self._plans_max or self._bytes > self._bytes_max):
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= len(oldest.plan.definition)
            for forgotten in oldest.raw_hashes:
                del self._by_raw[forgotten]
        return kept.plan
