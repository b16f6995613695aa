"""The table: every method of every service, and the roles that may call it. What is not here, nobody may call.

docs/security.md shows it; a test holds both equal, and the table to the contract.
"""

from collections.abc import Mapping
from typing import Final, TypeAlias

from mainspring.callers import Role

Roles: TypeAlias = frozenset[Role]
_admin: Final = frozenset({Role.ADMIN})
_acts: Final = _admin | {Role.CLIENT}
_reads: Final = _acts | {Role.READ_ONLY}
_looks: Final = _admin | {Role.READ_ONLY}
_coordinators: Final = frozenset({Role.COORDINATOR})
"""An admin is none of them: what operators do is on record as the coordinators saw it."""
_all: Final = frozenset(Role)

_workflows: Final = {
    "Submit": _acts,
    "SubmitMany": _acts,
    "SubmitStream": _acts,
    "Get": _reads,
    "ListNodes": _reads,
    "GetNode": _reads,
    "Explain": _reads,
    "GetHistory": _reads,
    "GetResult": _reads,
    "WaitMany": _reads,
    "List": _reads,
    "Watch": _reads,
    "Cancel": _acts,
}
_cluster: Final = {
    "GetCluster": _reads,
    "ListCoordinators": _looks,
    "ListShards": _looks,
    "ListWorkers": _looks,
    "ListFailovers": _looks,
    "ListAffected": _looks,
    "GetStrategy": _looks,
    "SetStrategy": _admin,
    "ListStrategyChanges": _looks,
    "CancelWorkflows": _admin,
    "StepDown": _admin,
    "DrainWorker": _admin,
    "UndrainWorker": _admin,
    "EvictWorker": _admin,
    "ReleaseInstance": _admin,
    "ListAudit": _looks,
    "PauseDispatch": _admin,
    "ResumeDispatch": _admin,
    "ListPauses": _looks,
    "RetryNode": _admin,
    "SkipNode": _admin,
    "CompleteNode": _admin,
    "RerunWorkflow": _admin,
}
roles_by_method: Final[Mapping[str, Roles]] = {
    **{f"/mainspring.v1.WorkflowsService/{name}": roles for name, roles in _workflows.items()},
    **{f"/mainspring.v1.AdminService/{name}": roles for name, roles in _cluster.items()},
    "/mainspring.v1.FleetService/Attach": _admin | {Role.WORKER},
    "/mainspring.v1.PeersService/PassPermits": _coordinators,
    "/mainspring.v1.PeersService/WriteAudit": _coordinators,
    "/mainspring.v1.PeersService/SeePauses": _coordinators,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": _all,
}
open_methods: Final = frozenset({"/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"})
"""Anybody may call these, as `/health`: balancers and probes have no token."""


def name_of(method: str) -> str:
    """Return a method's name as people know it, such as "WorkflowsService.Submit"."""
    service, _, name = method.rpartition("/")
    return f"{service.rpartition('.')[2]}.{name}"
