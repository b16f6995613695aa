"""Between our errors and gRPC's statuses: both directions, in one place.

A status carries google.rpc details: ErrorInfo (domain "mainspring") with a stable reason, BadRequest with each problem,
RetryInfo with the time to try again, Help with where to read on. Details travel in HTTP/2 trailers, which may be
refused above 8 KiB, so all of it has a budget; what does not fit is counted in the message, never lost in silence.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn, TypeVar

import grpc
import grpc.aio
import orjson
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from mainspring.errors import (
    AlreadyExistsError,
    BadRequestError,
    BusyError,
    DeadlineError,
    DefinitionError,
    FencedError,
    MainspringError,
    NotAllowedError,
    NotFoundError,
    NotOwnerError,
    PreconditionError,
    Problem,
    SettingsError,
    StoreUnavailableError,
    UnauthenticatedError,
    UnavailableError,
)
from mainspring.limits import KIB
from mainspring.wire import clip

domain: Final = "mainspring"
retry_after_ms_default: Final = 200
message_bytes: Final = 1 * KIB
violations_bytes: Final = 3 * KIB

_details_key: Final = "grpc-status-details-bin"
_violation_field: Final = re.compile(r'nodes\[("(?:[^"\\]|\\.)*")\](?:\.(.*))?', re.DOTALL)
_Code = grpc.StatusCode
_M = TypeVar("_M", bound=Message)

_leaves: Final[tuple[tuple[type[MainspringError], grpc.StatusCode, str], ...]] = (
    # A leaf stands before the branch that it grows on: the first match wins.
    (DefinitionError, _Code.INVALID_ARGUMENT, "BAD_DEFINITION"),
    (BadRequestError, _Code.INVALID_ARGUMENT, "INVALID_ARGUMENT"),
    (NotFoundError, _Code.NOT_FOUND, "NOT_FOUND"),
    (AlreadyExistsError, _Code.ALREADY_EXISTS, "ALREADY_EXISTS"),
    (BusyError, _Code.RESOURCE_EXHAUSTED, "BUSY"),
    (NotOwnerError, _Code.UNAVAILABLE, "NOT_OWNER"),
    (FencedError, _Code.UNAVAILABLE, "NOT_OWNER"),
    (UnavailableError, _Code.UNAVAILABLE, "UNAVAILABLE"),
    (StoreUnavailableError, _Code.UNAVAILABLE, "STORE_UNAVAILABLE"),
    (UnauthenticatedError, _Code.UNAUTHENTICATED, "UNAUTHENTICATED"),
    (NotAllowedError, _Code.PERMISSION_DENIED, "PERMISSION_DENIED"),
    (DeadlineError, _Code.DEADLINE_EXCEEDED, "DEADLINE"),
    (PreconditionError, _Code.FAILED_PRECONDITION, "PRECONDITION"),
    (SettingsError, _Code.FAILED_PRECONDITION, "SETTINGS"),
    (MainspringError, _Code.INTERNAL, "INTERNAL"),
)
_plain: Final[Mapping[grpc.StatusCode, Callable[[str], MainspringError]]] = {
    _Code.NOT_FOUND: NotFoundError,
    _Code.ALREADY_EXISTS: AlreadyExistsError,
    _Code.UNAVAILABLE: UnavailableError,
    _Code.CANCELLED: lambda message: UnavailableError(f"the call was cut off: {message}"),
    _Code.UNAUTHENTICATED: UnauthenticatedError,
    _Code.PERMISSION_DENIED: NotAllowedError,
    _Code.DEADLINE_EXCEEDED: DeadlineError,
    _Code.FAILED_PRECONDITION: SettingsError,
    _Code.UNIMPLEMENTED: lambda message: MainspringError(
        f"the address answers, but knows no such call ({message}); check that a coordinator of this version is there"
    ),
}
_transport: Final = re.compile(r"RST_STREAM|GOAWAY|http2|HTTP status|Socket closed", re.IGNORECASE)
_codes_by_number: Final = {code.value[0]: code for code in _Code}


def code_and_reason(error: MainspringError) -> tuple[grpc.StatusCode, str]:
    """Return the status code and the stable reason (ErrorInfo) of an error."""
    for kind, code, reason in _leaves:
        if isinstance(error, kind):
            return code, error.reason if isinstance(error, BadRequestError) else reason
    raise AssertionError("the root is the last of the leaves")


def status_of(error: MainspringError, about: Mapping[str, str] | None = None) -> status_pb2.Status:
    """Return the google.rpc.Status that says what `error` says.

    `about` goes into ErrorInfo: the thing's name, such as {"workflow_id": ...}, or the epoch of NOT_OWNER.
    """
    code, reason = code_and_reason(error)
    message = str(error)
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=reason, domain=domain, metadata=dict(about or {}))]
    if isinstance(error, DefinitionError):
        request, told = _violations(error)
        details.append(request)
        message = f"the definition has {len(error.problems)} problem{'s' if len(error.problems) != 1 else ''}"
        if told < len(error.problems):
            message += f"; the first {told} follow, 'mainspring validate FILE' shows all"
        details.append(_help("every field of a definition, with its bounds", "docs/definition.md"))
    elif isinstance(error, BadRequestError) and error.field:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=clip(error.field, 256), description=clip(message, message_bytes), reason=reason
        )
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if isinstance(error, BusyError):
        details.append(_retry_info(error.retry_after_ms))
        details.append(_help("what bounds a coordinator's queues, and how to raise them", "docs/settings.md"))
    elif code in (_Code.UNAUTHENTICATED, _Code.PERMISSION_DENIED):
        details.append(_help("how callers get a role, and what each may do", "docs/security.md"))
    elif code is _Code.UNAVAILABLE:
        details.append(_retry_info(retry_after_ms_default))
    status = status_pb2.Status(code=code.value[0], message=clip(message, message_bytes))
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


async def abort_with(
    context: grpc.aio.ServicerContext[Any, Any], error: MainspringError, about: Mapping[str, str] | None = None
) -> NoReturn:
    """End a call of a grpc.aio server with the status of `error`."""
    status = status_of(error, about)
    await context.abort(_codes_by_number[status.code], status.message, ((_details_key, status.SerializeToString()),))


def error_from(rpc_error: grpc.aio.AioRpcError) -> MainspringError:
    """Return the error that the other side meant, or what its transport's failure means for us."""
    code = rpc_error.code()
    text = rpc_error.details() or code.name
    return error_of(code, text, _status_in(rpc_error))


def error_of(
    code: grpc.StatusCode | int, message: str, status: status_pb2.Status | None = None, *, reason: str = ""
) -> MainspringError:
    """Return the error for a status code.

    `status` holds its details; without it (an item of SubmitMany) `reason` says what ErrorInfo would.
    """
    if isinstance(code, int):
        code = _codes_by_number.get(code, _Code.UNKNOWN)
    info = _detail(status, error_details_pb2.ErrorInfo) if status is not None else None
    if info is not None and info.domain == domain:
        reason = info.reason
    if code is _Code.INVALID_ARGUMENT:
        return _bad_request(message, status, reason)
    if code is _Code.RESOURCE_EXHAUSTED:
        return _exhausted(message, status, reason)
    if code is _Code.UNAVAILABLE and reason == "NOT_OWNER":
        return NotOwnerError(message)
    if code is _Code.FAILED_PRECONDITION and reason == "PRECONDITION":
        return PreconditionError(message)
    if code in _plain:
        return _plain[code](message)
    if code in (_Code.INTERNAL, _Code.UNKNOWN) and not reason and _transport.search(message):
        # A proxy or a peer reset the stream (RELIABILITY 2.5): the connection's failure, not the call's.
        return UnavailableError(f"the connection broke: {message}")
    return MainspringError(f"{code.name}: {message}")


def is_ours(rpc_error: grpc.aio.AioRpcError) -> bool:
    """Tell whether a coordinator said so, and not the transport on the way to it."""
    return _status_in(rpc_error) is not None


def retry_after_ms(error: grpc.aio.AioRpcError | status_pb2.Status | None) -> int | None:
    """Return the milliseconds of RetryInfo; None when the other side gave none."""
    status = _status_in(error) if isinstance(error, grpc.aio.AioRpcError) else error
    info = _detail(status, error_details_pb2.RetryInfo) if status is not None else None
    return None if info is None else max(0, info.retry_delay.ToMilliseconds())


def _violations(error: DefinitionError) -> tuple[error_details_pb2.BadRequest, int]:
    request = error_details_pb2.BadRequest()
    size = 0
    for problem in error.problems:
        field = problem.field
        if problem.node_id:
            node = f"nodes[{orjson.dumps(clip(problem.node_id, 128)).decode()}]"
            field = f"{node}.{field}" if field else node
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=clip(field, 512), description=clip(problem.message, message_bytes), reason=problem.reason
        )
        size += violation.ByteSize()
        if size > violations_bytes and request.field_violations:
            break
        request.field_violations.append(violation)
    return request, len(request.field_violations)


def _exhausted(message: str, status: status_pb2.Status | None, reason: str) -> MainspringError:
    after_ms = retry_after_ms(status)
    if after_ms is None and reason != "BUSY":
        # gRPC's own word for a message over its bound: trying again would not help.
        return BadRequestError(f"{message}; make the request smaller", reason="MESSAGE_TOO_LARGE")
    return BusyError(message, retry_after_ms=retry_after_ms_default if after_ms is None else after_ms)


def _bad_request(message: str, status: status_pb2.Status | None, reason: str) -> MainspringError:
    request = _detail(status, error_details_pb2.BadRequest) if status is not None else None
    violations = list(request.field_violations) if request is not None else []
    if reason != "BAD_DEFINITION":
        field = violations[0].field if violations else ""
        return BadRequestError(message, field=field, reason=reason or "INVALID_ARGUMENT")
    problems: list[Problem] = []
    for violation in violations:
        matched = _violation_field.fullmatch(violation.field)
        node, field = (orjson.loads(matched[1]), matched[2] or "") if matched else ("", violation.field)
        problems.append(Problem(violation.reason, violation.description, node, field))
    if not problems or "the first " in message:
        problems.append(Problem("BAD_DEFINITION", message))
    return DefinitionError(problems)


def _retry_info(after_ms: int) -> error_details_pb2.RetryInfo:
    delay = duration_pb2.Duration()
    delay.FromMilliseconds(after_ms)
    return error_details_pb2.RetryInfo(retry_delay=delay)


def _help(description: str, url: str) -> error_details_pb2.Help:
    return error_details_pb2.Help(links=[error_details_pb2.Help.Link(description=description, url=url)])


def _status_in(rpc_error: grpc.aio.AioRpcError) -> status_pb2.Status | None:
    for key, value in rpc_error.trailing_metadata() or ():
        if key == _details_key and isinstance(value, bytes):
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                return None  # a proxy's invention; the code and the message still stand
    return None


def _detail(status: status_pb2.Status, kind: type[_M]) -> _M | None:
    for packed in status.details:
        detail = kind()
        if packed.Unpack(detail):
            return detail
    return None
