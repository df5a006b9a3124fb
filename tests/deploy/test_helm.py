"""The chart renders what it should for the common shapes, and refuses values that make no sense."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from idservice import __version__
from idservice.server import settings
from idservice.server.settings import SERVE
from idservice.stores.address import DynamoAddress

from .conftest import DEPLOY, Documents, Failed, Render, documents
from .rules import complaints, environment, mounts, of_kind, ours
from .schemas import NEWEST, OLDEST, invalid
from .told import misspoken, told

# A group with test_kubernetes: each worker renders for itself, and reads megabytes of schemas.
pytestmark = [pytest.mark.needs_deployers, pytest.mark.xdist_group("rendered")]

CHART = DEPLOY / "helm" / "idservice"
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
DYNAMODB = {"kind": "dynamodb", "dynamodb": {"table": "counters", "region": "eu-central-1"}}
CHAINED = {"kind": "chained", "chained": {"url": "http://central:8080"}}
ROLE = {"eks.amazonaws.com/role-arn": "arn:aws:iam::123456789012:role/ids"}
BESIDE = {
    "name": "proxy", "image": "proxy:1", "resources": {"limits": {"memory": "64Mi"}},
    "securityContext": {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    },
}  # fmt: skip
SHAPES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "sqlite": {"store": {"sqlite": {"size": "2Gi", "storageClass": "ssd"}}, "replicas": 1},
    "sqlite, first start": {"store": {"init": True}},
    "sqlite, own claim": {"store": {"sqlite": {"existingClaim": "ids"}}},
    "dynamodb": {"store": DYNAMODB, "serviceAccount": {"annotations": ROLE}, "replicas": 3},
    "dynamodb, endpoint": {
        "store": {**DYNAMODB, "dynamodb": {"table": "ids", "endpoint": "http://dynamodb:8000"}},
        "environment": [
            {"name": name, "valueFrom": {"secretKeyRef": {"name": "aws", "key": name}}}
            for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        ],
    },
    "chained": {"store": CHAINED, "serviceAccount": {"create": False}},
    "chained, IPv6": {
        "store": {"kind": "chained", "chained": {"url": "http://[fd00::2]:8080"}},
        "service": {"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv6"]},
    },
    "workers": {"store": DYNAMODB, "workers": 4},
    "tls": {"tls": {"secret": "ids-tls", "authority": "ca.crt"}},
    "tls, of a public authority": {"store": DYNAMODB, "tls": {"secret": "ids-tls"}},
    "monitoring": {
        "monitoring": {
            "enabled": True, "labels": {"release": "prometheus"}, "rules": True, "dashboard": True,
            "runbook": "https://wiki.example/ids",
        },
    },
    "created by a job": {
        "store": {**DYNAMODB, "initJob": {"enabled": True, "serviceAccount": "operator"}},
        "environmentFrom": [{"secretRef": {"name": "aws"}}],
    },
    "created by a job, sqlite": {
        "store": {"sqlite": {"existingClaim": "ids"}, "initJob": {"enabled": True}},
    },
    "more in the pod": {
        "extraInitContainers": [{**BESIDE, "name": "before"}],
        "extraContainers": [BESIDE],
        "extraVolumes": [{"name": "certificate", "secret": {"secretName": "certificate"}}],
        "extraVolumeMounts": [{"name": "certificate", "mountPath": "/etc/certificate"}],
    },
    "bare": {"networkPolicy": {"enabled": False}, "disruptionBudget": {"enabled": False}},
    "all else": {
        "store": DYNAMODB,
        "settings": {"runway": 60, "route": ["/a/next=a", "/b/next=b"], "wait": 0.5, "drain": 8},
        "image": {"repository": "registry.example/idservice", "pullSecrets": [{"name": "pull"}]},
        "podAnnotations": {"a": "b"}, "podLabels": {"c": "d"}, "nodeSelector": {"e": "f"},
        "tolerations": [{"operator": "Exists"}], "priorityClassName": "high",
        "affinity": {"podAntiAffinity": {}}, "service": {"annotations": {"g": "h"}},
        "resources": {"requests": {"cpu": 1}, "limits": {"memory": "1Gi"}},
    },
}  # fmt: skip


def container_of(found: Documents) -> dict[str, Any]:
    (deployment,) = of_kind(found, "Deployment")
    (container,) = ours(deployment["spec"]["template"]["spec"])
    return dict(container)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_fits_the_schemas_and_agrees_with_the_server(render: Render, shape: str) -> None:
    found = render(SHAPES[shape])
    for version in (OLDEST, NEWEST):
        assert not any(what := [invalid(each, version) for each in found]), what
    assert complaints(found) == []


@pytest.mark.parametrize("shape", ["as it is", "dynamodb", "monitoring", "all else"])
def test_a_shape_passes_the_lint(with_values: Callable[..., str], shape: str) -> None:
    assert "0 chart(s) failed" in with_values("lint --strict", SHAPES[shape])


def test_sqlite_has_one_instance_and_a_volume_that_outlives_the_release(render: Render) -> None:
    found = render(SHAPES["sqlite"])
    (claim,) = of_kind(found, "PersistentVolumeClaim")
    (deployment,) = of_kind(found, "Deployment")
    (volume,) = deployment["spec"]["template"]["spec"]["volumes"]
    assert deployment["spec"]["replicas"] == 1
    assert deployment["spec"]["strategy"] == {"type": "Recreate"}
    assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert claim["spec"]["storageClassName"] == "ssd"
    own = render(SHAPES["sqlite, own claim"])
    assert not of_kind(own, "PersistentVolumeClaim")


def test_several_replicas_on_sqlite_are_refused_and_never_rendered(
    with_values: Callable[..., str],
) -> None:
    with pytest.raises(Failed, match="replicas"):
        with_values("template ids", {"replicas": 2})
    forced = documents(with_values("template ids", {"replicas": 2}, "--skip-schema-validation"))
    assert of_kind(forced, "Deployment")[0]["spec"]["replicas"] == 1


def test_a_store_is_created_where_that_was_said_and_nowhere_else(render: Render) -> None:
    created = {
        shape
        for shape, values in SHAPES.items()
        if told(environment(container_of(render(values)))).values["init"]
    }
    assert created == {"sqlite, first start"}


def test_dynamodb_is_told_its_table_and_gets_a_role(render: Render) -> None:
    found = render(SHAPES["dynamodb"])
    store = environment(container_of(found))["IDSERVICE_STORE"].removeprefix("dynamodb:")
    assert DynamoAddress.parse(store) == DynamoAddress("counters", "eu-central-1")
    (account,) = of_kind(found, "ServiceAccount")
    (deployment,) = of_kind(found, "Deployment")
    assert account["metadata"]["annotations"] == ROLE
    pod = deployment["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == account["metadata"]["name"]
    assert deployment["spec"]["replicas"] == 3
    elsewhere = container_of(render(SHAPES["dynamodb, endpoint"]))
    store = environment(elsewhere)["IDSERVICE_STORE"].removeprefix("dynamodb:")
    assert DynamoAddress.parse(store) == DynamoAddress("ids", None, "http://dynamodb:8000")
    assert [each["name"] for each in elsewhere["env"]][-2:] == [
        "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "ports"),
    [
        ("sqlite", set()),
        ("dynamodb", {53, 443, 80}),
        ("dynamodb, endpoint", {53, 8000}),
        ("chained", {53, 8080}),
        ("chained, IPv6", {53, 8080}),
    ],
)
def test_it_may_talk_to_its_store_and_to_nobody_else(
    render: Render, shape: str, ports: set[int]
) -> None:
    (policy,) = of_kind(render(SHAPES[shape]), "NetworkPolicy")
    opened = {port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]}
    assert opened == ports


def test_the_service_has_both_families_of_addresses_or_the_one_named(render: Render) -> None:
    def families(shape: str) -> tuple[str, list[str] | None]:
        (service,) = of_kind(render(SHAPES[shape]), "Service")
        return service["spec"]["ipFamilyPolicy"], service["spec"].get("ipFamilies")

    assert families("dynamodb") == ("PreferDualStack", None)
    assert families("chained, IPv6") == ("SingleStack", ["IPv6"])
    container = container_of(render(SHAPES["chained, IPv6"]))
    heard = told(environment(container))
    assert {address.host for address in heard.values["listen"]} == {"::"}


def test_workers_are_told_and_given_memory(render: Render) -> None:
    container = container_of(render(SHAPES["workers"]))
    assert told(environment(container)).values["workers"] == 4
    one = container_of(render({}))
    assert (one["resources"]["limits"], container["resources"]["limits"]) == (
        {"memory": "256Mi"},
        {"memory": "304Mi"},
    )
    secured = container_of(render(SHAPES["tls"]))
    assert secured["resources"]["limits"] == {"memory": "736Mi"}, "each connection takes more"


def test_the_monitor_finds_the_service_and_its_metrics(render: Render) -> None:
    found = render(SHAPES["monitoring"])
    (monitor,), (service,) = of_kind(found, "ServiceMonitor"), of_kind(found, "Service")
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    wanted = monitor["spec"]["selector"]["matchLabels"]
    assert wanted.items() <= service["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["endpoints"]
    ports = {port["name"]: port["targetPort"] for port in service["spec"]["ports"]}
    assert ports[endpoint["port"]] == "metrics"
    assert not of_kind(render({}), "ServiceMonitor")


def test_the_rules_and_the_dashboard_are_those_of_the_folder_beside(render: Render) -> None:
    for name, original in (
        ("rules.yml", "rules.yml"),
        ("dashboard.json", "grafana/dashboards/idservice.json"),
    ):
        copy = (CHART / "files" / name).read_text()
        assert copy == (DEPLOY / "monitoring" / original).read_text(), f"copy it to {name}"
    found = render(SHAPES["monitoring"])
    (rule,), (dashboard,) = of_kind(found, "PrometheusRule"), of_kind(found, "ConfigMap")
    wanted = (CHART / "files" / "rules.yml").read_text()
    base = "https://git.example/idservice/blob/main/deploy/README.md"
    assert wanted.count(base) == wanted.count("- alert:") > 5
    assert rule["spec"] == yaml.safe_load(wanted.replace(base, "https://wiki.example/ids"))
    assert rule["metadata"]["labels"]["release"] == "prometheus"
    shown = json.loads(dashboard["data"]["idservice.json"])
    assert shown == json.loads((CHART / "files" / "dashboard.json").read_text())
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert not of_kind(render({}), "PrometheusRule", "ConfigMap")


def test_helm_test_waits_for_the_service_by_its_name_and_uses_up_no_id(render: Render) -> None:
    found = render({})
    (pod,), (service,) = of_kind(found, "Pod"), of_kind(found, "Service")
    (container,) = pod["spec"]["containers"]
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    assert misspoken(["idservice", *container["args"]]) == []
    assert container["args"][0] == "wait"
    assert f"http://{service['metadata']['name']}:8080" in container["args"]
    assert not service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()


@pytest.mark.parametrize("shape", ["tls", "tls, of a public authority"])
def test_with_a_secret_ids_are_served_probed_and_tested_over_tls(
    render: Render, shape: str
) -> None:
    found = render(SHAPES[shape])
    container = container_of(found)
    heard = told(environment(container))
    assert [address.tls for address in heard.listens] == [True, False]
    probes = [container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")]
    assert {each["scheme"] for each in probes} == {"HTTPS"}
    (deployment,), (pod,) = of_kind(found, "Deployment"), of_kind(found, "Pod")
    (place,) = [path for path in mounts(deployment["spec"]["template"]["spec"], container)
                if path != "/var/lib/idservice"]  # fmt: skip
    files = {heard.values["tls_cert"], heard.values["tls_key"]}
    assert files == {f"{place}/tls.crt", f"{place}/tls.key"}
    (wait,) = pod["spec"]["containers"]
    assert any(word.startswith("https://ids-idservice:") for word in wait["args"])
    assert ("SSL_CERT_FILE" in environment(wait)) == (shape == "tls")
    http = container_of(render({}))
    assert http["readinessProbe"]["httpGet"]["scheme"] == "HTTP"
    assert "IDSERVICE_TLS_CERT" not in environment(http)


@pytest.mark.parametrize("shape", ["created by a job", "created by a job, sqlite"])
def test_a_job_creates_the_store_before_an_installation_only(render: Render, shape: str) -> None:
    found = render(SHAPES[shape])
    (job,), (service,) = of_kind(found, "Job"), of_kind(found, "Service")
    pod = job["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install"
    assert container["args"] == ["init"]
    store = environment(container_of(found))["IDSERVICE_STORE"]
    assert environment(container) == {"IDSERVICE_STORE": store}
    assert not service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert pod["spec"]["serviceAccountName"] == ("default" if "sqlite" in shape else "operator")
    assert not of_kind(render({}), "Job")


def test_a_pod_is_spread_over_zones_and_nodes_or_as_it_was_said(render: Render) -> None:
    def spread(values: dict[str, Any]) -> list[Any]:
        (deployment,) = of_kind(render(values), "Deployment")
        found: list[Any] = deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]
        return found

    keys = [each["topologyKey"] for each in spread(SHAPES["dynamodb"])]
    assert keys == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]
    own = [{"topologyKey": "rack", "maxSkew": 2, "whenUnsatisfiable": "DoNotSchedule"}]
    assert spread({**SHAPES["dynamodb"], "topologySpreadConstraints": own}) == own


def test_more_containers_and_volumes_stand_beside_ours(render: Render) -> None:
    found = render(SHAPES["more in the pod"])
    (deployment,) = of_kind(found, "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    assert [each["name"] for each in pod["containers"]] == ["idservice", "proxy"]
    assert [each["name"] for each in pod["initContainers"]] == ["before"]
    assert set(mounts(pod, container_of(found))) == {"/var/lib/idservice", "/etc/certificate"}
    job = container_of(render(SHAPES["created by a job"]))
    assert job["envFrom"] == [{"secretRef": {"name": "aws"}}]


def test_settings_reach_the_server_as_they_were_written(render: Render) -> None:
    values = told(environment(container_of(render(SHAPES["all else"])))).values
    assert (values["runway"], values["wait"], values["drain"]) == (60, 0.5, 8)
    assert values["route"] == (("/a/next", "a"), ("/b/next", "b"))


# --- the schema of the values ---------------------------------------------------------------------

# Said elsewhere in the values.
OWNED = {
    "store", "store_key_file", "init", "listen", "admin_listen", "tls_cert", "tls_key", "workers",
}  # fmt: skip
# The one wants packages that the image does not have, the other a listener that only a pod reaches.
LACKING = {"otel", "allow_changes"}
SETTINGS = SCHEMA["properties"]["settings"]["properties"]


def test_every_setting_can_be_said_and_none_that_does_not_exist() -> None:
    assert set(SETTINGS) == {setting.name for setting in SERVE} - OWNED - LACKING


@pytest.mark.parametrize("end", ["minimum", "maximum"])
def test_the_ends_of_every_range_are_taken_by_the_server(render: Render, end: str) -> None:
    values = {name: rule[end] for name, rule in SETTINGS.items() if end in rule}
    assert len(values) >= 10
    found = render({"settings": values})
    assert complaints(found) == []
    heard = told(environment(container_of(found)))
    assert {name: heard.values[name] for name in values} == values


def test_what_the_server_allows_the_schema_allows() -> None:
    """But for the drain, which is long enough for others to see that a pod leaves."""
    for setting in SERVE:
        rule = SETTINGS.get(setting.name, {})
        if "maximum" in rule and setting.name != "drain":
            step = 1 if "integer" in rule["type"] else 0.01
            for beyond in (rule["minimum"] - step, rule["maximum"] + 1):
                with pytest.raises(ValueError):
                    setting.parse(str(beyond))


def test_workers_have_the_bound_of_the_server() -> None:
    assert SCHEMA["properties"]["workers"]["maximum"] == settings.WORKERS_MAX


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"replica": 1}, "additional properties 'replica' not allowed"),
    ({"settings": {"runwya": 60}}, "additional properties 'runwya' not allowed"),
    ({"settings": {"store": "sqlite:x"}}, "'store' not allowed"),
    ({"settings": {"runway": 0}}, "/settings/runway"),
    ({"settings": {"drain": 1}}, "/settings/drain"),
    ({"settings": {"route": ["orders"]}}, "/settings/route/0"),
    ({"store": {"kind": "redis"}}, "/store/kind"),
    ({"store": {"kind": "dynamodb"}}, "/store/dynamodb/table"),
    ({"store": {"kind": "chained"}}, "/store/chained/url"),
    ({"store": {**CHAINED, "init": True}}, "/store/init"),
    ({"store": {**CHAINED, "initJob": {"enabled": True}}}, "/store/kind"),
    ({"store": {**DYNAMODB, "init": True, "initJob": {"enabled": True}}}, "/store/init"),
    ({"store": {"initJob": {"enabled": True}}}, "/store/sqlite/existingClaim"),
    ({"store": {"kind": "chained", "chained": {"url": "central:8080"}}}, "/store/chained/url"),
    ({"store": {"sqlite": {"size": "large"}}}, "/store/sqlite/size"),
    ({"image": {"digest": "abc"}}, "/image/digest"),
    ({"tls": {"secret": "Ids TLS"}}, "/tls/secret"),
    ({"workers": 0}, "/workers"),
    ({"workers": "auto"}, "/workers"),
    ({"environment": [{"name": "IDSERVICE_STORE", "value": "x"}]}, "/environment/0/name"),
]


@pytest.mark.parametrize(("values", "said"), REFUSED, ids=lambda each: str(each)[:60])
def test_values_without_sense_are_refused(
    with_values: Callable[..., str], values: dict[str, Any], said: str
) -> None:
    with pytest.raises(Failed) as caught:
        with_values("template ids", values)
    assert said in str(caught.value)


def test_every_default_is_in_the_schema_and_nothing_else_is() -> None:
    """Helm's own `global` apart."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    def compare(value: Any, schema: Any, place: str) -> None:
        if place == "settings" or "properties" not in schema:
            return
        assert set(value) == set(schema["properties"]) - {"global"}, place
        for name in value:
            compare(value[name], schema["properties"][name], name)

    compare(values, SCHEMA, "")


def test_the_chart_is_of_this_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)
    assert chart["kubeVersion"] == f">={OLDEST}.0-0"
