"""Who a worker is, and how it behaves."""

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mainspring.access import Access, plain
from mainspring.dial import Keepalive
from mainspring.limits import drain_ms_default


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """Times are milliseconds."""

    name: str
    """Unique in the cluster; people see it."""
    addresses: Sequence[str]
    """Coordinators, or a balancer before them, "host:port"; for the first contact."""
    slots: int = 50
    """How many attempts run at once."""
    workflows_max: int = 10
    """Of how many different workflows it may have live nodes at once."""
    host: str = field(default_factory=socket.gethostname)
    zone: str = ""
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    cluster: str = ""
    """The cluster's name; empty: whichever answers."""
    heartbeat_interval_ms: int = 30_000
    failure_detection_timeout_ms: int = 90_000
    load_report_interval_ms: int = 2_000
    drain_ms: int = drain_ms_default
    """How long what runs may go on when the worker is told to stop."""
    keepalive: Keepalive = field(default_factory=Keepalive)
    access: Access = plain
    """How coordinators are reached: by TLS, with a token."""
    modules: Sequence[str] = ()
    """What registers the executors; processes of `process=True` executors import them. Empty: the modules that define those."""
    processes: int = 0
    """How many such processes there may be; 0: as many as slots."""
    http_port: int = 0
    """Where its probes are served, as it tells the cluster; 0: nowhere."""
