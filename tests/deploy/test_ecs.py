"""The task definitions are taken by the API of ECS, and agree with the server they start."""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from botocore.exceptions import ParamValidationError

from idservice import __version__
from idservice.cli.http_get import reachable_url
from idservice.client.address import KEY_VARIABLE
from idservice.server import settings
from idservice.server.workers.supervisor import STOP_S
from tests.engines import REGION
from tests.processes import ROOT

from .conftest import DEPLOY
from .rules import SPARE_S
from .told import misspoken, told

ECS = DEPLOY / "ecs"
PLACES = {
    "KEY_ARN": "arn:aws:secretsmanager:REGION:ACCOUNT:secret:idservice-key-a1b2c3",
    "CENTRAL": "central", "ACCOUNT": "123456789012", "REGION": REGION,
}  # fmt: skip
STOP_MOST_S = START_MOST_S = 120  # on Fargate
HEALTH = {"interval": (5, 300), "timeout": (2, 60), "retries": (1, 10), "startPeriod": (0, 300)}
USER = re.findall(r"^USER (.*)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)[0]

Task = dict[str, Any]


def task(name: str) -> Task:
    text = (ECS / f"{name}.json").read_text()
    for place, value in PLACES.items():
        text = text.replace(place, value)
    return dict(json.loads(text))


def variables(container: Task) -> dict[str, str]:
    return {each["name"]: each["value"] for each in container.get("environment", [])}


def kept_secret(container: Task) -> dict[str, str]:
    """The variables whose values ECS takes from elsewhere."""
    return {each["name"]: each["valueFrom"] for each in container.get("secrets", [])}


def complaints(task: Task) -> list[str]:
    """What is wrong with a task definition and ECS does not see."""
    ours = [each for each in task["containerDefinitions"] if "/idservice:" in each["image"]]
    others = [each for each in task["containerDefinitions"] if each not in ours]
    if len(ours) != 1:
        return [f"idservice runs in {len(ours)} containers"]
    (container,) = ours
    heard = told({**variables(container), **kept_secret(container)})
    found = [*heard.wrong, *_locked_down(container), *_keys(container, heard.values["store"])]
    if not heard.wrong:
        found += [
            *_health(container, heard.values["store_wait"]),
            *_network(container, heard.ports),
            *(f"over IPv6 nobody reaches {address}" for address in heard.deaf),
        ]
    if not str(heard.values["store"]).startswith(("dynamodb:", "http")):
        found.append(f"the store {heard.values['store']} is lost with the task")
    for other in others:
        found += _application(other, container)
    most = int(task["memory"])
    if sum(each.get("memory", 0) for each in task["containerDefinitions"]) > most:
        found.append("the containers have more memory than the task")
    return found


def _health(container: Task, store_wait: float) -> Iterator[str]:
    check, stop = container["healthCheck"], container.get("stopTimeout", 30)
    if check["command"][0] != "CMD":
        yield f"{check['command']} needs a shell"
    yield from misspoken(check["command"][1:])
    for name, (least, most) in HEALTH.items():
        if not least <= check.get(name, least) <= most:
            yield f"healthCheck: {name} must be {least} to {most}"
    if check.get("startPeriod", 0) < store_wait + 10:
        yield f"it is unhealthy while it may wait {store_wait:g} s for the store"
    if not STOP_S + SPARE_S <= stop <= STOP_MOST_S:
        yield f"stopTimeout {stop}: it may need {STOP_S} s, and may have {STOP_MOST_S}"


def _keys(container: Task, store: str) -> Iterator[str]:
    if KEY_VARIABLE in variables(container):
        yield "its access key can be read in the definition"
    if KEY_VARIABLE in kept_secret(container) and not store.startswith("http"):
        yield f"it has an access key, and {store} asks for none"


def _network(container: Task, ports: set[int]) -> Iterator[str]:
    mapped = {each["containerPort"] for each in container.get("portMappings", [])}
    if mapped != ports:
        yield f"it maps the ports {sorted(mapped)} and listens on {sorted(ports)}"


def _locked_down(container: Task) -> Iterator[str]:
    tag = container["image"].rpartition(":")[2]
    if tag != __version__:
        yield f"its image has the tag {tag}, and this is version {__version__}"
    if container.get("user") != USER:
        yield f"it runs as {container.get('user')}, and the image is made for {USER}"
    if not container.get("readonlyRootFilesystem"):
        yield "it may write to its root"
    if container.get("linuxParameters", {}).get("capabilities") != {"drop": ["ALL"]}:
        yield "it has capabilities"


def _application(other: Task, container: Task) -> Iterator[str]:
    if {"containerName": container["name"], "condition": "HEALTHY"} not in other["dependsOn"]:
        yield "the application does not wait until there are ids"
    [address, *_] = settings.from_environment(settings.LISTEN, variables(container))
    if variables(other)["IDS"] != reachable_url(address):
        yield "the application asks where nobody listens"
    heard, check = told(variables(container)), container["healthCheck"]
    start, needed = container.get("startTimeout", 0), heard.values["store_wait"] + check["interval"]
    if not needed + SPARE_S <= start <= START_MOST_S:
        yield f"startTimeout {start}: it may need {needed:g} s, and may have {START_MOST_S}"
    if heard.values["drain"] > 0:
        yield "who asked it has ended before it is stopped: it has nothing to drain"


TASKS = ("service", "sidecar", "borrowing")


@pytest.mark.xdist_group("stacks")  # as test_table
@pytest.mark.parametrize("name", TASKS)
def test_ecs_takes_it_as_it_is(moto_url: str, name: str) -> None:
    written = task(name)
    client = boto3.client("ecs", region_name=REGION, endpoint_url=moto_url)
    taken = client.register_task_definition(**written)["taskDefinition"]
    client.close()
    assert taken["status"] == "ACTIVE"
    assert taken["family"] == written["family"]
    for mine, theirs in zip(
        written["containerDefinitions"], taken["containerDefinitions"], strict=True
    ):
        for key in ("dependsOn", "healthCheck", "secrets", "startTimeout", "stopTimeout", "user"):
            assert mine.get(key) == theirs.get(key)


@pytest.mark.xdist_group("stacks")
def test_ecs_refuses_a_key_that_does_not_exist(moto_url: str) -> None:
    wrong = task("sidecar")
    wrong["containerDefinitions"][1]["healthCheck"]["startperiod"] = 45
    client = boto3.client("ecs", region_name=REGION, endpoint_url=moto_url)
    with pytest.raises(ParamValidationError, match="startperiod"):
        client.register_task_definition(**wrong)
    client.close()


@pytest.mark.parametrize("name", TASKS)
def test_it_agrees_with_the_server_and_with_itself(name: str) -> None:
    assert complaints(task(name)) == []


# --- the rules can fail ---------------------------------------------------------------------------


def planted(path: str, value: Any) -> Callable[[Task], None]:
    def plant(task: Task) -> None:
        place: Any = task["containerDefinitions"]
        *steps, last = [int(step) if step.isdigit() else step for step in path.split(".")]
        for step in steps:
            place = place[step]
        place[last] = value

    return plant


FAULTS = [
    ("service", "0.stopTimeout", 10, "stopTimeout 10"),
    ("service", "0.environment.1.value", "0.0.0.0:8080", "over IPv6 nobody reaches"),
    ("service", "0.stopTimeout", 300, "stopTimeout 300"),
    ("service", "0.healthCheck.timeout", 900, "timeout must be 2 to 60"),
    ("service", "0.healthCheck.startPeriod", 30, "while it may wait 30 s for the store"),
    ("service", "0.healthCheck.command", ["CMD", "curl", "x"], "no command of ours"),
    ("service", "0.healthCheck.command", ["CMD-SHELL", "idservice", "health"], "needs a shell"),
    ("service", "0.portMappings.0.containerPort", 80, "listens on [8080, 9090]"),
    ("service", "0.environment.0.name", "IDSERVICE_STOER", "did you mean IDSERVICE_STORE?"),
    ("service", "0.environment.0.value", "sqlite:/ids.db", "is lost with the task"),
    ("service", "0.user", "root", "the image is made for 10001:10001"),
    ("service", "0.readonlyRootFilesystem", False, "may write to its root"),
    ("service", "0.linuxParameters", {}, "it has capabilities"),
    ("service", "0.image", "x/idservice:latest", "has the tag latest"),
    ("sidecar", "0.dependsOn.0.condition", "START", "does not wait until there are ids"),
    ("sidecar", "0.dependsOn.0.containerName", "other", "does not wait until there are ids"),
    ("sidecar", "0.environment.0.value", "http://127.0.0.1:80", "where nobody listens"),
    ("sidecar", "1.startTimeout", 30, "startTimeout 30"),
    ("sidecar", "1.startTimeout", 180, "startTimeout 180"),
    ("sidecar", "1.environment.1.value", "5", "nothing to drain"),
    ("sidecar", "1.memory", 2048, "more memory than the task"),
    ("borrowing", "1.secrets.0.name", "IDSERVICE_KEYS", "did you mean IDSERVICE_KEY?"),
    ("borrowing", "1.environment.0.value", "dynamodb:counters", "asks for none"),
    ("borrowing", "1.environment.1.name", "IDSERVICE_KEY", "can be read in the definition"),
]


@pytest.mark.parametrize(("name", "path", "value", "said"), FAULTS, ids=lambda each: str(each)[:40])
def test_a_planted_fault_is_found(name: str, path: str, value: Any, said: str) -> None:
    written = task(name)
    planted(path, value)(written)
    assert any(said in what for what in complaints(written)), complaints(written)
