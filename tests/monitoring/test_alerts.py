"""Each alert has its own test, a section in the run-book, and metrics that exist."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from idservice.observability import prometheus
from idservice.observability.latency import Latency
from idservice.observability.readings import CatalogueAge, Snapshot
from tests.docs.generate import every_error_class
from tests.docs.test_pages import anchors
from tests.web.scenes import in_trouble, reading, sums

from .prometheus import FOLDER, tool

RULES = yaml.safe_load((FOLDER / "rules.yml").read_text())["groups"][0]["rules"]
SECTION = re.compile(r"^### (Idservice\w+)\n\nSeverity: (\w+)\.$", re.MULTILINE)
RUNBOOK = dict(SECTION.findall((FOLDER.parent / "README.md").read_text()))
METRIC = re.compile(r"\bidservice_\w+")


def page() -> str:
    """Return the metrics page of a service in every kind of trouble."""
    age = CatalogueAge(1.0, 60.0)
    snapshot = Snapshot(in_trouble(), False, Latency(), "1", catalogue_age=age, tallies=sums())
    return b"".join(prometheus.pieces(snapshot, counters_max=100)).decode()


@pytest.mark.needs_prometheus
def test_every_alert_fires_where_it_is_due_and_nowhere_else() -> None:
    for arguments in (["check", "rules", "rules.yml"], ["test", "rules", "rules_test.yml"]):
        ran = subprocess.run(
            [tool("promtool"), *arguments], cwd=FOLDER, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.needs_prometheus
def test_prometheus_finds_no_fault_with_our_metrics() -> None:
    ran = subprocess.run(
        [tool("promtool"), "check", "metrics"],
        input=page(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (ran.returncode, ran.stdout + ran.stderr) == (0, "")


def test_every_alert_has_a_test_in_which_it_fires() -> None:
    tests = yaml.safe_load((FOLDER / "rules_test.yml").read_text())["tests"]
    cases: list[Any] = [case for test in tests for case in test["alert_rule_test"]]
    fired = {case["alertname"] for case in cases if case.get("exp_alerts")}
    assert fired == {rule["alert"] for rule in RULES}


def test_the_run_book_has_a_section_for_each_alert_and_no_other() -> None:
    assert {rule["alert"]: rule["labels"]["severity"] for rule in RULES} == RUNBOOK
    for rule in RULES:
        page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert page.endswith("/deploy/README.md")
        assert anchor in anchors(FOLDER.parent / "README.md")


@pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])
def test_an_alert_names_metrics_that_there_are(rule: dict[str, Any]) -> None:
    names = (name.removesuffix("_bucket") for name in METRIC.findall(rule["expr"]))
    missing = [name for name in names if f"# HELP {name} " not in page()]
    assert not missing


def test_refusals_that_no_client_can_mend_are_told_from_the_others() -> None:
    [rule] = [rule for rule in RULES if rule["alert"] == "IdserviceRefusals"]
    found = re.search(r'code!~"([^"]+)"', rule["expr"])
    assert found is not None
    counters = (kind for kind in every_error_class() if not kind.__module__.endswith(".tallies"))
    for kind in counters:
        ours = kind.code == "exhausted" or (kind.status >= 500 and kind.code != "stopping")
        assert (re.fullmatch(found[1], kind.code) is None) == ours, kind.code


def test_counters_without_a_label_of_their_own_alarm_together() -> None:
    scenes = {one.counter: one for one in in_trouble()}
    quiet = [scenes["refunds"], scenes["bookings"], scenes["votes"]]
    for loud, line in (
        (scenes["invoices"], 'idservice_suspect{counter="_rest"} 1.0'),
        (reading("parcels", limit=5_000_000), 'idservice_limit_used_ratio{counter="_rest"} 0.96'),
        (scenes["tickets"], 'idservice_limit_used_ratio{counter="_rest"} 1.0'),
        (reading("receipts", strict=True), 'idservice_strict{counter="_rest"} 1.0'),
    ):
        for readings, expected in ((quiet, False), ([loud, *quiet], True), ([*quiet, loud], True)):
            snapshot = Snapshot(readings, True, Latency(), "1")
            text = b"".join(prometheus.pieces(snapshot, counters_max=0)).decode()
            assert (line in text) == expected, (loud.counter, text)


def test_the_files_lie_where_prometheus_and_grafana_look() -> None:
    found = {str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*") if path.is_file()}
    assert found == {
        "prometheus.yml", "rules.yml", "rules_test.yml",
        "grafana/dashboards/idservice.json",
        "grafana/provisioning/dashboards/idservice.yml",
        "grafana/provisioning/datasources/prometheus.yml",
    }  # fmt: skip
    assert Path(FOLDER / "prometheus.yml").read_text().count("rules.yml") == 1
