"""docs/definition.md says what the code does: its fields, defaults, bounds and examples."""

import json
import re
from pathlib import Path
from typing import Any

import orjson
import pytest

from mainspring import limits, reading
from mainspring.builder import Workflow
from mainspring.definition import canonical_bytes, format_duration, parse_definition
from mainspring.graph import build_graph
from mainspring.paths import Template
from mainspring.workflow import Retry, default_priority, reserved_names

page = (Path(__file__).parents[2] / "docs/definition.md").read_text(encoding="utf-8")


def rows(heading: str) -> list[list[str]]:
    """Return the cells of the first table under a heading, without its header."""
    section = re.split(r"^#+ ", page.partition(f"{heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    table = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table[2:]]


def block(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return str(found)


@pytest.mark.parametrize(
    ("heading", "fields"),
    [
        ("## The definition", reading._definition_fields),
        ("## A node", reading._node_fields),
        ("### `map`", reading._map_fields),
        ("### `retry`", reading._retry_fields),
        ("### `timeouts`", reading._timeout_fields),
        ("### `affinity`", reading._affinity_fields),
        ("### `concurrency`", reading._concurrency_fields),
        ("### `cache`", reading._cache_fields),
    ],
)
def test_every_field_has_its_row(heading: str, fields: tuple[str, ...]) -> None:
    assert [row[0] for row in rows(heading)] == [f"`{name}`" for name in fields]


def test_the_defaults_of_a_retry_are_those_of_the_code() -> None:
    written = {row[0].strip("`"): row[2] for row in rows("### `retry`")}
    default = Retry()
    assert written["initial"] == format_duration(default.initial_ms)
    assert written["max_interval"] == format_duration(default.max_interval_ms)
    assert float(written["multiplier"]) == default.multiplier
    assert float(written["jitter"]) == default.jitter


def test_the_bounds_are_those_of_the_code() -> None:
    for bound in (
        f"{limits.nodes_max:,} nodes",
        f"{limits.edges_max:,} dependencies",
        f"at most {limits.definition_bytes_max // limits.MIB} MiB",
        f"1 to {limits.name_bytes_max} letters",
        f"1 to {limits.node_id_bytes_max} letters",
        f"at most {limits.executor_bytes_max} bytes",
        f"at most {limits.payload_bytes_max // limits.MIB} MiB once filled in, with {limits.paths_in_input_max:,} data paths",
        f"these values; at most {limits.labels_max}",
        f"one of its values, 1 to {limits.values_a_label_max}",
        f"it lives, whichever workflow they are of; at most {limits.affinity_key_bytes_max} bytes",
        f"node waits; 1 to {limits.concurrency_limit_max:,}",
        f"they are of; 1 to {limits.concurrency_key_bytes_max} bytes",
        f"as in `input`; 1 to {limits.cache_key_bytes_max // limits.KIB} KiB",
        f"for others; {format_duration(limits.cache_ttl_ms_min)} to {format_duration(limits.cache_ttl_ms_max)}",
        f"is waited for at most {format_duration(limits.cache_wait_ms_max)}",
        f"at most {limits.map_width_max:,} elements",
        f"1 to {limits.attempts_max}",
        f"1 to {limits.retry_multiplier_max:,}",
        f"no delay is longer; at most {format_duration(limits.retry_interval_ms_max)}",
        f"from its submit; at most {format_duration(limits.timeout_ms_max)}",
        f"no attempt follows; at most {limits.non_retryable_max}",
        f"0 to {limits.priority_max} | {default_priority} |",
        f"at most {limits.fairness_key_bytes_max} bytes; see [order](#order)",
        f"at most {limits.path_bytes_max // limits.KIB} KiB and {limits.path_depth_max} levels",
        f"at most {limits.path_steps_max:,}\nsteps",
    ):
        assert bound in page, bound


def test_the_example_runs_and_python_builds_the_same() -> None:
    definition = parse_definition(block("yaml"), format="yaml")
    assert build_graph(definition).ids == ("fetch", "delete", "mail")
    names: dict[str, Any] = {}
    exec(block("python"), names)
    flow = names["flow"]
    assert isinstance(flow, Workflow)
    assert canonical_bytes(flow.definition()) == canonical_bytes(definition)


def test_the_roots_of_paths_are_the_reserved_names() -> None:
    assert {row[0].strip("`") for row in rows("## Data paths")[1:5]} == reserved_names


def test_the_examples_of_paths_become_what_they_say() -> None:
    examples = [row for row in rows("## Data paths") if row[0].startswith('`"')]
    assert len(examples) == 8
    given = re.search(r"`fetch` having given `(.*)`", page)
    assert given
    scope = {"fetch": given[1].encode()}
    for written, becomes in examples:
        template = json.loads(written.strip("`").replace("\\|", "|"))
        assert Template.compile(template).render(scope) == orjson.dumps(json.loads(becomes.strip("`"))), written
