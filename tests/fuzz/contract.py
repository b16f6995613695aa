"""Every method that a coordinator serves, read from the contract's descriptors: what is new there is in the fuzz by itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import Message
from grpc_health.v1 import health
from grpc_reflection.v1alpha import reflection

from mainspring_coordinator.auth.methods import name_of, open_methods, roles_by_method
from mainspring_coordinator.services import service_names

attach: Final = "/mainspring.v1.FleetService/Attach"
waits: Final = frozenset({"GetResult", "WaitMany", "Watch", "Attach"})
"""Methods that answer when something has happened, which may be never: a caller gives them up after a moment."""


@dataclass(frozen=True, slots=True)
class Method:
    """One method of one service."""

    path: str
    request: Any
    """The descriptor of what is sent."""
    client_streaming: bool
    server_streaming: bool

    @property
    def name(self) -> str:
        """As people know it, such as "WorkflowsService.Submit"."""
        return name_of(self.path)

    @property
    def waits(self) -> bool:
        """Whether no answer in time is an answer."""
        return self.path.rpartition("/")[2] in waits

    def may(self, role: str) -> bool:
        """Tell whether a role may call it."""
        return self.path in open_methods or role in roles_by_method.get(self.path, frozenset())

    @property
    def open(self) -> bool:
        """Whether anybody may call it."""
        return self.path in open_methods


def methods() -> Sequence[Method]:
    """Return all methods, by service and name."""
    pool = descriptor_pool.Default()
    found = [
        Method(f"/{service}/{method.name}", method.input_type, method.client_streaming, method.server_streaming)
        for service in (*service_names, health.SERVICE_NAME, reflection.SERVICE_NAME)
        for method in pool.FindServiceByName(service).methods
    ]
    return sorted(found, key=lambda method: method.path)


def new(descriptor: Any) -> Message:
    """Return an empty message."""
    return message_factory.GetMessageClass(descriptor)()
