"""Kubernetes' API in small, for kubectl and helm: it checks what it is sent and keeps it.

It knows no controllers: what is applied is at once as far as it will get. Version 1.29, and no
kinds but those that are named here.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

from . import protobuf
from .answering import answering
from .schemas import OLDEST, invalid

Object = dict[str, Any]

GROUPS: dict[str, dict[str, str]] = {  # by group and version: each kind and its plural
    "v1": {
        "ConfigMap": "configmaps", "Event": "events", "Pod": "pods", "Secret": "secrets",
        "PersistentVolumeClaim": "persistentvolumeclaims", "Service": "services",
        "ServiceAccount": "serviceaccounts",
    },
    "apps/v1": {"Deployment": "deployments", "StatefulSet": "statefulsets"},
    "batch/v1": {"Job": "jobs"},
    "networking.k8s.io/v1": {"NetworkPolicy": "networkpolicies"},
    "policy/v1": {"PodDisruptionBudget": "poddisruptionbudgets"},
    "monitoring.coreos.com/v1": {
        "PrometheusRule": "prometheusrules", "ServiceMonitor": "servicemonitors",
    },
}  # fmt: skip
VERBS = ["create", "delete", "get", "list", "patch", "update", "watch"]


def root(version: str) -> str:
    """The path of a group."""
    return f"/apis/{version}" if "/" in version else f"/api/{version}"


class Cluster:
    """What was applied, by path; what was refused."""

    def __init__(self) -> None:
        self.kept: dict[str, Object] = {}
        self.refused: list[str] = []
        self._number = 0

    def of_kind(self, kind: str) -> list[Object]:
        """The objects of a kind that are there."""
        return [each for each in self.kept.values() if each["kind"] == kind]

    def answer(self, verb: str, target: str, body: Object) -> tuple[int, Object]:
        """Status and body of the answer to a request."""
        path, query = urlsplit(target).path.rstrip("/"), parse_qs(urlsplit(target).query)
        known = _discovery(path)
        if known is not None:
            return 200, known
        if verb == "GET" and path.rpartition("/")[2] in _plurals():
            return 200, self._list(path, query)
        if verb == "DELETE":
            return (200, self.kept.pop(path)) if path in self.kept else _missing(path)
        if verb == "GET":
            return (200, self.kept[path]) if path in self.kept else _missing(path)
        if verb == "POST":
            path = f"{path}/{body['metadata']['name']}"
        return self._keep(path, body)

    def _keep(self, path: str, body: Object) -> tuple[int, Object]:
        wrong = invalid(body, OLDEST)
        if wrong:
            self.refused.append(wrong)
            return 422, _status(422, "Invalid", wrong)
        self._number += 1
        namespace = path.partition("/namespaces/")[2].partition("/")[0]
        body["metadata"] |= {
            "namespace": namespace, "uid": str(self._number), "generation": 1,
            "resourceVersion": str(self._number), "creationTimestamp": "2026-01-01T00:00:00Z",
        }  # fmt: skip
        body["status"] = _finished(body)
        code = 200 if path in self.kept else 201
        self.kept[path] = body
        return code, body

    def _list(self, path: str, query: dict[str, list[str]]) -> Object:
        wanted = dict(
            part.split("=", 1)
            for part in query.get("labelSelector", [""])[0].split(",")
            if "=" in part
        )
        name = query.get("fieldSelector", [""])[0].removeprefix("metadata.name=")
        items = [
            each
            for place, each in self.kept.items()
            if place.rpartition("/")[0] == path
            and name in ("", each["metadata"]["name"])
            and wanted.items() <= each["metadata"].get("labels", {}).items()
        ]
        version, kind = _plurals()[path.rpartition("/")[2]]
        metadata = {"resourceVersion": str(self._number)}
        return {"apiVersion": version, "kind": f"{kind}List", "metadata": metadata, "items": items}


def _plurals() -> dict[str, tuple[str, str]]:
    return {
        plural: (version, kind)
        for version, kinds in GROUPS.items()
        for kind, plural in kinds.items()
    }


def _finished(body: Object) -> Object:
    """What the controllers would have brought about."""
    count = body.get("spec", {}).get("replicas", 1)
    if body["kind"] == "Deployment":
        ready = ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas")
        return {"observedGeneration": 1, **dict.fromkeys(ready, count)}
    if body["kind"] == "Pod":
        return {"phase": "Succeeded"}
    if body["kind"] == "Job":
        return {"succeeded": 1, "conditions": [{"type": "Complete", "status": "True"}]}
    return {}


def _status(code: int, reason: str, message: str) -> Object:
    return {
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason,
        "message": message, "metadata": {},
    }  # fmt: skip


def _missing(path: str) -> tuple[int, Object]:
    return 404, _status(404, "NotFound", f"{path} not found")


# --- what there is --------------------------------------------------------------------------------


def _discovery(path: str) -> Object | None:
    if path == "/version":
        return {"major": "1", "minor": OLDEST.partition(".")[2], "gitVersion": f"v{OLDEST}.0"}
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": list(_groups())}
    if path == "/openapi/v3":
        return {
            "paths": {
                root(version)[1:]: {"serverRelativeURL": f"/openapi/v3{root(version)}"}
                for version in GROUPS
            }
        }
    for version in GROUPS:
        if path == root(version):
            return _resources(version)
        if path == f"/openapi/v3{root(version)}":
            return _described(version)
    return None


def _groups() -> Iterator[Object]:
    for version in GROUPS:
        if "/" in version:
            this = {"groupVersion": version, "version": version.partition("/")[2]}
            name = version.partition("/")[0]
            yield {"name": name, "versions": [this], "preferredVersion": this}


def _resources(version: str) -> Object:
    found = [
        {
            "name": plural, "singularName": kind.lower(), "namespaced": True, "kind": kind,
            "verbs": VERBS,
        }
        for kind, plural in GROUPS[version].items()
    ]  # fmt: skip
    return {"kind": "APIResourceList", "groupVersion": version, "resources": found}


def _described(version: str) -> Object:
    """As much of the description as says that fields are validated here and not by kubectl."""
    group, _, number = version.rpartition("/")
    paths = {
        f"{root(version)}/namespaces/{{namespace}}/{plural}/{{name}}": {
            "patch": {
                "parameters": [{"name": "fieldValidation", "in": "query"}],
                "responses": {},
                "x-kubernetes-group-version-kind": {
                    "group": group, "version": number, "kind": kind,
                },
            }
        }
        for kind, plural in GROUPS[version].items()
    }  # fmt: skip
    return {"openapi": "3.0.0", "info": {"title": "", "version": ""}, "paths": paths}


def read(body: bytes) -> Object:
    """What was sent: JSON, YAML or, by helm for its own records, protobuf."""
    if body.startswith(protobuf.MAGIC):
        return protobuf.secret(body)
    return dict(yaml.safe_load(body))


# --- over HTTP ------------------------------------------------------------------------------------


@contextmanager
def cluster(folder: Path) -> Iterator[tuple[Cluster, Path]]:
    """A cluster while it runs, and the configuration with which kubectl and helm reach it."""
    state, lock = Cluster(), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            sent = read(self.rfile.read(length)) if length else {}
            with lock:
                code, body = state.answer(self.command, self.path, sent)
                answer = json.dumps(body).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with answering(Handler) as url:
        context = {"cluster": "here", "user": "me", "namespace": "default"}
        configuration = {
            "apiVersion": "v1", "kind": "Config", "current-context": "here",
            "clusters": [{"name": "here", "cluster": {"server": url}}],
            "users": [{"name": "me", "user": {}}],
            "contexts": [{"name": "here", "context": context}],
        }  # fmt: skip
        path = folder / "kubeconfig"
        path.write_text(json.dumps(configuration))
        yield state, path
