"""The schemas of Kubernetes' API, as they come with kubernetes-validate: of the oldest version we
promise, and of the newest it has. Strict: a field that does not exist is an error."""

import functools
from collections.abc import Mapping
from typing import Any

from .conftest import OLDEST as OLDEST
from .conftest import needed

kubernetes_validate = needed("kubernetes_validate")
utils = needed("kubernetes_validate.utils")

NEWEST = utils.latest_version()
ELSEWHERE = {
    "ServiceMonitor",
    "PrometheusRule",
}  # Prometheus' own: no schema here

utils.schema_contents = functools.cache(utils.schema_contents)  # else megabytes for each object


def invalid(document: Mapping[str, Any], version: str) -> str:
    """What is wrong with an object; empty if nothing is."""
    if document["kind"] in ELSEWHERE:
        return ""
    try:
        kubernetes_validate.validate(dict(document), version, strict=True)
    except kubernetes_validate.ValidationError as error:
        place = ".".join(str(step) for step in error.path)
        return f"{document['kind']} {place}: {error.message}"
    return ""
