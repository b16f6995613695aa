"""Mainspring: durable workflows for teams that already run MySQL.

This package is the language that clients, workers and coordinators share: nouns, ids, bounds, errors, the wire contract. Users meet
`Workflow`, which builds definitions, and `Affinity`, `Cache`, `Concurrency` and `Retry`.
"""

from mainspring.builder import Workflow
from mainspring.workflow import Affinity, Cache, Concurrency, Retry

__all__ = ["Affinity", "Cache", "Concurrency", "Retry", "Workflow"]
