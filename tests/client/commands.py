"""Run commands within the tests' process, against a scripted cluster."""

from typing import Any

from typer.testing import CliRunner, Result

from mainspring.v1 import workflow_pb2
from mainspring_client.cli.program import app
from tests.client.conftest import Served

FAILURE = workflow_pb2.Failure(
    type="ValueError", message="no such year", node_id="fetch", stack='File "tasks.py", line 3'
)


def run(*arguments: str, text: str | None = None) -> Result:
    return CliRunner().invoke(app, list(arguments), input=text)


def asked(served: Served, *arguments: str, **script: Any) -> Result:
    with served(**script) as (_, address):
        return run("--address", address, *arguments)
