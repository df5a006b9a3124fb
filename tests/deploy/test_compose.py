"""`compose.yaml` is what Compose takes, and agrees with the service, the engine and the mounts."""

import copy
import json
import re
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jsonschema
import pytest
import yaml

from idservice import __version__
from idservice.server.workers.supervisor import STOP_S
from idservice.stores.address import parse
from tests.processes import ROOT

from .conftest import DEPLOY
from .rules import SPARE_S
from .told import misspoken, told

Compose = dict[str, Any]
TAG = re.compile(r"v?[0-9]+\.[0-9]+\.[0-9]+")
PROMETHEUS = 9090
GRAFANA = 3000
MONITORING = DEPLOY / "monitoring"


def written() -> Compose:
    return dict(yaml.safe_load((ROOT / "compose.yaml").read_text()))


def validate(compose: Compose) -> None:
    """Raise ValidationError if Compose would. Its schema is not checked itself, for 0.3 s."""
    place = resources.files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json"
    schema = json.loads(place.read_text())
    jsonschema.validators.validator_for(schema)(schema).validate(compose)


def seconds(text: str) -> float:
    assert text.endswith("s")
    return float(text[:-1])


def complaints(compose: Compose) -> list[str]:
    """What is wrong with it and no schema sees."""
    services = compose["services"]
    heard = told(services["idservice"]["environment"])
    found = [*heard.wrong]
    for name, each in services.items():
        tag = each["image"].rpartition(":")[2]
        if not TAG.fullmatch(tag):
            found.append(f"the image of {name} has the tag {tag}, which is no version")
        ports = [port for port in each.get("ports", []) if not port.startswith("127.0.0.1:")]
        found += [f"{name} is open to others at {port}" for port in ports]
    if services["idservice"]["image"] != f"idservice:{__version__}":
        found.append(f"this is version {__version__}, not {services['idservice']['image']}")
    if not heard.wrong:
        inside = {int(port.rpartition(":")[2]) for port in services["idservice"]["ports"]}
        if inside != heard.ports:
            found.append(f"it maps {sorted(inside)} and listens on {sorted(heard.ports)}")
        found += [f"over IPv6 nobody reaches {address}" for address in heard.deaf]
        found += _engine(services, heard.values["store"])
        found += _times(services["idservice"], heard.values["store_wait"])
    found += _mounts(compose)
    return found


def _engine(services: Compose, store: str) -> list[str]:
    parse(store)
    (endpoint,) = parse_qs(urlsplit(store).query)["endpoint"]
    place = urlsplit(endpoint)
    command = services.get(str(place.hostname), {}).get("command", [])
    if str(place.port) not in command:
        return [f"nothing listens at {endpoint}"]
    if place.hostname not in services["idservice"]["depends_on"]:
        return ["it does not wait for the engine"]
    return []


def _times(service: Compose, store_wait: float) -> list[str]:
    found = misspoken(service["healthcheck"]["test"][1:])
    if seconds(service["healthcheck"]["start_period"]) < store_wait + SPARE_S:
        found.append(f"it is unhealthy while it may wait {store_wait:g} s for the store")
    if seconds(service["stop_grace_period"]) < STOP_S + SPARE_S:
        found.append(f"it may need {STOP_S} s to stop")
    return found


def _mounts(compose: Compose) -> list[str]:
    found = []
    for name, each in compose["services"].items():
        for mount in each.get("volumes", []):
            source = mount.partition(":")[0]
            if not source.startswith("./"):
                if source not in compose["volumes"]:
                    found.append(f"{name} mounts {source}, which is no volume")
            elif not (ROOT / source).exists():
                found.append(f"{name} mounts {source}, which is not there")
            elif not mount.endswith(":ro"):
                found.append(f"{name} may write to {source}")
    return found


def test_compose_takes_it() -> None:
    validate(written())


def test_compose_refuses_what_it_does_not_know() -> None:
    wrong = written()
    wrong["services"]["idservice"]["healtcheck"] = {}
    with pytest.raises(jsonschema.ValidationError):
        validate(wrong)


def test_it_agrees_with_the_service_and_with_itself() -> None:
    assert complaints(written()) == []


def test_prometheus_scrapes_where_metrics_are_and_grafana_asks_it() -> None:
    services = written()["services"]
    scraped = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    (job,) = scraped["scrape_configs"]
    (target,) = job["static_configs"][0]["targets"]
    name, _, port = target.partition(":")
    heard = told(services[name]["environment"])
    assert heard.values["admin_listen"].port == int(port)
    mounted = services["prometheus"]["volumes"][1].split(":")[1]
    assert str(Path("/etc/prometheus") / scraped["rule_files"][0]) == mounted
    (sources,) = (MONITORING / "grafana/provisioning/datasources").glob("*.yml")
    (source,) = yaml.safe_load(sources.read_text())["datasources"]
    assert source["url"] == f"http://prometheus:{PROMETHEUS}"
    (boards,) = (MONITORING / "grafana/provisioning/dashboards").glob("*.yml")
    (provider,) = yaml.safe_load(boards.read_text())["providers"]
    assert provider["options"]["path"] == services["grafana"]["volumes"][1].split(":")[1]
    assert services["grafana"]["ports"] == [f"127.0.0.1:{GRAFANA}:{GRAFANA}"]
    assert services["prometheus"]["ports"][0].endswith(f":{PROMETHEUS}")


def uncommented(text: str) -> str:
    """The text with the lines about access keys taken out of their comments."""
    lines = "IDSERVICE_REQUIRE_KEYS:|secrets:|  idservice.key:|authorization:"
    return re.sub(rf"^( *)# ({lines})", r"\1\2", text, flags=re.MULTILINE)


def test_with_the_lines_about_keys_prometheus_has_the_file_that_it_shows() -> None:
    keyed = dict(yaml.safe_load(uncommented((ROOT / "compose.yaml").read_text())))
    validate(keyed)
    assert complaints(keyed) == []
    services = keyed["services"]
    assert told(services["idservice"]["environment"]).values["require_keys"] == "remote"
    (secret,) = keyed["secrets"]
    assert services["prometheus"]["secrets"] == [secret]
    text = uncommented((MONITORING / "prometheus.yml").read_text())
    shown = yaml.safe_load(text)["scrape_configs"][0]["authorization"]["credentials_file"]
    assert shown == f"/run/secrets/{secret}"


FAULTS = [
    ("idservice.environment.IDSERVICE_STOER", "x", "did you mean IDSERVICE_STORE?"),
    ("idservice.environment.IDSERVICE_LISTEN", "0.0.0.0:8081", "listens on [8081, 9090]"),
    ("idservice.environment.IDSERVICE_LISTEN", "0.0.0.0:8080", "over IPv6 nobody reaches"),
    ("idservice.environment.IDSERVICE_STORE", "dynamodb:counters?endpoint=http://x:8000",
     "nothing listens at http://x:8000"),
    ("idservice.image", "idservice:latest", "no version"),
    ("idservice.image", "idservice:9.9.9", "not idservice:9.9.9"),
    ("idservice.ports", ["8080:8080", "127.0.0.1:9090:9090"], "open to others at 8080:8080"),
    ("idservice.depends_on", {}, "does not wait for the engine"),
    ("idservice.healthcheck.test", ["CMD", "curl", "x"], "no command of ours"),
    ("idservice.healthcheck.start_period", "30s", "may wait 30 s for the store"),
    ("idservice.stop_grace_period", "10s", "to stop"),
    ("dynamodb.command", ["serve", "--port", "8001"], "nothing listens"),
    ("grafana.volumes", ["./deploy/gone:/x:ro"], "which is not there"),
    ("grafana.volumes", ["./deploy:/x"], "may write to"),
    ("grafana.volumes", ["gone:/x"], "which is no volume"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "said"), FAULTS, ids=lambda each: str(each)[:40])
def test_a_planted_fault_is_found(path: str, value: Any, said: str) -> None:
    wrong = copy.deepcopy(written())
    place = wrong["services"]
    *steps, last = path.split(".")
    for step in steps:
        place = place[step]
    place[last] = value
    assert any(said in what for what in complaints(wrong)), complaints(wrong)
