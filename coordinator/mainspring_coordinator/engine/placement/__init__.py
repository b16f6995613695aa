"""How a worker is chosen among those that can run a node: first filter, then rank. Strategies are small, pure and stateless."""

from mainspring_coordinator.engine.placement.base import Candidate, Strategy
from mainspring_coordinator.engine.placement.strategies import strategy_names, strategy_of

__all__ = ["Candidate", "Strategy", "strategy_names", "strategy_of"]
