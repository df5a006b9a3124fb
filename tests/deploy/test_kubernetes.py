"""The kustomizations render offline, fit the schemas, and agree with the server they start."""

import copy
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from idservice.server.listen_address import ADMIN_DEFAULT, LISTEN_DEFAULT
from idservice.stores import open_store

from .conftest import DEPLOY, Command, Documents, documents
from .rules import complaints, containers, environment, mounts, of_kind, ours
from .schemas import NEWEST, OLDEST, invalid
from .told import told

pytestmark = [pytest.mark.needs_deployers, pytest.mark.xdist_group("rendered")]  # as test_helm

KUBERNETES = DEPLOY / "kubernetes"
PLAIN = ("base", "sqlite", "sqlite/init", "example")
KEYED = ("base, keys", "sqlite, keys", "example, keys")  # with that component over it
APPLIED = (*PLAIN, *KEYED)


@pytest.fixture(scope="session")
def rendered(
    kubectl: Command, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Documents]:
    """What a kustomization renders; each is rendered once."""
    known: dict[str, Documents] = {}

    def render(name: str) -> Documents:
        if name not in known:
            base, *components = name.split(", ")
            place = f"deploy/kubernetes/{base}"
            if components:
                place = str(tmp_path_factory.mktemp("over"))
                over(Path(place), base, *components)
            known[name] = documents(kubectl("kustomize", place))
        return copy.deepcopy(known[name])

    return render


Rendered = Callable[[str], Documents]


def over(folder: Path, base: str, *components: str) -> None:
    """Write a kustomization that lays components over one of ours."""
    there = Path(os.path.relpath(KUBERNETES, folder.resolve()))
    laid = [str(there / each) for each in components]
    written = {"resources": [str(there / base)], "components": laid}
    (folder / "kustomization.yaml").write_text(json.dumps(written))


def test_every_kustomization_is_tested() -> None:
    found = {path.parent for path in KUBERNETES.rglob("kustomization.yaml")}
    assert found == {KUBERNETES / name for name in (*PLAIN, "sidecar", "keys")}


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("name", APPLIED)
def test_it_fits_the_schema(rendered: Rendered, name: str, version: str) -> None:
    found = [invalid(document, version) for document in rendered(name)]
    assert not any(found), found


def test_the_schemas_know_a_field_that_does_not_exist(rendered: Rendered) -> None:
    (deployment,) = of_kind(rendered("example"), "Deployment")
    deployment["spec"]["template"]["spec"]["initContainers"][0]["restartPolice"] = "Always"
    assert "restartPolice" in invalid(deployment, OLDEST)


@pytest.mark.parametrize("name", APPLIED)
def test_it_agrees_with_the_server_and_with_itself(rendered: Rendered, name: str) -> None:
    assert complaints(rendered(name)) == []


def test_the_base_has_all_that_a_service_needs(rendered: Rendered) -> None:
    kinds = sorted(document["kind"] for document in rendered("base"))
    assert kinds == sorted(
        ["Deployment", "Service", "PodDisruptionBudget", "ServiceAccount", "NetworkPolicy"]
    )


def test_the_default_ports_are_those_of_the_settings(rendered: Rendered) -> None:
    (deployment,) = of_kind(rendered("base"), "Deployment")
    (container,) = ours(deployment["spec"]["template"]["spec"])
    listens = told(environment(container)).listens
    defaults = [LISTEN_DEFAULT.port, ADMIN_DEFAULT.port]
    assert [address.port for address in listens] == defaults


def test_a_sidecar_asks_the_service_of_the_base(rendered: Rendered) -> None:
    (service,) = of_kind(rendered("base"), "Service")
    (application,) = of_kind(rendered("example"), "Deployment")
    (sidecar,) = ours(application["spec"]["template"]["spec"])
    store = environment(sidecar)["IDSERVICE_STORE"]
    ports = {port["name"]: port["port"] for port in service["spec"]["ports"]}
    assert store == f"http://{service['metadata']['name']}:{ports['http']}"
    assert open_store(store, hold_s=10).address == store


def test_the_application_asks_where_the_sidecar_listens(rendered: Rendered) -> None:
    (application,) = of_kind(rendered("example"), "Deployment")
    pod = application["spec"]["template"]["spec"]
    (sidecar,) = ours(pod)
    assert environment(pod["containers"][0])["IDS"] == environment(sidecar)["IDSERVICE_LISTEN"]
    assert mounts(pod, pod["containers"][0]).keys() == mounts(pod, sidecar).keys()


def test_the_volume_is_the_one_that_was_initialised(rendered: Rendered) -> None:
    (claim,) = of_kind(rendered("sqlite/init"), "PersistentVolumeClaim")
    (job,) = of_kind(rendered("sqlite/init"), "Job")
    (deployment,) = of_kind(rendered("sqlite"), "Deployment")
    stores = []
    for workload in (job, deployment):
        pod = workload["spec"]["template"]["spec"]
        (volume,) = pod["volumes"]
        assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        stores.append(environment(containers(pod)[0])["IDSERVICE_STORE"])
    assert stores[0] == stores[1]


def test_serving_creates_no_store(rendered: Rendered) -> None:
    for name in APPLIED:
        for workload in of_kind(rendered(name), "Deployment"):
            for container in ours(workload["spec"]["template"]["spec"]):
                assert not told(environment(container)).values["init"]
    assert not of_kind(rendered("sqlite"), "PersistentVolumeClaim"), "a lost one would come again"


def test_with_keys_the_service_asks_and_the_sidecar_shows_one(rendered: Rendered) -> None:
    for name in KEYED:
        (deployment,) = of_kind(rendered(name), "Deployment")
        (container,) = ours(deployment["spec"]["template"]["spec"])
        values = told(environment(container)).values
        is_service = name != "example, keys"
        assert values["require_keys"] == ("remote" if is_service else None)
        assert (values["store_key_file"] is None) == is_service
        (plain,) = of_kind(rendered(name.removesuffix(", keys")), "Deployment")
        assert "KEY" not in str(plain), "without the component nothing is asked"


KINDS = {
    "Deployment": ("apps/v1", {}),
    "StatefulSet": ("apps/v1", {"serviceName": "application"}),
    "DaemonSet": ("apps/v1", {}),
    "Job": ("batch/v1", {}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_component_adds_the_sidecar_before_all_else(
    kubectl: Command, kind: str, tmp_path: Any
) -> None:
    version, more = KINDS[kind]
    text = (KUBERNETES / "example" / "application.yaml").read_text()
    text = text.replace("kind: Deployment", f"kind: {kind}").replace("apps/v1", version)
    text = text.replace(
        "      containers:", "      initContainers: [{name: migrate, image: x}]\n      containers:"
    )
    for key, value in more.items():
        text = text.replace("spec:\n  selector:", f"spec:\n  {key}: {value}\n  selector:")
    bare = text.replace("labels: {idservice: sidecar}", "labels: {other: label}")
    bare = bare.replace("name: application\n", "name: bare\n", 1)
    (tmp_path / "application.yaml").write_text(f"{text}---\n{bare}")
    (tmp_path / "kustomization.yaml").write_text(
        "resources: [application.yaml]\ncomponents: [sidecar]\n"
    )
    (tmp_path / "sidecar").mkdir()
    for path in (KUBERNETES / "sidecar").iterdir():
        (tmp_path / "sidecar" / path.name).write_text(path.read_text())
    first, second = documents(kubectl("kustomize", str(tmp_path)))
    pods = {each["metadata"]["name"]: each["spec"]["template"]["spec"] for each in (first, second)}
    added = pods["application"]["initContainers"]
    assert [each["name"] for each in added] == ["idservice", "migrate"]
    assert added[0]["restartPolicy"] == "Always"
    assert pods["application"]["securityContext"]["runAsUser"] == 65532, "the application's stays"
    assert [each["name"] for each in pods["bare"]["initContainers"]] == ["migrate"]


# --- the rules can fail ---------------------------------------------------------------------------


def planted(path: str, value: Any) -> Callable[[Documents], None]:
    """Puts a value at a path such as `Deployment.spec.replicas`; None takes away what is there."""

    def plant(found: Documents) -> None:
        kind, *steps, last = [int(step) if step.isdigit() else step for step in path.split(".")]
        (place,) = of_kind(found, str(kind))
        for step in steps:
            place = place[step]
        if value is None:
            del place[last]
        else:
            place[last] = value

    return plant


POD = "Deployment.spec.template.spec"
MAIN, SIDECAR = f"{POD}.containers.0", f"{POD}.initContainers.0"
FAULTS = [
    ("base", f"{MAIN}.env.0.name", "IDSERVICE_STOER", "did you mean IDSERVICE_STORE?"),
    ("base", f"{MAIN}.env.3.value", "9", "it must be from 0 to 8 seconds"),
    ("base", f"{MAIN}.env.3.value", "5", "is seen not to be ready after"),
    ("base", f"{MAIN}.env.1.value", "0.0.0.0:8081", "listens on"),
    ("base", f"{MAIN}.env.1.value", "0.0.0.0:8080", "over IPv6 nobody reaches"),
    ("base", f"{MAIN}.ports.0.containerPort", 80, "listens on"),
    ("base", f"{MAIN}.ports.0.name", "web", "there is no port http"),
    ("base", f"{MAIN}.image", "idservice:0.0.9", "has the tag 0.0.9"),
    ("base", f"{MAIN}.livenessProbe.httpGet.path", "/healthz", "there is no path /healthz"),
    ("base", f"{MAIN}.startupProbe.failureThreshold", 30, "may wait 30 s for the store"),
    ("base", f"{MAIN}.readinessProbe.failureThreshold", 3, "is seen not to be ready after"),
    ("base", f"{MAIN}.resources.limits.cpu", "1", "none of CPU"),
    ("base", f"{MAIN}.securityContext.readOnlyRootFilesystem", None, "readOnlyRootFilesystem"),
    ("base", f"{POD}.securityContext.seccompProfile", None, "seccompProfile"),
    ("base", f"{POD}.securityContext.runAsUser", 1000, "the image is made for 10001"),
    ("base", f"{POD}.terminationGracePeriodSeconds", 10, "it has 10 s to stop"),
    ("base", "Service.spec.selector", {"app": "other"}, "does not select the pods"),
    ("base", "Service.spec.ports.0.targetPort", "web", "it opens"),
    ("base", "NetworkPolicy.spec.podSelector", {}, "every pod of the namespace"),
    ("base", "NetworkPolicy.spec.ingress.0.ports.0.port", "web", "it opens"),
    ("base", "PodDisruptionBudget.spec.minAvailable", 1, "could never be drained"),
    ("sqlite", "Deployment.spec.replicas", 2, "2 replicas on one SQLite file"),
    ("sqlite", "Deployment.spec.strategy.type", "RollingUpdate", "before the old one stopped"),
    ("sqlite", f"{MAIN}.env.0.value", "sqlite:/tmp/x.db", "is on no persistent volume"),
    ("sqlite", f"{MAIN}.env.0", {"name": "OTHER", "value": "x"}, "start again from 0"),
    ("sqlite", f"{POD}.volumes.0", {"name": "ids", "emptyDir": {}}, "is on no persistent volume"),
    ("example", f"{SIDECAR}.env.1.value", "unix:/tmp/ids.sock", "is in no emptyDir"),
    ("example", f"{MAIN}.volumeMounts.0.mountPath", "/run/ids", "no application sees the socket"),
    ("example", f"{POD}.securityContext.supplementalGroups", [1], "not in the group of the socket"),
    ("example", f"{POD}.terminationGracePeriodSeconds", 15, "it has 15 s to stop"),
    ("example", f"{SIDECAR}.env.2.value", "5", "a sidecar neither drains"),
    ("example", f"{SIDECAR}.startupProbe.exec.command", ["idservice", "helath"], "helath"),
    ("example", f"{SIDECAR}.startupProbe.exec.command.0", "curl", "no command of ours"),
    ("example", SIDECAR, None, "idservice does not run in it"),
    ("example", f"{MAIN}.securityContext.capabilities", {}, "capabilities"),
    ("example, keys", f"{POD}.volumes.0.secret", None, "is in no secret"),
    ("example, keys", f"{MAIN}.volumeMounts.0.name", "idservice-key", "sees its access key"),
    ("example, keys", f"{SIDECAR}.env.1.value", "dynamodb:counters", "asks for none"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "path", "value", "said"), FAULTS, ids=lambda each: str(each)[:60])
def test_a_planted_fault_is_found(
    rendered: Rendered, name: str, path: str, value: Any, said: str
) -> None:
    found = rendered(name)
    planted(path, value)(found)
    assert any(said in what for what in complaints(found)), complaints(found)


def test_every_file_says_what_it_is_for() -> None:
    for path in KUBERNETES.rglob("kustomization.yaml"):
        assert re.match(r"# [A-Z]", path.read_text()), path
