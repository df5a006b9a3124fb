"""What no schema sees in Kubernetes objects: they agree with the server and with each other.

`complaints` says what is wrong, in words. Both sides of a rule are read, and no number is repeated.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from idservice import __version__
from idservice.server.workers.supervisor import STOP_S
from tests.processes import ROOT

from .told import misspoken, told

Object = Mapping[str, Any]

USER = int(re.findall(r"^USER ([0-9]+):", (ROOT / "Dockerfile").read_text(), re.MULTILINE)[0])
WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet", "Job")
HEALTH_PATHS = {"/livez", "/readyz"}
SPARE_S = 3.0  # beyond what the server allows itself, for a busy node


def complaints(objects: list[Object]) -> list[str]:
    """What is wrong with objects that are applied together."""
    found = []
    for workload in of_kind(objects, *WORKLOADS):
        name = f"{workload['kind']} {workload['metadata']['name']}"
        found += [f"{name}: {what}" for what in _of_workload(workload)]
    return found + list(_of_selectors(objects))


def of_kind(objects: list[Object], *kinds: str) -> list[Object]:
    """Those of some kinds."""
    return [each for each in objects if each["kind"] in kinds]


def is_hook(each: Object) -> bool:
    """Whether helm runs it by itself, apart from the service."""
    return "helm.sh/hook" in each["metadata"].get("annotations", {})


def containers(pod: Object) -> list[Object]:
    """All containers of a pod."""
    return [*pod.get("initContainers", []), *pod["containers"]]


def ours(pod: Object) -> list[Object]:
    """The containers that run `idservice` itself, not a program of the application's."""
    return [
        each
        for each in containers(pod)
        if re.fullmatch(r"(.*/)?idservice[:@].*", each["image"]) and "command" not in each
    ]


def environment(container: Object) -> dict[str, str]:
    """The variables that have a plain value."""
    return {each["name"]: each["value"] for each in container.get("env", []) if "value" in each}


def is_sidecar(pod: Object, container: Object) -> bool:
    """Whether it is a native sidecar."""
    return container in pod.get("initContainers", []) and container.get("restartPolicy") == "Always"


def mounts(pod: Object, container: Object) -> dict[str, Object]:
    """The volumes of a container by the path where they are."""
    volumes = {each["name"]: each for each in pod.get("volumes", [])}
    return {
        each["mountPath"]: volumes.get(each["name"], {})
        for each in container.get("volumeMounts", [])
    }


# --- one workload ---------------------------------------------------------------------------------


def _of_workload(workload: Object) -> Iterator[str]:
    pod = workload["spec"]["template"]["spec"]
    if not ours(pod):
        yield "idservice does not run in it"
    for container in containers(pod):
        yield from _hardening(pod, container)
    for container in ours(pod):
        yield from _image(container)
        heard = told(environment(container))
        yield from heard.wrong
        yield from misspoken(["idservice", *container.get("args", ["serve"])])
        yield from _sqlite(workload, pod, container, heard.values["store"])
        if container.get("args", ["serve"])[0] == "serve" and not heard.wrong:
            yield from _serving(pod, container)


def _serving(pod: Object, container: Object) -> Iterator[str]:
    heard = told(environment(container))
    named = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
    if set(named.values()) != heard.ports:
        yield f"it names the ports {sorted(named.values())} and listens on {sorted(heard.ports)}"
    yield from (f"over IPv6 nobody reaches {address}" for address in heard.deaf)
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        if kind in container:
            yield from (f"{kind}: {what}" for what in _probe(container[kind], named))
    yield from _times(pod, container)
    yield from _key_file(pod, container)
    for path in heard.sockets:
        yield from _socket(pod, container, PurePosixPath(path))


def _key_file(pod: Object, container: Object) -> Iterator[str]:
    values = told(environment(container)).values
    path, store = values["store_key_file"], str(values["store"])
    if path is None:
        return
    if not store.startswith("http"):
        yield f"it has an access key, and {store} asks for none"
    folder = str(PurePosixPath(path).parent)
    volume = mounts(pod, container).get(folder, {})
    if "secret" not in volume:
        yield f"its access key {path} is in no secret"
    others = [each for each in containers(pod) if each is not container]
    if any(volume in mounts(pod, each).values() for each in others):
        yield "another container sees its access key"


def _image(container: Object) -> Iterator[str]:
    tag = container["image"].rpartition(":")[2]
    if tag != __version__:
        yield f"its image has the tag {tag}, and this is version {__version__}"


def _hardening(pod: Object, container: Object) -> Iterator[str]:
    security = {**pod.get("securityContext", {}), **container.get("securityContext", {})}
    wanted = {
        "runAsNonRoot": True,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    for key, value in wanted.items():
        if security.get(key) != value:
            yield f"container {container['name']}: {key} is {security.get(key)}"
    if container in ours(pod) and security.get("runAsUser") != USER:
        yield f"it runs as user {security.get('runAsUser')}, and the image is made for {USER}"
    if "limits" not in container.get("resources", {}) or "cpu" in container["resources"]["limits"]:
        yield f"container {container['name']}: it needs a limit of memory, and none of CPU"


def _probe(probe: Object, named: Mapping[str, int]) -> Iterator[str]:
    if "exec" in probe:
        yield from misspoken(probe["exec"]["command"])
    else:
        if probe["httpGet"]["port"] not in named:
            yield f"there is no port {probe['httpGet']['port']}"
        if probe["httpGet"]["path"] not in HEALTH_PATHS:
            yield f"there is no path {probe['httpGet']['path']}"


def _times(pod: Object, container: Object) -> Iterator[str]:
    values = told(environment(container)).values
    grace, sidecar = pod.get("terminationGracePeriodSeconds", 30), is_sidecar(pod, container)
    # A sidecar is asked last: the application has had its part of the grace by then.
    needed = STOP_S + SPARE_S + (10 if sidecar else 0)
    if grace < needed:
        yield f"it has {grace} s to stop, and may need {needed:g} s"
    start = container.get("startupProbe", {})
    allowed = start.get("periodSeconds", 10) * start.get("failureThreshold", 3)
    if allowed < values["store_wait"] + 10:
        wait = values["store_wait"]
        yield f"it is killed after {allowed} s, and may wait {wait:g} s for the store"
    ready = container.get("readinessProbe")
    if sidecar and (ready or values["drain"]):
        yield "a sidecar neither drains nor decides whether its pod is ready"
    if sidecar:
        return
    seen = ready["periodSeconds"] * ready.get("failureThreshold", 3) + ready.get(
        "timeoutSeconds", 1
    )
    if values["drain"] < seen:
        drain = values["drain"]
        yield f"it answers for {drain:g} s more, and is seen not to be ready after {seen} s"


def _sqlite(workload: Object, pod: Object, container: Object, store: str | None) -> Iterator[str]:
    if store is not None and not store.startswith("sqlite:"):
        return
    if store is None:
        yield "it names no store: a lost volume would start again from 0"
        return
    folder = str(PurePosixPath(store.removeprefix("sqlite:")).parent)
    volume = mounts(pod, container).get(folder, {})
    if "persistentVolumeClaim" not in volume and not _claims(workload, volume.get("name")):
        yield f"{store} is on no persistent volume"
    spec, kind = workload["spec"], workload["kind"]
    if kind in ("Deployment", "StatefulSet") and spec.get("replicas", 1) != 1:
        yield f"{spec['replicas']} replicas on one SQLite file"
    if kind == "Deployment" and spec.get("strategy", {}).get("type") != "Recreate":
        yield "a new instance would start on the SQLite file before the old one stopped"
    if kind == "DaemonSet":
        yield "one SQLite file on every node"


def _claims(workload: Object, volume: str | None) -> bool:
    templates = workload["spec"].get("volumeClaimTemplates", [])
    return any(each["metadata"]["name"] == volume for each in templates)


def _socket(pod: Object, container: Object, path: PurePosixPath) -> Iterator[str]:
    folder = str(path.parent)
    volume = mounts(pod, container).get(folder, {})
    if "emptyDir" not in volume:
        yield f"the socket {path} is in no emptyDir"
    others = [each for each in pod["containers"] if mounts(pod, each).get(folder) == volume]
    if not others:
        yield f"no application sees the socket's volume at {folder}"
    security = pod.get("securityContext", {})
    groups = [security.get("fsGroup"), *security.get("supplementalGroups", [])]
    if container["securityContext"].get("runAsGroup") not in groups:
        yield f"the application is not in the group of the socket {path}"


# --- between objects ------------------------------------------------------------------------------


def _of_selectors(objects: list[Object]) -> Iterator[str]:
    pods = [each["spec"]["template"] for each in of_kind(objects, *WORKLOADS) if not is_hook(each)]
    for each in objects:
        kind, spec = each["kind"], each.get("spec", {})
        if kind == "Service":
            yield from _selected(kind, spec.get("selector"), pods)
            yield from _ports(kind, [port["targetPort"] for port in spec["ports"]], pods)
        elif kind == "PodDisruptionBudget":
            yield from _selected(kind, spec["selector"].get("matchLabels"), pods)
            if "minAvailable" in spec:
                yield f"{kind}: with one replica its node could never be drained"
        elif kind == "NetworkPolicy":
            yield from _selected(kind, spec["podSelector"].get("matchLabels"), pods)
            ports = [port["port"] for rule in spec["ingress"] for port in rule["ports"]]
            yield from _ports(kind, ports, pods)


def _selected(kind: str, labels: Object | None, pods: list[Object]) -> Iterator[str]:
    if not labels:
        yield f"{kind}: it selects every pod of the namespace"
        return
    for pod in pods:
        if not labels.items() <= pod["metadata"].get("labels", {}).items():
            yield f"{kind}: {labels} does not select the pods"


def _ports(kind: str, ports: list[str], pods: list[Object]) -> Iterator[str]:
    named = {
        port["name"]
        for pod in pods
        for container in ours(pod["spec"])
        for port in container.get("ports", [])
    }
    if set(ports) != named:
        yield f"{kind}: it opens {sorted(ports)}, and the pods have {sorted(named)}"
