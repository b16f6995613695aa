"""Who calls: names and roles, how both are written into the metadata of a call that is sent on, and why a call is not let in."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from urllib.parse import quote, unquote

from mainspring.limits import name_bytes_max


class Role(StrEnum):
    """What a caller may do; docs/security.md has the table."""

    CLIENT = "client"
    """Submit, read and cancel workflows."""
    WORKER = "worker"
    """Attach as a worker."""
    READ_ONLY = "read-only"
    """Read workflows and the cluster, and `/metrics`."""
    ADMIN = "admin"
    """Everything but what coordinators are to each other."""
    COORDINATOR = "coordinator"
    """Speak as a coordinator of the cluster to the others, and send on what their callers may."""


class Refusal(StrEnum):
    """Why a call is not let in; docs/metrics.md has the table."""

    UNAUTHENTICATED = "unauthenticated"
    """No token, or one that does not count."""
    FORBIDDEN = "forbidden"
    """A role that may not call the method."""
    RATE = "rate"
    """More calls than MAX_CALL_RATE."""
    CONNECTIONS = "connections"
    """Too many connections of one host."""
    UNREADABLE = "unreadable"
    """A message that is none of the contract's."""


@dataclass(frozen=True, slots=True)
class Caller:
    """One who calls."""

    name: str
    """As AUTH_TOKENS, or the claim `sub` of a JWT, has it."""
    role: Role


anonymous: Final = Caller("anonymous", Role.ADMIN)
"""Everybody, where there is no authentication."""
forwarded_key: Final = "x-mainspring-forwarded"
"""In the metadata of a call that a coordinator sends on to the owner of its shard."""
caller_key: Final = "x-mainspring-caller"
"""In the metadata of a call that a coordinator sends on: for whom."""
_text_characters_max: Final = 3 * name_bytes_max + 16


def to_text(caller: Caller) -> str:
    """Write a caller as "role name", in ASCII."""
    return f"{caller.role} {quote(caller.name, safe='')}"


def from_text(text: str) -> Caller | None:
    """Read it; None when it is none."""
    role, space, name = text.partition(" ")
    if len(text) > _text_characters_max or not space or not name or role not in set(Role):
        return None
    return Caller(unquote(name), Role(role))
