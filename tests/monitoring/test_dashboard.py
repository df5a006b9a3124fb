"""Each expression of the dashboard finds something on a Prometheus that scrapes a busy service."""

import asyncio
import http.client
import json
import re
import threading
from itertools import combinations, count
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.processes import ROOT, START_S, STORE, Serving, command, until

from . import prometheus
from .prometheus import FOLDER

DASHBOARD = json.loads((FOLDER / "grafana/dashboards/idservice.json").read_text())
PROVISIONING = FOLDER / "grafana/provisioning"
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]
REFERENCE = ROOT / "docs/reference/metrics.md"
LEFT_OUT = {
    "idservice_shard_moves_total",  # no reason to act
    "idservice_tally_reads_total",  # the same, since reads cost little
    "idservice_wait_seconds_total",  # the waits, and the time of a reservation, show as much
}
CHOSEN = {"$__rate_interval": "10s", "$instance": ".*", "$counter": ".*", "$tally": ".*"}


def asked(expression: str) -> str:
    """Return an expression as Grafana sends it with everything chosen."""
    for name, value in CHOSEN.items():
        expression = expression.replace(name, value)
    assert "$" not in expression
    return expression


class Load(threading.Thread):
    """A client that asks 200 times a second, for ids of every kind, some of them refused, and that
    adds to a tally."""

    PATHS = (
        "/next", "/next?count=50", "/v1/counters/strict/next", "/v1/counters/few/next",
        "/v1/counters/paused/next",
    )  # fmt: skip

    def __init__(self, port: int, key: str) -> None:
        super().__init__(daemon=True)
        self._port = port
        self._shown = {"Authorization": f"Bearer {key}"}
        self._end = threading.Event()

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=START_S)
        for number in count():
            if self._end.wait(0.005):
                break
            connection.request("GET", self.PATHS[number % len(self.PATHS)], headers=self._shown)
            connection.getresponse().read()
            if number % len(self.PATHS) == 0:
                connection.request("GET", "/next")  # without the key
                connection.getresponse().read()
                headers = {"Idempotency-Key": f"k{number}", "Content-Type": "application/json"}
                headers |= self._shown
                connection.request("POST", "/v1/tallies/gifts/add", '{"amount": 1}', headers)
                connection.getresponse().read()
        connection.close()

    def __enter__(self) -> None:
        self.start()

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self.join()


@pytest.mark.process
@pytest.mark.needs_prometheus
def test_every_expression_returns_a_series_of_a_service_under_load(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    for counter in (["strict", "--strict"], ["few", "--limit", "9"], ["paused"]):
        assert command("create", *counter, "--store", STORE, folder=folder).returncode == 0
    assert command("tally", "create", "gifts", "--store", STORE, folder=folder).returncode == 0
    key = command("key", "create", "--role", "use", "--scope", "*", "--store", STORE, folder=folder)
    assert key.returncode == 0, key.stderr
    shown = key.stdout.strip()
    with Serving(folder, "--store", STORE, "--require-keys", "all") as serving:
        port, where = serving.port, tmp_path_factory.mktemp("prometheus")
        with Load(port, shown), prometheus.running(where, f"127.0.0.1:{port}", shown) as one:

            def unheard() -> list[str]:
                return [each for each in EXPRESSIONS if not one.series(asked(each))]

            asyncio.run(until(lambda: bool(one.series("idservice_ids_issued_total > 10"))))
            suspended = command("suspend", "paused", "--store", STORE, folder=folder)
            assert suspended.returncode == 0, suspended.stderr
            asyncio.run(until(lambda: not unheard(), START_S, f"nothing of {unheard()}"))
            rules = one.get("api/v1/rules")["groups"][0]["rules"]
            assert {rule["health"] for rule in rules} == {"ok"}


def test_each_metric_is_on_the_dashboard_or_in_an_alert_or_left_out_knowingly() -> None:
    asked = " ".join([*EXPRESSIONS, (FOLDER / "rules.yml").read_text()])
    shown = {re.sub("_bucket$", "", name) for name in re.findall(r"\bidservice_\w+", asked)}
    documented = set(re.findall(r"### `(\w+)`", REFERENCE.read_text()))
    assert len(documented) > 30
    assert documented - shown == LEFT_OUT


def test_no_two_panels_share_a_number_or_a_place() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    cells = []
    for panel in PANELS:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        columns, rows = range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])
        cells.append({(x, y) for x in columns for y in rows})
    assert not any(one & other for one, other in combinations(cells, 2))


def test_every_panel_and_choice_asks_the_source_that_is_provisioned() -> None:
    [source] = yaml.safe_load((PROVISIONING / "datasources/prometheus.yml").read_text())[
        "datasources"
    ]
    choice, *variables = DASHBOARD["templating"]["list"]
    assert (choice["name"], choice["query"]) == ("datasource", source["type"])
    assert choice["current"]["value"] == source["uid"]
    wanted = {"type": source["type"], "uid": "${datasource}"}
    targets = [target for panel in PANELS for target in panel["targets"]]
    assert all(one["datasource"] == wanted for one in [*variables, *PANELS, *targets])
    assert {f"${one['name']}" for one in variables} == {"$instance", "$counter", "$tally"}
