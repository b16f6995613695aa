"""The contract as earlier versions speak it, frozen as descriptors: what has become of it since, and messages of that version.

`python -m tests.contract.frozen v1` freezes the contract of now; do so with a release.
"""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

from google.protobuf import descriptor_pool, json_format, message_factory
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)
from google.protobuf.message import Message

from mainspring.v1 import admin_pb2, client_pb2, peers_pb2, worker_pb2, workflow_pb2

folder: Final = Path(__file__).parent
_files: Final = (workflow_pb2, client_pb2, worker_pb2, admin_pb2, peers_pb2)
_package: Final = "mainspring.v1"


def now() -> FileDescriptorSet:
    """Return the contract of this version."""
    described = FileDescriptorSet()
    for module in _files:
        module.DESCRIPTOR.CopyToProto(described.file.add())
    return described


def frozen(version: str) -> FileDescriptorSet:
    """Return the contract of an earlier one."""
    return json_format.Parse((folder / f"{version}.json").read_text(), FileDescriptorSet())


def versions() -> Sequence[str]:
    """Return all that were frozen, the first one first."""
    return sorted((path.stem for path in folder.glob("v*.json")), key=lambda name: int(name[1:]))


def breaks(before: FileDescriptorSet, after: FileDescriptorSet) -> Sequence[str]:
    """Return a line for each thing that who speaks `before` would take amiss in `after`."""
    return [*_breaks_of_messages(before, after), *_breaks_of_enums(before, after), *_breaks_of_services(before, after)]


def _breaks_of_messages(before: FileDescriptorSet, after: FileDescriptorSet) -> Iterator[str]:
    present = _messages(after)
    for name, message in _messages(before).items():
        if name not in present:
            yield f"{name} is gone"
            continue
        fields = {field.number: field for field in present[name].field}
        reserved = {number for one in present[name].reserved_range for number in range(one.start, one.end)}
        for field in message.field:
            found = fields.get(field.number)
            if found is None:
                if field.number not in reserved:
                    yield f"{name}.{field.name} is gone, and its number {field.number} not reserved"
            elif (found.type, found.type_name, found.label) != (field.type, field.type_name, field.label):
                yield f"{name}.{field.name} (number {field.number}) has another type"
            elif found.name != field.name:
                yield f"{name}: the number {field.number} was {field.name} and is {found.name}"


def _breaks_of_enums(before: FileDescriptorSet, after: FileDescriptorSet) -> Iterator[str]:
    present = _enums(after)
    for name, enum in _enums(before).items():
        if name not in present:
            yield f"{name} is gone"
            continue
        values = {value.number: value.name for value in present[name].value}
        reserved = {number for one in present[name].reserved_range for number in range(one.start, one.end + 1)}
        for value in enum.value:
            if value.number not in values and value.number not in reserved:
                yield f"{name}: {value.name} is gone, and its number {value.number} not reserved"
            elif values.get(value.number, value.name) != value.name:
                yield f"{name}: the number {value.number} was {value.name} and is {values[value.number]}"


def _breaks_of_services(before: FileDescriptorSet, after: FileDescriptorSet) -> Iterator[str]:
    present = _services(after)
    for name, service in _services(before).items():
        methods = {method.name: method for method in present[name].method} if name in present else {}
        for method in service.method:
            found = methods.get(method.name)
            if found is None:
                yield f"{name}.{method.name} is gone"
            elif found != method:
                yield f"{name}.{method.name} takes, gives or streams something else"


def _messages(described: FileDescriptorSet) -> Mapping[str, DescriptorProto]:
    found: dict[str, DescriptorProto] = {}

    def add(prefix: str, messages: Sequence[DescriptorProto]) -> None:
        for message in messages:
            found[f"{prefix}.{message.name}"] = message
            add(f"{prefix}.{message.name}", message.nested_type)

    for file in described.file:
        add(file.package, file.message_type)
    return found


def _enums(described: FileDescriptorSet) -> Mapping[str, EnumDescriptorProto]:
    return {f"{file.package}.{enum.name}": enum for file in described.file for enum in file.enum_type}


def _services(described: FileDescriptorSet) -> Mapping[str, ServiceDescriptorProto]:
    return {f"{file.package}.{service.name}": service for file in described.file for service in file.service}


@cache
def _pool(version: str) -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    for file in frozen(version).file:
        pool.AddSerializedFile(file.SerializeToString())
    return pool


def message_class(version: str, full_name: str) -> type[Message] | None:
    """Return a message as that version knows it; None when it knows none of this name."""
    try:
        described = _pool(version).FindMessageTypeByName(full_name)
    except KeyError:
        return None
    return message_factory.GetMessageClass(described)


def without_news(version: str, full_name: str, data: bytes) -> bytes:
    """Return what that version would have made of a message, or would have sent in its place."""
    known = message_class(version, full_name)
    if known is None:
        return data
    message: Any = known()
    message.ParseFromString(data)
    message.DiscardUnknownFields()
    return bytes(message.SerializeToString())


def with_news(full_name: str, data: bytes) -> bytes:
    """Return what a later version may send in its place: each message in it has fields of which we know nothing."""
    message: Any = message_factory.GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(full_name))()
    message.ParseFromString(data)
    return _grown(message).SerializeToString()  # type: ignore[no-any-return]


_unknown: Final = b"\xc2\x3e\x05later\xc8\x3e\x07"
"""A text in field 1,000 and a number in field 1,001."""


def _grown(message: Any) -> Any:
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        for inner in value if field.is_repeated else [value]:
            _grown(inner)
    message.MergeFromString(_unknown)
    return message


Alter = Callable[[str, bytes], bytes]
"""Of a message's full name and bytes, the bytes that go in their place."""


def main(version: str) -> None:
    """Write the contract of now."""
    described = json_format.MessageToDict(now())

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(inner) for key, inner in value.items() if key != "jsonName"}
        return [plain(inner) for inner in value] if isinstance(value, list) else value

    (folder / f"{version}.json").write_text(json.dumps(plain(described), indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
