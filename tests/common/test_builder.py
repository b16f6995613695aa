"""Workflows written in Python."""

from datetime import date, timedelta
from typing import Any

import orjson
import pytest

import mainspring
from mainspring import Cache, Concurrency, Retry, Workflow
from mainspring.builder import Reference
from mainspring.definition import parse_definition
from mainspring.errors import DefinitionError
from mainspring.paths import Template
from mainspring.workflow import ABSENT, Definition, MapOver, Node


def calendar_cleanup() -> Workflow:
    flow = Workflow("calendar-cleanup", timeout="10m", priority=3, fairness_key="acme")
    fetch = flow.node("fetch", "fetchOldCalendarMappings", input={"limit": flow.input["limit"]}, start_to_close="1m")
    delete = flow.map(
        "delete",
        "deleteSingleCalendar",
        over=fetch["mappings"],
        input={"calendar": flow.item["old_id"], "at": flow.index},
        max_parallel=8,
        retry=Retry(max_attempts=5),
        allow_failure=True,
        schedule_to_start=timedelta(seconds=1.5),
        requires={"zone": "a"},
        stop_on_disconnect=True,
        priority=0,
    )
    flow.node(
        "mail", "sendEmailNotification", input={"deleted": delete.output, "text": f"of {fetch['total']}"}, after=[fetch]
    )
    flow.output({"deleted": delete.path("[?ok].calendar")})
    return flow


def test_a_workflow_becomes_the_definition_that_it_says() -> None:
    assert calendar_cleanup().definition() == Definition(
        "calendar-cleanup",
        (
            Node("fetch", "fetchOldCalendarMappings", input={"limit": "${input.limit}"}, start_to_close_ms=60_000),
            Node(
                "delete",
                "deleteSingleCalendar",
                input={"calendar": "${item.old_id}", "at": "${index}"},
                map=MapOver("${fetch.mappings}", 8),
                retry=Retry(max_attempts=5),
                allow_failure=True,
                schedule_to_start_ms=1_500,
                requires={"zone": "a"},
                stop_on_disconnect=True,
                priority=0,
            ),
            Node(
                "mail",
                "sendEmailNotification",
                input={"deleted": "${delete}", "text": "of ${fetch.total}"},
                depends_on=("fetch",),
            ),
        ),
        {"deleted": "${delete[?ok].calendar}"},
        600_000,
        priority=3,
        fairness_key="acme",
    )


def test_what_it_writes_is_the_same_definition() -> None:
    flow = calendar_cleanup()
    assert parse_definition(flow.to_json(), format="json") == flow.definition()
    assert parse_definition(flow.to_yaml(), format="yaml") == flow.definition()


def test_a_map_without_input_gets_its_element() -> None:
    flow = Workflow("n")
    flow.map("each", "work", over=flow.input)
    flow.map("silent", "work", over="${each}", input=None)
    each, silent = flow.definition().nodes
    assert (each.input, silent.input) == ("${item}", None)


def test_a_workflow_without_output_has_none() -> None:
    flow = Workflow("n")
    flow.node("a", "work")
    assert flow.definition().output is ABSENT
    flow.output(None)
    assert flow.definition().output is None


@pytest.mark.parametrize(
    ("name", "keys", "value"),
    [
        ("a", ["x", 0, "y"], 1),
        ("a-b.c:d", ["x", 0, "y"], 1),
        ("9", ["x", -1, "y"], 1),
        ("a", ["odd key}", 'quote"back\\slash', "ключ"], 2),
    ],
)
def test_references_name_what_they_say_whatever_the_names(name: str, keys: list[str | int], value: int) -> None:
    flow = Workflow("n")
    reference: Reference = flow.node(name, "work")
    for key in keys:
        reference = reference[key]
    flow.node("end", "work", input=reference)
    data: Any = {"x": [{"y": 1}], "odd key}": {'quote"back\\slash': {"ключ": 2}}}
    assert build_input(flow).render({name: orjson.dumps(data)}) == orjson.dumps(value)


def build_input(flow: Workflow) -> Template:
    return Template.compile(flow.definition().nodes[-1].input)


def test_after_takes_one_node_or_many_by_reference_or_name() -> None:
    flow = Workflow("n")
    first = flow.node("first", "work")
    flow.node("b", "work", after=first)
    flow.node("c", "work", after="first")
    flow.node("d", "work", after=[first, "b"])
    assert [node.depends_on for node in flow.definition().nodes] == [(), ("first",), ("first",), ("first", "b")]


def test_nodes_and_maps_may_share_a_concurrency_key() -> None:
    flow = Workflow("n")
    first = flow.node("a", "work", concurrency=Concurrency("db-42", 3))
    flow.map("b", "work", over=first, concurrency=Concurrency("db-42", 2))
    definition = flow.definition()
    assert [node.concurrency for node in definition.nodes] == [Concurrency("db-42", 3), Concurrency("db-42", 2)]
    assert '"concurrency"' in flow.to_json()


def test_nodes_and_maps_may_have_a_cache_whose_key_names_data() -> None:
    flow = Workflow("n")
    first = flow.node("a", "work", cache=Cache(60_000, f"day {flow.input['date']}"))
    flow.map("b", "work", over=first["days"], cache=Cache(3_600_000))
    definition = flow.definition()
    assert [node.cache for node in definition.nodes] == [Cache(60_000, "day ${input.date}"), Cache(3_600_000)]
    assert '"ttl": "1m"' in flow.to_json()


def test_a_reference_cannot_be_looped_over_or_decided_on() -> None:
    reference = Workflow("n").node("a", "work")["list"]
    with pytest.raises(TypeError, match=r"\$\{a\.list\} has no elements before the workflow runs; use Workflow\.map"):
        list(reference)
    with pytest.raises(TypeError, match=r"\$\{a\.list\} has no value before the workflow runs"):
        bool(reference)


def test_all_problems_are_raised_at_the_end() -> None:
    flow = Workflow("n", timeout=timedelta(microseconds=1))
    odd: Any = 30
    first = flow.node("a", "work", start_to_close=odd, input={"when": date(2024, 1, 31), "n": [float("inf")]})
    flow.node("b", "work", schedule_to_start="soon", after=["c"], input={1: first})
    flow.node("d", "work", start_to_close=timedelta(seconds=-1))
    with pytest.raises(DefinitionError) as caught:
        flow.definition()
    assert [str(problem) for problem in caught.value.problems] == [
        (
            "definition, timeout: datetime.timedelta(microseconds=1) is no duration; give a timedelta of whole milliseconds, "
            "or 500ms, 30s, 5m, 2h or 1d"
        ),
        "node 'a', timeouts.start_to_close: 30 is no duration; give a timedelta of whole milliseconds, or 500ms, 30s, 5m, 2h or 1d",
        (
            "node 'b', timeouts.schedule_to_start: 'soon' is no duration; give a timedelta of whole milliseconds, "
            "or 500ms, 30s, 5m, 2h or 1d"
        ),
        "node 'b', depends_on: there is no node 'c'",
        "node 'd', timeouts.start_to_close: -1s is not within 0s to 365d",
        (
            "node 'a', input.when: datetime.date(2024, 1, 31) is a date, which JSON does not have; "
            "make it a string, a number, a list or an object"
        ),
        "node 'a', input.n[0]: inf is a number that JSON does not have; use null or a string",
        "node 'b', input: the key 1 is a int; keys are strings, put it in quotes",
    ]


def test_the_package_offers_these_names() -> None:
    assert mainspring.__all__ == ["Affinity", "Cache", "Concurrency", "Retry", "Workflow"]
