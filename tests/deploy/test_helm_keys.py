"""The chart with access keys: what asks for them, who has one, and what an operator is told."""

import re
import shlex
from collections.abc import Callable
from typing import Any

import pytest

from .conftest import Failed, Render
from .rules import complaints, environment, of_kind
from .schemas import NEWEST, OLDEST, invalid
from .test_helm import CHAINED, DYNAMODB, container_of
from .told import misspoken, told

pytestmark = [pytest.mark.needs_deployers, pytest.mark.xdist_group("rendered")]  # as test_helm

SHAPES: dict[str, dict[str, Any]] = {
    "asked from outside": {
        "store": DYNAMODB, "settings": {"require_keys": 1},
        "monitoring": {"enabled": True, "keySecret": {"name": "prometheus"}},
    },
    "asked everywhere": {"settings": {"require_keys": "all"}, "monitoring": {"enabled": True}},
    "shown": {
        "store": {**CHAINED, "chained": {**CHAINED["chained"], "keySecret": {"name": "ids"}}},
    },
    "not asked": {"settings": {"require_keys": False}, "monitoring": {"enabled": True}},
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_fits_the_schemas_and_agrees_with_the_server(render: Render, shape: str) -> None:
    found = render(SHAPES[shape])
    for version in (OLDEST, NEWEST):
        assert not any(what := [invalid(each, version) for each in found]), what
    assert complaints(found) == []


def test_listeners_ask_as_the_setting_says(render: Render) -> None:
    kinds = {
        shape: told(environment(container_of(render(values)))).values["require_keys"]
        for shape, values in SHAPES.items()
    }
    assert kinds == {
        "asked from outside": "remote", "asked everywhere": "all", "shown": None, "not asked": None,
    }  # fmt: skip


def test_a_service_that_borrows_shows_the_key_of_a_secret_if_one_is_named(render: Render) -> None:
    def file(values: dict[str, Any]) -> str | None:
        shown = told(environment(container_of(render(values)))).values["store_key_file"]
        return shown and str(shown)

    assert file(SHAPES["shown"]) == "/etc/idservice/store/key"
    named = {"name": "ids", "key": "team.key"}
    chained = {**CHAINED, "chained": {**CHAINED["chained"], "keySecret": named}}
    assert file({"store": chained}) == "/etc/idservice/store/team.key"
    assert file({"store": CHAINED}) is None
    assert file({"store": {**DYNAMODB, "chained": {"keySecret": named}}}) is None


def test_prometheus_shows_the_key_of_a_secret_if_one_is_named(render: Render) -> None:
    def endpoint(shape: str) -> dict[str, Any]:
        (monitor,) = of_kind(render(SHAPES[shape]), "ServiceMonitor")
        (only,) = monitor["spec"]["endpoints"]
        return dict(only)

    credentials = {"name": "prometheus", "key": "key"}
    wanted = {"type": "Bearer", "credentials": credentials}
    assert endpoint("asked from outside")["authorization"] == wanted
    assert "authorization" not in endpoint("not asked")


def test_the_notes_say_how_the_first_key_is_made(with_values: Callable[..., str]) -> None:
    def notes(shape: str) -> str:
        said = with_values("install ids", SHAPES[shape], "--dry-run=client")
        return said.partition("\nNOTES:\n")[2]

    said = notes("asked from outside")
    (command,) = re.findall(r" -- \\\n +(idservice .*)", said)
    assert misspoken(shlex.split(command)) == []
    assert "Prometheus is refused" not in said
    assert "Prometheus is refused" in notes("asked everywhere")
    assert "key" not in notes("not asked")


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"settings": {"require_keys": "some"}}, "/settings/require_keys"),
    ({"store": CHAINED, "settings": {"require_keys": 1}}, "/settings/require_keys"),
    ({"monitoring": {"keySecret": {"name": "Ids Key"}}}, "/monitoring/keySecret/name"),
    ({"monitoring": {"keySecret": {"name": "ids", "key": ""}}}, "/monitoring/keySecret/key"),
    ({"monitoring": {"keySecret": "ids"}}, "/monitoring/keySecret"),
    ({"store": {"chained": {"keySecret": {"name": "Ids"}}}}, "/store/chained/keySecret/name"),
]


@pytest.mark.parametrize(("values", "said"), REFUSED, ids=lambda each: str(each)[:60])
def test_values_without_sense_are_refused(
    with_values: Callable[..., str], values: dict[str, Any], said: str
) -> None:
    with pytest.raises(Failed) as caught:
        with_values("template ids", values)
    assert said in str(caught.value)
