"""The schemas that the files of deploy/ are checked against, out of the folder of the user's cache that `.ci/schemas` has made."""

import json
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import jsonschema
import pytest
import yaml
from referencing import Registry
from referencing.jsonschema import DRAFT202012

kubernetes_oldest: Final = "1.29"
kubernetes_newest: Final = "1.37"
_folder: Final = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mainspring/schemas"


def compose_errors(document: Any) -> Sequence[str]:
    """Return what the Compose specification says against a file, one line an error."""
    return _errors(_validator(json.loads(_file("compose-spec.json").read_text())), document)


def kubernetes_errors(document: Any, version: str) -> Sequence[str]:
    """Return what the schemas of a Kubernetes version say against an object, unknown fields included, one line an error."""
    if document["apiVersion"].startswith("monitoring.coreos.com/"):
        return _errors(_validator(_service_monitor()), document)
    group, _, api = document["apiVersion"].rpartition("/")
    parts = [document["kind"].lower(), *([group.split(".")[0]] if group else []), api]
    folder = _file(f"kubernetes-{version}")
    try:
        schema = json.loads((folder / f"{'-'.join(parts)}.json").read_text())
    except FileNotFoundError:
        return [f"Kubernetes {version} has no {document['apiVersion']} {document['kind']}"]
    return _errors(_validator(schema, _kubernetes_definitions(folder)), document)


def _file(name: str) -> Path:
    """Return the path; skip the test where it is not there, or fail it where it must be, as in CI."""
    path = _folder / name
    if not path.exists():
        reason = f"no {name} in the cache; run .ci/schemas"
        if os.environ.get("MAINSPRING_TEST_SCHEMAS") == "required":
            pytest.fail(reason)
        pytest.skip(reason)
    return path


@cache
def _kubernetes_definitions(folder: Path) -> Registry[Any]:
    definitions = json.loads((folder / "_definitions.json").read_text())
    empty: Registry[Any] = Registry()
    filled: Registry[Any] = empty.with_resource("_definitions.json", DRAFT202012.create_resource(definitions)).crawl()
    return filled


@cache
def _service_monitor() -> Any:
    """Return the schema that the definition of the kind holds."""
    definition = yaml.safe_load(_file("servicemonitors.yaml").read_text())
    (version,) = definition["spec"]["versions"]
    schema = version["schema"]["openAPIV3Schema"]
    schema["properties"]["spec"] = _closed(schema["properties"]["spec"])
    return schema


def _closed(schema: Any) -> Any:
    """Return the schema without room for fields that it does not name, which a server would drop or refuse."""
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: _closed(part) for name, part in schema.items()}
    return (
        {"additionalProperties": False, **closed}
        if schema.get("type") == "object" and "properties" in schema
        else closed
    )


def _validator(schema: Any, registry: Registry[Any] | None = None) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(schema, registry=registry or Registry())


def _errors(validator: jsonschema.Draft202012Validator, document: Any) -> Sequence[str]:
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in validator.iter_errors(document)]
