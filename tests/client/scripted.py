"""A real gRPC server in the test's process whose answers are written down beforehand."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import grpc
import grpc.aio
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from mainspring.dial import Options, server_options
from mainspring.errors import MainspringError
from mainspring.rpc_errors import abort_with
from mainspring.v1 import admin_pb2, client_pb2

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Step: TypeAlias = "Message | MainspringError | grpc.StatusCode | Callable[[Any], Any] | Sequence[Step]"
"""What one call meets: an answer, an error, a bare status code, a function of the request that gives a step
(or awaits one); for streams a sequence of them."""


class Scripted:
    """Answers each call with the next step of its method; the last step stays for all further calls."""

    def __init__(self, script: Mapping[str, Sequence[Step]]) -> None:
        self.script = script
        self.requests: dict[str, list[Any]] = {}
        """What was asked, by method; a client's stream is a list of its messages."""
        self.deadlines: list[float] = []
        """How many seconds each call was given."""

    def next_step(self, method: str, request: object, context: Context) -> Step:
        asked = self.requests.setdefault(method, [])
        asked.append(request)
        self.deadlines.append(context.time_remaining())
        steps = self.script.get(method, [grpc.StatusCode.UNIMPLEMENTED])
        return steps[min(len(asked), len(steps)) - 1]

    async def play(self, step: Any, request: object, context: Context) -> Any:
        while callable(step):
            step = step(request)
            if isinstance(step, Awaitable):
                step = await step
        if isinstance(step, MainspringError):
            await abort_with(context, step)
        if isinstance(step, grpc.StatusCode):
            await context.abort(step, f"scripted {step.name}")
        return step

    def handler(self, method: MethodDescriptor) -> "grpc.RpcMethodHandler[Any, Any]":
        read = GetMessageClass(method.input_type).FromString
        write = GetMessageClass(method.output_type).SerializeToString

        async def one(request: Any, context: Context) -> Any:
            return await self.play(self.next_step(method.name, request, context), request, context)

        async def from_stream(requests: AsyncIterator[Any], context: Context) -> Any:
            return await one([part async for part in requests], context)

        async def many(request: Any, context: Context) -> AsyncIterator[Any]:
            steps = self.next_step(method.name, request, context)
            for step in steps if isinstance(steps, list) else [steps]:
                yield await self.play(step, request, context)

        kinds: dict[tuple[bool, bool], tuple[Any, Any]] = {
            (False, False): (grpc.unary_unary_rpc_method_handler, one),
            (True, False): (grpc.stream_unary_rpc_method_handler, from_stream),
            (False, True): (grpc.unary_stream_rpc_method_handler, many),
        }
        make, behaviour = kinds[method.client_streaming, method.server_streaming]
        return make(behaviour, read, write)  # type: ignore[no-any-return]  # pyright: ignore  (one of three factories)


@asynccontextmanager
async def serving_with(
    options: Options, script: Mapping[str, Sequence[Step]], address: str = "127.0.0.1:0"
) -> AsyncIterator[tuple[Scripted, str]]:
    """Serve a script with a server's options; give the service and its address."""
    server = grpc.aio.server(options=options)
    scripted = Scripted(script)
    for file, name in ((client_pb2, "WorkflowsService"), (admin_pb2, "AdminService")):
        service = file.DESCRIPTOR.services_by_name[name]
        handlers = {method.name: scripted.handler(method) for method in service.methods}
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service.full_name, handlers)])
    port = server.add_insecure_port(address)
    await server.start()
    try:
        yield scripted, f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


@asynccontextmanager
async def serving(address: str = "127.0.0.1:0", **script: Sequence[Step]) -> AsyncIterator[tuple[Scripted, str]]:
    """Serve a script, {method: steps}, as a coordinator would; give the service and its address."""
    async with serving_with(server_options(), script, address) as served:
        yield served
