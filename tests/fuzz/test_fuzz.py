"""The fuzz covers the contract, says the same for the same seed, and can fail; a short one of it finds nothing."""

import asyncio
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest
from google.protobuf.message import DecodeError

from mainspring_coordinator.auth.methods import open_methods, roles_by_method
from mainspring_coordinator.store.schema import upgrade
from tests.fuzz.callers import Secrets
from tests.fuzz.calls import Answered
from tests.fuzz.contract import Method, methods, new
from tests.fuzz.drawing import Draw, Known
from tests.fuzz.run import Settings, play
from tests.fuzz.shots import Shooter, tamed
from tests.fuzz.spoiling import spoilers
from tests.fuzz.tally import Tally
from tests.fuzz.watch import changed, complaints, content

by_name = {method.name: method for method in methods()}


def test_every_method_that_is_served_is_in_the_fuzz() -> None:
    assert {method.path for method in methods()} == set(roles_by_method) | open_methods


def fields_of(descriptor: Any, seen: set[str]) -> set[str]:
    """All fields of a message and of those within it."""
    if descriptor.full_name not in seen:
        seen.add(descriptor.full_name)
        for one in descriptor.fields:
            seen.add(one.full_name)
            if one.message_type is not None:
                fields_of(one.message_type, seen)
    return seen


def drawn_fields(message: Any, seen: set[str]) -> None:
    seen.add(message.DESCRIPTOR.full_name)
    for one, value in message.ListFields():
        seen.add(one.full_name)
        if one.message_type is None:
            continue
        if one.message_type.GetOptions().map_entry:
            seen |= fields_of(one.message_type, set())
            continue
        for inner in value if one.is_repeated else [value]:
            drawn_fields(inner, seen)


def test_every_field_of_every_request_is_drawn() -> None:
    draw = Draw(Random(1), Known())
    for method in methods():
        seen: set[str] = set()
        for _ in range(60):
            drawn_fields(draw.message(method.request), seen)
        assert fields_of(method.request, set()) - seen == set(), method.name


def test_each_way_to_spoil_a_message_makes_some_that_cannot_be_read_or_that_nobody_knows() -> None:
    submit = by_name["WorkflowsService.Submit"]
    for name, spoil in spoilers.items():
        rng = Random(name)
        draw = Draw(rng, Known())
        unread = changed_ones = 0
        for _ in range(40):
            data = draw.message(submit.request).SerializeToString()
            spoilt = spoil(rng, data)
            changed_ones += spoilt != data
            try:
                new(submit.request).ParseFromString(spoilt)
            except DecodeError:
                unread += 1
        assert changed_ones >= 30, name
        assert unread or name in ("repeated", "unknown fields"), name


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Secrets:
    return Secrets(tmp_path_factory.mktemp("secrets"))


def shooter(secrets: Secrets, *, strangers: bool) -> tuple[Shooter, Tally]:
    """One without a cluster."""
    stage: Any = type("Nowhere", (), {"known": Known(), "secrets": secrets})()
    tally = Tally()
    return Shooter.at(stage, tally, 7, strangers=strangers), tally


def test_the_same_seed_draws_the_same_messages_and_another_one_others(secrets: Secrets) -> None:
    here, _ = shooter(secrets, strangers=True)

    def drawn(seed: str) -> list[Any]:
        return [
            list(here._messages(Random(f"{seed}/{number}"), by_name["AdminService.StepDown"])) for number in range(50)
        ]

    assert drawn("7") == drawn("7") != drawn("8")


def test_every_stranger_is_one_for_every_method_but_those_of_its_own_role(secrets: Secrets) -> None:
    closed = [method for method in methods() if not method.open]
    for stranger in secrets.strangers():
        assert [method.name for method in closed if stranger.may(method) and not method.may(stranger.role)] == []
    assert all(any(one.may(method) for one in secrets.known()) for method in closed)


def judged(secrets: Secrets, code: str, method: Method, *, strangers: bool) -> Counter[str]:
    here, tally = shooter(secrets, strangers=strangers)
    here._judge("drawn", method, here.callers[0], Answered(code, "", 0.1))
    return tally.findings


@pytest.mark.parametrize(
    ("code", "name", "strangers", "found"),
    [
        ("INTERNAL", "WorkflowsService.Get", False, True),
        ("UNKNOWN", "Health.Check", True, True),
        ("DEADLINE_EXCEEDED", "WorkflowsService.Get", False, True),
        ("DEADLINE_EXCEEDED", "WorkflowsService.Watch", False, False),
        ("OK", "WorkflowsService.Get", True, True),
        ("INVALID_ARGUMENT", "WorkflowsService.Get", True, True),
        ("OK", "Health.Check", True, False),
        ("UNAUTHENTICATED", "WorkflowsService.Get", True, False),
        ("UNAUTHENTICATED", "WorkflowsService.Get", False, True),
        ("OK", "WorkflowsService.Get", False, False),
    ],
)
def test_what_is_a_defect_is_found(secrets: Secrets, code: str, name: str, strangers: bool, found: bool) -> None:
    assert bool(judged(secrets, code, by_name[name], strangers=strangers)) is found


def test_what_one_who_may_would_do_to_the_ordinary_clients_workflows_is_left_out() -> None:
    cancel, many = by_name["WorkflowsService.Cancel"], by_name["AdminService.CancelWorkflows"]
    kept: Any = new(cancel.request)
    kept.ParseFromString(tamed(cancel, b"\x0a\x0bhonest-1-ab"))
    assert kept.workflow_id == "fuzz-none"
    every: Any = new(many.request)
    every.ParseFromString(tamed(many, b"\x28\x01"))
    assert (every.all, every.id_prefix) == (True, "fuzz-")
    assert tamed(many, b"\xff") == b"\xff"


def test_a_change_of_the_database_and_a_complaint_of_the_log_are_seen(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'm.db'}"
    upgrade(url)
    before = content(url)
    assert changed(before, content(url)) == []
    assert changed(before, {**before, "audit": {("x", 1)}}) == ["audit: new ('x', 1)"]
    log = tmp_path / "c1.log"
    log.write_text(
        '{"event": "shard_ready", "level": "info"}\n'
        '{"event": "a handler failed", "level": "error", "exception": "Traceback\\nValueError: x"}\n'
        "Segmentation fault\nSegmentation fault\n"
    )
    assert complaints(log) == [
        "c1: a handler failed: ValueError: x (1 times)",
        "c1: no line of ours: Segmentation fault (2 times)",
    ]


def test_a_short_fuzz_finds_nothing(tmp_path: Path) -> None:
    settings = Settings(11, 1_500, 48, f"sqlite:///{tmp_path / 'm.db'}", tmp_path, coordinators=1, workers=1)
    run = asyncio.run(play(settings))
    assert not run.tally.findings, run.text
    assert run.tally.total >= settings.messages
    assert run.honest >= 3
    assert {method.name for method in methods()} <= run.tally.messages.keys()
