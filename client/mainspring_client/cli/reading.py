"""Files and arguments that a command reads."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

import orjson

from mainspring.definition import parse_definition
from mainspring.errors import BadRequestError, DefinitionError
from mainspring.limits import definition_bytes_max
from mainspring.workflow import Definition, Json

_instance_label: Final = re.compile(r"(.+)\[(\d{1,9})\]", re.ASCII)
"""The ids of nodes hold no brackets."""


def read_definition(file: Path) -> Definition:
    """Read a definition by the suffix of its file; standard input ("-") is YAML, of which JSON is a part."""
    known = _format_of(file)
    return parse_definition(_read(file), format=known)


@contextmanager
def naming(file: Path) -> Iterator[None]:
    """Name the file with each problem of its definition, whoever finds it."""
    try:
        yield
    except DefinitionError as error:
        raise DefinitionError(error.problems, str(file)) from error


def read_json(text: str, option: str) -> Json:
    """Read the JSON of an option, or of the file that it names with an @."""
    data = _read(Path(text[1:])) if text.startswith("@") else text.encode("utf-8", "surrogateescape")
    try:
        return orjson.loads(data)  # type: ignore[no-any-return]  # any JSON value is one
    except orjson.JSONDecodeError as error:
        raise BadRequestError(
            f"{option}: not JSON: {error}; quote it for the shell, or name a file with @", field=option
        ) from error


def read_node(text: str, instance: int) -> tuple[str, int]:
    """Split "node[7]", as commands print an instance of a `map` node, into the node's id and the instance's index.

    `instance` is what an option says, -1 for nothing.
    """
    written = _instance_label.fullmatch(text)
    if written is None:
        return text, instance
    node_id, index = written[1], int(written[2])
    if instance not in (-1, index):
        raise BadRequestError(f"{text}: names instance {index}, --instance {instance}; leave one out", field="NODE")
    return node_id, index


def _format_of(file: Path) -> Literal["json", "yaml"]:
    if file.suffix == ".json":
        return "json"
    if file.suffix in (".yaml", ".yml") or str(file) == "-":
        return "yaml"
    raise BadRequestError(f"{file}: a definition's file ends in .yaml, .yml or .json", field="FILE")


def _read(file: Path) -> bytes:
    try:
        data = sys.stdin.buffer.read(definition_bytes_max + 1) if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise BadRequestError(f"{file}: {error.strerror}", field="FILE") from error
    if len(data) > definition_bytes_max:
        raise BadRequestError(
            f"{file}: over the bound of {definition_bytes_max} bytes; split the workflow", field="FILE"
        )
    return data
