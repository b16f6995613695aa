"""Lets a process speak the contract as another version would: all that it sends and hears is altered at the edge of gRPC.

The version before is not there to be run, so it is this code, kept from what the contract had not then.
"""

import importlib.metadata
from typing import Any, Final

import grpc._utilities
import grpc.aio._channel

from tests.contract.frozen import Alter, with_news, without_news

run_as_older: Final = """
import os, runpy, sys
sys.path.insert(0, os.getcwd())
from tests.contract.skewed import be_older
be_older("v0", "0.0.9")
module, sys.argv = sys.argv[1], sys.argv[1:]
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""
"""Runs the module that is its first argument as the version before."""
run_as_later: Final = run_as_older.replace("be_older", "be_later").replace('("v0", "0.0.9")', '("9.9.9")')
"""Runs it as the version after, whose messages have fields of which this one knows nothing."""


def be_older(contract: str, version: str) -> None:
    """Speak a frozen contract, and say that this is another version."""
    _speak(lambda name, data: without_news(contract, name, data), version)


def be_later(version: str) -> None:
    """Send what this version does not know, and say that this is another version."""
    _speak(with_news, version)


def _speak(alter: Alter, version: str) -> None:
    own = importlib.metadata.version
    importlib.metadata.version = lambda name: version if name == "mainspring" else own(name)  # type: ignore[assignment]
    of_handlers, of_calls = grpc._utilities.RpcMethodHandler, grpc.aio._channel._BaseMultiCallable
    begin = of_calls.__init__

    def handler(streams: bool, streamed: bool, read: Any, write: Any, *behaviours: Any) -> Any:
        return of_handlers(streams, streamed, _reading(alter, read), _writing(alter, write), *behaviours)

    def begun(self: Any, *arguments: Any, **more: Any) -> None:
        begin(self, *arguments, **more)
        self._request_serializer = _writing(alter, self._request_serializer)
        self._response_deserializer = _reading(alter, self._response_deserializer)

    grpc._utilities.RpcMethodHandler = handler  # type: ignore[misc, assignment]
    of_calls.__init__ = begun  # type: ignore[method-assign]


def _writing(alter: Alter, write: Any) -> Any:
    if write is None:
        return None
    return lambda message: alter(message.DESCRIPTOR.full_name, write(message))


def _reading(alter: Alter, read: Any) -> Any:
    kind: Any = getattr(read, "__self__", None)
    # What is none of these wraps one that was altered before.
    return (lambda data: read(alter(kind.DESCRIPTOR.full_name, data))) if hasattr(kind, "DESCRIPTOR") else read
