"""The alert rules: those of the deployment guide word by word, each firing and silent, each in the runbook, on metrics that are there."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.project.test_metrics_page import exported
from tests.servers.prometheus import required

root = Path(__file__).parents[2]
folder = root / "deploy/prometheus"
rules_file = folder / "workflow-engine.rules.yml"
cases_file = Path(__file__).with_name("workflow-engine.test.yml")
suffixes = re.compile(r"_(bucket|sum|count)$")
metric_name = re.compile(r"\b(?:mainspring|workflow|node|lock|engine|process)_[a-z_]+(?=[{\[) ]|$)")

GUIDE = [
    ("WorkflowEngineDown", 'up{job="workflow-engine"} == 0', "1m", "critical"),
    (
        "HighWorkflowFailureRate",
        (
            'sum by (engine_id) (rate(workflow_executions_total{status="failed"}[5m])) / '
            "sum by (engine_id) (rate(workflow_executions_total[5m])) > 0.1"
        ),
        "2m",
        "warning",
    ),
    (
        "LockAcquisitionSlow",
        "histogram_quantile(0.95, sum by (le, lock_type) (rate(lock_acquisition_duration_seconds_bucket[5m]))) > 1",
        "1m",
        "warning",
    ),
]


def groups() -> dict[str, list[dict[str, Any]]]:
    loaded = yaml.safe_load(rules_file.read_text())
    return {group["name"]: group["rules"] for group in loaded["groups"]}


def alerts() -> list[dict[str, Any]]:
    return [rule for rules in groups().values() for rule in rules]


def metrics_in(expression: str) -> set[str]:
    """The exported metrics that an expression is made of; names of labels stand before `)`, `,` or `=`."""
    without_labels = re.sub(r"\b(?:by|on|without) \([^)]*\)", "", expression)
    return {suffixes.sub("", name) for name in metric_name.findall(without_labels)}


def promtool(*arguments: str) -> None:
    done = subprocess.run(
        [required("promtool"), *arguments], cwd=root, check=False, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("name", "expression", "lasting", "severity"), GUIDE, ids=[row[0] for row in GUIDE])
def test_the_guides_alerts_are_there_with_its_expressions(
    name: str, expression: str, lasting: str, severity: str
) -> None:
    (rule,) = [rule for rule in groups()["workflow-engine"] if rule["alert"] == name]
    assert (" ".join(rule["expr"].split()), rule["for"], rule["labels"]) == (
        expression,
        lasting,
        {"severity": severity},
    )


def test_the_guides_group_holds_nothing_else() -> None:
    assert [rule["alert"] for rule in groups()["workflow-engine"]] == [row[0] for row in GUIDE]


def test_each_alert_has_a_severity_and_says_what_is_and_where() -> None:
    assert [
        rule["alert"] for rule in alerts() if rule["labels"]["severity"] not in ("critical", "warning", "info")
    ] == []
    assert [rule["alert"] for rule in alerts() if set(rule["annotations"]) != {"summary", "description"}] == []


def test_each_alert_is_tried_both_firing_and_silent() -> None:
    cases = [case for test in yaml.safe_load(cases_file.read_text())["tests"] for case in test["alert_rule_test"]]
    firing = {case["alertname"] for case in cases if case["exp_alerts"]}
    silent = {case["alertname"] for case in cases if not case["exp_alerts"]}
    names = {rule["alert"] for rule in alerts()}
    assert (firing, silent) == (names, names)


def test_the_rules_do_what_their_cases_say() -> None:
    promtool("test", "rules", str(cases_file))


def test_the_configuration_and_its_rules_are_valid() -> None:
    promtool("check", "config", str(folder / "prometheus.yml"))
    promtool("check", "rules", str(rules_file))


def test_prometheus_scrapes_the_job_that_the_alerts_name() -> None:
    config = yaml.safe_load((folder / "prometheus.yml").read_text())
    assert [job["job_name"] for job in config["scrape_configs"]] == ["workflow-engine"]
    assert config["rule_files"] == [rules_file.name]


def test_every_metric_of_a_rule_is_exported() -> None:
    used = {name for rule in alerts() for name in metrics_in(rule["expr"])}
    assert "mainspring_oldest_wait_seconds" in used
    assert used - exported().keys() == set()


def test_the_runbook_has_every_alert_and_no_other() -> None:
    page = (root / "docs/operating.md").read_text()
    assert re.findall(r"^### ([A-Za-z]+)$", page, re.MULTILINE) == [rule["alert"] for rule in alerts()]
