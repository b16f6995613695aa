"""What the engine needs to know of the settings; a value, so that the engine reads none itself."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from mainspring import limits
from mainspring.rates import Rate


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Times are microseconds."""

    max_retries: int = 3
    """Retries after the first attempt, for nodes that set no number of attempts."""
    stream_grace_us: int = 2_000_000
    """How long a worker whose stream dropped may attach again and keep its work."""
    cancel_grace_us: int = limits.cancel_grace_ms * 1_000
    """After this a node that is being cancelled counts as CANCELLED, whatever its worker does."""
    timeout_slack_us: int = 2_000_000
    """A worker ends an attempt itself when its time is over; the engine does it this much later, should the worker not."""
    strategy: str = "load-balanced"
    """How a worker is chosen; `dynamic` stands for what the owner of shard 0 has chosen."""
    cpu_weight: float = 0.3
    """Share of the worker's cpu in its load."""
    memory_weight: float = 0.3
    """Share of the worker's memory in its load."""
    workflow_weight: float = 0.4
    """Share of the worker's assignments in its load."""
    priority_ageing_us: int = 30_000_000
    """What waits rises by one level of priority each time that nothing of its priority was assigned for so long."""
    locality_wait_us: int = 200_000
    """How long a node waits for a worker near its inputs while another one has room; 0: not at all."""
    instance: str = ""
    """Our own name, ENGINE_INSTANCE_ID."""
    failover: bool = True
    """Off: the work of a lost worker waits for a worker of the same name."""
    rates: Mapping[str, Rate] = field(default_factory=dict[str, Rate])
    """By executor: how often attempts may be started in the whole cluster, of which each coordinator has its share."""
    open_workflows_a_shard: int = limits.open_workflows_a_shard_max
    """How many unfinished workflows a shard takes; whoever submits more is told to come back."""
    step_nodes: int = limits.step_nodes_max
    """How many nodes a step of a long act takes on; the rest is left to the steps that follow."""
    results_in_database: bool = True
    """The result cache is a table, written with what led to it; off: it is elsewhere, and is told of outputs once they are committed."""
    payload_cache_bytes: int = limits.payload_cache_bytes_max
    """How many bytes of outputs are kept in memory for nodes that still need them."""
