"""How a worker is chosen among those that can run a node: first filter, then rank. Strategies are small, pure and stateless.

`pool` keeps the workers in the orders that the strategies ask for; `strategies` are the ways to rank; `engine.choices` is what they see.
"""

from mainspring_coordinator.engine.placement.base import Choices, Strategy, Wait
from mainspring_coordinator.engine.placement.pool import Pool
from mainspring_coordinator.engine.placement.strategies import strategies, strategy_names

__all__ = ["Choices", "Pool", "Strategy", "Wait", "strategies", "strategy_names"]
