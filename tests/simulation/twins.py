"""Two engines that are told the same must say the same: law 8, at every step."""

from typing import Any

from mainspring_coordinator.engine.config import EngineConfig
from mainspring_coordinator.engine.effects import Changed, Effect
from mainspring_coordinator.engine.events import Event
from mainspring_coordinator.engine.step import Engine
from tests.simulation.witness import Witness


class Twins:
    """An engine, beside which another one takes the same steps; what is asked of it besides is answered by the first."""

    def __init__(self, engine: Engine, config: EngineConfig, witness: Witness) -> None:
        """`engine` has not taken any step yet."""
        self._engine = engine
        self._other = Engine(config)
        self._witness = witness

    def step(self, event: Event, now_us: int) -> list[Effect]:
        """See `Engine`."""
        effects = self._engine.step(event, now_us)
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
