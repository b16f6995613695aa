"""The Grafana dashboard: each expression can be read by Prometheus, names what is exported, and nothing that is exported is left out."""

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.test_alerts import metrics_in, promtool
from tests.project.test_metrics_page import exported

root = Path(__file__).parents[2]
file = root / "deploy/grafana/mainspring.json"


def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(file.read_text())
    return loaded


def panels() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def expressions() -> list[str]:
    """All expressions, as Grafana sends them when all instances are shown."""
    found = [target["expr"] for panel in panels() for target in panel["targets"]]
    return [expr.replace("$__rate_interval", "1m").replace("$instance", ".*") for expr in found]


def test_every_metric_of_the_dashboard_is_exported_and_every_exported_one_is_in_it() -> None:
    shown = {name for expression in expressions() for name in metrics_in(expression)}
    own = {name for name in exported() if not name.startswith("process_")}
    assert shown == own


def test_prometheus_can_read_each_expression(tmp_path: Path) -> None:
    rules = [{"record": f"panel:{number}", "expr": expression} for number, expression in enumerate(expressions())]
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", str(path))


def test_each_expression_keeps_to_the_job_and_to_the_chosen_instances() -> None:
    selectors = [
        selector
        for panel in panels()
        for target in panel["targets"]
        for selector in re.findall(r"{.*?}", target["expr"])
    ]
    assert selectors
    assert [one for one in selectors if not one.startswith('{job="workflow-engine",instance=~"$instance"')] == []
    bare = [expression for expression in expressions() if metrics_in(re.sub(r"[a-z_]+{.*?}", "", expression))]
    assert bare == []


def test_each_panel_says_what_it_shows_and_takes_the_chosen_source() -> None:
    ids = [panel["id"] for panel in dashboard()["panels"]]
    assert len(set(ids)) == len(ids)
    assert [panel["title"] for panel in panels() if not panel["description"]] == []
    assert {panel["datasource"]["uid"] for panel in panels()} == {"${datasource}"}
    assert {variable["name"] for variable in dashboard()["templating"]["list"]} == {"datasource", "instance"}


def test_no_panel_lies_over_another_or_beside_the_page() -> None:
    def cells(panel: dict[str, Any]) -> set[tuple[int, int]]:
        at = panel["gridPos"]
        return {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}

    places = {panel["title"]: cells(panel) for panel in dashboard()["panels"]}
    assert len(places) == len(dashboard()["panels"])
    assert all(x < 24 for place in places.values() for x, _ in place)
    assert [pair for pair in combinations(places, 2) if places[pair[0]] & places[pair[1]]] == []
