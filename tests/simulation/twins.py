"""Two engines that are told the same must say the same: law 8, at every step."""

from typing import Any

from mainspring_coordinator.engine.config import EngineConfig
from mainspring_coordinator.engine.effects import Changed, Effect, Store
from mainspring_coordinator.engine.events import Event, WorkerAttached
from mainspring_coordinator.engine.rows import NodeChanged
from mainspring_coordinator.engine.status import NodeStatus
from mainspring_coordinator.engine.step import Engine
from tests.simulation.witness import Witness


class Twins:
    """An engine, beside which another one takes the same steps; what is asked of it besides is answered by the first."""

    def __init__(self, engine: Engine, config: EngineConfig, witness: Witness, incarnation: str) -> None:
        """`engine` has not taken any step yet; `incarnation` is that of its coordinator."""
        self._incarnation = incarnation
        self._engine = engine
        self._other = Engine(config)
        self._witness = witness

    def step(self, event: Event, now_us: int) -> list[Effect]:
        """See `Engine`."""
        # Of an act that goes on, what was so when it began is not known any more; and who attaches shows that one of its name is gone.
        known = self._engine.busy or isinstance(event, WorkerAttached)
        judges = known or any(worker.attached for worker in self._engine.state.workers.values())
        effects = self._engine.step(event, now_us)
        for effect in effects if not judges else ():
            row = effect.row if isinstance(effect, Store) else None
            if isinstance(row, NodeChanged) and row.status is NodeStatus.READY and row.redeliveries:
                self._witness.gave_up(self._incarnation, row)
        again = self._other.step(event, now_us)
        self._witness.hold(effects == again, 8, f"{event} leads to {effects}, and to {again}")
        return effects

    def cut(self) -> list[Changed]:
        """See `Engine`."""
        changes = self._engine.cut()
        again = self._other.cut()
        self._witness.hold(changes == again, 8, f"a cut says {changes}, and {again}")
        return changes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)
