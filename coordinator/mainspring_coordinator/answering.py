"""How every handler of a service ends: with an answer, with an error that names the thing, or with an incident that is logged.

Nothing is swallowed. An exception that is none of ours is a bug: the caller gets INTERNAL with the incident's id, the log has the same
id and the stack. The status of a forwarded call is passed on as the owner gave it.
"""

import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from functools import wraps
from typing import Any, Final, NoReturn, TypeVar, cast

import grpc
import grpc.aio
import structlog

from mainspring.errors import MainspringError
from mainspring.rpc_errors import abort_with, code_and_reason

_Handler = TypeVar("_Handler", bound=Callable[..., Awaitable[Any]])
_StreamHandler = TypeVar("_StreamHandler", bound=Callable[..., AsyncGenerator[Any, None]])
_log: Final = structlog.get_logger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]


def answers(handler: _Handler) -> _Handler:
    """Turn what a handler with one answer raises into a status."""

    @wraps(handler)
    async def answered(service: object, request: object, context: Context) -> object:
        try:
            return await handler(service, request, context)
        except grpc.aio.AbortError:
            raise
        except Exception as error:
            await _end(context, error, handler.__name__, request)

    return cast("_Handler", answered)


def streams(handler: _StreamHandler) -> _StreamHandler:
    """Turn what a handler with a stream of answers raises into a status."""

    @wraps(handler)
    async def streamed(service: object, request: object, context: Context) -> AsyncIterator[object]:
        try:
            async with aclosing(handler(service, request, context)) as answers_of:
                async for answer in answers_of:
                    yield answer
        except grpc.aio.AbortError:
            raise
        except Exception as error:
            await _end(context, error, handler.__name__, request)

    return cast("_StreamHandler", streamed)


async def _end(context: Context, error: Exception, name: str, request: object) -> NoReturn:
    workflow_id = getattr(request, "workflow_id", "")
    about = {"workflow_id": workflow_id} if workflow_id else None
    if isinstance(error, grpc.aio.AioRpcError):
        # The owner's answer to a forwarded call, passed on as it is.
        await context.abort(error.code(), error.details() or "", tuple(error.trailing_metadata() or ()))
    if isinstance(error, MainspringError) and code_and_reason(error)[0] is not grpc.StatusCode.INTERNAL:
        await abort_with(context, error, about)
    await abort_with(context, incident(error, name), about)


def incident(error: BaseException, name: str) -> MainspringError:
    """Log an exception that is a bug of ours, and return what its caller is told."""
    incident_id = secrets.token_hex(6)
    _log.error("a handler failed", incident=incident_id, handler=name, exc_info=error)
    return MainspringError(
        f"{name} failed by a fault of the coordinator, not of the call; "
        f"the coordinator's log has the cause under incident {incident_id}"
    )
