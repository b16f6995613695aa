"""The client of Mainspring: `Client` (asynchronous), `SyncClient` (the same for plain code), and what they return."""

from mainspring.failovers import Failover
from mainspring_client.client import Client
from mainspring_client.handle import Handle
from mainspring_client.nouns import (
    AttemptInfo,
    CoordinatorInfo,
    CoordinatorStrategy,
    Explanation,
    HistoryEvent,
    NodeDetail,
    NodeExplanation,
    NodeInfo,
    NodeStatus,
    Result,
    ShardInfo,
    StrategyChange,
    StrategyInfo,
    Submission,
    WatchUpdate,
    WorkerInfo,
    WorkersExplanation,
    WorkflowFilter,
    WorkflowInfo,
    WorkflowStatus,
)
from mainspring_client.sync import SyncClient, SyncHandle

__all__ = [
    "AttemptInfo",
    "Client",
    "CoordinatorInfo",
    "CoordinatorStrategy",
    "Explanation",
    "Failover",
    "Handle",
    "HistoryEvent",
    "NodeDetail",
    "NodeExplanation",
    "NodeInfo",
    "NodeStatus",
    "Result",
    "ShardInfo",
    "StrategyChange",
    "StrategyInfo",
    "Submission",
    "SyncClient",
    "SyncHandle",
    "WatchUpdate",
    "WorkerInfo",
    "WorkersExplanation",
    "WorkflowFilter",
    "WorkflowInfo",
    "WorkflowStatus",
]
