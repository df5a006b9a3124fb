"""The run-book, command by command: the real kubectl, helm and aws, against servers of ours."""

import re
import shutil
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest

from idservice.core.access_key import id_in
from tests.engines import REGION
from tests.guides import pages
from tests.guides.shell import Shell
from tests.processes import environment

from .cluster import Cluster, cluster
from .conftest import DEPLOY, deployer

# A group with test_way and test_ipv6: each worker of theirs imports `aws` and `idservice`, whole.
pytestmark = [
    pytest.mark.process,
    pytest.mark.needs_deployers,
    pytest.mark.xdist_group("run-book"),
]

PAGE = DEPLOY / "README.md"
TEXT = PAGE.read_text()
MINE = ("Kubernetes", "Helm", "ECS")

Follow = Callable[[str], tuple[str, Cluster]]


def blocks(heading: str) -> list[str]:
    """Return the commands under a heading."""
    return [each.text for each in pages.blocks(PAGE, heading) if each.kind == "sh"]


def network(url: str) -> dict[str, str]:
    """A subnet and a security group that every account has."""
    client = boto3.client("ec2", region_name=REGION, endpoint_url=url)
    subnet = client.describe_subnets()["Subnets"][0]["SubnetId"]
    group = client.describe_security_groups()["SecurityGroups"][0]["GroupId"]
    client.close()
    return {"SUBNET": subnet, "GROUP": group}


@pytest.fixture
def follow(moto_url: str, commands: str, tmp_path: Path) -> Iterator[Follow]:
    """Runs what is under a heading in a copy of the project, and then how that is rolled; what was
    said, and what is there."""
    tools = [str(deployer(name).parent) for name in ("kubectl", "helm")]
    tools.append(commands)
    shutil.copytree(DEPLOY, tmp_path / "deploy")
    with cluster(tmp_path) as (state, configuration):
        variables = environment({
            "PATH": ":".join(tools), "HOME": str(tmp_path), "KUBECONFIG": str(configuration),
            "AWS_ENDPOINT_URL": moto_url, "AWS_REGION": REGION, "ACCOUNT": "123456789012",
            **network(moto_url),
        })  # fmt: skip

        def run(heading: str) -> tuple[str, Cluster]:
            said = ""
            for block in [*blocks(heading), blocks("Roll it")[MINE.index(heading)]]:
                said += Shell(tmp_path, variables).run(block)
            return said, state

        yield run
    client = boto3.client("dynamodb", region_name=REGION, endpoint_url=moto_url)
    if "counters" in client.list_tables()["TableNames"]:
        client.update_table(TableName="counters", DeletionProtectionEnabled=False)
        client.delete_table(TableName="counters")
    client.close()


def names(state: Cluster, kind: str) -> set[str]:
    return {each["metadata"]["name"] for each in state.of_kind(kind)}


def assert_a_key(state: Cluster, name: str) -> None:
    """A secret has an access key, without the end of its line."""
    (secret,) = [each for each in state.of_kind("Secret") if each["metadata"]["name"] == name]
    assert id_in(b64decode(secret["data"]["key"]).decode()) is not None


def test_kubernetes(follow: Follow) -> None:
    said, state = follow("Kubernetes")
    assert "job.batch/idservice-init condition met" in said
    assert said.count("successfully rolled out") == 6
    assert names(state, "Deployment") == {"idservice", "application"}
    assert names(state, "PersistentVolumeClaim") == {"idservice"}
    assert not state.refused
    (service,) = [
        each for each in state.of_kind("Deployment") if each["metadata"]["name"] == "idservice"
    ]
    (container,) = service["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry.example/idservice:0.1.1"
    assert {"name": "IDSERVICE_RUNWAY", "value": "60"} in container["env"]
    assert {"name": "IDSERVICE_REQUIRE_KEYS", "value": "1"} in container["env"]
    assert_a_key(state, "idservice-key")
    (account,) = state.of_kind("ServiceAccount")
    assert "eks.amazonaws.com/role-arn" in account["metadata"]["annotations"]


def test_helm(follow: Follow) -> None:
    said, state = follow("Helm")
    assert said.count("has been upgraded") == 5
    assert_a_key(state, "borrowing-key")
    assert_a_key(state, "prometheus-key")
    assert "prometheus-key" in str(state.of_kind("ServiceMonitor"))
    assert "borrowing-key" in str(state.of_kind("Deployment"))
    assert "IDSERVICE_REQUIRE_KEYS" in str(state.of_kind("Deployment"))
    assert "registry.example/idservice:0.1.1" in str(state.of_kind("Deployment"))
    assert names(state, "Deployment") == {"idservice", "ids-idservice", "borrowing-idservice"}
    assert names(state, "ServiceMonitor") == {"ids-idservice"}
    assert names(state, "PrometheusRule") == {"ids-idservice"}
    assert names(state, "ConfigMap") == {"ids-idservice-dashboard"}
    assert re.search(r"TEST SUITE: +idservice-test\n", said)
    assert re.search(r"Phase: +Succeeded\n", said)
    assert names(state, "PersistentVolumeClaim") == {"idservice"}
    assert not state.refused
    assert "IDSERVICE_INIT" not in str(state.of_kind("Deployment"))
    stores = re.findall(r"'(sqlite:|dynamodb:|http:)[^']*'", str(state.of_kind("Deployment")))
    assert sorted(stores) == ["dynamodb:", "http:", "sqlite:"]
    # The other side: what is wrong would not have passed.
    wrong = {**state.of_kind("Deployment")[0]}
    wrong["spec"] = {**wrong["spec"], "replica": 1}
    code, answer = state.answer("PATCH", "/apis/apps/v1/namespaces/default/deployments/x", wrong)
    assert (code, answer["reason"]) == (422, "Invalid")


def test_ecs(follow: Follow) -> None:
    said, _ = follow("ECS")
    assert "dynamodb:counters is initialised" in said
    assert said.count('"ACTIVE"') == 8
    revisions = [int(line) for line in said.splitlines() if line.isdigit()]
    assert revisions, said
    assert revisions[-1] >= 2, "not the first one"


@pytest.mark.parametrize("heading", MINE)
def test_no_command_stands_outside_of_what_is_run(heading: str) -> None:
    assert blocks(heading)
    fences = re.findall(r"^```(\w*)$", TEXT, re.MULTILINE)
    assert set(fences) == {"sh", ""}
    assert fences.count("sh") == fences.count("")
