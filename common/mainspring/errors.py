"""What can go wrong, and whose fault it is.

    MainspringError
    ├── DefinitionError          the definition cannot run; `problems` names each node and reason
    ├── BadRequestError          an argument is out of its bounds or malformed
    ├── NotFoundError            no such workflow or node
    ├── AlreadyExistsError       the id is taken by another definition or input
    ├── WorkflowFailedError      the workflow ended as FAILED; `failure` says why
    ├── WorkflowCancelledError   the workflow ended as CANCELLED
    ├── BusyError                a queue is full; try again after `retry_after_ms`
    ├── UnavailableError         no coordinator could take the call in time; its outcome may be unknown
    │   └── NotOwnerError            another coordinator owns the shard; ask it
    ├── UnauthenticatedError     it is not known who calls: no token, or none that counts
    ├── NotAllowedError          it is known who calls, and its role may not do this
    ├── DeadlineError            the caller's own deadline passed
    ├── SettingsError            a setting is unknown, malformed or does not fit another
    └── StoreError               the database
        ├── StoreUnavailableError    unreachable, restarting, read-only, full
        │   └── RowLockedError           somebody else's transaction holds the row
        ├── SchemaError              the schema's version is not the one this build needs
        ├── FencedError              a shard's epoch moved on: its owner is someone else
        └── PoisonBatchError         the database refuses a workflow's rows as such; all others can be written

Any other exception is a bug. Every message names the thing and the next step.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


class MainspringError(Exception):
    """The root of all errors that Mainspring raises by intent."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a definition."""

    reason: str
    """A stable name, for example "CYCLE" or "UNKNOWN_DEPENDENCY"."""
    message: str
    """What is wrong and what to do, in words."""
    node_id: str = ""
    """The node, empty when it is the definition as a whole."""
    field: str = ""
    """The field within the node or the definition, for example "input.calendar"."""

    def __str__(self) -> str:
        where = f"node {self.node_id!r}" if self.node_id else "definition"
        return f"{where}{f', {self.field}' if self.field else ''}: {self.message}"


class DefinitionError(MainspringError):
    """A definition cannot run; every problem found is in `problems`."""

    def __init__(self, problems: Sequence[Problem], source: str = "") -> None:
        """`source`: the file of the definition, to be named with each problem."""
        self.problems = tuple(problems)
        named = f"{source}: " if source else ""
        super().__init__("\n".join(f"{named}{problem}" for problem in self.problems))


class BadRequestError(MainspringError):
    """An argument is out of its bounds or malformed."""

    def __init__(self, message: str, *, field: str = "", reason: str = "INVALID_ARGUMENT") -> None:
        self.field = field
        self.reason = reason
        super().__init__(message)


class NotFoundError(MainspringError):
    """There is no such workflow or node."""


class AlreadyExistsError(MainspringError):
    """The workflow id is taken by a workflow with another definition or input."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt, a node or a workflow did not succeed; plain data, never raised again as its original class."""

    type: str
    """The error's type, at most 200 bytes."""
    message: str
    """What went wrong, at most 4 KiB."""
    stack: str = ""
    """The executor's stack trace, at most 32 KiB."""
    non_retryable: bool = False
    """No retry may follow."""
    node_id: str = ""
    """For a workflow's failure: the node that caused it."""


class WorkflowFailedError(MainspringError):
    """The workflow ended as FAILED."""

    def __init__(self, workflow_id: str, failure: Failure, instance: int = -1) -> None:
        """`instance`: of the `map` node that caused it, where that is known."""
        self.workflow_id = workflow_id
        self.failure = failure
        label = failure.node_id if instance < 0 else f"{failure.node_id}[{instance}]"
        where = f" at node {label!r}" if label else ""
        node = f" {shlex.quote(label)}" if label else ""
        super().__init__(
            f"workflow {workflow_id!r} failed{where}: {failure.type}: {failure.message}\n"
            f"look closer with: mainspring get {workflow_id}{node}"
        )


class WorkflowCancelledError(MainspringError):
    """The workflow ended as CANCELLED."""


class BusyError(MainspringError):
    """A queue is full; nothing was accepted."""

    def __init__(self, message: str, *, retry_after_ms: int) -> None:
        self.retry_after_ms = retry_after_ms
        super().__init__(message)


class UnavailableError(MainspringError):
    """No coordinator could take the call in time; whether it took effect may be unknown."""


class NotOwnerError(UnavailableError):
    """Another coordinator owns the workflow's shard, or nobody does at the moment; nothing was done here."""


class UnauthenticatedError(MainspringError):
    """It is not known who calls: there is no token, or it is unknown, malformed or expired."""


class NotAllowedError(MainspringError):
    """The caller's role may not do this."""


class DeadlineError(MainspringError):
    """The deadline that the caller set has passed."""


class PreconditionError(MainspringError):
    """The cluster is not as it must be for what was asked; nothing was done."""


class SettingsError(MainspringError):
    """A setting is unknown, malformed or does not fit another."""


class StoreError(MainspringError):
    """The database failed us."""


class StoreUnavailableError(StoreError):
    """The database is unreachable, restarting, read-only or full; the same act may succeed later."""


class RowLockedError(StoreUnavailableError):
    """A transaction of somebody else holds the row, and did not end while we waited; nothing was changed."""


class SchemaError(StoreError):
    """The schema's revision is not the one that this build needs."""


class FencedError(StoreError):
    """A shard's epoch moved on: someone else owns it now."""

    def __init__(self, lost: Mapping[int, int]) -> None:
        self.lost = dict(lost)
        super().__init__("lost shards " + ", ".join(f"{s} (now at epoch {e})" for s, e in sorted(self.lost.items())))


class PoisonBatchError(StoreError):
    """The database refuses the rows of one workflow, whenever they come; nothing of their batch was written."""

    def __init__(self, workflow_id: str, reason: str) -> None:
        self.workflow_id = workflow_id
        """Empty when rows that belong to no workflow are refused."""
        self.reason = reason
        super().__init__(
            f"the database refuses rows of {f'workflow {workflow_id!r}' if workflow_id else 'no workflow'}: {reason}"
        )
