"""What earlier versions speak is understood, and what this one says is not taken amiss by them."""

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorSet

from tests.contract.frozen import _messages, breaks, frozen, message_class, now, versions, with_news, without_news
from tests.fuzz.contract import methods, new
from tests.fuzz.drawing import Draw, Known

HELLO, SUBMIT = "mainspring.v1.Hello", "mainspring.v1.SubmitRequest"


@pytest.mark.parametrize("version", versions())
def test_nothing_that_a_version_speaks_has_become_something_else(version: str) -> None:
    assert breaks(frozen(version), now()) == []


def message(described: FileDescriptorSet, name: str) -> Any:
    return _messages(described)[name]


def field(described: FileDescriptorSet, name: str, number: int) -> FieldDescriptorProto:
    return next(one for one in message(described, name).field if one.number == number)  # type: ignore[no-any-return]


def without_field(described: FileDescriptorSet) -> None:
    del message(described, HELLO).field[2]


def without_field_and_reserved(described: FileDescriptorSet) -> None:
    hello = message(described, HELLO)
    number = hello.field[2].number
    del hello.field[2]
    hello.reserved_range.add(start=number, end=number + 1)


def renumbered(described: FileDescriptorSet) -> None:
    first, second = field(described, HELLO, 1), field(described, HELLO, 3)
    first.name, second.name = second.name, first.name


def retyped(described: FileDescriptorSet) -> None:
    field(described, HELLO, 7).type = FieldDescriptorProto.TYPE_STRING


def relabelled(described: FileDescriptorSet) -> None:
    field(described, HELLO, 1).label = FieldDescriptorProto.LABEL_REPEATED


def another_message(described: FileDescriptorSet) -> None:
    field(described, SUBMIT, 2).type_name = f".{HELLO}"


def service(described: FileDescriptorSet, name: str) -> Any:
    return next(one for file in described.file for one in file.service if one.name == name)


def without_method(described: FileDescriptorSet) -> None:
    del service(described, "AdminService").method[0]


def without_service(described: FileDescriptorSet) -> None:
    service(described, "PeersService").name = "OthersService"


def streaming(described: FileDescriptorSet) -> None:
    service(described, "WorkflowsService").method[0].server_streaming = True


def without_value(described: FileDescriptorSet) -> None:
    outcome = next(enum for file in described.file for enum in file.enum_type if enum.name == "Outcome")
    del outcome.value[2]


def renamed_value(described: FileDescriptorSet) -> None:
    outcome = next(enum for file in described.file for enum in file.enum_type if enum.name == "Outcome")
    outcome.value[1].name = "OUTCOME_FINE"


def grown(described: FileDescriptorSet) -> None:
    message(described, HELLO).field.add(name="later", number=99, type=9, label=1)
    service(described, "AdminService").method.add(name="Later", input_type=f".{HELLO}", output_type=f".{HELLO}")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (without_field, "Hello.host is gone, and its number 3 not reserved"),
        (without_field_and_reserved, ""),
        (renumbered, "the number 1 was name and is host"),
        (retyped, "Hello.slots (number 7) has another type"),
        (relabelled, "Hello.name (number 1) has another type"),
        (another_message, "SubmitRequest.definition (number 2) has another type"),
        (without_method, "AdminService.GetCluster is gone"),
        (without_service, "PeersService.PassPermits is gone"),
        (streaming, "WorkflowsService.Submit takes, gives or streams something else"),
        (without_value, "OUTCOME_FAILED is gone, and its number 2 not reserved"),
        (renamed_value, "the number 1 was OUTCOME_SUCCEEDED and is OUTCOME_FINE"),
        (grown, ""),
    ],
)
def test_a_change_that_others_would_take_amiss_is_seen(change: Callable[[FileDescriptorSet], None], told: str) -> None:
    changed = now()
    change(changed)
    found = breaks(now(), changed)
    assert bool(found) is bool(told)
    assert any(told in line for line in found) or not told


@pytest.mark.parametrize("version", versions())
def test_what_a_version_sends_is_read_as_it_was_meant(version: str) -> None:
    draw = Draw(Random(version), Known())
    for method in methods():
        name = method.request.full_name
        if message_class(version, name) is None:
            continue
        for _ in range(10):
            sent = draw.message(method.request).SerializeToString()
            older = without_news(version, name, sent)
            read = new(method.request)
            read.ParseFromString(older)
            # Nothing of it is lost on the way through us: what we pass on to another coordinator is what came.
            assert without_news(version, name, read.SerializeToString()) == older


def test_what_a_later_version_adds_is_kept_and_does_not_touch_what_we_know() -> None:
    draw = Draw(Random(1), Known())
    for method in methods():
        for _ in range(10):
            sent = draw.message(method.request)
            read: Any = new(method.request)
            read.ParseFromString(with_news(method.request.full_name, sent.SerializeToString()))
            assert b"later" in read.SerializeToString()
            read.DiscardUnknownFields()
            assert read.SerializeToString(deterministic=True) == sent.SerializeToString(deterministic=True)
